"""kill -9 of the whole process group, again and again, while the pipeline runs over the demo log; then every table must
be equal to that of an undisturbed run, and say the same where it is derived.

python tests/flow/chaos.py [--days N] [--kills N] [--seed N]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
from profilestream.base import settings
from profilestream.base.session import open_session
from profilestream.steward import demo
from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests import recounting, saying  # noqa: E402
from tests.make import short_lived  # noqa: E402

SAMPLE = ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet"
CAPTURED = ("events", "rejected_events", "capture_batches")
CONFIG = "conf/demo.toml"
# Among the measures is the lateness.
DIFFERS = ("ingest_time", "epoch", "seconds", "lateness_seconds_max", "measures")


def run(
    work: Path,
    *,
    days: int | None,
    kills: int,
    most_steps: int,
    files_per_batch: int,
    seed: int,
    calmly: Callable[[list[str]], object],
    session: Callable[[], SparkSession],
    more: dict[str, object] | None = None,
) -> dict[str, int]:
    """Run the pipeline over the log with and without kills, side by side, and compare.

    Args:
        most_steps: batches begun or finished, at most, before the next kill.
        files_per_batch: of the log; a derived stage takes eight times as many files of `events`.
        calmly: runs a job's command line to its end.
        session: asked for when the runs are over, to read what the derived tables say.
        more: settings that differ from the demo's.

    Returns:
        Rows per table, keys where it is derived.

    Raises:
        AssertionError: a table differs, or fewer kills than asked for hit a running batch.
    """
    folder = work / "input"
    demo.lay_out(SAMPLE, folder, days=days)
    calm, wild = (_overrides(work / name, folder, files_per_batch, more or {}) for name in ("calm", "wild"))
    dice = random.Random(seed)
    with ThreadPoolExecutor(1) as beside:
        hit = beside.submit(
            lambda: sum(_kill_one(_command(wild), work / "wild", most_steps, dice) for _ in range(kills))
        )
        calmly(_command(calm))
        hits = hit.result()
    assert hits == kills, f"only {hits} of {kills} kills hit a running job: the log is too short for so many"
    calmly(_command(wild))
    rows = {}
    for table in CAPTURED:
        expected, got = (_content(work / name / "warehouse" / table) for name in ("calm", "wild"))
        odd = expected.join(got, on="row", how="anti").head(3).to_series().to_list()
        told = f"{table}: {expected.height} rows undisturbed, {got.height} after {kills} kills; not found again: {odd}"
        assert expected.equals(got), told
        rows[table] = got.height
    both = [settings.load(str(ROOT / CONFIG), given) for given in (calm, wild)]
    saying.assert_learned_alike(*[saying.learned(session(), one) for one in both])
    for one in both:
        recounting.assert_recounted(session(), one)
    say = [saying.said(session(), one) for one in both]
    apart = saying.differences(*say)
    assert not apart, f"{len(apart)} differences after {kills} kills, such as {apart[:3]}"
    return rows | {table: len(keys) for table, keys in say[1].items()}


def in_a_process(command: list[str]) -> None:
    """Run a job to its end in a process of its own."""
    subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)


def _overrides(home: Path, folder: Path, files_per_batch: int, more: dict[str, object]) -> list[str]:
    given = {
        "paths.warehouse": home / "warehouse",
        "paths.checkpoints": home / "checkpoints",
        "capture.sources.online_retail.path": folder,
        "capture.sources.online_retail.max_files_per_trigger": files_per_batch,
        "derive.max_files_per_trigger": 8 * files_per_batch,
        "learn.max_files_per_trigger": 8 * files_per_batch,
        "learn.factors.first_sweeps": 1,
        # What is compared does not hang on these.
        **dict.fromkeys(("serve.report.enabled", "serve.scores.enabled", "learn.tracking.enabled"), "false"),
    }
    return [f"{key}={value}" for key, value in (given | more).items()]


def _command(overrides: list[str]) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "jobs/run_pipeline.py", "--config", CONFIG, *sets]


def _kill_one(command: list[str], home: Path, most_steps: int, dice: random.Random) -> bool:
    """Start the job and kill its process group some moment after a few steps of its batches; false if it ended."""
    steps = _steps(home) + dice.randint(1, most_steps)
    job = subprocess.Popen(command, cwd=ROOT, env=short_lived(), stderr=subprocess.DEVNULL, start_new_session=True)
    while job.poll() is None and _steps(home) < steps:
        time.sleep(0.05)
    time.sleep(dice.uniform(0.0, 4.0))
    ended = job.poll() is not None
    if not ended:
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    return not ended


def _steps(home: Path) -> int:
    """Batches begun and batches finished, of all stages."""
    return sum(file.name.isdigit() for log in ("offsets", "commits") for file in home.glob(f"checkpoints/**/{log}/*"))


def _content(table: Path) -> pl.DataFrame:
    frame = pl.scan_delta(str(table)).collect()
    kept = frame.drop([name for name in DIFFERS if name in frame.columns])
    return kept.select(pl.struct(pl.all()).struct.json_encode().alias("row")).sort("row")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        rows = run(
            Path(work), days=args.days, kills=args.kills, most_steps=4, files_per_batch=10, seed=args.seed,
            calmly=in_a_process,
            session=lambda: open_session("chaos", str(ROOT / "conf" / "spark-local.conf")),
        )  # fmt: skip
    print(f"{args.kills} kills (seed {args.seed}): every table equals the undisturbed run: {rows}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
