"""What lies in the windows of requests, in pieces: whole tiles, and events at the two edges of each window.

A *request* is an entity and a time t. A window `[t - w, t)` takes every tile that lies in it whole; what is left are
the rest of the hour after t - w and the beginning of the hour of t, and these are told from `events`. In days that were
made day tiles (days.py) it is the rest of a day. A piece is a row of states of an entity, with the windows that it
belongs to as bits of a number; the fold engine merges the pieces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import Refused
from profilestream.base.session import broadcast_if_small
from profilestream.derive import compact_tiles, decay
from profilestream.derive.entity_features import AT, MASK, Features, plain
from profilestream.derive.feature_declaration import DAY, HOUR, micros

_DAY, _DAYS, _COUNT = "_day", "_days", "_count"
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class _Asked:
    """What requests ask for, all together; microseconds.

    Args:
        since, until: the first time and the last.
        edges: of all requests, the number of days on which edges lie.
        days: on which edges lie, as days since 1970.
    """

    count: int
    since: int
    until: int
    edges: int
    days: list[int]

    @property
    def is_one_time(self) -> bool:
        """Whether all requests are as of the same time."""
        return self.since == self.until

    @property
    def at(self) -> Column:
        """The time of a request. One for all is a constant: rows in no window are then dropped before any join."""
        return F.lit(self.until) if self.is_one_time else F.unix_micros(AT)


def gathered(spark: SparkSession, requests: DataFrame, features: Features, known_by: datetime | None) -> DataFrame:
    """Keys, AT, `as_of` and the states of each window; several rows a request, and one without states.

    `as_of` is the time of the request, null in the row without states; weights are decayed to it.
    """
    nothing = {name: F.lit(None).cast(one.ddl) for name, (_, one, _) in features.states.items()}
    empty = requests.withColumns({"as_of": F.lit(None).cast("timestamp"), **nothing})
    if known_by is not None:
        found = [_by_windows(_of_events(_known(spark, requests, features, known_by), features), features)]
    else:
        # The newest day of day tiles is asked for after the table's version is fixed: it may be too new, never too old.
        tiles = features.read(spark, features.tiles.table)
        until = compact_tiles.day_tiles_until(spark, features.tiles.table, features.paths)
        asked = _asked(requests, _edge_days(features, until))
        found = [_merged(_as_asked(_whole(tiles, requests, asked, features, until), features), features)]
        if asked.edges:
            _check_reach(spark, asked.days, features)
            at_edges = _at_edges(spark, requests, asked, features, until)
            found.append(_by_windows(_of_events(at_edges, features), features))
    return reduce(DataFrame.unionByName, [*found, empty])


def _merged(rows: DataFrame, features: Features) -> DataFrame:
    """Tiles of requests -> few rows a request. Before they meet the rest: a union copies every row."""
    if features.are_numbers:
        return features.fold.merged(_by_windows(rows, features))
    # Rows of the same windows first: a state is then read once a row and not once a window.
    return _by_windows(features.fold_of_pieces.merged(rows), features)


def _asked(requests: DataFrame, edge_days: Column) -> _Asked:
    at = F.unix_micros(AT)
    times = requests.groupBy(AT).agg(F.count(F.lit(1)).alias(_COUNT)).withColumn(_DAYS, edge_days)
    row = times.agg(
        F.coalesce(F.sum(_COUNT), F.lit(0)),
        F.coalesce(F.min(at), F.lit(0)),
        F.coalesce(F.max(at), F.lit(0)),
        F.coalesce(F.sum(F.col(_COUNT) * F.size(_DAYS)), F.lit(0)),
        F.array_distinct(F.flatten(F.collect_set(_DAYS))),
    ).head()
    assert row is not None
    return _Asked(*row)


def _unit(time: Column, until: date | None) -> Column:
    """Length of the tile in which a time lies."""
    if until is None:
        return F.lit(HOUR).cast("bigint")
    first_hours = ((until - _EPOCH).days + 1) * DAY
    return F.when(time < first_hours, F.lit(DAY)).otherwise(F.lit(HOUR)).cast("bigint")


def ends(until: date | None) -> tuple[Column, Column]:
    """Begin and end of what a tile tells of, in microseconds; of all tiles of a day of day tiles it is the day."""
    hour = F.unix_micros("hour")
    unit = _unit(hour, until)
    start = hour - F.pmod(hour, unit)
    return start, start + unit


def _edge_days(features: Features, until: date | None) -> Column:
    """Array of the days, since 1970, on which a window of a request begins or ends inside a tile."""
    at = F.unix_micros(AT)
    borders = [at, *(at - length for window in features.lengths if (length := micros(window)) is not None)]
    inside = [F.when(F.pmod(one, _unit(one, until)) != 0, F.floor(one / F.lit(DAY)).cast("int")) for one in borders]
    return F.array_distinct(F.array_compact(F.array(*inside)))


def _whole(tiles: DataFrame, requests: DataFrame, asked: _Asked, features: Features, until: date | None) -> DataFrame:
    """Tiles that lie in a window of a request whole."""
    start, end = F.col("_start"), F.col("_end")
    began, ended = ends(until)
    mine = tiles.where(_in_reach("date", asked, features)).select(
        *features.keys, "as_of", began.alias("_start"), ended.alias("_end"), *_columns(features)
    )
    joined = mine.join(broadcast_if_small(requests, asked.count), features.keys).where(end <= asked.at)
    return _in_windows(joined, features, lambda length: _inside(start, asked.at, length))


def _in_windows(rows: DataFrame, features: Features, belongs: Callable[[int | None], Column]) -> DataFrame:
    """Rows with the windows, told by length, to which they belong; also those of none where it matters who was seen."""
    lengths = [micros(window) for window in features.lengths]
    bits = [F.when(belongs(length), F.lit(1 << n)).otherwise(0) for n, length in enumerate(lengths)]
    found = rows.withColumn(MASK, reduce(Column.__add__, bits).cast("bigint"))
    return found if features.has_population else found.where(f"{MASK} <> 0")


def _in_reach(day: str, asked: _Asked, features: Features) -> Column:
    """Days that a window may reach; all that are past where it matters whether an entity was ever seen."""
    lengths = [micros(window) for window in features.lengths]
    longest = max((length for length in lengths if length is not None), default=0)
    reached = F.col(day) <= date_of(asked.until)
    if None in lengths or features.has_population:
        return reached
    return reached & (F.col(day) >= date_of(asked.since - longest))


def _inside(start: Column, at: Column, length: int | None) -> Column:
    return F.lit(True) if length is None else start >= at - length


def _columns(features: Features) -> list[str]:
    return list(dict.fromkeys(path.split(".")[0] for path in features.statistics))


def date_of(at: int) -> Column:
    """The UTC day of a time in microseconds."""
    return F.lit(_EPOCH + timedelta(days=at // DAY))


def _at_edges(
    spark: SparkSession, requests: DataFrame, asked: _Asked, features: Features, until: date | None
) -> DataFrame:
    """Events in a window of a request whose tile is not. Only folders of the days of edges are read."""
    dates = [_EPOCH + timedelta(days=day) for day in asked.days]
    events = keyed(features.read(spark, tables.EVENTS).where(F.col("event_date").isin(dates)), features)
    on, named = [f"_{name}" for name in features.keys], requests.select(*_renamed(features), AT)
    if asked.is_one_time:
        joined = events.join(broadcast_if_small(named, asked.count), on)
    else:
        of_days = named.withColumn(_DAY, F.explode(_edge_days(features, until)))
        mine = events.withColumn(_DAY, F.unix_date("event_date"))
        joined = mine.join(broadcast_if_small(of_days, asked.edges), [*on, _DAY])
    moment = F.unix_micros("event_time")
    unit = _unit(moment, until)
    start = moment - F.pmod(moment, unit)

    def at_edge(length: int | None) -> Column:
        in_tile = _inside(start, asked.at, length) & (start + unit <= asked.at)
        return _inside(moment, asked.at, length) & ~in_tile

    return _in_windows(joined.where(moment < asked.at), features, at_edge)


def _known(spark: SparkSession, requests: DataFrame, features: Features, known_by: datetime) -> DataFrame:
    """Events in a window of a request that had come in by a time."""
    asked = _asked(requests, F.array().cast("array<int>"))
    events = features.read(spark, tables.EVENTS).where(F.col("ingest_time") <= F.lit(known_by))
    moment = F.unix_micros("event_time")
    named = requests.select(*_renamed(features), AT)
    joined = keyed(events.where(_in_reach("event_date", asked, features)), features).join(
        broadcast_if_small(named, asked.count), [f"_{name}" for name in features.keys]
    )
    return _in_windows(joined.where(moment < asked.at), features, lambda length: _inside(moment, asked.at, length))


def _renamed(features: Features) -> list[Column]:
    return [F.col(name).alias(f"_{name}") for name in features.keys]


def keyed(events: DataFrame, features: Features) -> DataFrame:
    """Events that the tiles of entities count, with the keys of those, `_` before each."""
    keys = {
        f"_{name}": F.expr(features.tiles.keys[name].of).cast(features.tiles.keys[name].type) for name in features.keys
    }
    return events.where(features.tiles.where).withColumns(keys)


def _of_events(events: DataFrame, features: Features) -> DataFrame:
    """Events of requests -> one row of states for each request and set of windows."""
    return _as_asked(features.folding(features.statistics, by_windows=True).partials(events), features)


def _as_asked(rows: DataFrame, features: Features) -> DataFrame:
    """Rows of states, with their weights decayed to the time of the request."""
    states = []
    for path, one in features.statistics.items():
        worth = decay.factor(F.col("as_of"), F.col(AT), one.half_life)
        states.append((F.col(path) if one.half_life is None else one.decay(F.col(path), worth)).alias(plain(path)))
    return rows.select(*features.keys, AT, MASK, F.col(AT).alias("as_of"), *states)


def _by_windows(rows: DataFrame, features: Features) -> DataFrame:
    """Rows of states, which belong to the windows of their bits -> a state a window, null where it does not."""
    bits = {window: F.lit(1 << n) for n, window in enumerate(features.lengths)}
    states = [
        F.when(F.col(MASK).bitwiseAND(bits[window]) != 0, F.col(plain(path))).alias(name)
        for name, (path, _, window) in features.states.items()
    ]
    return rows.select(*features.keys, AT, "as_of", *states)


def _check_reach(spark: SparkSession, edge_days: list[int], features: Features) -> None:
    """Refuse edges on days of which `events` is gone and only tiles are left."""
    first = features.read(spark, tables.EVENTS).agg(F.min("event_date")).head()
    early = [day for day in map(_day, edge_days) if first is None or first[0] is None or day < first[0]]
    if not early:
        return
    tiles = features.read(spark, features.tiles.table)
    gone = tiles.where(F.col("date").isin(early)).agg(F.min("date")).head()
    if gone is not None and gone[0] is not None:
        raise Refused(
            f"a window begins or ends inside {gone[0]}, of which there are tiles but no events any more",
            where=tables.EVENTS.path(features.paths),
            do="ask for windows that begin at whole hours, or at midnight in days of day tiles; or restore events",
        )


def _day(number: int) -> date:
    return _EPOCH + timedelta(days=number)
