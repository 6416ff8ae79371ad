"""The engine: events -> one partial row a key, and many rows a key -> one. Nothing is collected.

A row of a derived table holds states (statistics.py) and `as_of`, the newest event time merged into it; decayed weights
are what they were worth then. So two rows of a key can be merged in any order, and a late event changes nothing else.
"""

from collections.abc import Callable

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import SourceMissing
from profilestream.base.settings import Settings
from profilestream.derive import decay
from profilestream.derive.declaration import Derived, Statistic
from profilestream.derive.maps import MapStatistic, Quantiles, Top
from profilestream.derive.statistics import Event

_AS_OF = "_as_of"


def new_events(spark: SparkSession, settings: Settings) -> DataFrame:
    """The stream of `events`, in the order of its commits; rows that were deleted or rewritten later do not come again.

    Raises:
        SourceMissing: nothing was captured yet.
    """
    if not tables.EVENTS.exists(spark, settings.paths):
        raise SourceMissing(
            "there is no table events", where=settings.paths.warehouse, do="run jobs/capture_events.py first"
        )
    stream = spark.readStream.format("delta").option("skipChangeCommits", True)
    return stream.option("maxFilesPerTrigger", settings.derive.max_files_per_trigger).load(
        tables.EVENTS.path(settings.paths)
    )


def partials(events: DataFrame, derived: Derived) -> DataFrame:
    """Events -> one row a key: keys, `as_of` and the states."""
    rows = _dated(_prepared(events, derived), derived, "event_time")

    def event(number: int, statistic: Statistic) -> Event:
        worth = decay.factor(F.col("event_time"), F.col(_AS_OF), statistic.half_life)
        return Event(F.col(f"_value_{number}"), F.col(f"_weight_{number}") * worth, F.col("_order"))

    def lift(number: int, name: str, statistic: Statistic) -> Column:
        if isinstance(statistic, MapStatistic):
            return F.lit(0.0)
        return statistic.lift(event(number, statistic))

    def cells(number: int, name: str, statistic: Top | Quantiles) -> Column:
        one = event(number, statistic)
        return F.array(_cell(number, statistic.cell(one.value), one.weight))

    return _aggregated(rows, derived, lift, cells)


def merged(rows: DataFrame, derived: Derived) -> DataFrame:
    """Rows of the table, several a key -> one row a key: keys, `as_of` and the states."""
    dated = _dated(rows, derived, "as_of")

    def worth(statistic: Statistic) -> Column:
        return decay.factor(F.col("as_of"), F.col(_AS_OF), statistic.half_life)

    def gather(number: int, name: str, statistic: Statistic) -> Column:
        if isinstance(statistic, MapStatistic):
            return F.coalesce(F.sum(statistic.rest(F.col(name)) * worth(statistic)), F.lit(0.0))
        return statistic.gather(F.col(name), worth(statistic))

    def cells(number: int, name: str, statistic: Top | Quantiles) -> Column:
        entries = F.coalesce(F.map_entries(statistic.cells(F.col(name))), F.array())
        return F.transform(entries, lambda e: _cell(number, e["key"], e["value"] * worth(statistic)))

    return _aggregated(dated, derived, gather, cells)


def merge_values(derived: Derived) -> dict[str, Column]:
    """What a MERGE sets on a row `t` of the table when `s` brings a partial of the same key."""
    latest = F.greatest("t.as_of", "s.as_of")

    def at_latest(row: str, name: str, statistic: Statistic) -> Column:
        state = F.col(f"{row}.{name}")
        if statistic.half_life is None:
            return state
        return statistic.decay(state, decay.factor(F.col(f"{row}.as_of"), latest, statistic.half_life))

    states = {
        name: statistic.merge(at_latest("t", name, statistic), at_latest("s", name, statistic))
        for name, statistic in derived.statistics.items()
    }
    return {"as_of": latest, **states}


def read(rows: DataFrame, derived: Derived, at: Column | None = None) -> DataFrame:
    """Rows, one a key -> keys, `as_of` and what each statistic says as of `at` (a timestamp; `as_of` when null)."""

    def said(name: str, statistic: Statistic) -> Column:
        state = F.col(name)
        if at is not None and statistic.half_life is not None:
            state = statistic.decay(state, decay.factor(F.col("as_of"), at, statistic.half_life))
        return statistic.read(state).alias(name)

    return rows.select(*derived.keys, "as_of", *[said(n, s) for n, s in derived.statistics.items()])


def _prepared(events: DataFrame, derived: Derived) -> DataFrame:
    """Events with their keys, and the value and weight that each statistic takes from them."""
    numbered = list(enumerate(derived.statistics.values()))
    values = [F.when(F.expr(s.where), F.expr(s.of).try_cast(s.value_type)).alias(f"_value_{n}") for n, s in numbered]
    order = F.struct("event_time", "source", "event_id").alias("_order")
    keys = [F.expr(key.of).cast(key.type).alias(name) for name, key in derived.keys.items()]
    weights = [F.expr(s.weight).try_cast("double").alias(f"_given_{n}") for n, s in numbered]
    chosen = events.where(F.expr(derived.where)).select("event_time", order, *keys, *values, *weights)
    counted = [
        F.when(F.col(f"_value_{n}").isNotNull(), F.col(f"_given_{n}")).alias(f"_weight_{n}") for n, _ in numbered
    ]
    kept = chosen.select("event_time", "_order", *derived.keys, *[f"_value_{n}" for n, _ in numbered], *counted)
    return kept.dropna(subset=list(derived.keys))


def _dated(rows: DataFrame, derived: Derived, time: str) -> DataFrame:
    """Rows with the newest time of their key, to which all weights are brought before they are summed."""
    same_key = Window.partitionBy(*derived.keys).rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    return rows.withColumn(_AS_OF, F.max(time).over(same_key))


def _cell(number: int, cell: Column, weight: Column) -> Column:
    return F.struct(F.lit(number).alias("number"), cell.alias("cell"), weight.alias("weight"))


def _aggregated(
    rows: DataFrame,
    derived: Derived,
    scalar: Callable[[int, str, Statistic], Column],
    cells: Callable[[int, str, Top | Quantiles], Column],
) -> DataFrame:
    """One row a key. Maps are summed by cell in an aggregation of their own, over the same shuffle.

    Args:
        scalar: the aggregate of a statistic; of a map its rest.
        cells: of a row, as an array of (number, cell, weight).
    """
    keys = list(derived.keys)
    numbered = [(n, name, s) for n, (name, s) in enumerate(derived.statistics.items())]
    plain = [scalar(n, name, s).alias(name) for n, name, s in numbered]
    one = rows.groupBy(*keys).agg(F.max(_AS_OF).alias("as_of"), *plain)
    maps = [(n, name, s) for n, name, s in numbered if isinstance(s, MapStatistic)]
    if not maps:
        return one
    every = F.flatten(F.array(*[cells(n, name, s) for n, name, s in maps]))
    long = rows.select(*keys, F.inline(every)).where("cell IS NOT NULL AND weight IS NOT NULL")
    summed = long.groupBy(*keys, "number", "cell").agg(F.sum("weight").alias("weight"))
    entry = F.struct("cell", "weight")
    wide = summed.groupBy(*keys).agg(
        *[
            F.map_from_entries(F.collect_list(F.when(F.col("number") == n, entry))).alias(f"_cells_{n}")
            for n, _, _ in maps
        ]
    )
    empty = F.create_map().cast("map<string,double>")
    states = {name: s.of_cells(F.coalesce(f"_cells_{n}", empty), F.col(name)) for n, name, s in maps}
    joined = one.join(wide, keys, "left")
    return joined.withColumns(states).select(*keys, "as_of", *derived.statistics)
