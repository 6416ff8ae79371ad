"""Benchmarks of small batches: CPU seconds of one, and the latency from a record's arrival to the profile row."""

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from delta.tables import DeltaTable
from profilestream.base import streaming
from profilestream.base.delta_table import Table
from profilestream.base.queries import RunOptions
from profilestream.base.query_runner import QueryRunner
from profilestream.base.session import conf_set, materialize
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import derive, load_run, workloads
from benchmarks.load_run import Input, Load, Window, started_broker
from benchmarks.result import Result

SEED = 20_260_101
PROFILES = 200_000
ROWS = 30
_BATCHES, _WARM = 12, 6
# Of a measured window, of the time before it, and of the benchmark without input.
_SECONDS, _WARM_UP, _IDLE_SECONDS, _IDLE_WARM_UP = 150, 30, 60, 120


def small_batch_cpu(spark: SparkSession, work: Path) -> Result:
    """CPU seconds of a warm batch of 30 events into 200,000 profiles, divided by those of a MERGE of finished rows."""
    home = derive.prepare_profiles(spark, work / "home", PROFILES)
    settings = derive.derive_settings(home)
    table = derive.derived_table(settings, "user_profiles").table
    for n in range(_BATCHES):
        log = workloads.shop_log(spark, n * ROWS, ROWS, seed=SEED + n, files=1, users=derive.ACTIVE_USERS)
        derive.write_events(workloads.to_events_rows(log), settings)
    with _cpu_of_batches() as batches:
        options = RunOptions(accept_new_epoch=True)
        one_file = derive.derive_settings(home, ["derive.max_files_per_trigger=1"])
        streaming.run(spark, profiles.queries(one_file), one_file, options)
    merges = [_merge_cpu(_finished_rows(spark, table, settings, n), table, settings) for n in range(4)][1:]
    batch, merge = statistics.median(batches[_WARM:]), statistics.median(merges)
    detail = f"{ROWS} events, {PROFILES:,} profiles; {batch:.2f} CPU s, MERGE {merge:.2f} CPU s; seed {SEED}"
    against = "MERGE of finished rows by Spark"
    return Result("small_batch_cpu", batch / merge, "ratio of CPU seconds", 0.08, "lower", against, detail)


def _finished_rows(spark: SparkSession, table: Table, settings: Settings, n: int) -> DataFrame:
    """The stored rows of 30 users that no batch and no earlier MERGE updated, so that they are in a large file."""
    stored = table.read(spark, settings.paths).where("epoch = 'bench'")
    return materialize(stored.orderBy(F.xxhash64("user_id", F.lit(n))).limit(ROWS))


def _merge_cpu(rows: DataFrame, table: Table, settings: Settings) -> float:
    with conf_set(rows.sparkSession, {"spark.sql.autoBroadcastJoinThreshold": "10MB"}):
        started = load_run.cpu_seconds()
        merger = DeltaTable.forPath(rows.sparkSession, table.path(settings.paths)).alias("t")
        merged = merger.merge(rows.alias("s"), "t.user_id = s.user_id")
        merged.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
        return load_run.cpu_seconds() - started


@contextmanager
def _cpu_of_batches() -> Iterator[list[float]]:
    """The CPU seconds of each batch of the block, from the start to the end of foreachBatch."""
    seconds: list[float] = []
    process: Any = QueryRunner._process

    def timed(self: QueryRunner, frame: DataFrame, batch_id: int) -> None:
        started = load_run.cpu_seconds()
        process(self, frame, batch_id)
        seconds.append(load_run.cpu_seconds() - started)

    with patch.object(QueryRunner, "_process", timed):
        yield seconds


def latency_local(spark: SparkSession, work: Path) -> Result:
    """p95 of the seconds from a file's arrival to the visible profile row, at 100 events/s: capture and profiles."""
    return _latency(spark, work, "latency_local", 100, 3.0)


def latency_local_1000(spark: SparkSession, work: Path) -> Result:
    """As latency_local, at 1,000 events/s."""
    return _latency(spark, work, "latency_local_1000", 1_000, 6.0)


def latency_all_100(spark: SparkSession, work: Path) -> Result:
    """As latency_local, for ten minutes, while tiles, sessions, factors and segments are updated too."""
    return _latency(spark, work, "latency_all_100", 100, 5.0, seconds=600, all_stages=True)


def latency_all_1000(spark: SparkSession, work: Path) -> Result:
    """As latency_all_100, at 1,000 events/s, while each of the two learners runs in at most a quarter of the time."""
    return _latency(spark, work, "latency_all_1000", 1_000, 20.0, seconds=600, all_stages=True, learner_share=0.25)


def latency_kafka(spark: SparkSession, work: Path) -> Result:
    """As latency_local, from the arrival of a record in a topic with two partitions."""
    with started_broker(work / "broker") as servers:
        return _latency(spark, work, "latency_kafka", 100, 3.0, servers=servers)


def _latency(
    spark: SparkSession, work: Path, name: str, rate: int, bound: float, *, seconds: int = _SECONDS,
    all_stages: bool = False, learner_share: float = 1.0, servers: str = "",
) -> Result:  # fmt: skip
    """The latency from files, or from a topic of these servers."""
    home, source = derive.prepare_profiles(spark, work / "home", PROFILES), Input(work / "input", servers, seed=SEED)
    settings = load_run.load_settings(
        home, source, features=all_stages, sessions=all_stages, learners=all_stages, learner_share=learner_share
    )

    def run(load: Load) -> None:
        load.start(rate, _WARM_UP)
        load.run_window(rate, seconds, _WARM_UP)

    (window,) = load_run.measure(spark, settings, source, run)
    latencies = [*window.latencies(load_run.PROFILES), *[math.inf] * window.missing(load_run.PROFILES)]
    p50, p95, p99 = map(float, np.percentile(latencies, [50, 95, 99], method="higher"))
    detail = (
        f"{rate} events/s for {seconds} s, {PROFILES:,} profiles, {load_run.stages_text(settings)}, "
        f"learn.max_busy_share {learner_share}; p50 {p50:.2f} s, "
        f"p99 {p99:.2f} s, {window.missing(load_run.PROFILES)} not visible; growth of lag in s: {window.lag_growth()}"
    )
    against = "arrival of the record in the topic" if servers else "arrival of the file"
    return Result(name, p95, "seconds", bound, "lower", against, detail)


def sustained_rate(spark: SparkSession, work: Path) -> Result:
    """The highest rate at which the lag of user_profiles is flat for five minutes; capture, tiles and profiles."""
    home, source = derive.prepare_profiles(spark, work / "home", PROFILES), Input(work / "input", seed=SEED)
    settings = load_run.load_settings(home, source, sessions=False)
    confirmed: list[Window] = []

    def search(load: Load) -> None:
        load.start(1_000, 60)
        rate = load_run.steady_rate(
            lambda rate: load.run_window(rate, 40, 20).is_steady(load_run.PROFILES), first=1_000, last=32_000, steps=2
        )
        while rate >= 250:
            window = load.run_window(rate, 300, _WARM_UP)
            if window.is_steady(load_run.PROFILES):
                confirmed.append(window)
                return
            rate = int(rate * 0.85)

    windows = load_run.measure(spark, settings, source, search)
    unsteady = [one for one in windows if not one.is_steady(load_run.PROFILES)]
    limit = min(unsteady or windows, key=lambda one: one.rate)
    window = confirmed[0] if confirmed else limit
    slowest = load_run.slowest_stage(limit.lag_growth())
    detail = (
        f"{PROFILES:,} profiles, {load_run.stages_text(settings)}; latency p50, p95, p99 "
        f"{window.percentiles(load_run.PROFILES)} s, {window.cpu_cores:.2f} cores; at {limit.rate:,} events/s "
        f"{limit.cpu_cores:.2f} cores, and the lag of {slowest} grows most; seed {SEED}"
    )
    value = float(window.rate) if confirmed else 0.0
    return Result("sustained_rate", value, "events/s", 10_000.0, "higher", "flat lag for 300 s", detail)


def idle_cpu(spark: SparkSession, work: Path) -> Result:
    """Processor cores used by all stages without input, with a trigger of one second."""
    home, source = derive.prepare_profiles(spark, work / "home", PROFILES), Input(work / "input")
    workloads.write_json_log(spark, source.folder, first=0, rows=1_000, files=1, seed=SEED)
    settings = load_run.load_settings(home, source, learners=True)

    def measure() -> float:
        time.sleep(_IDLE_WARM_UP)
        before, started = load_run.cpu_seconds(), time.monotonic()
        time.sleep(_IDLE_SECONDS)
        return (load_run.cpu_seconds() - before) / (time.monotonic() - started)

    cores = load_run.run_continuously(spark, settings, measure, every_seconds=1.0)
    stages = load_run.stages_text(settings)
    detail = f"{stages}; {PROFILES:,} profiles; {_IDLE_SECONDS} s after {_IDLE_WARM_UP} s"
    return Result("idle_cpu", cores, "cores", 0.3, "lower", "no input", detail)
