"""Benchmarks of window features: against the same SQL over raw events, and for many as-of times against one."""

import statistics
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
from benchmarks.result import Result
from benchmarks.timing import empty_folder, measure_alternately, measure_seconds

SEED = 20_260_101
DERIVE = Path(__file__).parent.parent / "conf" / "derive"
DAYS, BATCH_DAYS, USERS = 30, 5, 100_000
PURCHASE = "event_type = 'purchase'"
SQL = {
    "events": "count({})",
    "views": "count(CASE WHEN event_type IN ('view', 'click') THEN {} END)",
    "carts": "count(CASE WHEN event_type = 'cart' THEN {} END)",
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
    """Seconds of the same SQL over 30 days of raw events, divided by those of the features of 100,000 users.

    Raises:
        ValueError: the values differ.
    """
    settings = _prepare(spark, work / "home", rows)
    at = _as_of_time(spark, settings)
    users = spark.range(USERS).select(F.concat(F.lit("u"), "id").alias("user_id")).persist()
    users.count()

    users_and_times = users.withColumn("at", F.timestamp_micros(F.lit(at)))
    features, sql = _features(spark, settings, users_and_times), _sql_features(spark, settings, users, at)
    if different_users := _count_differences(features(), sql()):
        raise ValueError(f"features of {different_users} users differ from SQL")
    seconds = measure_alternately(3, lambda: _compute_seconds(sql), lambda: _compute_seconds(features))
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    detail = (
        f"{rows:,} events in {DAYS} days, day tiles except for the last two days, {USERS:,} users, {len(COLUMNS)} "
        f"features over 1, 7 and 30 days, equal values; {statistics.median(seconds[1]):.1f} s, SQL "
        f"{statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("features_asof_vs_sql", ratio, "times as fast", 3.0, "higher", "the same SQL over raw events", detail)


def entity_times_10k(spark: SparkSession, work: Path, rows: int = 10_000_000, pairs: int = 10_000) -> Result:
    """Seconds of the features of 10,000 users with 10,000 as-of times, divided by those with one as-of time."""
    settings = _prepare(spark, work / "home", rows)
    at = _as_of_time(spark, settings)
    users = spark.range(pairs).select(F.concat(F.lit("u"), F.col("id") * (USERS // pairs)).alias("user_id"))
    micros = F.lit(at) - F.pmod(F.xxhash64("user_id", F.lit(SEED)), F.lit(7 * 86_400_000_000))
    one_time = users.withColumn("at", F.timestamp_micros(F.lit(at))).persist()
    many_times = users.withColumn("at", F.timestamp_micros(micros)).persist()
    assert one_time.count() == pairs == many_times.select("at").distinct().count()
    for_one_time, for_many_times = _features(spark, settings, one_time), _features(spark, settings, many_times)
    seconds = measure_alternately(3, lambda: _compute_seconds(for_one_time), lambda: _compute_seconds(for_many_times))
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{rows:,} events, {pairs:,} users, times of the last 7 days, {len(COLUMNS)} features over 1, 7 and 30 days; "
        f"{statistics.median(seconds[1]):.1f} s, one time {statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("entity_times_10k", ratio, "ratio of seconds", 3.0, "lower", "one time for all users", detail)


def _settings(home: Path) -> Settings:
    home.mkdir(parents=True, exist_ok=True)
    features = workloads.write_user_features(home)
    config = home / "windows_settings.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{home}"\nmapping = "{DERIVE.parent.parent}/benchmarks/shop.toml"\n'
        f'[derive]\nfeatures = ["{DERIVE}/user_hours.toml"]\n'
        f'[derive.windows]\nfile = "{features}"\nday_tiles_after_days = 1\n'
    )
    return settings_module.load(str(config), [])


def _prepare(spark: SparkSession, home: Path, rows: int) -> Settings:
    """Write 30 days of events and the tiles of users; all but the last two days are compacted into day tiles."""
    settings = _settings(empty_folder(home))
    (query,) = tiles.queries(settings)
    for table in (tables.EVENTS, *query.tables):
        table.create(spark, settings.paths)
    events = workloads.to_events_rows(workloads.shop_log(spark, 0, rows, seed=SEED, files=16, users=USERS))
    # The log has 100,000 events per day. Its times are rescaled, so that all events are within 30 days.
    micros = F.unix_micros("event_time") - F.lit(workloads.START * 1_000_000)
    rescaled = (micros * F.lit(DAYS * workloads.EVENTS_PER_DAY / rows)).cast("bigint")
    event_time = F.timestamp_micros(rescaled + F.lit(workloads.START * 1_000_000))
    date = F.to_date("event_time")
    rescaled_events = events.withColumn("event_time", event_time).withColumns(
        {"event_date": date, "event_period": date}
    )
    stored = rescaled_events.select(*tables.EVENTS.names).repartition("event_date")
    stored.write.format("delta").mode("append").save(tables.EVENTS.path(settings.paths))
    events = tables.EVENTS.read(spark, settings.paths)
    first = F.lit(datetime.fromtimestamp(workloads.START, UTC).date())
    batch_number = F.greatest(F.floor(F.datediff("event_date", first) / BATCH_DAYS), F.lit(0))
    for batch_id in range(DAYS // BATCH_DAYS + 1):
        batch = Batch(spark, settings.paths, Txn(tiles.STAGE, "bench", batch_id), Plan(""))
        query.write(events.where(batch_number == batch_id), batch)
    compact_tiles.run(spark, settings)
    return settings


def _as_of_time(spark: SparkSession, settings: Settings) -> int:
    """A time just before the newest event and inside an hour, in microseconds."""
    row = tables.EVENTS.read(spark, settings.paths).agg(F.max(F.unix_micros("event_time"))).head()
    assert row is not None
    return int(row[0]) - 1_234_567


def _features(spark: SparkSession, settings: Settings, users_and_times: DataFrame) -> Callable[[], DataFrame]:
    return lambda: features_as_of(spark, users_and_times, select_features(settings, "user", list(COLUMNS)))


def _sql_features(spark: SparkSession, settings: Settings, users: DataFrame, at: int) -> Callable[[], DataFrame]:
    """The same features, by one aggregation of the events."""
    micros = F.unix_micros("event_time")

    def aggregate() -> DataFrame:
        start = at - max(length for _, length in COLUMNS.values()) * 86_400_000_000
        dates = F.col("event_date").between(*[F.to_date(F.timestamp_micros(F.lit(time))) for time in (start, at)])
        events = tables.EVENTS.read(spark, settings.paths).where(dates & (micros >= start) & (micros < at))
        aggregates = {
            column: F.expr(
                SQL[name].format(f"CASE WHEN unix_micros(event_time) >= {at - days * 86_400_000_000} THEN 1 END")
            )
            for column, (name, days) in COLUMNS.items()
        }
        by_user = events.groupBy("user_id").agg(*[value.alias(column) for column, value in aggregates.items()])
        empty_values: dict[str, bool | float | int | str] = {
            column: 0 for column, (name, _) in COLUMNS.items() if name != "price_mean"
        }
        return users.join(by_user, "user_id", "left").na.fill(empty_values).select("user_id", *COLUMNS)

    return aggregate


def _count_differences(features: DataFrame, sql: DataFrame) -> int:
    """Number of users with a value that differs by more than 1e-9 of itself."""
    sql_columns = sql.select("user_id", *[F.col(column).alias(f"sql_{column}") for column in COLUMNS])
    joined = features.join(sql_columns, "user_id", "full_outer")
    is_different = F.lit(False)
    for column in COLUMNS:
        a, b = F.col(column), F.col(f"sql_{column}")
        is_different |= ~(a.eqNullSafe(b) | F.coalesce(F.abs(a - b) <= 1e-9 * F.abs(b), F.lit(False)))
    return joined.where(is_different).count()


def _compute_seconds(frame: Callable[[], DataFrame]) -> float:
    """Seconds to build a frame and to compute all its rows."""
    return measure_seconds(lambda: frame().write.format("noop").mode("overwrite").save())
