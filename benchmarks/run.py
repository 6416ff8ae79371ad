"""Runs the benchmarks; each appends one JSON line to benchmarks/results/latest.jsonl, which the README's table shows.

python benchmarks/run.py [--only NAME]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from profilestream.base.session import open_session  # noqa: E402

from benchmarks import capture, derive, learn, quality, segments, serve, windows  # noqa: E402
from benchmarks.result import Result  # noqa: E402

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
BENCHMARKS = (
    capture.capture_vs_copy, capture.capture_history_10x, capture.capture_empty_batch,
    derive.profile_fold_vs_merge, derive.profile_state_20x, derive.tiles_vs_append, derive.backfill_rate,
    derive.sessions_vs_merge, derive.sessions_history_10x,
    derive.profile_bytes_10, derive.profile_bytes_1000,
    windows.features_asof_vs_sql, windows.entity_times_10k,
    learn.factors_vs_mllib, learn.factors_model_10x, learn.topn_vs_mllib,
    learn.segments_batch_vs_mllib,
    serve.report_seconds,
)  # fmt: skip
# These need no Spark.
QUALITY = (
    quality.recall20_vs_retrain_online_retail, quality.recall20_vs_decayed_retrain_online_retail,
    quality.recall20_vs_popularity_online_retail, quality.recall20_vs_retrain_complete_journey,
    quality.recall20_vs_decayed_retrain_complete_journey, quality.recall20_vs_popularity_complete_journey,
    quality.rmse_ml100k_5fold_onepass, quality.rmse_ml100k_5fold_whole,
    segments.kmeans_cost_vs_best20, segments.kmeans_cost_vs_best20_complete_journey, segments.kmeans_ari_births,
    segments.kmeans_first_batch_spread, segments.kmeans_core_time_vs_best20,
)  # fmt: skip
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "latest.jsonl"


def main(argv: list[str]) -> int:
    names = [bench.__name__ for bench in (*BENCHMARKS, *QUALITY)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=names)
    only = parser.parse_args(argv).only
    RESULTS.parent.mkdir(exist_ok=True)
    for result in _measured(only):
        print(result.line(), flush=True)
        with RESULTS.open("a") as file:
            file.write(result.line() + "\n")
    README.write_text(with_table(README.read_text(), RESULTS.read_text().splitlines()))
    return 0


def _measured(only: str | None) -> Iterator[Result]:
    """Results of all benchmarks, or of one; a session is opened when the first one needs it."""
    chosen = [bench for bench in BENCHMARKS if only in (None, bench.__name__)]
    if chosen:
        spark = open_session("bench", str(ROOT / "conf" / "spark-local.conf"))
        for bench in chosen:
            with tempfile.TemporaryDirectory() as work:
                yield bench(spark, Path(work))
    yield from (bench() for bench in QUALITY if only in (None, bench.__name__))


def _cell(text: str) -> str:
    """A bar within a cell does not end it."""
    return text.replace("|", "\\|")


def with_table(readme: str, lines: list[str]) -> str:
    """The README with its table of benchmarks made anew: the newest result of each."""
    newest = {result["bench"]: result for result in map(json.loads, lines)}
    rows = ["| benchmark | value | bound | against | holds | detail |", "|---|---|---|---|---|---|"]
    for name, result in newest.items():
        sign = {"higher": "at least", "lower": "at most"}[result["better"]]
        value = f"{result['value']:.4g} {result['unit']}"
        holds = "yes" if result["holds"] else "**no**"
        rows.append(
            f"| `{name}` | {value} | {sign} {result['bound']} | {_cell(result['against'])} | {holds} "
            f"| {_cell(result['detail'])} |"
        )
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return "\n".join([before + BEGIN, *rows, END + after])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
