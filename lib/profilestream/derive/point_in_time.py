"""Features as of any times: over `[t - w, t)`, to the microsecond, for any entities and times in one call."""

from datetime import datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import SchemaMismatch
from profilestream.base.session import materialize
from profilestream.derive import window_parts
from profilestream.derive.entity_features import AT, Features

KNOWN = "_is_known"


def features_as_of(
    spark: SparkSession, entity_times: DataFrame, features: Features, known_by: datetime | None = None
) -> DataFrame:
    """Features of entities, each as of times of its own, over the events in `[t - w, t)`.

    Args:
        entity_times: the entity's keys and `at`, a timestamp; other columns, and rows with a null, are passed over.
        features: which, as features.chosen gives them.
        known_by: only events that had come in by then (`ingest_time`, inclusive); all when null. Read from `events`
            alone, since tiles do not know when their events came in.

    Returns:
        A row for each different entity and time: the keys, `at`, the features. Without events counts, sums and numbers
        of different values are 0, other features null (docs/windows.md).

    Raises:
        Refused: a window begins or ends inside an hour, or inside a day of day tiles, that `events` no longer holds.
        SchemaMismatch: entity_times lacks a column.
    """
    keys = features.keys
    if lacking := [name for name in (*keys, "at") if name not in entity_times.columns]:
        raise SchemaMismatch(
            f"entity_times lacks {lacking}", where=f"features of {features.entity}", do=f"select {[*keys, 'at']}"
        )
    typed = [F.col(name).cast(features.tiles.keys[name].type).alias(name) for name in keys]
    asked = materialize(entity_times.select(*typed, F.col("at").cast("timestamp").alias(AT)).dropna().distinct())
    requests = materialize(_with_population(spark, asked, features)) if features.has_population else asked
    found = combined(_plain(spark, requests, features, known_by), features)
    if features.has_population:
        found = found.join(asked.withColumnRenamed(AT, "at"), [*keys, "at"], "left_semi")
    return found.select(*keys, "at", *features.columns)


def combined(found: DataFrame, features: Features) -> DataFrame:
    """Features over others, beside those; the frame has the keys, `at` and whether an entity was known then."""
    for name, one in features.combined.items():
        if one.zscore_of:
            found = _with_zscore(found, name, one.zscore_of)
        else:
            found = found.withColumn(name, F.expr(one.sql).try_cast(one.type))
    return found


def _plain(spark: SparkSession, requests: DataFrame, features: Features, known_by: datetime | None) -> DataFrame:
    """Keys, `at`, whether the entity was known, and the columns over windows."""
    rows = window_parts.gathered(spark, requests, features, known_by)
    said = features.fold.read(features.fold.merged(rows), F.col(AT))
    known = F.col("as_of").isNotNull().alias(KNOWN)
    return said.select(*features.keys, F.col(AT).alias("at"), known, *map(features.value, features.plain))


def _with_population(spark: SparkSession, asked: DataFrame, features: Features) -> DataFrame:
    """Requests, and all entities at each of their times."""
    entities = features.read(spark, features.tiles.table).select(*features.keys).distinct()
    times = F.broadcast(asked.select(AT).distinct())
    # Spark fails to see through a union to times that were themselves told by this function; a distinct hides them.
    return entities.crossJoin(times).unionByName(asked.distinct()).distinct()


def _with_zscore(found: DataFrame, name: str, of: str) -> DataFrame:
    rows = materialize(found)
    value = F.col(of).cast("double")
    spread = rows.where(KNOWN).groupBy("at").agg(F.avg(value).alias("_mean"), F.stddev_pop(value).alias("_deviation"))
    apart = (value - F.col("_mean")) / F.col("_deviation")
    score = F.when(F.col(KNOWN) & (F.col("_deviation") > 0), apart)
    score = score.when(F.col(KNOWN) & (F.col("_deviation") == 0), value * 0)
    return rows.join(F.broadcast(spread), "at", "left").withColumn(name, score).drop("_mean", "_deviation")
