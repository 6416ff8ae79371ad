"""serve_anomalies: the last days of users that differ from their earlier days, with reasons."""

import logging

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.passes import Pass, run_pass
from profilestream.base.session import materialize
from profilestream.base.settings import Settings
from profilestream.base.tables import EVENTS, UNUSUAL_ACTIVITY
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.serve.scores.kernels import unusual_days, user_days
from profilestream.serve.scores.kernels.unusual_days import BaselineRule
from profilestream.serve.scores.kernels.user_days import HABITS, MIN_SHARE
from profilestream.serve.users import all_users

STEP = "serve_anomalies"
USER_DAYS = Pass(
    user_days.user_days,
    inputs={"events": user_days.EVENT},
    keys={"events": "user_id"},
    outputs={"days": user_days.DAY},
)
UNUSUAL_DAYS = Pass(
    unusual_days.unusual_days,
    inputs={"days": user_days.DAY},
    keys={"days": "user_id"},
    outputs={"unusual": unusual_days.UNUSUAL_DAY},
)
# About this many users are the population. With fewer than _MIN_DAYS days, tails are not estimated.
_SAMPLE_USERS, _MIN_DAYS = 5000, 200
_HASHES = 2**32
log = logging.getLogger(__name__)


def run(spark: SparkSession, settings: Settings) -> int:
    """Replace all unusual days in one commit; no commit when the latest ones are from the same inputs.

    Returns:
        The number of unusual days.

    Raises:
        SourceMissing: `events` does not exist.
    """
    paths = settings.paths
    EVENTS.require(spark, paths, do="run jobs/capture_events.py first")
    UNUSUAL_ACTIVITY.prepare(spark, paths)
    version = commits.version(spark, EVENTS, paths)
    inputs = repr((settings.serve.anomalies, settings.derive.shop_timezone, version))
    txn = commits.next_txn(spark, UNUSUAL_ACTIVITY, paths, STEP, inputs)
    if txn is not None:
        rows = materialize(unusual_activity(spark, settings, version))
        commits.replace(rows, UNUSUAL_ACTIVITY, paths, txn, where="true")
    return UNUSUAL_ACTIVITY.row_count(spark, paths)


def unusual_activity(spark: SparkSession, settings: Settings, events_version: int) -> DataFrame:
    """Rows of `unusual_activity` from one version of `events`."""
    config = settings.serve.anomalies
    empty = spark.createDataFrame([], UNUSUAL_ACTIVITY.schema)
    events = EVENTS.read(spark, settings.paths, version=events_version).where("user_id IS NOT NULL")
    newest = events.agg(F.max(F.unix_micros("event_time"))).collect()[0][0]
    if newest is None:
        return empty
    as_of = all_users.span_and_end(events, newest)[1]
    recent = _recent_events(events, as_of, config.history_days, settings.derive.shop_timezone)
    rule = BaselineRule(config.half_life_days)
    outputs, _ = run_pass(
        USER_DAYS, {"events": recent}, half_life_days=rule.half_life_days, habit_shares=_habit_shares(recent)
    )
    days = materialize(outputs["days"])
    count, last_day = days.agg(F.count("day"), F.max("day")).collect()[0]
    if count < _MIN_DAYS:
        log.warning("%s days of users are too few to find unusual ones; needed: %s", count, _MIN_DAYS)
        return empty
    population = unusual_days.fit_population(_sample(days).toArrow(), rule)
    since_day = last_day - config.report_days + 1
    outputs, _ = run_pass(
        UNUSUAL_DAYS, {"days": days}, rule=rule, population=population, since_day=since_day, max_share=config.max_share
    )
    constants = {
        "day": F.date_from_unix_date(F.col("day").cast("int")),
        "events_version": F.lit(events_version).cast("bigint"),
        "as_of": F.timestamp_micros(F.lit(as_of)),
    }
    return outputs["unusual"].withColumns(constants).select(*UNUSUAL_ACTIVITY.names)


def _recent_events(events: DataFrame, as_of: int, history_days: int, timezone: str) -> DataFrame:
    """Rows with user_days.EVENT of the days before a time, microseconds, which is inclusive."""
    time = F.unix_micros("event_time")
    first_day = F.date_from_unix_date(F.lit(as_of // MICROS_PER_DAY - history_days + 1))
    local = F.from_utc_timestamp("event_time", timezone)
    columns = {
        "time_micros": time,
        "day": F.unix_date(F.to_date(local)).cast("bigint"),
        "hour": F.hour(local).cast("bigint"),
    }
    recent = events.where((F.col("event_date") >= first_day) & (time <= as_of))
    return recent.withColumns(columns).select(*user_days.EVENT.names)


def _habit_shares(events: DataFrame) -> dict[str, dict[object, float]]:
    """Share of the events by value of each habit; without values below MIN_SHARE."""
    totals = events.agg(*(F.count(name).alias(name) for name in HABITS)).collect()[0].asDict()
    is_value = [(F.col(name).isNotNull(), F.lit(MIN_SHARE * totals[name])) for name in HABITS]
    least = F.coalesce(*(F.when(condition, count) for condition, count in is_value))
    counts = events.groupingSets([[F.col(name)] for name in HABITS], *HABITS).agg(F.count("*").alias("_count"))
    shares: dict[str, dict[object, float]] = {name: {} for name in HABITS}
    for row in counts.where(F.col("_count") >= least).collect():
        (name,) = [name for name in HABITS if row[name] is not None]
        shares[name][row[name]] = row["_count"] / totals[name]
    return shares


def _sample(days: DataFrame) -> DataFrame:
    """All days of about _SAMPLE_USERS users, the same for any partitioning."""
    users = days.select("user_id").distinct().count()
    return days.where(F.crc32(F.col("user_id").cast("binary")) < _HASHES * min(1.0, _SAMPLE_USERS / users))
