"""kill -9 of the whole process group, again and again, over one pass of the demo log; then every table must be equal
to that of an undisturbed run.

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
from pathlib import Path

import polars as pl
from profilestream.steward import demo

ROOT = Path(__file__).parent.parent.parent
SAMPLE = ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet"
TABLES = ("events", "rejected_events", "capture_batches")
DIFFERS = ("ingest_time", "epoch", "seconds", "lateness_seconds_max")


def run(
    work: Path, *, days: int | None, kills: int, files_per_batch: int, seed: int, calmly: Callable[[list[str]], object]
) -> dict[str, int]:
    """Capture the log with and without kills and compare.

    Args:
        calmly: runs a job's command line to its end.

    Returns:
        Rows per table.

    Raises:
        AssertionError: a table differs, or fewer kills than asked for hit a running batch.
    """
    folder = work / "input"
    demo.lay_out(SAMPLE, folder, days=days)
    calm, wild = (_command(work / name, folder, files_per_batch) for name in ("calm", "wild"))
    calmly(calm)
    dice = random.Random(seed)
    hits = sum(_kill_one(wild, work / "wild", dice) for _ in range(kills))
    assert hits == kills, f"only {hits} of {kills} kills hit a running job: the log is too short for so many"
    calmly(wild)
    rows = {}
    for table in TABLES:
        expected, got = (_content(work / name / "warehouse" / table) for name in ("calm", "wild"))
        odd = expected.join(got, on="row", how="anti").head(3).to_series().to_list()
        told = f"{table}: {expected.height} rows undisturbed, {got.height} after {kills} kills; not found again: {odd}"
        assert expected.equals(got), told
        rows[table] = got.height
    return rows


def in_a_process(command: list[str]) -> None:
    """Run a job to its end in a process of its own."""
    subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)


def _command(home: Path, folder: Path, files_per_batch: int) -> list[str]:
    overrides = {
        "paths.warehouse": home / "warehouse",
        "paths.checkpoints": home / "checkpoints",
        "capture.sources.online_retail.path": folder,
        "capture.sources.online_retail.max_files_per_trigger": files_per_batch,
    }
    sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "jobs/capture_events.py", "--config", "conf/demo.toml", *sets]


def _kill_one(command: list[str], home: Path, dice: random.Random) -> bool:
    """Start the job and kill its process group some moment after it has begun its first batch; false if it ended."""
    checkpoint = home / "checkpoints" / "capture_events" / "online_retail"
    before = _last_touched(checkpoint)
    job = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    while job.poll() is None and _last_touched(checkpoint) == before:
        time.sleep(0.05)
    time.sleep(dice.uniform(0.0, 6.0))
    ended = job.poll() is not None
    if not ended:
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    return not ended


def _last_touched(checkpoint: Path) -> float:
    return max((file.stat().st_mtime for file in checkpoint.glob("*/*")), default=0.0)


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
            Path(work), days=args.days, kills=args.kills, files_per_batch=10, seed=args.seed, calmly=in_a_process
        )
    print(f"{args.kills} kills (seed {args.seed}): every table equals the undisturbed run: {rows}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
