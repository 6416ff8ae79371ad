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
from tests.builders import short_lived  # noqa: E402

SAMPLE = ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet"
CAPTURED = ("events", "rejected_events", "capture_batches")
CONFIG, FILES_PER_BATCH = "conf/demo.toml", 10
PIPELINE = (sys.executable, "jobs/run_pipeline.py")
# Among the measures is the lateness.
DIFFERS = ("ingest_time", "epoch", "seconds", "lateness_seconds_max", "measures")


@dataclass(frozen=True)
class Outcome:
    """What is there after a run, without what differs from run to run."""

    rows: dict[str, pl.DataFrame]
    vectors: dict[tuple[str, str], Any]
    said: table_snapshots.Said


def outcome(spark: SparkSession, settings: Settings, said: table_snapshots.Said) -> Outcome:
    """What is there now; the segments are recounted."""
    recount.assert_recounted(spark, settings)
    rows = {table: _content(Path(settings.paths.warehouse) / table) for table in CAPTURED}
    return Outcome(rows, table_snapshots.learned(spark, settings), said)


def assert_same(calm: Outcome, wild: Outcome) -> None:
    """A run with kills left what an undisturbed one did."""
    for table, expected in calm.rows.items():
        got = wild.rows[table]
        odd = expected.join(got, on="row", how="anti").head(3).to_series().to_list()
        told = f"{table}: {expected.height} rows undisturbed, {got.height} after kills; not found again: {odd}"
        assert expected.equals(got), told
    table_snapshots.assert_learned_alike(calm.vectors, wild.vectors)
    apart = table_snapshots.differences(calm.said, wild.said)
    assert not apart, f"{len(apart)} differences after kills, such as {apart[:3]}"


def kill_often(flags: list[str], home: Path, *, kills: int, most_steps: int, seed: int) -> None:
    """Run the pipeline and kill it, again and again, each time after a few more steps of its batches.

    Args:
        home: of the warehouse and the checkpoints.
        most_steps: batches begun or finished, at most, before the next kill.

    Raises:
        AssertionError: fewer kills than asked for hit a running job.
    """
    dice = random.Random(seed)
    hits = sum(_kill_one([*PIPELINE, *flags], home, most_steps, dice) for _ in range(kills))
    assert hits == kills, f"only {hits} of {kills} kills hit a running job: the log is too short for so many"


def flags_of(overrides: list[str]) -> list[str]:
    """Settings that differ, as a job takes them."""
    return [part for override in overrides for part in ("--set", override)]


def _overrides(home: Path, folder: Path) -> list[str]:
    given = {
        "paths.warehouse": home / "warehouse",
        "paths.checkpoints": home / "checkpoints",
        "capture.sources.online_retail.path": folder,
        "capture.sources.online_retail.max_files_per_trigger": FILES_PER_BATCH,
        # Files of `events`, into which a day of the log is cut.
        "derive.max_files_per_trigger": 8 * FILES_PER_BATCH,
        "learn.max_files_per_trigger": 8 * FILES_PER_BATCH,
        "learn.factors.first_full_passes": 1,
        # What is compared does not hang on these.
        **dict.fromkeys(("serve.report.enabled", "serve.scores.enabled", "learn.tracking.enabled"), "false"),
    }
    return [f"{key}={value}" for key, value in given.items()]


def _kill_one(command: list[str], home: Path, most_steps: int, dice: random.Random) -> bool:
    """Start the job and kill its process group some moment after a few steps of its batches; false if it ended.

    Raises:
        AssertionError: it ended by a failure of its own.
    """
    steps = _steps(home) + dice.randint(1, most_steps)
    said = home.with_name(f"{home.name}.log")
    with said.open("wb") as told:
        job = subprocess.Popen(command, cwd=ROOT, env=short_lived(), stderr=told, start_new_session=True)
    while job.poll() is None and _steps(home) < steps:
        time.sleep(0.05)
    time.sleep(dice.uniform(0.0, 4.0))
    ended = job.poll() is not None
    if not ended:
        os.killpg(job.pid, signal.SIGKILL)
    code = job.wait()
    assert not ended or code == 0, f"exit {code}: {said.read_text(errors='replace')[-2000:]}"
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
        demo_files.split_sample(SAMPLE, Path(work) / "input", max_files=args.days)
        calm, wild = (_overrides(Path(work) / name, Path(work) / "input") for name in ("calm", "wild"))
        flags = [["--config", CONFIG, *flags_of(given)] for given in (calm, wild)]
        with ThreadPoolExecutor(1) as beside:
            often = beside.submit(
                kill_often, flags[1], Path(work) / "wild", kills=args.kills, most_steps=4, seed=args.seed
            )
            subprocess.run([*PIPELINE, *flags[0]], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
            often.result()
        subprocess.run([*PIPELINE, *flags[1]], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
        spark = open_session("chaos", str(ROOT / "conf" / "spark-local.conf"))
        both = [settings.load(str(ROOT / CONFIG), given) for given in (calm, wild)]
        undisturbed, killed = (outcome(spark, one, table_snapshots.said(spark, one)) for one in both)
        assert_same(undisturbed, killed)
    rows = {table: found.height for table, found in undisturbed.rows.items()}
    rows |= {table: len(keys) for table, keys in undisturbed.said.items()}
    print(f"{args.kills} kills (seed {args.seed}): every table equals the undisturbed run: {rows}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
