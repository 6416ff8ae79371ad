"""The fold: events -> one partial row per key, and several rows per key -> one. No rows are collected on the driver.

A row of a derived table contains states (statistics.py) and `as_of`, the newest event time merged into it; decayed
weights are valid at that time. So rows of a key can be merged in any order, and a late event needs no special case.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.derive import decay
from profilestream.derive.map_statistics import MapStatistic
from profilestream.derive.statistics import EventColumns
from profilestream.derive.table_declaration import DerivedTable, Mapped, Statistic

_AS_OF, PREVIOUS = "_as_of", "_previous"


@dataclass(frozen=True)
class _Aggregation:
    """How several rows of a key become one.

    Args:
        cells: for each group of maps, an array of (group, cell, weights) per row. They are summed by cell in a separate
            aggregation over the same shuffle, because an aggregate function cannot sum by cell.
        scalars: one aggregate per statistic; for a map, the aggregate of its rest.
        states: the states computed from both, not yet trimmed.
    """

    cells: list[Column]
    scalars: list[Column]
    states: list[Column]


@dataclass(frozen=True)
class Fold:
    """The frame operations of a declared table. Create it with `of`, which builds its columns once per process."""

    derived: DerivedTable

    @classmethod
    def of(cls, derived: DerivedTable) -> "Fold":
        """The fold of a declaration, from a cache: the 2,000 columns of a profile take 2 s to build."""
        key = derived.model_dump_json()
        fold = _FOLDS.pop(key, None) or cls(derived)
        while len(_FOLDS) >= _MAX_FOLDS:
            _FOLDS.pop(next(iter(_FOLDS)), None)
        _FOLDS[key] = fold
        return fold

    def partials(self, events: DataFrame) -> DataFrame:
        """Events -> one row per key: keys, `as_of` and the states."""
        inputs = self._select_relevant(events, [F.col("event_time"), *self._event_columns])
        return self._aggregate(self._with_decay_factors(inputs, "event_time"), self._event_aggregation)

    def for_statistic(self, path: str) -> "Fold":
        """The fold of one statistic of the table."""
        derived = self.derived
        single = {"statistics": {path: derived.statistics[path]}, "readings": {}, "population": None}
        return Fold.of(derived.model_copy(update=single))

    def select_states(self, rows: DataFrame) -> DataFrame:
        """Keys, `as_of` and the states of this fold, from rows of a table with more statistics."""
        states = _named(self._in_facets({path: F.col(path) for path in self.derived.statistics}))
        return rows.select(*self._keys, "as_of", *states)

    def merge_rows(self, rows: DataFrame) -> DataFrame:
        """Rows of the table, several per key -> one row per key: keys, `as_of` and the states."""
        inputs = rows.select(*self._keys, "as_of", *[F.col(path).alias(_state(n)) for n, path, _ in self._numbered])
        return self._aggregate(self._with_decay_factors(inputs, "as_of"), self._row_aggregation)

    @cached_property
    def merged_columns(self) -> dict[str, Column]:
        """`as_of` and the states by table column, from a row `t` of the table and a partial row `s` of the same key.

        For a MERGE, which reads the stored row anyway. A MERGE cannot contain a projection, so lambdas bind
        intermediate values; otherwise each state would be computed again wherever `trim` uses it.
        """
        latest = F.greatest("t.as_of", "s.as_of")
        return {"as_of": latest} | {
            column: _chain(
                self._factors_at(latest, fields), self._merge_states(column, fields), self._trim_states(column, fields)
            )
            for column, fields in self.derived.columns.items()
        }

    def merge_into(self, table: DataFrame, partials: DataFrame, previous: str = "") -> DataFrame:
        """Partials, one row per key, merged with the table's rows of the same keys, as a MERGE does.

        Args:
            previous: a statistic whose earlier state is added as the column PREVIOUS, null for a new key.
        """
        joined = partials.alias("s").join(table.alias("t"), self._keys, "left")
        earlier = [F.col(f"t.{previous}").alias(PREVIOUS)] if previous else []
        return joined.select(*self._keys, *_named(self.merged_columns), *earlier)

    def read(self, rows: DataFrame, at: Column | None = None) -> DataFrame:
        """Rows, one per key -> keys, `as_of`, and the values of statistics and readings at `at` (default: `as_of`)."""
        time = F.col("as_of") if at is None else at
        values = rows.select(*self._keys, "as_of", time.alias("at"), *self._values_at(time))
        return values.select(*self._keys, "as_of", *self._values_and_readings)

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.derived.keys)

    @cached_property
    def _numbered(self) -> list[tuple[int, str, Statistic]]:
        return [(n, path, statistic) for n, (path, statistic) in enumerate(self.derived.statistics.items())]

    @cached_property
    def _half_lives(self) -> list[float]:
        return sorted({s.half_life for s in self.derived.statistics.values() if s.half_life is not None})

    def _decay_factor(self, statistic: Statistic) -> Column:
        return (
            F.lit(1.0)
            if statistic.half_life is None
            else F.col(f"_decay_{self._half_lives.index(statistic.half_life)}")
        )

    @cached_property
    def _value_texts(self) -> list[str]:
        """SQL of the values that statistics use; statistics with the same SQL share a column."""
        return list(dict.fromkeys(_value_sql(s) for s in self.derived.statistics.values()))

    @cached_property
    def _weight_texts(self) -> list[str]:
        return list(dict.fromkeys(s.weight for s in self.derived.statistics.values()))

    def _select_relevant(self, events: DataFrame, columns: list[Column]) -> DataFrame:
        """Columns of the events that satisfy `where` and have all keys."""
        return events.where(F.expr(self.derived.where)).select(*columns).dropna(subset=self._keys)

    @cached_property
    def _key_columns(self) -> list[Column]:
        return [F.expr(key.of).cast(key.type).alias(name) for name, key in self.derived.keys.items()]

    @cached_property
    def _event_columns(self) -> list[Column]:
        """Keys, position in the order of events, values and weights of an event."""
        values = [F.expr(sql).alias(f"_value_{n}") for n, sql in enumerate(self._value_texts)]
        weights = [F.expr(sql).try_cast("double").alias(f"_weight_{n}") for n, sql in enumerate(self._weight_texts)]
        return [*self._key_columns, F.struct("event_time", "source", "event_id").alias("_order"), *values, *weights]

    def _event(self, statistic: Statistic) -> EventColumns:
        value = F.col(f"_value_{self._value_texts.index(_value_sql(statistic))}")
        weight = F.col(f"_weight_{self._weight_texts.index(statistic.weight)}") * self._decay_factor(statistic)
        return EventColumns(value, F.when(value.isNotNull(), weight), F.col("_order"))

    @cached_property
    def _event_aggregation(self) -> _Aggregation:
        """The aggregation of events. Maps with the same cells and weights are summed together."""
        groups: dict[tuple[str, str, str], list[tuple[int, Mapped]]] = {}
        for number, _, statistic in self._numbered:
            if isinstance(statistic, MapStatistic):
                group_key = (_value_sql(statistic), statistic.cell_kind, statistic.weight)
                groups.setdefault(group_key, []).append((number, statistic))
        width = max(map(len, groups.values()), default=0)
        cells: list[Column] = []
        places: dict[int, tuple[int, int]] = {}
        for group, members in enumerate(groups.values()):
            event = self._event(members[0][1])
            weights = [self._event(member).weight for _, member in members]
            cells.append(F.array(_cell(group, members[0][1].cell(event.value), weights, width)))
            places |= {number: (group, place) for place, (number, _) in enumerate(members)}
        scalars = [
            F.lit(0.0) if isinstance(s, MapStatistic) else s.aggregate_events(self._event(s))
            for _, _, s in self._numbered
        ]
        return _Aggregation(cells, _as_states(scalars), self._states(places))

    @cached_property
    def _row_aggregation(self) -> _Aggregation:
        """The aggregation of stored rows. Each map is summed separately."""
        cells: list[Column] = []
        scalars: list[Column] = []
        places: dict[int, tuple[int, int]] = {}
        for number, _, statistic in self._numbered:
            state, factor = F.col(_state(number)), self._decay_factor(statistic)
            if isinstance(statistic, MapStatistic):
                scalars.append(F.coalesce(F.sum(statistic.rest(state) * factor), F.lit(0.0)))
                entries = F.coalesce(F.map_entries(statistic.cells(state)), F.array())
                places[number] = (len(cells), 0)
                cells.append(F.transform(entries, _row_cell(len(cells), factor)))
            else:
                scalars.append(statistic.aggregate_states(state, factor))
        return _Aggregation(cells, _as_states(scalars), self._states(places))

    def _states(self, places: dict[int, tuple[int, int]]) -> list[Column]:
        """States from the aggregated row; for a map, from the cells at its place (group, weight)."""

        def state_of(number: int, statistic: Statistic) -> Column:
            state = F.col(_state(number))
            if isinstance(statistic, MapStatistic):
                return statistic.state_of_cells(_weights_at(*places[number]), state)
            return state

        return _as_states([state_of(number, statistic) for number, _, statistic in self._numbered])

    @cached_property
    def _trimmed(self) -> list[Column]:
        """Table columns from the states."""
        return _named(self._in_facets({path: s.trim(F.col(_state(n))) for n, path, s in self._numbered}))

    def _with_decay_factors(self, rows: DataFrame, time: str) -> DataFrame:
        """Rows with the newest time of their key, and the decay factors from the row's time to that time.

        All weights of a key are decayed to that time before they are summed. With one time for the complete batch, a
        key without events for years would lose its weights: 2^-1100 is 0.
        """
        if not self._half_lives:
            return rows.withColumn(_AS_OF, F.col(time))
        same_key = Window.partitionBy(*self._keys).rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
        factors = {
            f"_decay_{n}": decay.factor(F.col(time), F.col(_AS_OF), days) for n, days in enumerate(self._half_lives)
        }
        return rows.withColumn(_AS_OF, F.max(time).over(same_key)).withColumns(factors)

    def _aggregate(self, rows: DataFrame, by: _Aggregation) -> DataFrame:
        """One row per key."""
        result = rows.groupBy(*self._keys).agg(F.max(_AS_OF).alias("as_of"), *by.scalars)
        if by.cells:
            result = result.join(self._sum_cells(rows, by.cells), self._keys, "left")
        return result.select(*self._keys, "as_of", *by.states).select(*self._keys, "as_of", *self._trimmed)

    def _sum_cells(self, rows: DataFrame, cells: list[Column]) -> DataFrame:
        """Rows -> one row per key with cells: for each group an array of (cell, summed weights)."""
        long = rows.select(*self._keys, F.inline(F.flatten(F.array(*cells)))).where("cell IS NOT NULL")
        weights = [name for name in long.columns if name.startswith("weight_")]
        grouped = long.where("weight_0 IS NOT NULL").groupBy(*self._keys, "group", "cell")
        summed = grouped.agg(*[F.sum(name).alias(name) for name in weights])
        entry = F.struct("cell", *weights)
        lists = [
            F.collect_list(F.when(F.col("group") == group, entry)).alias(_cells_of(group))
            for group in range(len(cells))
        ]
        return summed.groupBy(*self._keys).agg(*lists)

    def _factors_at(self, latest: Column, fields: dict[str, Statistic]) -> Column:
        """Decay factors of both rows to the newer row's time, by half-life."""
        half_lives = sorted({s.half_life for s in fields.values() if s.half_life is not None})
        factors = [
            decay.factor(F.col(f"{row}.as_of"), latest, days).alias(_factor_name(row, days))
            for row in ("t", "s")
            for days in half_lives
        ]
        return F.struct(*factors) if factors else F.lit(0)

    def _merge_states(self, column: str, fields: dict[str, Statistic]) -> Callable[[Column], Column]:
        """Decay factors -> the merged states of both rows in a table column."""

        def merged(field: str, statistic: Statistic, factors: Column) -> Column:
            path = f"{column}.{field}" if field else column
            t, s = F.col(f"t.{path}"), F.col(f"s.{path}")
            if statistic.half_life is not None:
                t = statistic.decay(t, factors[_factor_name("t", statistic.half_life)])
                s = statistic.decay(s, factors[_factor_name("s", statistic.half_life)])
            return statistic.merge(t, s)

        return lambda factors: F.struct(*[merged(name, s, factors).alias(name or column) for name, s in fields.items()])

    def _trim_states(self, column: str, fields: dict[str, Statistic]) -> Callable[[Column], Column]:
        """The merged states of a table column -> the value of the column."""

        def trim(states: Column) -> Column:
            paths = {f"{column}.{field}" if field else column: statistic for field, statistic in fields.items()}
            trimmed = {path: s.trim(states[path.rpartition(".")[2]]) for path, s in paths.items()}
            return self._in_facets(trimmed)[column]

        return trim

    def _values_at(self, at: Column) -> list[Column]:
        """The value of each statistic at a time."""

        def value(path: str, statistic: Statistic) -> Column:
            state = F.col(path)
            if statistic.half_life is not None:
                state = statistic.decay(state, decay.factor(F.col("as_of"), at, statistic.half_life))
            return statistic.read(state)

        return _named(self._in_facets({path: value(path, statistic) for _, path, statistic in self._numbered}))

    @cached_property
    def _values_and_readings(self) -> list[Column]:
        """Values of statistics and readings, from the values of the statistics."""
        values = {path: F.col(path) for path in self.derived.statistics}
        return _named(self._in_facets(values | {name: F.expr(sql) for name, sql in self.derived.readings.items()}))

    def _in_facets(self, values: dict[str, Column]) -> dict[str, Column]:
        """Values by path -> values by table column; the fields of a facet become one struct."""
        facets: dict[str, dict[str, Column]] = {}
        for path, value in values.items():
            column, _, field = path.partition(".")
            facets.setdefault(column, {})[field] = value
        return {
            column: fields[""] if "" in fields else F.struct(*[value.alias(field) for field, value in fields.items()])
            for column, fields in facets.items()
        }


# Least recently used first. The columns of a fold use some megabytes of Java's memory.
_FOLDS: dict[str, Fold] = {}
_MAX_FOLDS = 32


def _value_sql(statistic: Statistic) -> str:
    value = f"try_cast(({statistic.sql}) AS {statistic.value_type})"
    return value if statistic.where == "true" else f"CASE WHEN ({statistic.where}) THEN {value} END"


def _state(number: int) -> str:
    return f"_state_{number}"


def _as_states(scalars: list[Column]) -> list[Column]:
    return [scalar.alias(_state(n)) for n, scalar in enumerate(scalars)]


def _factor_name(row: str, days: float) -> str:
    return f"{row}_{days}".replace(".", "_")


def _chain(value: Column, *steps: Callable[[Column], Column]) -> Column:
    """The steps applied one after the other; each intermediate result is computed once."""
    result = F.array(value)
    for step in steps:
        result = F.transform(result, step)
    return F.get(result, F.lit(0))


def _named(columns: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in columns.items()]


def _cell(group: int, cell: Column, weights: list[Column], width: int) -> Column:
    padded = [*weights, *[F.lit(None).cast("double")] * (width - len(weights))]
    columns = [weight.alias(f"weight_{n}") for n, weight in enumerate(padded)]
    return F.struct(F.lit(group).alias("group"), cell.alias("cell"), *columns)


def _row_cell(number: int, factor: Column) -> Callable[[Column], Column]:
    return lambda entry: _cell(number, entry["key"], [entry["value"] * factor], 1)


def _cells_of(group: int) -> str:
    return f"_cells_{group}"


def _weights_at(group: int, place: int) -> Column:
    """The map from cell to weight at a place; empty when the key has no cells there."""
    cells = F.col(_cells_of(group))
    weights = F.map_from_arrays(cells["cell"], cells[f"weight_{place}"])
    return F.coalesce(weights, F.create_map().cast("map<string,double>"))
