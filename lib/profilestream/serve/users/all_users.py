"""All users as one frame, the input of tag and group rules: one row per user, as of the newest event of any user."""

import functools
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
from profilestream.learn import segments
from profilestream.serve.users import log_span
from profilestream.serve.users.log_span import LogSpan


@dataclass(frozen=True)
class UserFrame:
    """All users, one row each.

    Args:
        rows: `user_id`; `as_of`: the user's newest event; the facets of the profile; `counts`: the distinct counts as
            texts; `vector`, `features`, `segment`; `at`: the newest event of any user; `log`: as LogSpan.
        as_of_micros: `at` in microseconds.
    """

    rows: DataFrame
    as_of_micros: int


def all_users(spark: SparkSession, settings: Settings) -> UserFrame | None:
    """All users as of the newest event of any user; null when there are no users.

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
    features = None
    if settings.derive.windows.enabled:
        user_features.table(settings).require(spark, settings.paths, do=f"run jobs/{user_features.STAGE}.py first")
        features = user_features.read(spark, settings).drop("at")
    rows = _rows(settings, newest[0], features, read)
    last_day = date(1970, 1, 1) + timedelta(microseconds=newest[0])
    span = log_span.measure(_events_by_day(read(tables.EVENTS)), last_day)
    return UserFrame(rows.withColumn("log", span.column), newest[0])


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
    return table.read(spark, settings.paths, version=commits.version(spark, table, settings.paths))


def _events_by_day(events: DataFrame) -> dict[date, int]:
    rows = events.groupBy("event_date").agg(F.count(F.lit(1)).alias("events")).collect()
    return {row["event_date"]: row["events"] for row in rows}


def _rows(settings: Settings, as_of: int, features: DataFrame | None, read: Callable[[Table], DataFrame]) -> DataFrame:
    derived, time = profiles.profile_table(settings), F.timestamp_micros(F.lit(as_of))
    rows = Fold(derived).read(read(derived.table), time).withColumns(_count_texts(derived))
    if derived.population is None:
        rows = rows.withColumn("vector", F.lit(None).cast("map<string,double>"))
    else:
        stats = population.latest(read(derived.population_table))
        other_columns = [name for name in rows.columns if name not in derived.keys]
        rows = population.profile_vectors(rows, stats, derived, *other_columns)
    user_segments = read(segments.users_table(settings)).select("user_id", "segment_id", "distance", "valid_from")
    rows = join_struct(rows, user_segments, "segment")
    rows = rows if features is None else join_struct(rows, features, "features")
    return rows.withColumn("at", time)


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
