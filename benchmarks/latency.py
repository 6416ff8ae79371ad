"""Benchmarks of small batches: CPU seconds of one, and the latency from a record's arrival to the profile row."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from delta.tables import DeltaTable
from kafka_broker import Broker
from profilestream.base import streaming
from profilestream.base.delta_table import Table
from profilestream.base.queries import Query, RunOptions
from profilestream.base.query_runner import QueryRunner
from profilestream.base.session import conf_set, materialize
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import profiles, sessions, tiles
from profilestream.learn import stage
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.segments.segments_spec import SegmentsSpec
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import derive, workloads
from benchmarks.result import Result
from benchmarks.timing import empty_folder

SEED = 20_260_101
PROFILES = 200_000
ROWS = 30
_BATCHES, _WARM = 12, 6
_SECONDS = 180


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
        started = cpu_seconds()
        merger = DeltaTable.forPath(rows.sparkSession, table.path(settings.paths)).alias("t")
        merged = merger.merge(rows.alias("s"), "t.user_id = s.user_id")
        merged.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
        return cpu_seconds() - started


@contextmanager
def _cpu_of_batches() -> Iterator[list[float]]:
    """The CPU seconds of each batch of the block, from the start to the end of foreachBatch."""
    seconds: list[float] = []
    process: Any = QueryRunner._process

    def timed(self: QueryRunner, frame: DataFrame, batch_id: int) -> None:
        started = cpu_seconds()
        process(self, frame, batch_id)
        seconds.append(cpu_seconds() - started)

    with patch.object(QueryRunner, "_process", timed):
        yield seconds


def cpu_seconds() -> float:
    """User and system seconds of this process and all its descendants."""
    ticks, parents, used = os.sysconf("SC_CLK_TCK"), {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # the process has ended
            continue
        parents[int(pid)], used[int(pid)] = int(fields[1]), sum(map(int, fields[11:15])) / ticks
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return float(sum(used.get(pid, 0.0) for pid in family))


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
    """As latency_all_100, at 1,000 events/s."""
    return _latency(spark, work, "latency_all_1000", 1_000, 20.0, seconds=600, all_stages=True)


def idle_cpu(spark: SparkSession, work: Path) -> Result:
    """Processor cores used by all stages without input, with a trigger of one second."""
    home = derive.prepare_profiles(spark, work / "home", PROFILES)
    source = workloads.write_json_log(spark, work / "log", first=0, rows=1_000, files=1, seed=SEED)
    settings = derive.derive_settings(home, [f"capture.sources.shop.path={json.dumps(str(source))}", *_LEARNERS])
    stopped = threading.Event()
    used: list[float] = []

    def measure() -> None:
        time.sleep(_IDLE_WARM_UP)
        before, started = cpu_seconds(), time.monotonic()
        time.sleep(_IDLE_SECONDS)
        used.append((cpu_seconds() - before) / (time.monotonic() - started))
        stopped.set()

    threading.Thread(target=measure).start()
    with patch.object(streaming, "_stop_signals", lambda: _stop_event(stopped)):
        streaming.run(spark, _queries(settings, all_stages=True), settings, RunOptions(continuous=1.0))
    detail = f"{_ALL_STAGES}; {PROFILES:,} profiles; {_IDLE_SECONDS} s after {_IDLE_WARM_UP} s"
    return Result("idle_cpu", used[0], "cores", 0.3, "lower", "no input", detail)


_LEARNERS = ("learn.factors.enabled=true", "learn.segments.enabled=true", "learn.tracking.enabled=false")
_ALL_STAGES = "capture, tiles, profiles, sessions, factors, segments"
_IDLE_WARM_UP, _IDLE_SECONDS = 120, 60


def _queries(settings: Settings, *, all_stages: bool) -> list[Query]:
    queries = [ingest.query(settings, "shop"), *profiles.queries(settings)]
    if all_stages:
        queries += [*tiles.queries(settings), *sessions.queries(settings)]
        queries += [query for learner in (FactorsSpec, SegmentsSpec) for query in stage.queries(learner, settings)]
    return queries


def latency_kafka(spark: SparkSession, work: Path) -> Result:
    """As latency_local, from the arrival of a record in a topic with two partitions."""
    broker = Broker(work / "broker")
    broker.start()
    try:
        broker.create_topic("shop", partitions=2)
        return _latency(spark, work, "latency_kafka", 100, 3.0, servers=broker.servers)
    finally:
        broker.stop()


_WARM_UP = 30

# Writes events each second, as a file or as records of the topic `shop`: folder or servers, events per second, seconds.
# A process of its own, so that Python threads do not wait.
_WRITER = """
import json, os, random, sys, time
target, rate, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
generator, producer = random.Random(7), None
if not target.startswith("/"):
    import confluent_kafka
    producer = confluent_kafka.Producer({"bootstrap.servers": target})
start = time.time()
for n in range(seconds):
    time.sleep(max(0.0, start + n - time.time()))
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    rows = [
        {"event_id": f"w{n}-{i}", "event_type": "view", "event_time": now, "user_id": f"u{generator.randrange(80000)}",
         "item_id": f"i{generator.randrange(20000)}", "category": f"c{generator.randrange(300)}", "price": 9.5}
        for i in range(rate - 1)
    ]
    rows.append({**rows[0], "event_id": f"w{n}-mark", "user_id": f"mark{n}"})
    if producer:
        for row in rows:
            producer.produce("shop", json.dumps(row), key=row["user_id"])
        producer.flush()
    else:
        with open(f"{target}/.{n}.tmp", "w") as file:
            file.write("\\n".join(map(json.dumps, rows)))
        os.rename(f"{target}/.{n}.tmp", f"{target}/{n:05}.jsonl")
    print(n, time.time(), flush=True)
"""
# Polls the table every 100 ms and prints when the row of each marked user is visible.
_READER = """
import sys, time
from deltalake import DeltaTable
import pyarrow.parquet as pq
folder, until, seen, files = sys.argv[1], time.time() + float(sys.argv[2]), set(), set()
table = DeltaTable(folder)
files |= set(table.file_uris())
while time.time() < until:
    table.update_incremental()
    new = [file for file in table.file_uris() if file not in files]
    for file in new:
        files.add(file)
        for user in pq.read_table(file, columns=["user_id"])["user_id"].to_pylist():
            if user.startswith("shop:mark") and user not in seen:
                seen.add(user)
                print(user.removeprefix("shop:mark"), time.time(), flush=True)
    time.sleep(0.1)
"""


def _latency(
    spark: SparkSession, work: Path, name: str, rate: int, bound: float, *, seconds: int = _SECONDS,
    all_stages: bool = False, servers: str = "",
) -> Result:  # fmt: skip
    """The latency from files, or from a topic of these servers."""
    home = derive.prepare_profiles(spark, work / "home", PROFILES)
    folder = empty_folder(work / "input")
    overrides = [f"capture.sources.shop.path={json.dumps('' if servers else str(folder))}"]
    overrides += _LEARNERS if all_stages else ()
    if servers:
        overrides.append(f'capture.sources.shop.kafka={{ bootstrap_servers = "{servers}", topics = ["shop"] }}')
    settings = derive.derive_settings(home, overrides)
    table = derive.derived_table(settings, "user_profiles").table
    queries = _queries(settings, all_stages=all_stages)
    stopped = threading.Event()
    python = [sys.executable, "-c"]
    reader = subprocess.Popen(
        [*python, _READER, table.path(settings.paths), str(seconds + 40)], stdout=subprocess.PIPE, text=True
    )
    writer = subprocess.Popen(
        [*python, _WRITER, servers or str(folder), str(rate), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    arrived: dict[str, float] = {}
    visible: dict[str, float] = {}

    def collect() -> None:
        for process, times in ((writer, arrived), (reader, visible)):
            assert process.stdout is not None
            times |= {number: float(at) for number, at in map(str.split, process.stdout)}
        stopped.set()

    threading.Thread(target=collect).start()
    with patch.object(streaming, "_stop_signals", lambda: _stop_event(stopped)):
        streaming.run(spark, queries, settings, RunOptions(accept_new_epoch=True, continuous=0.0))
    latency = [visible.get(n, arrived[n] + 60.0) - arrived[n] for n in arrived if int(n) >= _WARM_UP]
    p50, p95, p99 = np.percentile(latency, [50, 95, 99])
    stages = _ALL_STAGES if all_stages else "capture, profiles"
    missing = sum(n not in visible for n in arrived)
    detail = (
        f"{rate} events/s for {seconds} s, {PROFILES:,} profiles, {stages}; p50 {p50:.2f} s, p99 {p99:.2f} s, "
        f"{missing} not visible"
    )
    against = "arrival of the record in the topic" if servers else "arrival of the file"
    return Result(name, float(p95), "seconds", bound, "lower", against, detail)


@contextmanager
def _stop_event(event: threading.Event) -> Iterator[threading.Event]:
    yield event
