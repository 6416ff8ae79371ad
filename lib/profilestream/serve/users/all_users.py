"""All users as one frame, the input of tag and group rules: one row per user, as of the newest event of any user."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.delta_table import Table
from profilestream.base.settings import Settings
from profilestream.derive import population, profiles, user_features
from profilestream.derive.fold import Fold
from profilestream.derive.statistics import Distinct
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.users import log_span
from profilestream.serve.users.log_span import LogSpan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserFrame:
    """All users, one row each.

    Args:
        rows: `user_id`; `as_of`: the user's newest event; the facets of the profile; `counts`: the distinct counts as
            texts; `vector`, `features`, `segment`; `scores`: of `user_scores`, by outcome; `at`: the newest event of
            any user, without stray events; `log`: as LogSpan.
        as_of_micros: `at` in microseconds.
    """

    rows: DataFrame
    as_of_micros: int


def all_users(spark: SparkSession, settings: Settings) -> UserFrame | None:
    """All users as of the newest event of any user, without stray events; null when there are no users.

    Raises:
        SourceMissing: the profile table does not exist, or user_features does not exist although it is enabled.
    """

    @functools.cache
    def read(table: Table) -> DataFrame:
        return read_or_empty(spark, table, settings)

    table = profiles.profile_table(settings).table
    table.require(spark, settings.paths, do=f"run jobs/{profiles.STAGE}.py first")
    newest = read(table).agg(F.max(F.unix_micros("as_of"))).head()
    if newest is None or newest[0] is None:
        return None
    span, as_of = span_and_end(read(tables.EVENTS), newest[0])
    features = None
    if settings.derive.windows.enabled:
        user_features.table(settings).require(spark, settings.paths, do=f"run jobs/{user_features.STAGE}.py first")
        features = user_features.read(spark, settings, None if as_of == newest[0] else as_of).drop("at")
    rows = _rows(settings, as_of, features, read)
    return UserFrame(rows.withColumn("log", span.column), as_of)


def empty(spark: SparkSession, settings: Settings) -> DataFrame:
    """The columns of `all_users`, without rows; reads no table."""

    def empty_table(table: Table) -> DataFrame:
        return spark.createDataFrame([], table.schema)

    features = None
    if settings.derive.windows.enabled:
        types = user_features.types(settings).items()
        features = spark.createDataFrame([], ", ".join(["user_id string", *(f"{name} {kind}" for name, kind in types)]))
    return _rows(settings, 0, features, empty_table).withColumn("log", LogSpan(date(1970, 1, 1), 0, 0.0).column)


def read_or_empty(spark: SparkSession, table: Table, settings: Settings) -> DataFrame:
    """A table pinned to its current version; no rows when it does not exist."""
    if not table.exists(spark, settings.paths):
        return spark.createDataFrame([], table.schema)
    return read_version(spark, table, settings, commits.version(spark, table, settings.paths))


def read_version(spark: SparkSession, table: Table, settings: Settings, version: int) -> DataFrame:
    """A version of a table; columns that a table of a former version lacks are null."""
    rows = table.read(spark, settings.paths, version=version)
    new = [F.lit(None).cast(column.dataType).alias(column.name) for column in table.new_columns(rows.columns)]
    return rows.select("*", *new)


def span_and_end(events: DataFrame, newest: int) -> tuple[LogSpan, int]:
    """The span of the log, and the time of the newest event of a user in it, in microseconds.

    Args:
        newest: time of the newest event in the profiles; events of later days are ignored.
    """
    last_day = date(1970, 1, 1) + timedelta(microseconds=newest)
    # Spark reads no column if `event_date` is the partition.
    rows = events.where(F.col("event_date") <= last_day).groupBy("event_date").agg(F.count(F.lit(1)).alias("events"))
    by_day = {row["event_date"]: row["events"] for row in rows.collect()}
    span = log_span.measure(by_day)
    later = sum(count for day, count in by_day.items() if day > span.last_day)
    if not later:
        return span, newest
    in_span = events.where((F.col("event_date") <= span.last_day) & F.col("user_id").isNotNull())
    last = in_span.agg(F.max(F.unix_micros("event_time"))).collect()[0][0]
    if last is None:
        return span, newest
    log.warning(
        "%s events after %s are far from all others: users are described as of that day; check the times of these "
        "events", f"{later:,}", span.last_day,
    )  # fmt: skip
    return span, last


def _rows(settings: Settings, as_of: int, features: DataFrame | None, read: Callable[[Table], DataFrame]) -> DataFrame:
    derived, time = profiles.profile_table(settings), F.timestamp_micros(F.lit(as_of))
    # The values of a user with a later event, far from all others, are as of that event.
    rows = Fold(derived).read(read(derived.table), F.greatest(time, "as_of")).withColumns(_count_texts(derived))
    if derived.population is None:
        rows = rows.withColumn("vector", F.lit(None).cast("map<string,double>"))
    else:
        stats = population.latest(read(derived.population_table))
        other_columns = [name for name in rows.columns if name not in derived.keys]
        rows = population.profile_vectors(rows, stats, derived, *other_columns)
    user_segments = read(SegmentsSpec(settings).users_table).select("user_id", "segment_id", "distance", "valid_from")
    rows = join_struct(rows, user_segments, "segment")
    rows = rows.join(scores_by_user(read(tables.USER_SCORES)), "user_id", "left")
    rows = rows if features is None else join_struct(rows, features, "features")
    return rows.withColumn("at", time)


def scores_by_user(scores: DataFrame) -> DataFrame:
    """`user_id`, and `scores`: probability, or expected amount, by outcome."""
    entry = F.struct("outcome", F.coalesce("probability", "score"))
    return scores.groupBy("user_id").agg(F.map_from_entries(F.collect_list(entry)).alias("scores"))


def _count_texts(derived: DerivedTable) -> dict[str, Column]:
    """The struct `counts` with a text per distinct count, such as `behavior_items`; empty without distinct counts."""
    distinct = {path: one for path, one in derived.statistics.items() if isinstance(one, Distinct)}
    texts = [_count_text(F.col(path), one).alias(path.replace(".", "_")) for path, one in distinct.items()]
    return {"counts": F.struct(*texts)} if texts else {}


def _count_text(count: Column, statistic: Distinct) -> Column:
    """The number as a text, such as `419`; `about 436` above the exact limit."""
    return F.concat(F.when(count > statistic.exact_limit, "about ").otherwise(""), count.cast("string"))


def join_struct(rows: DataFrame, others: DataFrame, name: str) -> DataFrame:
    """Rows with the columns of the other frame as one struct, joined by user_id; null fields for users without one."""
    fields = [column for column in others.columns if column != "user_id"]
    return rows.join(others.select("user_id", F.struct(*fields).alias(name)), "user_id", "left")
