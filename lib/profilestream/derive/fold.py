"""The engine: events -> one partial row a key, and many rows a key -> one. Nothing is collected.

A row of a derived table holds states (statistics.py) and `as_of`, the newest event time merged into it; decayed weights
are what they were worth then. So two rows of a key can be merged in any order, and a late event changes nothing else.
"""

from collections.abc import Callable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.derive import decay
from profilestream.derive.declaration import Derived, Statistic
from profilestream.derive.maps import MapStatistic, Quantiles, Top
from profilestream.derive.statistics import Event

_AS_OF = "_as_of"


def partials(events: DataFrame, derived: Derived) -> DataFrame:
    """Events -> one row a key: keys, `as_of` and the states."""
    rows = _dated(_prepared(events, derived), derived, "event_time")

    def event(number: int, statistic: Statistic) -> Event:
        worth = decay.factor(F.col("event_time"), F.col(_AS_OF), statistic.half_life)
        return Event(F.col(f"_value_{number}"), F.col(f"_weight_{number}") * worth, F.col("_order"))

    def lift(number: int, statistic: Statistic) -> Column:
        if isinstance(statistic, MapStatistic):
            return F.lit(0.0)
        return statistic.lift(event(number, statistic))

    def cells(number: int, statistic: Top | Quantiles) -> Column:
        one = event(number, statistic)
        return F.array(_cell(number, statistic.cell(one.value), one.weight))

    return _aggregated(rows, derived, lift, cells)


def merged(rows: DataFrame, derived: Derived) -> DataFrame:
    """Rows of the table, several a key -> one row a key: keys, `as_of` and the states."""
    states = [F.col(path).alias(_state(n)) for n, path in enumerate(derived.statistics)]
    dated = _dated(rows.select(*derived.keys, "as_of", *states), derived, "as_of")

    def worth(statistic: Statistic) -> Column:
        return decay.factor(F.col("as_of"), F.col(_AS_OF), statistic.half_life)

    def gather(number: int, statistic: Statistic) -> Column:
        state = F.col(_state(number))
        if isinstance(statistic, MapStatistic):
            return F.coalesce(F.sum(statistic.rest(state) * worth(statistic)), F.lit(0.0))
        return statistic.gather(state, worth(statistic))

    def cells(number: int, statistic: Top | Quantiles) -> Column:
        entries = F.coalesce(F.map_entries(statistic.cells(F.col(_state(number)))), F.array())
        return F.transform(entries, lambda e: _cell(number, e["key"], e["value"] * worth(statistic)))

    return _aggregated(dated, derived, gather, cells)


def onto(table: DataFrame, partials: DataFrame, derived: Derived) -> DataFrame:
    """Partials, one row a key, merged into the table's rows of the same keys: what a MERGE puts in their place.

    The sum is made here and not in the MERGE, where Delta repeats a struct's expression for each of its fields and
    again for the change feed.
    """
    joined = partials.alias("s").join(table.alias("t"), list(derived.keys), "left")
    latest = F.greatest("t.as_of", "s.as_of")

    def at_latest(row: str, path: str, statistic: Statistic) -> Column:
        state = F.col(f"{row}.{path}")
        if statistic.half_life is None:
            return state
        return statistic.decay(state, decay.factor(F.col(f"{row}.as_of"), latest, statistic.half_life))

    states = {
        path: statistic.merge(at_latest("t", path, statistic), at_latest("s", path, statistic))
        for path, statistic in derived.statistics.items()
    }
    return joined.select(*derived.keys, latest.alias("as_of"), *_named(_in_facets(states, derived)))


def read(rows: DataFrame, derived: Derived, at: Column | None = None) -> DataFrame:
    """Rows, one a key -> keys, `as_of` and what each statistic says as of `at` (a timestamp; `as_of` when null)."""

    def said(path: str, statistic: Statistic) -> Column:
        state = F.col(path)
        if at is not None and statistic.half_life is not None:
            state = statistic.decay(state, decay.factor(F.col("as_of"), at, statistic.half_life))
        return statistic.read(state)

    values = {path: said(path, statistic) for path, statistic in derived.statistics.items()}
    return rows.select(*derived.keys, "as_of", *_named(_in_facets(values, derived)))


def _state(number: int) -> str:
    return f"_state_{number}"


def _in_facets(values: dict[str, Column], derived: Derived) -> dict[str, Column]:
    """Values by path -> values by table column: a facet's fields become one struct."""
    return {
        column: values[column]
        if "" in fields
        else F.struct(*[values[f"{column}.{field}"].alias(field) for field in fields])
        for column, fields in derived.columns.items()
    }


def _named(columns: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in columns.items()]


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
    scalar: Callable[[int, Statistic], Column],
    cells: Callable[[int, Top | Quantiles], Column],
) -> DataFrame:
    """One row a key. Maps are summed by cell in an aggregation of their own, over the same shuffle.

    Args:
        scalar: the aggregate of a statistic; of a map its rest.
        cells: of a row, as an array of (number, cell, weight).
    """
    keys = list(derived.keys)
    numbered = list(enumerate(derived.statistics.values()))
    one = rows.groupBy(*keys).agg(
        F.max(_AS_OF).alias("as_of"), *[scalar(n, statistic).alias(_state(n)) for n, statistic in numbered]
    )
    states = {n: F.col(_state(n)) for n, _ in numbered}
    maps = {n: statistic for n, statistic in numbered if isinstance(statistic, MapStatistic)}
    if maps:
        summed = _maps(rows, keys, [cells(n, statistic) for n, statistic in maps.items()], list(maps))
        one = one.join(summed, keys, "left")
        empty = F.create_map().cast("map<string,double>")
        states |= {n: s.of_cells(F.coalesce(f"_cells_{n}", empty), states[n]) for n, s in maps.items()}
    by_path = dict(zip(derived.statistics, states.values(), strict=True))
    return one.select(*keys, "as_of", *_named(_in_facets(by_path, derived)))


def _maps(rows: DataFrame, keys: list[str], cells: list[Column], numbers: list[int]) -> DataFrame:
    """One row a key that has cells: a map `_cells_<number>` from cell to summed weight for each of the numbers."""
    long = rows.select(*keys, F.inline(F.flatten(F.array(*cells)))).where("cell IS NOT NULL AND weight IS NOT NULL")
    summed = long.groupBy(*keys, "number", "cell").agg(F.sum("weight").alias("weight"))
    entry = F.struct("cell", "weight")
    return summed.groupBy(*keys).agg(
        *[F.map_from_entries(F.collect_list(F.when(F.col("number") == n, entry))).alias(f"_cells_{n}") for n in numbers]
    )
