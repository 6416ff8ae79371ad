"""Benchmarks of capture, as ratios to a baseline that runs alternately with it."""

import shutil
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from profilestream.base import settings as settings_module
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from pyspark.sql import SparkSession

from benchmarks import load_run, workloads
from benchmarks.load_run import Input
from benchmarks.load_writer import TopicTarget
from benchmarks.result import Result
from benchmarks.timing import empty_folder, measure_alternately, measure_seconds

SEED = 20_260_101
MAPPING = Path(__file__).parent / "shop.toml"


def capture_vs_copy(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Rows/s of capture, divided by those of a plain JSON-to-Delta stream with the same files per batch."""
    source = workloads.write_json_log(spark, work / "log", first=0, rows=rows, files=40, seed=SEED)
    files_per_batch = 20

    def copy() -> float:
        return workloads.copy_seconds(spark, source, empty_folder(work / "copy"), files_per_batch=files_per_batch)

    def capture() -> float:
        settings = _settings(empty_folder(work / "capture"), source, files_per_batch)
        return measure_seconds(lambda: _capture(spark, settings))

    seconds = measure_alternately(3, copy, capture)
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    detail = f"{rows:,} rows; capture {rows / statistics.median(seconds[1]):,.0f} rows/s; seed {SEED}"
    return Result("capture_vs_copy", ratio, "ratio of rows/s", 0.45, "higher", "plain JSON-to-Delta stream", detail)


def kafka_vs_files(spark: SparkSession, work: Path, rows: int = 1_000_000) -> Result:
    """Rows/s of capture from a topic with four partitions, divided by those from files with the same lines."""
    source = workloads.write_json_log(spark, work / "log", first=0, rows=rows, files=20, seed=SEED)
    with load_run.started_broker(work / "broker", partitions=4) as servers:
        topic = TopicTarget(servers)
        for number, file in enumerate(sorted(source.glob("part-*.json"))):
            topic.write(number, file.read_text().splitlines())

        def capture(own_input: Input) -> float:
            settings = _settings(empty_folder(work / "capture"), source, 10, own_input.overrides)
            return measure_seconds(lambda: _capture(spark, settings))

        inputs = (Input(source), Input(source, servers))
        seconds = measure_alternately(3, *(partial(capture, own_input) for own_input in inputs))
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    rates = [rows / statistics.median(one) for one in seconds]
    detail = (
        f"{rows:,} rows, 500,000 per batch; files {rates[0]:,.0f} rows/s, topic {rates[1]:,.0f} rows/s, broker on the "
        f"same machine; seed {SEED}"
    )
    return Result("kafka_vs_files", ratio, "ratio of rows/s", 0.6, "higher", "capture of files", detail)


def capture_history_10x(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Seconds of a batch of 100,000 rows with ten times the history, divided by those with the smaller one."""
    batch = 100_000
    source = workloads.write_json_log(spark, work / "batch", first=10 * rows, rows=batch, files=4, seed=SEED)
    homes = {}
    for factor in (1, 10):
        home = homes[factor] = empty_folder(work / f"history_{factor}")
        settings = _settings(home, source, 4)
        ingest.events_table(settings.capture).create(spark, settings.paths)
        for part in range(factor):
            history = workloads.shop_log(spark, (10 - part - 1) * rows, rows, seed=SEED, files=8)
            events = workloads.to_events_rows(history).select(*tables.EVENTS.names)
            events.repartition("event_date").write.format("delta").mode("append").save(
                tables.EVENTS.path(settings.paths)
            )

    def batch_seconds(factor: int) -> float:
        home = empty_folder(work / "batch_run")
        shutil.copytree(homes[factor], home, dirs_exist_ok=True)
        settings = _settings(home, source, 4)
        return measure_seconds(lambda: _capture(spark, settings))

    seconds = measure_alternately(3, lambda: batch_seconds(1), lambda: batch_seconds(10))
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = f"{10 * rows:,} rows of history, baseline {rows:,}, {workloads.EVENTS_PER_DAY:,} rows per day; seed {SEED}"
    return Result("capture_history_10x", ratio, "ratio of seconds", 1.2, "lower", "a tenth of the history", detail)


def capture_empty_batch(spark: SparkSession, work: Path) -> Result:
    """Seconds of a micro-batch of one row, divided by those of a plain Delta append of one row."""
    source = workloads.write_json_log(spark, work / "one_row_files", first=0, rows=12, files=12, seed=SEED)
    settings = _settings(empty_folder(work / "capture"), source, 1)
    _capture(spark, settings)
    batches = tables.STAGE_BATCHES.read(spark, settings.paths).orderBy("batch_id").collect()
    # The first four batches and appends are the warm-up.
    batch_seconds = statistics.median(batch["seconds"] for batch in batches[4:])
    row = spark.createDataFrame([(1, "a")], "id bigint, name string").coalesce(1)
    target = str(empty_folder(work / "append"))
    appends = [measure_seconds(lambda: row.write.format("delta").mode("append").save(target)) for _ in range(12)]
    append_seconds = statistics.median(appends[4:])
    detail = f"{batch_seconds:.2f} s per batch, {append_seconds:.2f} s per append"
    return Result(
        "capture_empty_batch", batch_seconds / append_seconds, "ratio of seconds", 2.0, "lower",
        "plain append of one row", detail,
    )  # fmt: skip


def _settings(home: Path, source: Path, files_per_batch: int, overrides: Sequence[str] = ()) -> Settings:
    config = home / "shop.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{source}"\nmapping = "{MAPPING}"\nmax_files_per_trigger = {files_per_batch}\n'
    )
    return settings_module.load(str(config), list(overrides))


def _capture(spark: SparkSession, settings: Settings) -> None:
    streaming.run(spark, [ingest.query(settings, "shop")], settings, RunOptions(accept_new_epoch=True))
