"""Benchmarks of the report and of the table `users`."""

import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import duckdb
import polars as pl
from profilestream.base import commits, streaming, tables
from profilestream.base import settings as settings_module
from profilestream.base.commits import Txn
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import profiles
from profilestream.serve.plain_tables import users_table, write_plain_tables
from profilestream.serve.report import write_report
from profilestream.steward import maintain, status
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import workloads
from benchmarks.result import Result
from benchmarks.timing import empty_folder, measure_alternately, measure_seconds

SEED = 20_260_101
ROOT = Path(__file__).parent.parent


def report_seconds(spark: SparkSession, work: Path, rows: int = 1_000_000) -> Result:
    """Seconds of writing the report, divided by those of a count of `events` that reads all rows."""
    log = workloads.write_json_log(spark, work / "log", first=0, rows=rows, files=20, seed=SEED)
    settings = _settings(empty_folder(work / "home"), log)
    for queries in ([ingest.query(settings, "shop")], profiles.queries(settings)):
        streaming.run(spark, queries, settings, RunOptions())

    def count() -> None:
        # A condition on values, because Delta computes count(*) from its log. A new frame in each run, because a frame
        # that is collected again reuses its shuffle files.
        tables.EVENTS.read(spark, settings.paths).agg(F.count_if(F.length("event_id") > 0)).collect()

    seconds = measure_alternately(
        3, lambda: measure_seconds(count), lambda: measure_seconds(lambda: write_report.run(spark, settings))
    )
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"the bound only detects a report that reads `events` many times; {rows:,} events, their batches and "
        f"profiles, no learners; {statistics.median(seconds[1]):.1f} s, count {statistics.median(seconds[0]):.2f} s; "
        f"seed {SEED}"
    )
    return Result("report_seconds", ratio, "ratio of seconds", 100.0, "lower", "a count that reads every row", detail)


def users_table_small_batch(spark: SparkSession, work: Path, rows: int = 500_000) -> Result:
    """Seconds to bring `users` up to date after 100 profiles changed, divided by those of an append of 100 rows."""
    settings = _shop_with_users(spark, work, rows)
    batches, some_users = count(), _users_rows(spark, settings).limit(100).localCheckpoint()

    def append() -> None:
        some_users.write.format("delta").mode("append").save(f"{work}/appended")

    def update() -> float:
        _change_profiles(spark, settings, next(batches))
        seconds = measure_seconds(lambda: written.append(users_table.update(spark, settings)))
        assert written[-1] == 100
        return seconds

    written: list[int] = []
    seconds = measure_alternately(5, lambda: measure_seconds(append), update)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{_users_rows(spark, settings).count():,} users with profiles, favorite items and names, no other inputs; "
        f"{statistics.median(seconds[1]):.2f} s, append {statistics.median(seconds[0]):.2f} s; seed {SEED}"
    )
    return Result(
        "users_table_small_batch", ratio, "ratio of seconds", 5.0, "lower", "a Spark append of 100 rows", detail
    )


def head_users(spark: SparkSession, work: Path, rows: int = 200_000, batches: int = 1_000) -> Result:
    """Seconds of `SELECT * FROM users LIMIT 5` after 1,000 batches: the slowest of DuckDB, Polars and warm Spark."""
    settings = _shop_with_users(spark, work, rows)
    users = users_table.table(settings)
    path, rows_of_users = users.path(settings.paths), _users_rows(spark, settings).localCheckpoint()
    for batch in range(batches):
        changed = _sample(rows_of_users, batch).withColumn("orders", F.lit(batch).cast("bigint"))
        commits.merge(changed, users, settings.paths, Txn("bench", "users", batch))
        if batch % 50 == 49:
            maintain.run(spark, settings, datetime.now(UTC), [users.name])
    db = duckdb.connect()
    exec(status.load_delta_code(), {"db": db})
    readers: dict[str, Callable[[], object]] = {
        "DuckDB": lambda: db.sql(f"SELECT * FROM delta_scan('{path}') LIMIT 5").fetchall(),
        "Polars": lambda: pl.scan_delta(path).head(5).collect(),
        "Spark": lambda: users.read(spark, settings.paths).limit(5).collect(),
    }
    seconds = {}
    for name, read in readers.items():
        read()  # warm
        seconds[name] = statistics.median(measure_seconds(read) for _ in range(5))
    detail = f"{batches:,} batches of about 100 users, maintenance after every 50 batches; " + ", ".join(
        f"{name} {value:.2f} s" for name, value in seconds.items()
    )
    return Result("head_users", max(seconds.values()), "seconds", 1.0, "lower", "", f"{detail}; seed {SEED}")


def _shop_with_users(spark: SparkSession, work: Path, rows: int) -> Settings:
    """Settings of a shop with profiles, `items` and `users`."""
    log = workloads.write_json_log(spark, work / "log", first=0, rows=rows, files=20, seed=SEED)
    settings = _settings(empty_folder(work / "home"), log)
    for queries in ([ingest.query(settings, "shop")], profiles.queries(settings)):
        streaming.run(spark, queries, settings, RunOptions())
    write_plain_tables.run(spark, settings)
    return settings


def _users_rows(spark: SparkSession, settings: Settings) -> DataFrame:
    return users_table.table(settings).read(spark, settings.paths)


def _sample(users: DataFrame, number: int) -> DataFrame:
    """100 users, others for each number."""
    return users.orderBy(F.xxhash64("user_id", F.lit(number))).limit(100)


def _change_profiles(spark: SparkSession, settings: Settings, number: int) -> None:
    """Update the profiles of 100 users, as a batch of derive_profiles does."""
    table = profiles.profile_table(settings).table
    changed = _sample(table.read(spark, settings.paths), number).withColumn(
        "behavior", F.col("behavior").withField("orders", F.col("behavior.orders") + 1)
    )
    commits.merge(changed, table, settings.paths, Txn("bench", "profiles", number))


def _settings(home: Path, log: Path) -> Settings:
    config = home / "settings.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{log}"\nmapping = "{ROOT}/benchmarks/shop.toml"\nmax_files_per_trigger = 5\n'
        f'[derive]\nprofiles = ["{ROOT}/conf/derive/user_profiles.toml"]\n[maintain]\nkeep_hours = 0\n'
    )
    return settings_module.load(str(config), [])
