"""The engine: events -> one partial row a key, and many rows a key -> one. Nothing is collected.

A row of a derived table holds states (statistics.py) and `as_of`, the newest event time merged into it; decayed weights
are what they were worth then. So two rows of a key can be merged in any order, and a late event changes nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.derive import decay
from profilestream.derive.map_statistics import MapStatistic
from profilestream.derive.statistics import Event
from profilestream.derive.table_declaration import Derived, Mapped, Statistic

_AS_OF, WAS = "_as_of", "_was"


@dataclass(frozen=True)
class _Aggregation:
    """How many rows of a key become one.

    Args:
        cells: of a row, an array of (group, cell, weights) for each group of maps. They are summed by cell in an
            aggregation of their own, over the same shuffle, since an aggregate cannot sum by cell.
        scalars: aggregates, one a statistic; of a map the rest.
        wholes: the states over both, not yet trimmed.
    """

    cells: list[Column]
    scalars: list[Column]
    wholes: list[Column]


@dataclass(frozen=True)
class Fold:
    """A declared table's verbs over frames. Ask for it by `of`, so that its columns are built once."""

    derived: Derived

    @classmethod
    def of(cls, derived: Derived) -> "Fold":
        """The fold of a declaration, the same in all of a process: the 2,000 columns of a profile take 2 s to build."""
        return _FOLDS.setdefault(derived.model_dump_json(), cls(derived))

    def partials(self, events: DataFrame) -> DataFrame:
        """Events -> one row a key: keys, `as_of` and the states."""
        inputs = self._own(events, [F.col("event_time"), *self._taken])
        return self._aggregated(self._dated(inputs, "event_time"), self._of_events)

    def alone(self, path: str) -> "Fold":
        """The fold of one statistic of the same table."""
        derived = self.derived
        one = {"statistics": {path: derived.statistics[path]}, "readings": {}, "population": None}
        return Fold.of(derived.model_copy(update=one))

    def narrowed(self, rows: DataFrame) -> DataFrame:
        """Rows of a table that has more statistics, without those."""
        states = _named(self._in_facets({path: F.col(path) for path in self.derived.statistics}))
        return rows.select(*self._keys, "as_of", *states)

    def merged(self, rows: DataFrame) -> DataFrame:
        """Rows of the table, several a key -> one row a key: keys, `as_of` and the states."""
        inputs = rows.select(*self._keys, "as_of", *[F.col(path).alias(_state(n)) for n, path, _ in self._numbered])
        return self._aggregated(self._dated(inputs, "as_of"), self._of_rows)

    @cached_property
    def sums(self) -> dict[str, Column]:
        """`as_of` and the states by table column, over a row `t` of the table and a partial row `s` of the same key.

        For a MERGE, which reads the row that is there anyway. It has no place for a projection, so what would be one
        is bound by a lambda: else each state would be worked out again wherever `trimmed` names it.
        """
        latest = F.greatest("t.as_of", "s.as_of")
        return {"as_of": latest} | {
            column: _bound(self._worths_at(latest, fields), self._summed(column, fields), self._cut(column, fields))
            for column, fields in self.derived.columns.items()
        }

    def onto(self, table: DataFrame, partials: DataFrame, was: str = "") -> DataFrame:
        """Partials, one row a key, merged into the table's rows of the same keys: what a MERGE makes of them.

        Args:
            was: a statistic whose state before is kept as the column `WAS`, null for a new key.
        """
        joined = partials.alias("s").join(table.alias("t"), self._keys, "left")
        before = [F.col(f"t.{was}").alias(WAS)] if was else []
        return joined.select(*self._keys, *_named(self.sums), *before)

    def read(self, rows: DataFrame, at: Column | None = None) -> DataFrame:
        """Rows, one a key -> keys, `as_of`, and what statistics and readings say as of `at` (`as_of` when null)."""
        time = F.col("as_of") if at is None else at
        said = rows.select(*self._keys, "as_of", time.alias("at"), *self._said(time))
        return said.select(*self._keys, "as_of", *self._with_readings)

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.derived.keys)

    @cached_property
    def _numbered(self) -> list[tuple[int, str, Statistic]]:
        return [(n, path, statistic) for n, (path, statistic) in enumerate(self.derived.statistics.items())]

    @cached_property
    def _half_lives(self) -> list[float]:
        return sorted({s.half_life for s in self.derived.statistics.values() if s.half_life is not None})

    def _worth(self, statistic: Statistic) -> Column:
        return (
            F.lit(1.0)
            if statistic.half_life is None
            else F.col(f"_worth_{self._half_lives.index(statistic.half_life)}")
        )

    @cached_property
    def _values(self) -> list[str]:
        """What is taken from an event, as SQL; statistics that take the same share a column."""
        return list(dict.fromkeys(_value_sql(s) for s in self.derived.statistics.values()))

    @cached_property
    def _weights(self) -> list[str]:
        return list(dict.fromkeys(s.weight for s in self.derived.statistics.values()))

    def _own(self, events: DataFrame, columns: list[Column]) -> DataFrame:
        """Columns of the events that belong to a row of the table."""
        return events.where(F.expr(self.derived.where)).select(*columns).dropna(subset=self._keys)

    @cached_property
    def _key_columns(self) -> list[Column]:
        return [F.expr(key.of).cast(key.type).alias(name) for name, key in self.derived.keys.items()]

    @cached_property
    def _taken(self) -> list[Column]:
        """Of an event: its keys, its place in the order of events, and the values and weights."""
        values = [F.expr(sql).alias(f"_value_{n}") for n, sql in enumerate(self._values)]
        weights = [F.expr(sql).try_cast("double").alias(f"_weight_{n}") for n, sql in enumerate(self._weights)]
        return [*self._key_columns, F.struct("event_time", "source", "event_id").alias("_order"), *values, *weights]

    def _event(self, statistic: Statistic) -> Event:
        value = F.col(f"_value_{self._values.index(_value_sql(statistic))}")
        weight = F.col(f"_weight_{self._weights.index(statistic.weight)}") * self._worth(statistic)
        return Event(value, F.when(value.isNotNull(), weight), F.col("_order"))

    @cached_property
    def _of_events(self) -> _Aggregation:
        """Maps of the same cells and weights are summed together."""
        groups: dict[tuple[str, str, str], list[tuple[int, Mapped]]] = {}
        for number, _, one in self._numbered:
            if isinstance(one, MapStatistic):
                groups.setdefault((_value_sql(one), one.cells_like, one.weight), []).append((number, one))
        width = max(map(len, groups.values()), default=0)
        cells: list[Column] = []
        places: dict[int, tuple[int, int]] = {}
        for group, members in enumerate(groups.values()):
            event = self._event(members[0][1])
            weights = [self._event(statistic).weight for _, statistic in members]
            cells.append(F.array(_cell(group, members[0][1].cell(event.value), weights, width)))
            places |= {number: (group, place) for place, (number, _) in enumerate(members)}
        scalars = [F.lit(0.0) if isinstance(s, MapStatistic) else s.lift(self._event(s)) for _, _, s in self._numbered]
        return _Aggregation(cells, _as_states(scalars), self._wholes(places))

    @cached_property
    def _of_rows(self) -> _Aggregation:
        """Each map of a row is summed by itself."""
        cells: list[Column] = []
        scalars: list[Column] = []
        places: dict[int, tuple[int, int]] = {}
        for number, _, one in self._numbered:
            state, worth = F.col(_state(number)), self._worth(one)
            if isinstance(one, MapStatistic):
                scalars.append(F.coalesce(F.sum(one.rest(state) * worth), F.lit(0.0)))
                entries = F.coalesce(F.map_entries(one.cells(state)), F.array())
                places[number] = (len(cells), 0)
                cells.append(F.transform(entries, _row_cell(len(cells), worth)))
            else:
                scalars.append(one.gather(state, worth))
        return _Aggregation(cells, _as_states(scalars), self._wholes(places))

    def _wholes(self, places: dict[int, tuple[int, int]]) -> list[Column]:
        """States over the aggregated row; of a map, from the cells at its place (group, weight)."""

        def whole(number: int, one: Statistic) -> Column:
            state = F.col(_state(number))
            return one.of_cells(_weights_at(*places[number]), state) if isinstance(one, MapStatistic) else state

        return _as_states([whole(number, one) for number, _, one in self._numbered])

    @cached_property
    def _trimmed(self) -> list[Column]:
        """Table columns over the states."""
        return _named(self._in_facets({path: one.trimmed(F.col(_state(n))) for n, path, one in self._numbered}))

    def _dated(self, rows: DataFrame, time: str) -> DataFrame:
        """Rows with the newest time of their key, and what a weight of their own time is worth then.

        All weights of a key are brought to that time before they are summed. With one time for the whole batch, a key
        not seen for years would lose what it has: 2^-1100 is 0.
        """
        if not self._half_lives:
            return rows.withColumn(_AS_OF, F.col(time))
        same_key = Window.partitionBy(*self._keys).rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
        worth = {
            f"_worth_{n}": decay.factor(F.col(time), F.col(_AS_OF), days) for n, days in enumerate(self._half_lives)
        }
        return rows.withColumn(_AS_OF, F.max(time).over(same_key)).withColumns(worth)

    def _aggregated(self, rows: DataFrame, by: _Aggregation) -> DataFrame:
        """One row a key."""
        one = rows.groupBy(*self._keys).agg(F.max(_AS_OF).alias("as_of"), *by.scalars)
        if by.cells:
            one = one.join(self._cells(rows, by.cells), self._keys, "left")
        return one.select(*self._keys, "as_of", *by.wholes).select(*self._keys, "as_of", *self._trimmed)

    def _cells(self, rows: DataFrame, cells: list[Column]) -> DataFrame:
        """Rows -> one row a key that has cells: for each group an array of (cell, summed weights)."""
        long = rows.select(*self._keys, F.inline(F.flatten(F.array(*cells)))).where("cell IS NOT NULL")
        weights = [name for name in long.columns if name.startswith("weight_")]
        counted = long.where("weight_0 IS NOT NULL").groupBy(*self._keys, "group", "cell")
        summed = counted.agg(*[F.sum(name).alias(name) for name in weights])
        entry = F.struct("cell", *weights)
        lists = [
            F.collect_list(F.when(F.col("group") == group, entry)).alias(_cells_of(group))
            for group in range(len(cells))
        ]
        return summed.groupBy(*self._keys).agg(*lists)

    def _worths_at(self, latest: Column, fields: dict[str, Statistic]) -> Column:
        """What the weights of both rows are worth at the newer one's time, by half-life."""
        half_lives = sorted({s.half_life for s in fields.values() if s.half_life is not None})
        worths = [
            decay.factor(F.col(f"{row}.as_of"), latest, days).alias(_worth_of(row, days))
            for row in ("t", "s")
            for days in half_lives
        ]
        return F.struct(*worths) if worths else F.lit(0)

    def _summed(self, column: str, fields: dict[str, Statistic]) -> Callable[[Column], Column]:
        """Worths -> the column's states of both rows merged."""

        def merged(field: str, one: Statistic, worths: Column) -> Column:
            path = f"{column}.{field}" if field else column
            t, s = F.col(f"t.{path}"), F.col(f"s.{path}")
            if one.half_life is not None:
                t = one.decay(t, worths[_worth_of("t", one.half_life)])
                s = one.decay(s, worths[_worth_of("s", one.half_life)])
            return one.merge(t, s)

        return lambda worths: F.struct(*[merged(f, one, worths).alias(f or column) for f, one in fields.items()])

    def _cut(self, column: str, fields: dict[str, Statistic]) -> Callable[[Column], Column]:
        """The column's merged states -> what the table has in the column."""

        def cut(states: Column) -> Column:
            paths = {f"{column}.{field}" if field else column: one for field, one in fields.items()}
            whole = {path: one.trimmed(states[path.rpartition(".")[2]]) for path, one in paths.items()}
            return self._in_facets(whole)[column]

        return cut

    def _said(self, at: Column) -> list[Column]:
        """What each statistic says as of a time."""

        def said(path: str, statistic: Statistic) -> Column:
            state = F.col(path)
            if statistic.half_life is not None:
                state = statistic.decay(state, decay.factor(F.col("as_of"), at, statistic.half_life))
            return statistic.read(state)

        return _named(self._in_facets({path: said(path, statistic) for _, path, statistic in self._numbered}))

    @cached_property
    def _with_readings(self) -> list[Column]:
        """What statistics and readings say, over what the statistics say."""
        said = {path: F.col(path) for path in self.derived.statistics}
        return _named(self._in_facets(said | {name: F.expr(sql) for name, sql in self.derived.readings.items()}))

    def _in_facets(self, values: dict[str, Column]) -> dict[str, Column]:
        """Values by path -> values by table column: a facet's fields become one struct."""
        facets: dict[str, dict[str, Column]] = {}
        for path, value in values.items():
            column, _, field = path.partition(".")
            facets.setdefault(column, {})[field] = value
        return {
            column: fields[""] if "" in fields else F.struct(*[value.alias(field) for field, value in fields.items()])
            for column, fields in facets.items()
        }


_FOLDS: dict[str, Fold] = {}


def _value_sql(statistic: Statistic) -> str:
    value = f"try_cast(({statistic.sql}) AS {statistic.value_type})"
    return value if statistic.where == "true" else f"CASE WHEN ({statistic.where}) THEN {value} END"


def _state(number: int) -> str:
    return f"_state_{number}"


def _as_states(scalars: list[Column]) -> list[Column]:
    return [scalar.alias(_state(n)) for n, scalar in enumerate(scalars)]


def _worth_of(row: str, days: float) -> str:
    return f"{row}_{days}".replace(".", "_")


def _bound(value: Column, *steps: Callable[[Column], Column]) -> Column:
    """The steps one after the other, each over the result of the one before, which is worked out once."""
    bound = F.array(value)
    for step in steps:
        bound = F.transform(bound, step)
    return F.get(bound, F.lit(0))


def _named(columns: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in columns.items()]


def _cell(group: int, cell: Column, weights: list[Column], width: int) -> Column:
    filled = [*weights, *[F.lit(None).cast("double")] * (width - len(weights))]
    named = [weight.alias(f"weight_{n}") for n, weight in enumerate(filled)]
    return F.struct(F.lit(group).alias("group"), cell.alias("cell"), *named)


def _row_cell(number: int, worth: Column) -> Callable[[Column], Column]:
    return lambda entry: _cell(number, entry["key"], [entry["value"] * worth], 1)


def _cells_of(group: int) -> str:
    return f"_cells_{group}"


def _weights_at(group: int, place: int) -> Column:
    """The map from cell to weight at a place; empty when the key has none there."""
    cells = F.col(_cells_of(group))
    weights = F.map_from_arrays(cells["cell"], cells[f"weight_{place}"])
    return F.coalesce(weights, F.create_map().cast("map<string,double>"))
