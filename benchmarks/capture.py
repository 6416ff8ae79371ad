"""Benchmarks of capture. Each returns a ratio against a baseline measured in the same run, in turn with it."""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from profilestream.base import settings as settings_module
from profilestream.base import stream, tables
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from pyspark.sql import SparkSession

from benchmarks import workloads
from benchmarks.result import Result

SEED = 20_260_101
MAPPING = Path(__file__).parent / "shop.toml"


def capture_vs_copy(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Rows/s of capture over those of a bare JSON-to-Delta stream, same rows, same files per batch."""
    source = _log(spark, work / "log", first=0, rows=rows, files=40)
    files_per_batch = 20

    def copy() -> float:
        target = _emptied(work / "copy")
        began = time.monotonic()
        typed = workloads.RAW_COLUMNS.replace("event_time string", "event_time timestamp")
        stream_of_rows = spark.readStream.schema(typed).option("maxFilesPerTrigger", files_per_batch).json(str(source))
        query = stream_of_rows.writeStream.format("delta").option("checkpointLocation", f"{target}/checkpoint")
        query.trigger(availableNow=True).start(f"{target}/table").awaitTermination()
        return time.monotonic() - began

    def capture() -> float:
        settings = _settings(_emptied(work / "capture"), source, files_per_batch)
        began = time.monotonic()
        _capture(spark, settings)
        return time.monotonic() - began

    seconds = _in_turn(3, copy, capture)
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    detail = f"{rows:,} rows; capture {rows / statistics.median(seconds[1]):,.0f} rows/s; seed {SEED}"
    return Result("capture_vs_copy", ratio, "ratio of rows/s", 0.40, "higher", "bare JSON-to-Delta stream", detail)


def capture_history_10x(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Seconds of a 100,000-row batch over 10 times the history, over those with 1 time."""
    batch = 100_000
    source = _log(spark, work / "batch", first=10 * rows, rows=batch, files=4)
    homes = {}
    for times in (1, 10):
        home = homes[times] = _emptied(work / f"history_{times}")
        settings = _settings(home, source, 4)
        tables.EVENTS.create(spark, settings.paths)
        for part in range(times):
            history = workloads.shop_log(spark, (10 - part - 1) * rows, rows, seed=SEED, files=8)
            stored = workloads.stored_events(history).select(*tables.EVENTS.columns)
            stored.repartition("event_date").write.format("delta").mode("append").save(
                tables.EVENTS.path(settings.paths)
            )

    def one(times: int) -> float:
        home = _emptied(work / "batch_run")
        shutil.copytree(homes[times], home, dirs_exist_ok=True)
        settings = _settings(home, source, 4)
        began = time.monotonic()
        _capture(spark, settings)
        return time.monotonic() - began

    seconds = _in_turn(3, lambda: one(1), lambda: one(10))
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = f"{rows:,} against {10 * rows:,} rows of history at {workloads.EVENTS_A_DAY:,} a day; seed {SEED}"
    return Result("capture_history_10x", ratio, "ratio of seconds", 1.2, "lower", "a tenth of the history", detail)


def capture_empty_batch(spark: SparkSession, work: Path) -> Result:
    """Seconds of a micro-batch of one row over those of a bare Delta append of one row."""
    source = _log(spark, work / "tiny", first=0, rows=12, files=12)
    settings = _settings(_emptied(work / "capture"), source, 1)
    _capture(spark, settings)
    batches = tables.STAGE_BATCHES.read(spark, settings.paths).orderBy("batch_id").collect()
    ours = statistics.median(row["seconds"] for row in batches[4:])
    row = spark.createDataFrame([(1, "a")], "id bigint, name string").coalesce(1)
    target = str(_emptied(work / "bare"))
    bare = [_seconds(lambda: row.write.format("delta").mode("append").save(target)) for _ in range(12)]
    ratio = ours / statistics.median(bare[4:])
    detail = f"{ours:.2f} s a batch, {statistics.median(bare[4:]):.2f} s an append"
    return Result("capture_empty_batch", ratio, "ratio of seconds", 6.0, "lower", "bare append of one row", detail)


def _log(spark: SparkSession, folder: Path, *, first: int, rows: int, files: int) -> Path:
    """A JSON log in a folder; its files are dated in order, so that batches take them in order."""
    shutil.rmtree(folder, ignore_errors=True)
    workloads.shop_log(spark, first, rows, seed=SEED, files=files).write.json(str(folder))
    for number, file in enumerate(sorted(folder.glob("part-*.json"))):
        os.utime(file, (workloads.START + number, workloads.START + number))
    return folder


def _settings(home: Path, source: Path, files_per_batch: int) -> Settings:
    config = home / "shop.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{source}"\nmapping = "{MAPPING}"\nmax_files_per_trigger = {files_per_batch}\n'
    )
    return settings_module.load(str(config), [])


def _capture(spark: SparkSession, settings: Settings) -> None:
    stream.run(spark, [ingest.query(settings, "shop")], settings, stream.Options(accept_new_epoch=True))


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _in_turn(times: int, first: Callable[[], float], second: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Seconds of two pieces of work, measured in turn after one warm-up of each."""
    first(), second()
    pairs = [(first(), second()) for _ in range(times)]
    return [a for a, _ in pairs], [b for _, b in pairs]
