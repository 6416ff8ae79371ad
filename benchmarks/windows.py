"""Benchmarks of features over windows: against the same SQL over raw events, and for many times against one."""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.checkpoints import Plan
from profilestream.base.commits import Txn
from profilestream.base.queries import Batch
from profilestream.base.settings import Settings
from profilestream.derive import compact_tiles, tiles
from profilestream.derive.entity_features import select_features
from profilestream.derive.point_in_time import features_as_of
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import workloads
from benchmarks.measuring import emptied, in_turn
from benchmarks.result import Result

SEED = 20_260_101
DERIVE = Path(__file__).parent.parent / "conf" / "derive"
DAYS, BATCH_DAYS, USERS = 30, 5, 100_000
PURCHASE = "event_type = 'purchase'"
SQL = {
    "events": "count({})",
    "views": "count(CASE WHEN event_type IN ('view', 'click') THEN {} END)",
    "carts": "count(CASE WHEN event_type IN ('cart', 'favorite') THEN {} END)",
    "purchases": f"count(CASE WHEN {PURCHASE} THEN {{}} END)",
    "returns": "count(CASE WHEN event_type = 'return' THEN {} END)",
    "value": f"coalesce(sum(CASE WHEN {PURCHASE} THEN {{}} * value END), 0)",
    "value_returned": "coalesce(sum(CASE WHEN event_type = 'return' THEN {} * value END), 0)",
    "price_mean": f"avg(CASE WHEN {PURCHASE} THEN {{}} * price END)",
}
WINDOWS = {"events": (1, 7, 30), "views": (1, 7, 30), "carts": (1, 7, 30), "purchases": (1, 7, 30), "returns": (30,),
           "value": (1, 7, 30), "value_returned": (30,), "price_mean": (30,)}  # fmt: skip
COLUMNS = {f"{name}_{length}d": (name, length) for name, lengths in WINDOWS.items() for length in lengths}


def features_asof_vs_sql(spark: SparkSession, work: Path, rows: int = 10_000_000) -> Result:
    """Seconds of the same SQL over raw events over those of features of 100,000 users as of one time, 30 days."""
    settings = _stored(spark, work / "home", rows)
    at = _end(spark, settings)
    users = spark.range(USERS).select(F.concat(F.lit("u"), "id").alias("user_id")).persist()
    users.count()

    ours, sql = (
        _as_of(spark, settings, users.withColumn("at", F.timestamp_micros(F.lit(at)))),
        _by_sql(spark, settings, users, at),
    )
    apart = _differences(ours(), sql())
    if apart:
        raise ValueError(f"{apart} of the values differ")
    seconds = in_turn(3, lambda: _seconds(sql), lambda: _seconds(ours))
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    detail = (
        f"{rows:,} events in {DAYS} days, day tiles but for the last two, {USERS:,} users, {len(COLUMNS)} features "
        f"over 1, 7 and 30 days, equal; {statistics.median(seconds[1]):.1f} s against "
        f"{statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("features_asof_vs_sql", ratio, "times as fast", 3.0, "higher", "the same SQL over raw events", detail)


def entity_times_10k(spark: SparkSession, work: Path, rows: int = 10_000_000, pairs: int = 10_000) -> Result:
    """Seconds of features of 10,000 users, each as of a time of its own, over those of one time for all."""
    settings = _stored(spark, work / "home", rows)
    at = _end(spark, settings)
    users = spark.range(pairs).select(F.concat(F.lit("u"), F.col("id") * (USERS // pairs)).alias("user_id"))
    micros = F.lit(at) - F.pmod(F.xxhash64("user_id", F.lit(SEED)), F.lit(7 * 86_400_000_000))
    one = users.withColumn("at", F.timestamp_micros(F.lit(at))).persist()
    many = users.withColumn("at", F.timestamp_micros(micros)).persist()
    assert one.count() == pairs == many.select("at").distinct().count()
    of_one, of_many = _as_of(spark, settings, one), _as_of(spark, settings, many)
    seconds = in_turn(3, lambda: _seconds(of_one), lambda: _seconds(of_many))
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{rows:,} events, {pairs:,} users, times of the last 7 days, {len(COLUMNS)} features over 1, 7 and 30 days; "
        f"{statistics.median(seconds[1]):.1f} s against {statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("entity_times_10k", ratio, "ratio of seconds", 3.0, "lower", "one time for all", detail)


def _settings(home: Path) -> Settings:
    home.mkdir(parents=True, exist_ok=True)
    windows = workloads.windows_of_users(home)
    config = home / "windows_settings.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{home}"\nmapping = "{DERIVE.parent.parent}/benchmarks/shop.toml"\n'
        f'[derive]\nfeatures = ["{DERIVE}/user_hours.toml"]\n'
        f'[derive.windows]\nfile = "{windows}"\nday_tiles_after_days = 1\n'
    )
    return settings_module.load(str(config), [])


def _stored(spark: SparkSession, home: Path, rows: int) -> Settings:
    """A warehouse with the events of 30 days and the tiles of users, which are day tiles but for the last two days."""
    settings = _settings(emptied(home))
    (query,) = tiles.queries(settings)
    for table in (tables.EVENTS, *query.tables):
        table.create(spark, settings.paths)
    events = workloads.stored_events(workloads.shop_log(spark, 0, rows, seed=SEED, files=16, users=USERS))
    # The log has 100,000 events a day; here all of them are in 30 days.
    micros = F.unix_micros("event_time") - F.lit(workloads.START * 1_000_000)
    faster = (micros * F.lit(DAYS * workloads.EVENTS_A_DAY / rows)).cast("bigint") + F.lit(workloads.START * 1_000_000)
    moved = events.withColumn("event_time", F.timestamp_micros(faster)).withColumn(
        "event_date", F.to_date("event_time")
    )
    stored = moved.select(*tables.EVENTS.names).repartition("event_date")
    stored.write.format("delta").mode("append").save(tables.EVENTS.path(settings.paths))
    whole = tables.EVENTS.read(spark, settings.paths)
    first = F.lit(datetime.fromtimestamp(workloads.START, UTC).date())
    number = F.greatest(F.floor(F.datediff("event_date", first) / BATCH_DAYS), F.lit(0))
    for batch_id in range(DAYS // BATCH_DAYS + 1):
        batch = Batch(spark, settings.paths, Txn(tiles.STAGE, "bench", batch_id), Plan(""))
        query.write(whole.where(number == batch_id), batch)
    compact_tiles.run(spark, settings)
    return settings


def _end(spark: SparkSession, settings: Settings) -> int:
    """A time that is no whole hour, after all events, in microseconds."""
    row = tables.EVENTS.read(spark, settings.paths).agg(F.max(F.unix_micros("event_time"))).head()
    assert row is not None
    return int(row[0]) - 1_234_567


def _as_of(spark: SparkSession, settings: Settings, asked: DataFrame) -> Callable[[], DataFrame]:
    return lambda: features_as_of(spark, asked, select_features(settings, "user", list(COLUMNS)))


def _by_sql(spark: SparkSession, settings: Settings, users: DataFrame, at: int) -> Callable[[], DataFrame]:
    """The same by one aggregation of the events."""
    moment = F.unix_micros("event_time")

    def aggregated() -> DataFrame:
        since = at - max(length for _, length in COLUMNS.values()) * 86_400_000_000
        dates = F.col("event_date").between(*[F.to_date(F.timestamp_micros(F.lit(time))) for time in (since, at)])
        events = tables.EVENTS.read(spark, settings.paths).where(dates & (moment >= since) & (moment < at))
        told = {
            column: F.expr(
                SQL[name].format(f"CASE WHEN unix_micros(event_time) >= {at - days * 86_400_000_000} THEN 1 END")
            )
            for column, (name, days) in COLUMNS.items()
        }
        mine = events.groupBy("user_id").agg(*[value.alias(column) for column, value in told.items()])
        none: dict[str, bool | float | int | str] = {
            column: 0 for column, (name, _) in COLUMNS.items() if name != "price_mean"
        }
        return users.join(mine, "user_id", "left").na.fill(none).select("user_id", *COLUMNS)

    return aggregated


def _differences(ours: DataFrame, sql: DataFrame) -> int:
    """Users for whom any value differs; sums of money by more than rounding."""
    named = sql.select("user_id", *[F.col(column).alias(f"sql_{column}") for column in COLUMNS])
    both = ours.join(named, "user_id", "full_outer")
    apart = F.lit(False)
    for column in COLUMNS:
        a, b = F.col(column), F.col(f"sql_{column}")
        apart |= ~(a.eqNullSafe(b) | F.coalesce(F.abs(a - b) <= 1e-9 * F.abs(b), F.lit(False)))
    return both.where(apart).count()


def _seconds(frame: Callable[[], DataFrame]) -> float:
    """Seconds until all rows are there."""
    began = time.monotonic()
    frame().write.format("noop").mode("overwrite").save()
    return time.monotonic() - began
