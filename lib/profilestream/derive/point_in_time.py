"""Point-in-time features: over `[t - w, t)`, exact to the microsecond, for any entities and times in one call."""

from datetime import date, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import SchemaMismatch
from profilestream.base.session import materialize
from profilestream.derive import window_parts
from profilestream.derive.entity_features import AT, EntityFeatures, tile_state
from profilestream.derive.statistics import Count

HAS_EVENTS = "_has_events"


def features_as_of(
    spark: SparkSession, entity_times: DataFrame, features: EntityFeatures, known_by: datetime | None = None
) -> DataFrame:
    """Features of entities, each as of its own times, over the events in `[t - w, t)`.

    Args:
        entity_times: the entity's keys and `at`, a timestamp. Other columns and rows with a null are ignored.
        features: created by entity_features.select_features.
        known_by: use only events ingested by then (`ingest_time`, inclusive); null: all events. With it only `events`
            is read, because tiles do not contain ingest times.

    Returns:
        One row per distinct entity and time: the keys, `at` and the features. Without matching events, counts, sums and
        distinct counts are 0 and other features null, unless their declaration defines another value (docs/windows.md).

    Raises:
        Refused: a window starts or ends inside an hour, or a day with day tiles, whose events were deleted.
        SchemaMismatch: a column of entity_times is missing.
    """
    keys = features.keys
    if missing := [name for name in (*keys, "at") if name not in entity_times.columns]:
        raise SchemaMismatch(
            f"entity_times lacks {missing}", where=f"features of {features.entity}", do=f"select {[*keys, 'at']}"
        )
    typed_keys = [F.col(name).cast(features.tiles.keys[name].type).alias(name) for name in keys]
    times = entity_times.select(*typed_keys, F.col("at").cast("timestamp").alias(AT)).dropna().distinct()
    requests = materialize(times)
    with_others = materialize(_with_population(spark, requests, features)) if features.needs_population else requests
    rows = add_derived_features(_window_features(spark, with_others, features, known_by), features)
    if features.needs_population:
        rows = rows.join(requests.withColumnRenamed(AT, "at"), [*keys, "at"], "left_semi")
    return rows.select(*keys, "at", *features.columns)


def add_derived_features(rows: DataFrame, features: EntityFeatures) -> DataFrame:
    """Rows with their derived features; the rows have the keys, `at`, HAS_EVENTS and the window columns."""
    for name, feature in features.derived.items():
        if feature.zscore_of:
            rows = _with_zscore(rows, name, feature.zscore_of)
        else:
            rows = rows.withColumn(name, F.expr(feature.sql).try_cast(feature.type))
    return rows


def _window_features(
    spark: SparkSession, requests: DataFrame, features: EntityFeatures, known_by: datetime | None
) -> DataFrame:
    """Keys, `at`, HAS_EVENTS (whether the entity had any event before) and the window columns."""
    tiles, events = window_parts.read_parts(spark, requests, features, known_by)
    windows = {
        name: (tile_state(path), features.windows.index(window)) for name, (path, _, window) in features.results.items()
    }
    results = features.fold.read_windows(windows, AT, tiles, events)
    has_events = F.col("as_of").isNotNull().alias(HAS_EVENTS)
    values = map(features.value, features.window_columns)
    return results.select(*features.keys, F.col(AT).alias("at"), has_events, *values)


def _with_population(spark: SparkSession, requests: DataFrame, features: EntityFeatures) -> DataFrame:
    """The requests, and all entities at each of their times."""
    entities = features.read(spark, features.tiles.table).select(*features.keys).distinct()
    times = F.broadcast(requests.select(AT).distinct())
    # Without the distinct on `requests` Spark cannot analyze the union when `at` was computed by this function.
    return entities.crossJoin(times).unionByName(requests.distinct()).distinct()


def _with_zscore(rows: DataFrame, name: str, of: str) -> DataFrame:
    rows = materialize(rows)
    value = F.col(of).cast("double")
    moments = (
        rows.where(HAS_EVENTS).groupBy("at").agg(F.avg(value).alias("_mean"), F.stddev_pop(value).alias("_stddev"))
    )
    zscore = F.when(F.col(HAS_EVENTS) & (F.col("_stddev") > 0), (value - F.col("_mean")) / F.col("_stddev"))
    zscore = zscore.when(F.col(HAS_EVENTS) & (F.col("_stddev") == 0), value * 0)
    return rows.join(F.broadcast(moments), "at", "left").withColumn(name, zscore).drop("_mean", "_stddev")


def counted_events(spark: SparkSession, features: EntityFeatures, before: date | None = None) -> tuple[int, int]:
    """Numbers of events that the tiles of the entity count, in the tiles and in `events`: equal when both are complete.

    Both are 0 if the tiles have no unweighted count.

    Args:
        before: only events of earlier days (UTC); null: all events.
    """
    tiles = features.tiles
    counts = {path: one for path, one in tiles.statistics.items() if isinstance(one, Count)}
    unweighted = [(path, one.where) for path, one in counts.items() if (one.of, one.weight) == ("1", "1")]
    if not unweighted:
        return 0, 0
    path, where = unweighted[0]
    keys = " AND ".join(f"({tiles.keys[name].of}) IS NOT NULL" for name in features.keys)
    events, stored = features.read(spark, tables.EVENTS), features.read(spark, tiles.table)
    if before is not None:
        events, stored = events.where(F.col("event_date") < before), stored.where(F.col("date") < before)
    row = events.agg(F.min("event_date"), F.count_if(F.expr(f"({tiles.where}) AND ({where}) AND {keys}"))).head()
    assert row is not None
    if row[0] is None:
        return 0, 0
    # Tiles of earlier days remain when old events are deleted.
    sums = stored.where(F.col("date") >= row[0]).agg(F.coalesce(F.sum(F.expr(path)), F.lit(0))).head()
    assert sums is not None
    return int(sums[0]), int(row[1])
