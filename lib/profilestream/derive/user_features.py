"""Tiles -> user_features: one row per user, features as of the latest event of any user, exact for late events too.

A batch recomputes only users whose windows changed: users with new tiles, and users with a tile that entered or left a
window because the latest event time moved. Features that change for every user as time passes are not columns of the
table: decayed ones, those that use `at`, and standard scores. `read` computes the last two from the stored columns.
"""

from dataclasses import replace
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.columns import BATCH_ID, EPOCH, as_of
from profilestream.base.delta_table import Table
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import compact_tiles, point_in_time, tiles, window_parts
from profilestream.derive.entity_features import EntityFeatures, select_features
from profilestream.derive.feature_declaration import window_micros

STAGE, NAME, ENTITY = "derive_windows", "user_features", "user"


def table(settings: Settings) -> Table:
    """`user_features`: one row per user. `as_of` is the time of the computation; the values have not changed since."""
    features = _stored_features(settings)
    return Table(
        name=NAME,
        meaning="One row per user: window features as of the newest event of all users.",
        writer=STAGE,
        columns=(
            tables.USER_ID,
            as_of("Time of the computation; the values have not changed since."),
            *features.table_columns(),
            EPOCH,
            BATCH_ID,
        ),
        key=("user_id",),
        properties={"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"},
        declaration=fingerprint(features.settings),
    )


def _stored_features(settings: Settings) -> EntityFeatures:
    """The features that change only if a window changes."""
    features = select_features(settings, ENTITY)
    zscores = {name for name, feature in features.derived.items() if feature.zscore_of}
    return _without(features, {"at", *zscores, *_decayed_columns(features)})


def _readable_features(settings: Settings) -> EntityFeatures:
    """The stored features, and those that `read` computes from them."""
    features = select_features(settings, ENTITY)
    return _without(features, _decayed_columns(features))


def _decayed_columns(features: EntityFeatures) -> set[str]:
    return {column for column, (_, statistic, _) in features.sources.items() if statistic.half_life is not None}


def _without(features: EntityFeatures, names: set[str]) -> EntityFeatures:
    """The features that do not depend on any of the names."""
    excluded = set(names)
    for name, feature in features.derived.items():
        excluded |= {name} if feature.names & excluded else set()
    return replace(features, columns=tuple(name for name in features.columns if name not in excluded))


def check(spark: SparkSession, settings: Settings) -> None:
    """Check that users have features; writes nothing.

    Raises:
        BadSettings: no features of users are declared.
    """
    if not settings.derive.windows.enabled:
        return
    select_features(settings, ENTITY)


def queries(settings: Settings) -> list[Query]:
    """The query of the stage; empty if the stage is not enabled."""
    if not settings.derive.windows.enabled:
        return []
    features, target = _stored_features(settings), table(settings)
    source = features.tiles.table

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        return commits.versions(spark, (target, source, tables.EVENTS), settings.paths)

    def write(tile_rows: DataFrame, batch: Batch) -> BatchResult:
        pinned = replace(features, versions=batch.plan.versions)
        with batch.cached(tile_rows.select("user_id", "as_of")) as (rows, count):
            before = _latest_micros(pinned.read(batch.spark, target))
            latest = max(filter(None, (before, _latest_micros(rows))), default=None)
            changed = rows.select("user_id")
            if before is not None and latest is not None and before < latest:
                changed = changed.unionByName(_users_with_moved_tiles(batch.spark, pinned, before, latest))
            requests = changed.distinct().withColumn("at", F.timestamp_micros(F.lit(latest)))
            values = point_in_time.features_as_of(batch.spark, requests, pinned).withColumnRenamed("at", "as_of")
            batch.merge(commits.with_batch_columns(values, target, batch.txn), target, count=count)
        return BatchResult(rows_in=count)

    return [
        stage_query(
            STAGE,
            appended_rows(source, tiles.STAGE, settings.paths, settings.derive.max_files_per_trigger),
            (target,),
            write,
            settings=features.settings,
            versions=versions,
            min_interval=settings.derive.min_interval_seconds,
        )
    ]


def read(spark: SparkSession, settings: Settings, at_micros: int | None = None) -> DataFrame:
    """All users as of the latest event of any user: `user_id`, `at`, and all features except the decayed ones.

    Args:
        at_micros: an earlier time, in microseconds; the features are then computed from the tiles.
    """
    stored, readable = _stored_features(settings), _readable_features(settings)
    rows = table(settings).read(spark, settings.paths)
    if at_micros is not None:
        requests = rows.select("user_id", F.timestamp_micros(F.lit(at_micros)).alias("at"))
        return point_in_time.features_as_of(spark, requests, readable)
    latest = F.broadcast(rows.agg(F.max("as_of").alias("at")))
    rows = rows.select("user_id", *stored.window_columns).crossJoin(latest)
    with_derived = point_in_time.add_derived_features(rows.withColumn(point_in_time.HAS_EVENTS, F.lit(True)), readable)
    return with_derived.select("user_id", "at", *readable.columns)


def types(settings: Settings) -> dict[str, str]:
    """SQL type of each feature that `read` returns."""
    return _readable_features(settings).types


def _latest_micros(rows: DataFrame) -> int | None:
    """The maximum of `as_of` in microseconds; null without rows."""
    row = rows.agg(F.max(F.unix_micros("as_of"))).head()
    return None if row is None else row[0]


def _users_with_moved_tiles(spark: SparkSession, features: EntityFeatures, before: int, latest: int) -> DataFrame:
    """Users with a tile that entered or left a window when the time moved from `before` to `latest`."""
    rows = features.read(spark, features.tiles.table)
    until = compact_tiles.day_tiles_until(spark, features.tiles.table, features.paths)
    ages = [0, *(length for window in features.windows if (length := window_micros(window)) is not None)]
    start, end = compact_tiles.tile_bounds(until)

    def passes(age: int) -> Column:
        dates = F.col("date").between(window_parts.utc_date(before - age), window_parts.utc_date(latest - age))
        return dates & (start < latest - age) & (end > before - age)

    return rows.where(reduce(Column.__or__, map(passes, ages))).select("user_id")
