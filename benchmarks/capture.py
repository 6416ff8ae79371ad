"""Benchmarks of capture. Each returns a ratio against a baseline measured in the same run, in turn with it."""

import shutil
import statistics
import time
from pathlib import Path

from profilestream.base import settings as settings_module
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from pyspark.sql import SparkSession

from benchmarks import workloads
from benchmarks.measuring import emptied, in_turn, seconds_of
from benchmarks.result import Result

SEED = 20_260_101
MAPPING = Path(__file__).parent / "shop.toml"


def capture_vs_copy(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Rows/s of capture over those of a bare JSON-to-Delta stream, same rows, same files per batch."""
    source = workloads.json_log(spark, work / "log", first=0, rows=rows, files=40, seed=SEED)
    files_per_batch = 20

    def copy() -> float:
        return workloads.bare_copy(spark, source, emptied(work / "copy"), files_per_batch=files_per_batch)

    def capture() -> float:
        settings = _settings(emptied(work / "capture"), source, files_per_batch)
        began = time.monotonic()
        _capture(spark, settings)
        return time.monotonic() - began

    seconds = in_turn(3, copy, capture)
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    detail = f"{rows:,} rows; capture {rows / statistics.median(seconds[1]):,.0f} rows/s; seed {SEED}"
    return Result("capture_vs_copy", ratio, "ratio of rows/s", 0.40, "higher", "bare JSON-to-Delta stream", detail)


def capture_history_10x(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Seconds of a 100,000-row batch over 10 times the history, over those with 1 time."""
    batch = 100_000
    source = workloads.json_log(spark, work / "batch", first=10 * rows, rows=batch, files=4, seed=SEED)
    homes = {}
    for times in (1, 10):
        home = homes[times] = emptied(work / f"history_{times}")
        settings = _settings(home, source, 4)
        tables.EVENTS.create(spark, settings.paths)
        for part in range(times):
            history = workloads.shop_log(spark, (10 - part - 1) * rows, rows, seed=SEED, files=8)
            stored = workloads.stored_events(history).select(*tables.EVENTS.names)
            stored.repartition("event_date").write.format("delta").mode("append").save(
                tables.EVENTS.path(settings.paths)
            )

    def one(times: int) -> float:
        home = emptied(work / "batch_run")
        shutil.copytree(homes[times], home, dirs_exist_ok=True)
        settings = _settings(home, source, 4)
        began = time.monotonic()
        _capture(spark, settings)
        return time.monotonic() - began

    seconds = in_turn(3, lambda: one(1), lambda: one(10))
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = f"{rows:,} against {10 * rows:,} rows of history at {workloads.EVENTS_A_DAY:,} a day; seed {SEED}"
    return Result("capture_history_10x", ratio, "ratio of seconds", 1.2, "lower", "a tenth of the history", detail)


def capture_empty_batch(spark: SparkSession, work: Path) -> Result:
    """Seconds of a micro-batch of one row over those of a bare Delta append of one row."""
    source = workloads.json_log(spark, work / "tiny", first=0, rows=12, files=12, seed=SEED)
    settings = _settings(emptied(work / "capture"), source, 1)
    _capture(spark, settings)
    batches = tables.STAGE_BATCHES.read(spark, settings.paths).orderBy("batch_id").collect()
    ours = statistics.median(row["seconds"] for row in batches[4:])
    row = spark.createDataFrame([(1, "a")], "id bigint, name string").coalesce(1)
    target = str(emptied(work / "bare"))
    bare = [seconds_of(lambda: row.write.format("delta").mode("append").save(target)) for _ in range(12)]
    ratio = ours / statistics.median(bare[4:])
    detail = f"{ours:.2f} s a batch, {statistics.median(bare[4:]):.2f} s an append"
    return Result("capture_empty_batch", ratio, "ratio of seconds", 6.0, "lower", "bare append of one row", detail)


def _settings(home: Path, source: Path, files_per_batch: int) -> Settings:
    config = home / "shop.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{source}"\nmapping = "{MAPPING}"\nmax_files_per_trigger = {files_per_batch}\n'
    )
    return settings_module.load(str(config), [])


def _capture(spark: SparkSession, settings: Settings) -> None:
    streaming.run(spark, [ingest.query(settings, "shop")], settings, RunOptions(accept_new_epoch=True))
