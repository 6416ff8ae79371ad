"""Kills the process group of the pipeline (kill -9) repeatedly while it runs over the demo log, and compares all tables
with those of an undisturbed run.

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from profilestream.base import settings
from profilestream.base.session import open_session
from profilestream.base.settings import Settings
from profilestream.steward import demo_files
from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests import recount, table_snapshots  # noqa: E402
from tests.builders import short_lived_env  # noqa: E402

SAMPLE = ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet"
CAPTURED = ("events", "rejected_events", "capture_batches")
CONFIG, FILES_PER_BATCH = "conf/demo.toml", 10
ROWS_PER_BATCH = 200_000  # at most
PIPELINE = (sys.executable, "jobs/run_pipeline.py")
# `measures` contains the lateness.
RUN_DEPENDENT = ("ingest_time", "epoch", "seconds", "lateness_seconds_max", "measures")


@dataclass(frozen=True)
class ChaosResult:
    """Content of the warehouse after a run, without run-dependent columns."""

    rows: dict[str, pl.DataFrame]
    vectors: dict[tuple[str, str], Any]
    derived: table_snapshots.Snapshot


def read_result(spark: SparkSession, settings: Settings, derived: table_snapshots.Snapshot) -> ChaosResult:
    """The current content; checks the segments by a recount."""
    recount.assert_sums_equal_recount(spark, settings)
    rows = {table: content(Path(settings.paths.warehouse) / table) for table in CAPTURED}
    return ChaosResult(rows, table_snapshots.factor_vectors(spark, settings), derived)


def assert_same(undisturbed: ChaosResult, killed: ChaosResult) -> None:
    """A run with kills has the same result as an undisturbed run."""
    assert_same_tables(undisturbed.rows, killed.rows, undisturbed.derived, killed.derived)
    table_snapshots.assert_vectors_close(undisturbed.vectors, killed.vectors)


def assert_same_tables(
    undisturbed: dict[str, pl.DataFrame], killed: dict[str, pl.DataFrame], *derived: table_snapshots.Snapshot
) -> None:
    """Captured rows of both runs are equal, and so are the derived ones of the undisturbed and the killed run."""
    for table, expected in undisturbed.items():
        got = killed[table]
        missing = expected.join(got, on="row", how="anti").head(3).to_series().to_list()
        message = f"{table}: {expected.height} rows undisturbed, {got.height} after kills; missing: {missing}"
        assert expected.equals(got), message
    differences = table_snapshots.differences(*derived)
    assert not differences, f"{len(differences)} differences after kills, such as {differences[:3]}"


def kill_repeatedly(flags: list[str], home: Path, *, kills: int, max_steps: int, seed: int) -> None:
    """Run the pipeline and kill it, each time after some more steps of its batches. Spark or the driver processes them.

    Args:
        home: of the warehouse and the checkpoints.
        max_steps: started or finished batches before the next kill, at most.

    Raises:
        AssertionError: fewer kills than requested hit a running job.
    """
    dice = random.Random(seed)
    hits = 0
    for _ in range(kills):
        limit = f"stream.local_max_rows={dice.choice((0, ROWS_PER_BATCH))}"
        hits += _kill_one([*PIPELINE, *flags, "--set", limit], home, max_steps, dice)
    assert hits == kills, f"only {hits} of {kills} kills hit a running job: the log is too short for so many"


def to_flags(overrides: list[str]) -> list[str]:
    """Overrides of settings as command line flags."""
    return [part for override in overrides for part in ("--set", override)]


def _overrides(home: Path, folder: Path) -> list[str]:
    values = {
        "paths.warehouse": home / "warehouse",
        "paths.checkpoints": home / "checkpoints",
        "capture.sources.online_retail.path": folder,
        "capture.sources.online_retail.max_files_per_trigger": FILES_PER_BATCH,
        # A day of the log is about 8 files of `events`.
        "derive.max_files_per_trigger": 8 * FILES_PER_BATCH,
        "learn.max_files_per_trigger": 8 * FILES_PER_BATCH,
        "learn.factors.first_full_passes": 1,
        # The compared tables do not depend on these.
        **dict.fromkeys(("serve.report.enabled", "serve.scores.enabled", "learn.tracking.enabled"), "false"),
    }
    return [f"{key}={value}" for key, value in values.items()]


def _kill_one(command: list[str], home: Path, max_steps: int, dice: random.Random) -> bool:
    """Start the job and kill its process group after some steps of its batches; false if the job ended before.

    Raises:
        AssertionError: the job failed.
    """
    until = steps(home) + dice.randint(1, max_steps)
    log_file = home.with_name(f"{home.name}.log")
    with log_file.open("wb") as output:
        job = subprocess.Popen(command, cwd=ROOT, env=short_lived_env(), stderr=output, start_new_session=True)
    while job.poll() is None and steps(home) < until:
        time.sleep(0.05)
    time.sleep(dice.uniform(0.0, 4.0))
    is_ended = job.poll() is not None
    if not is_ended:
        os.killpg(job.pid, signal.SIGKILL)
    code = job.wait()
    assert not is_ended or code == 0, f"exit {code}: {log_file.read_text(errors='replace')[-2000:]}"
    return not is_ended


def steps(home: Path) -> int:
    """Started plus finished batches of all stages, by the highest batch id: Spark removes files of earlier batches."""
    logs = [log for name in ("offsets", "commits") for log in home.glob(f"checkpoints/**/{name}")]
    return sum(max((int(file.name) + 1 for file in log.iterdir() if file.name.isdigit()), default=0) for log in logs)


def content(table: Path, without: tuple[str, ...] = ()) -> pl.DataFrame:
    """The sorted rows of a table as JSON, without run-dependent and some other columns."""
    frame = pl.scan_delta(str(table)).collect()
    columns = frame.drop([name for name in (*RUN_DEPENDENT, *without) if name in frame.columns])
    return columns.select(pl.struct(pl.all()).struct.json_encode().alias("row")).sort("row")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        demo_files.split_sample(SAMPLE, Path(work) / "input", max_files=args.days)
        undisturbed, killed = (
            _overrides(Path(work) / name, Path(work) / "input") for name in ("undisturbed", "killed")
        )
        flags = [["--config", CONFIG, *to_flags(overrides)] for overrides in (undisturbed, killed)]
        with ThreadPoolExecutor(1) as threads:
            kills = threads.submit(
                kill_repeatedly, flags[1], Path(work) / "killed", kills=args.kills, max_steps=4, seed=args.seed
            )
            subprocess.run([*PIPELINE, *flags[0]], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
            kills.result()
        subprocess.run([*PIPELINE, *flags[1]], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
        spark = open_session("chaos", str(ROOT / "conf" / "spark-local.conf"))
        both = [settings.load(str(ROOT / CONFIG), overrides) for overrides in (undisturbed, killed)]
        results = [read_result(spark, one, table_snapshots.snapshot(spark, one)) for one in both]
        assert_same(*results)
    rows = {table: frame.height for table, frame in results[0].rows.items()}
    rows |= {table: len(keys) for table, keys in results[0].derived.items()}
    print(f"{args.kills} kills (seed {args.seed}): every table equals the undisturbed run: {rows}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
