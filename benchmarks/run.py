"""Runs the benchmarks; each appends one JSON line to benchmarks/results/latest.jsonl.

python benchmarks/run.py [--only NAME]
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from profilestream.base.session import open_session  # noqa: E402

from benchmarks import capture  # noqa: E402

BENCHMARKS = (capture.capture_vs_copy, capture.capture_history_10x, capture.capture_empty_batch)
RESULTS = ROOT / "benchmarks" / "results" / "latest.jsonl"


def main(argv: list[str]) -> int:
    names = [bench.__name__ for bench in BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=names)
    only = parser.parse_args(argv).only
    spark = open_session("bench", str(ROOT / "conf" / "spark-local.conf"))
    RESULTS.parent.mkdir(exist_ok=True)
    for bench in BENCHMARKS:
        if only in (None, bench.__name__):
            with tempfile.TemporaryDirectory() as work:
                result = bench(spark, Path(work))
            print(result.line(), flush=True)
            with RESULTS.open("a") as file:
                file.write(result.line() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
