"""A row a user, as the SQL of tags and groups sees it: everything that is known as of the newest event of any user."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.settings import Settings
from profilestream.base.tables import Table
from profilestream.derive import population, profiles, user_features
from profilestream.derive.fold import Fold
from profilestream.learn import segments


@dataclass(frozen=True)
class People:
    """All users.

    Args:
        rows: `user_id`, `as_of`, the facets of the profile, and `vector`, `features`, `segment`, `at`.
        at: microseconds of the newest event.
    """

    rows: DataFrame
    at: int


def known(spark: SparkSession, settings: Settings) -> People | None:
    """All users, each as of the newest event of any; null when there is none.

    Raises:
        SourceMissing: there is no profile table, or no user_features, which are turned on.
    """

    @functools.cache
    def read(table: Table) -> DataFrame:
        return stored(spark, table, settings)

    table = profiles.of_users(settings).table
    table.require(spark, settings.paths, do=f"run jobs/{profiles.STAGE}.py first")
    newest = read(table).agg(F.max(F.unix_micros("as_of"))).head()
    if newest is None or newest[0] is None:
        return None
    features = None
    if settings.derive.windows.enabled:
        user_features.table(settings).require(spark, settings.paths, do=f"run jobs/{user_features.STAGE}.py first")
        features = user_features.read(spark, settings).drop("at")
    return People(_rows(settings, newest[0], features, read), newest[0])


def nobody(spark: SparkSession, settings: Settings) -> DataFrame:
    """The columns of `known`, without rows; no table is read."""

    def none(table: Table) -> DataFrame:
        return spark.createDataFrame([], table.schema)

    features = None
    if settings.derive.windows.enabled:
        kinds = user_features.types(settings).items()
        features = spark.createDataFrame([], ", ".join(["user_id string", *(f"{name} {kind}" for name, kind in kinds)]))
    return _rows(settings, 0, features, none)


def stored(spark: SparkSession, table: Table, settings: Settings) -> DataFrame:
    """A table at the version that it has now, however late it is computed; without rows when there is none."""
    if not table.exists(spark, settings.paths):
        return spark.createDataFrame([], table.schema)
    return table.read(spark, settings.paths, version=commits.version(spark, table, settings.paths))


def _rows(settings: Settings, at: int, features: DataFrame | None, read: Callable[[Table], DataFrame]) -> DataFrame:
    derived, time = profiles.of_users(settings), F.timestamp_micros(F.lit(at))
    rows = Fold.of(derived).read(read(derived.table), time)
    if derived.population is None:
        rows = rows.withColumn("vector", F.lit(None).cast("map<string,double>"))
    else:
        newest = population.newest(read(derived.population_table))
        rows = population.vectors(rows, newest, derived, *[name for name in rows.columns if name not in derived.keys])
    grouped = read(segments.users_table(settings)).select("user_id", "segment_id", "distance", "since")
    rows = joined(rows, grouped, "segment")
    rows = rows if features is None else joined(rows, features, "features")
    return rows.withColumn("at", time)


def joined(rows: DataFrame, others: DataFrame, name: str) -> DataFrame:
    """Rows with the columns of others of the same user as one struct; its fields are null where there is none."""
    fields = [column for column in others.columns if column != "user_id"]
    return rows.join(others.select("user_id", F.struct(*fields).alias(name)), "user_id", "left")
