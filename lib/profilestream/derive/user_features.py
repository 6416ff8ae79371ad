"""Tiles -> user_features: one row a user, features as of the newest event of any user, exact however late events are.

Only users whose windows moved are worked out again: those with new tiles, and those with a tile that the newest time
has taken into a window or out of one. Features that change for everybody as time goes on (decayed ones, those that
name `at`, scores against the population) are no columns of the table; `read` adds what can be told from the others.
"""

from dataclasses import replace
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.settings import Settings, fingerprint
from profilestream.base.tables import Table
from profilestream.derive import compact_tiles, fold_stage, point_in_time, tiles, window_parts
from profilestream.derive import entity_features as chosen_features
from profilestream.derive.entity_features import Features
from profilestream.derive.feature_declaration import micros

STAGE, NAME, ENTITY = "derive_windows", "user_features", "user"


def table(settings: Settings) -> Table:
    """`user_features`: a row a user; `as_of` is when it was worked out, and nothing in it has changed since."""
    features = _still(settings)
    columns = [f"{name} {kind.upper()}" for name, kind in features.types.items()]
    own = ["epoch STRING NOT NULL", "batch_id BIGINT NOT NULL"]
    return Table(
        name=NAME,
        ddl=",\n".join(["user_id STRING NOT NULL", "as_of TIMESTAMP NOT NULL", *columns, *own]),
        key=("user_id",),
        properties={"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"},
        declaration=fingerprint(features.settings),
    )


def _still(settings: Settings) -> Features:
    """The features that stay the same while no window moves."""
    every = chosen_features.chosen(settings, ENTITY)
    scores = {name for name, one in every.combined.items() if one.zscore_of}
    return _without(every, {"at", *scores, *_decayed(every)})


def _decayed(features: Features) -> set[str]:
    return {name for name, (_, one, _) in features.sources.items() if one.half_life is not None}


def _without(features: Features, names: set[str]) -> Features:
    """The features that do not depend on such names."""
    gone = set(names)
    for name, one in features.combined.items():
        gone |= {name} if one.names & gone else set()
    return replace(features, columns=tuple(name for name in features.columns if name not in gone))


def check(spark: SparkSession, settings: Settings) -> None:
    """Check that there are features of users, and that no declared table has the name of this one; writes nothing.

    Raises:
        BadSettings: there are none, or one has.
    """
    if not settings.derive.windows.enabled:
        return
    chosen_features.chosen(settings, ENTITY)
    fold_stage.check_names(STAGE, (table(settings),), settings)


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when it is not enabled."""
    if not settings.derive.windows.enabled:
        return []
    features, made = _still(settings), table(settings)
    source = features.tiles.table

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        return {one.name: commits.version(spark, one, settings.paths) for one in (made, source, tables.EVENTS)}

    def write(rows: DataFrame, batch: Batch) -> BatchResult:
        pinned = replace(features, versions=batch.plan.versions)
        with batch.cached(rows.select("user_id", "as_of")) as count:
            before = _newest(pinned.read(batch.spark, made))
            newest = max(filter(None, (before, _newest(rows))), default=None)
            moved = rows.select("user_id")
            if before is not None and newest is not None and before < newest:
                moved = moved.unionByName(_in_motion(batch.spark, pinned, before, newest))
            asked = moved.distinct().withColumn("at", F.timestamp_micros(F.lit(newest)))
            found = point_in_time.features_as_of(batch.spark, asked, pinned).withColumnRenamed("at", "as_of")
            batch.merge(commits.stamped(found, made, batch.txn), made)
        return BatchResult(rows_in=count)

    return [
        stage_query(
            STAGE,
            appended_rows(source, tiles.STAGE, settings.paths, settings.derive.max_files_per_trigger),
            (made,),
            write,
            settings=features.settings,
            versions=versions,
        )
    ]


def read(spark: SparkSession, settings: Settings) -> DataFrame:
    """All users as of the newest event of any: `user_id`, `at`, and the features but the decayed ones."""
    stored, told = _still(settings), _read(settings)
    rows = table(settings).read(spark, settings.paths)
    newest = F.broadcast(rows.agg(F.max("as_of").alias("at")))
    found = rows.select("user_id", *stored.plain).crossJoin(newest).withColumn(point_in_time.KNOWN, F.lit(True))
    return point_in_time.combined(found, told).select("user_id", "at", *told.columns)


def types(settings: Settings) -> dict[str, str]:
    """SQL type of each feature that `read` gives."""
    return _read(settings).types


def _read(settings: Settings) -> Features:
    every = chosen_features.chosen(settings, ENTITY)
    return _without(every, _decayed(every))


def _newest(rows: DataFrame) -> int | None:
    """Microseconds of the newest event in any row."""
    row = rows.agg(F.max(F.unix_micros("as_of"))).head()
    return None if row is None else row[0]


def _in_motion(spark: SparkSession, features: Features, before: int, newest: int) -> DataFrame:
    """Users with a tile that came into a window or left one between two times."""
    rows = features.read(spark, features.tiles.table)
    until = compact_tiles.day_tiles_until(spark, features.tiles.table, features.paths)
    ages = [0, *(length for window in features.lengths if (length := micros(window)) is not None)]
    start, end = window_parts.ends(until)

    def moves(age: int) -> Column:
        dated = F.col("date").between(window_parts.date_of(before - age), window_parts.date_of(newest - age))
        return dated & (start < newest - age) & (end > before - age)

    return rows.where(reduce(Column.__or__, map(moves, ages))).select("user_id")
