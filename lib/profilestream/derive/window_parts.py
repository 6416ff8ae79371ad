"""Window parts: the tiles and events that are folded to window features.

A *request* is an entity and a time t. A window `[t - w, t)` consists of

- the tiles that are completely inside it, read from the tile table;
- the events at its two *edges*, read from `events`: the rest of the hour that contains t - w, and the start of the hour
  that contains t. On days with day tiles (compact_tiles.py) the edges are parts of the day.

A window part is a tile or an event of a request; its column WINDOWS has a bit for each window that it belongs to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import event_period, tables
from profilestream.base.errors import Refused
from profilestream.base.session import broadcast_if_small
from profilestream.derive import compact_tiles
from profilestream.derive.entity_features import AT, EntityFeatures, tile_state
from profilestream.derive.feature_declaration import DAY, window_micros
from profilestream.derive.fold import BATCH_COLUMNS, BATCH_HASH
from profilestream.derive.kernels.group_fold import WINDOWS

_DAY, _EDGE_DAYS, _COUNT = "_day", "_edge_days", "_count"
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class _RequestSummary:
    """Numbers about a set of requests; times in microseconds.

    Args:
        count: number of requests.
        first, last: the earliest and the latest time.
        request_days: sum over requests of the number of days that contain an edge of one of its windows.
        edge_days: all days that contain an edge, as days since 1970.
    """

    count: int
    first: int
    last: int
    request_days: int
    edge_days: list[int]

    @property
    def has_one_time(self) -> bool:
        """Whether all requests have the same time."""
        return self.first == self.last

    @property
    def at(self) -> Column:
        """The time of a request; a literal if all times are equal, so that Spark filters before the join."""
        return F.lit(self.last) if self.has_one_time else F.unix_micros(AT)


def read_parts(
    spark: SparkSession, requests: DataFrame, features: EntityFeatures, known_by: datetime | None
) -> tuple[DataFrame, DataFrame | None]:
    """The tiles and the events of the requests, with the keys, AT and WINDOWS; events: null if there are none.

    For each request, the tiles contain one more row that has no `as_of`, belongs to no window and has null states.

    Args:
        known_by: use only events ingested by this time, and no tiles; null: all events.
    """
    nulls = {tile_state(path): F.lit(None).cast(statistic.ddl) for path, statistic in features.statistics.items()}
    no_time = {"as_of": F.lit(None).cast("timestamp"), WINDOWS: F.lit(0).cast("bigint")}
    empty = requests.withColumns({**no_time, BATCH_HASH: F.lit(None).cast("bigint"), **nulls})
    if known_by is not None:
        return empty, _events_ingested_by(spark, requests, features, known_by)
    # Read the property after the version of the table is fixed: then it may be newer than the rows, never older.
    tiles = features.read(spark, features.tiles.table)
    until = compact_tiles.day_tiles_until(spark, features.tiles.table, features.paths)
    summary = _summarize(requests, _edge_days(features, until))
    full_tiles = _full_tiles(tiles, requests, summary, features, until)
    all_tiles = full_tiles.unionByName(empty)
    if not summary.request_days:
        return all_tiles, None
    _check_events_exist(spark, summary.edge_days, features)
    return all_tiles, _edge_events(spark, requests, summary, features, until)


def _summarize(requests: DataFrame, edge_days: Column) -> _RequestSummary:
    at = F.unix_micros(AT)
    times = requests.groupBy(AT).agg(F.count(F.lit(1)).alias(_COUNT)).withColumn(_EDGE_DAYS, edge_days)
    row = times.agg(
        F.coalesce(F.sum(_COUNT), F.lit(0)),
        F.coalesce(F.min(at), F.lit(0)),
        F.coalesce(F.max(at), F.lit(0)),
        F.coalesce(F.sum(F.col(_COUNT) * F.size(_EDGE_DAYS)), F.lit(0)),
        F.array_distinct(F.flatten(F.collect_set(_EDGE_DAYS))),
    ).head()
    assert row is not None
    return _RequestSummary(*row)


def _edge_days(features: EntityFeatures, until: date | None) -> Column:
    """Array of the days since 1970 on which a window of a request starts or ends inside a tile."""
    at = F.unix_micros(AT)
    bounds = [at, *(at - length for window in features.windows if (length := window_micros(window)) is not None)]
    days = [
        F.when(F.pmod(bound, compact_tiles.tile_length(bound, until)) != 0, F.floor(bound / F.lit(DAY)).cast("int"))
        for bound in bounds
    ]
    return F.array_distinct(F.array_compact(F.array(*days)))


def _full_tiles(
    tiles: DataFrame, requests: DataFrame, summary: _RequestSummary, features: EntityFeatures, until: date | None
) -> DataFrame:
    """Tiles that are completely inside a window of a request."""
    start, end = F.col("_start"), F.col("_end")
    tile_start, tile_end = compact_tiles.tile_bounds(until)
    rows = tiles.where(_in_date_range("date", summary, features)).select(
        *features.keys,
        "as_of",
        F.xxhash64(*BATCH_COLUMNS).alias(BATCH_HASH),
        tile_start.alias("_start"),
        tile_end.alias("_end"),
        *[F.col(path).alias(tile_state(path)) for path in features.statistics],
    )
    joined = rows.join(broadcast_if_small(requests, summary.count), features.keys).where(end <= summary.at)
    in_windows = _with_windows(joined, features, lambda length: _starts_inside(start, summary.at, length))
    return in_windows.drop("_start", "_end")


def _with_windows(rows: DataFrame, features: EntityFeatures, belongs: Callable[[int | None], Column]) -> DataFrame:
    """Rows with the windows they belong to.

    Rows outside of all windows are dropped unless the population is needed, which counts the entities that existed.

    Args:
        belongs: length of a window -> whether a row belongs to it.
    """
    lengths = [window_micros(window) for window in features.windows]
    bits = [F.when(belongs(length), F.lit(1 << n)).otherwise(0) for n, length in enumerate(lengths)]
    with_windows = rows.withColumn(WINDOWS, reduce(Column.__add__, bits).cast("bigint"))
    return with_windows if features.needs_population else with_windows.where(f"{WINDOWS} <> 0")


def _in_date_range(date_column: str, summary: _RequestSummary, features: EntityFeatures) -> Column:
    """Dates that a window may contain; all earlier dates too if the population is needed."""
    lengths = [window_micros(window) for window in features.windows]
    longest = max((length for length in lengths if length is not None), default=0)
    before_end = F.col(date_column) <= utc_date(summary.last)
    if None in lengths or features.needs_population:
        return before_end
    return before_end & (F.col(date_column) >= utc_date(summary.first - longest))


def _starts_inside(start: Column, at: Column, length: int | None) -> Column:
    return F.lit(True) if length is None else start >= at - length


def utc_date(micros: int) -> Column:
    """The UTC date of a time in microseconds, as a literal."""
    return F.lit(_EPOCH + timedelta(days=micros // DAY))


def _edge_events(
    spark: SparkSession, requests: DataFrame, summary: _RequestSummary, features: EntityFeatures, until: date | None
) -> DataFrame:
    """Events inside a window whose tile is not completely inside it. Reads only partitions of edge days."""
    dates = [_EPOCH + timedelta(days=day) for day in summary.edge_days]
    events = with_entity_keys(features.read(spark, tables.EVENTS).where(event_period.on_dates(dates)), features)
    on, keyed_requests = [f"_{name}" for name in features.keys], requests.select(*_event_keys(features), AT)
    if summary.has_one_time:
        joined = events.join(broadcast_if_small(keyed_requests, summary.count), on)
    else:
        by_day = keyed_requests.withColumn(_DAY, F.explode(_edge_days(features, until)))
        dated_events = events.withColumn(_DAY, F.unix_date("event_date"))
        joined = dated_events.join(broadcast_if_small(by_day, summary.request_days), [*on, _DAY])
    time = F.unix_micros("event_time")
    tile_length = compact_tiles.tile_length(time, until)
    tile_start = time - F.pmod(time, tile_length)

    def at_edge(length: int | None) -> Column:
        in_full_tile = _starts_inside(tile_start, summary.at, length) & (tile_start + tile_length <= summary.at)
        return _starts_inside(time, summary.at, length) & ~in_full_tile

    return _with_windows(joined.where(time < summary.at), features, at_edge)


def _events_ingested_by(
    spark: SparkSession, requests: DataFrame, features: EntityFeatures, known_by: datetime
) -> DataFrame:
    """Events that were ingested by `known_by` and are inside a window of a request."""
    summary = _summarize(requests, F.array().cast("array<int>"))
    events = features.read(spark, tables.EVENTS).where(F.col("ingest_time") <= F.lit(known_by))
    time = F.unix_micros("event_time")
    keyed_requests = requests.select(*_event_keys(features), AT)
    joined = with_entity_keys(events.where(_in_date_range("event_date", summary, features)), features).join(
        broadcast_if_small(keyed_requests, summary.count), [f"_{name}" for name in features.keys]
    )
    before = joined.where(time < summary.at)
    return _with_windows(before, features, lambda length: _starts_inside(time, summary.at, length))


def _event_keys(features: EntityFeatures) -> list[Column]:
    return [F.col(name).alias(f"_{name}") for name in features.keys]


def with_entity_keys(events: DataFrame, features: EntityFeatures) -> DataFrame:
    """Events that the tile table counts, with the entity's keys as columns `_<key>`."""
    keys = {
        f"_{name}": F.expr(features.tiles.keys[name].of).cast(features.tiles.keys[name].type) for name in features.keys
    }
    return events.where(features.tiles.where).withColumns(keys)


def _check_events_exist(spark: SparkSession, edge_days: list[int], features: EntityFeatures) -> None:
    """Raise Refused if an edge is on a day that has tiles but no events anymore."""
    first = features.read(spark, tables.EVENTS).agg(F.min("event_date")).head()
    days = [_EPOCH + timedelta(days=number) for number in edge_days]
    early_days = [day for day in days if first is None or first[0] is None or day < first[0]]
    if not early_days:
        return
    tiles = features.read(spark, features.tiles.table)
    tile_day = tiles.where(F.col("date").isin(early_days)).agg(F.min("date")).head()
    if tile_day is not None and tile_day[0] is not None:
        raise Refused(
            f"a window starts or ends inside {tile_day[0]}, a day with tiles whose events were deleted",
            where=tables.EVENTS.path(features.paths),
            do="request windows between bounds of tiles (whole hours, or days with day tiles), or restore the events",
        )
