"""The fold: events -> one row per key, and several rows per key -> one.

A row of a derived table contains states (statistics.py) and `as_of`, the newest event time folded into it; decayed
weights are valid at that time. So rows of a key can be merged in any order, and a late event needs no special case. A
row of a table with one row per key contains values for readers in addition.

Spark evaluates the SQL of a declaration, and brings the rows of a key together in the order of their times; the kernels
(kernels/) compute the states. For few rows, they are called in the process of the driver (base/runner.py).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.columns import quoted
from profilestream.base.runner import ByKey, Rows, Selection, column_names, compute, evaluate, with_constant
from profilestream.derive.kernels.group_fold import WINDOWS, GroupFold, StatisticFold
from profilestream.derive.statistics import Heaviest, by_facet
from profilestream.derive.table_declaration import STATE, DerivedTable, Statistic

_ORDER = ("event_time", "source", "event_id")
BATCH_COLUMNS = ("epoch", "batch_id")
# A hash of these columns, for rows that Spark moves.
BATCH_HASH = "_batch"
# Words of SQL; and those that are not followed by a dot and a name, such as that of a struct with all its fields.
_WORD, _NOT_A_PREFIX = re.compile(r"\w+"), re.compile(r"\b\w+\b(?!\s*\.\s*[`\w])")


@dataclass(frozen=True)
class Fold:
    """The frame operations of a declared table."""

    derived: DerivedTable

    @cached_property
    def selection(self) -> Selection:
        """The events that satisfy `where` and have all keys, with the columns of the kernels."""
        keys = {name: F.expr(key.of).cast(key.type) for name, key in self.derived.keys.items()}
        order = {name: F.col(name) for name in _ORDER}
        values = {f"_value_{n}": F.expr(sql) for n, sql in enumerate(self._value_texts)}
        weights = {f"_weight_{n}": F.expr(sql).try_cast("double") for n, sql in enumerate(self._weight_texts)}
        return Selection(keys | order | values | weights, self.derived.where, tuple(self._keys))

    def partials(self, events: DataFrame) -> DataFrame:
        """Events -> one row of the table per key, without epoch and batch."""
        return self.fold_events(self.selection.rows(events))

    def fold_events(self, events: Rows) -> Rows:
        """As `partials`, for the result of `selection`."""
        return self._fold(_ORDER, events)

    def merge_rows(self, rows: Rows, order: tuple[str, ...] = BATCH_COLUMNS) -> Rows:
        """Rows of the table, several per key -> one row per key.

        Args:
            order: columns of the rows that order rows of a key with equal `as_of`, so that sums are the same bit for
                bit. Columns that the rows do not have are left out.
        """
        order = tuple(filter(column_names(rows).__contains__, order))
        return self._fold(("event_time", *order), self._stored_rows(rows, *order))

    def update(self, stored: Rows, events: Rows) -> Rows:
        """The stored rows, one per key, with the events folded into them, and new rows for other keys.

        Args:
            stored: the rows of the table with the keys of the events.
            events: the result of `selection`.
        """
        old = with_constant(self._stored_rows(stored), "is_stored", True)
        return self._fold(("-is_stored", *_ORDER), old, with_constant(events, "is_stored", False))

    def read(self, rows: DataFrame, at: Column | None = None) -> DataFrame:
        """Rows, one per key -> keys, `as_of`, and the values of statistics and readings at `at`.

        Args:
            at: a timestamp; where it is null, and by default, values are as of `as_of`.
        """
        time = F.col("as_of") if at is None else at
        inputs = rows.select(*self._keys, "as_of", time.alias("at"), *self._stored_states)
        types = self._key_types | {"as_of": "timestamp", "at": "timestamp"}
        types |= {_state(n): statistic.result_ddl for n, _, statistic in self._numbered}
        read = inputs.mapInArrow(self._group_fold.read, _columns_ddl(types))
        by_column = read.select(*self._keys, "as_of", "at", *_in_facets(self._state_columns))
        values = {path: F.col(path) for path in self.derived.statistics}
        return by_column.select(*self._keys, "as_of", *_in_facets(values | self._readings))

    def read_windows(
        self, windows: dict[str, tuple[str, int]], at: str, stored: DataFrame, events: DataFrame | None
    ) -> DataFrame:
        """Keys, `as_of` (the newest time of all rows), and values of statistics over some of the rows.

        Args:
            windows: by column of the result: the path of a statistic, and the bit in WINDOWS of the rows that count.
            at: the key with the time of the values.
            stored: rows of the table, with WINDOWS, and BATCH_HASH instead of BATCH_COLUMNS.
            events: with WINDOWS; null: none.
        """
        columns = {name: _window_value(n) for n, name in enumerate(windows)}
        of_path = {path: one for (_, path, _), one in zip(self._numbered, self._group_fold.statistics, strict=True)}
        folds = [
            replace(of_path[path], state=columns[name], stored=of_path[path].state, window=bit)
            for name, (path, bit) in windows.items()
        ]
        types = self._key_types | {"as_of": "timestamp"}
        types |= {columns[name]: self.derived.statistics[path].result_ddl for name, (path, _) in windows.items()}
        kernel = partial(_fold_and_read, GroupFold(tuple(self._keys), tuple(folds)), at)
        parts, order = [self._stored_rows(stored, BATCH_HASH, WINDOWS)], ["event_time", BATCH_HASH]
        if events is not None:
            selection = replace(self.selection, columns=self.selection.columns | {WINDOWS: F.col(WINDOWS)})
            parts = [
                with_constant(parts[0], "is_stored", True),
                with_constant(selection.rows(events), "is_stored", False),
            ]
            order = ["-is_stored", *_ORDER, BATCH_HASH]
        read = compute(ByKey(tuple(self._keys), tuple(order), kernel, _columns_ddl(types)), *parts)
        return read.select(*self._keys, "as_of", *[F.col(column).alias(name) for name, column in columns.items()])

    def for_statistic(self, path: str) -> "Fold":
        """The fold of one statistic of the table."""
        derived = self.derived
        single = {"statistics": {path: derived.statistics[path]}, "readings": {}, "population": None}
        return Fold(derived.model_copy(update=single))

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.derived.keys)

    @cached_property
    def _key_types(self) -> dict[str, str]:
        return {name: key.type for name, key in self.derived.keys.items()}

    @cached_property
    def _numbered(self) -> list[tuple[int, str, Statistic]]:
        return [(n, path, statistic) for n, (path, statistic) in enumerate(self.derived.statistics.items())]

    @cached_property
    def _state_columns(self) -> dict[str, Column]:
        """The states (or the values that replace them) in the rows of the kernels, by path."""
        return {path: F.col(_state(n)) for n, path, _ in self._numbered}

    @cached_property
    def _value_texts(self) -> list[str]:
        """SQL of the values that statistics use; statistics with the same SQL share a column."""
        return list(dict.fromkeys(_value_sql(s) for s in self.derived.statistics.values()))

    @cached_property
    def _weight_texts(self) -> list[str]:
        return list(dict.fromkeys(s.weight for s in self.derived.statistics.values()))

    def _stored_rows(self, rows: Rows, *more: str) -> Rows:
        """Rows of the table with the columns of the kernels."""
        if isinstance(rows, DataFrame):
            return rows.select(*self._keys, F.col("as_of").alias("event_time"), *more, *self._stored_states)
        columns = {name: rows[name] for name in (*self._keys, *more)} | {"event_time": rows["as_of"]}
        return pa.table(columns | self._states_of(partial(_arrow_value, rows), _arrow_struct))

    @cached_property
    def _stored_states(self) -> list[Column]:
        states = self._states_of(F.col, _sql_struct)
        return [state.alias(name) for name, state in states.items()]

    def _states_of(self, value: Callable[[str], Any], struct: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The states of the kernels, from a row of the table.

        Args:
            value: a column or a field of a struct, by its path.
            struct: a struct with these fields.
        """

        def state(path: str, statistic: Statistic) -> Any:
            if statistic.is_plain or not self.derived.has_values:
                return value(path)
            hidden = value(f"{STATE}.{path}")
            return struct({"weights": value(path), "rest": hidden}) if isinstance(statistic, Heaviest) else hidden

        return {_state(n): state(path, statistic) for n, path, statistic in self._numbered}

    def _fold(self, order: tuple[str, ...], *parts: Rows) -> Rows:
        """One row of the table per key."""
        folded = compute(replace(self._by_key, order=order), *parts)
        if not self.derived.has_values:
            return folded
        return evaluate(folded, *self._frame_steps) if isinstance(folded, DataFrame) else self._with_readings(folded)

    @cached_property
    def _frame_steps(self) -> tuple[list[Column], list[Column]]:
        """The columns that readings use, over the rows of the kernels; and the columns of the table over these."""
        names = [_state(n) for n, _, _ in self._numbered] + [_result(n) for n in self._results]
        columns = self._table_columns(F.col, _sql_struct, self._readings)
        return (
            [*self._reading_inputs, *map(F.col, names)],
            [column.alias(name) for name, column in columns.items()],
        )

    def _with_readings(self, folded: pa.Table) -> pa.Table:
        """The rows of the table; Spark gets only what readings use, because states are large and take time to copy."""
        readings: dict[str, Any] = {}
        if self._readings:
            inputs = folded.select([*self._keys, "as_of", *(self._value_names[path] for path in self._read_paths)])
            named = [column.alias(path) for path, column in self._readings.items()]
            readings = dict(zip(self._readings, evaluate(inputs, self._reading_inputs, named).columns, strict=True))
        return pa.table(self._table_columns(partial(_arrow_value, folded), _arrow_struct, readings))

    @cached_property
    def _by_key(self) -> ByKey:
        columns = self._key_types | {"as_of": "timestamp"}
        if not self.derived.has_values:
            columns |= _facets({path: one.ddl for _, path, one in self._numbered}, _struct_ddl)
            kernel = partial(_fold_to_facets, self._group_fold, tuple(self.derived.statistics))
            return ByKey(tuple(self._keys), (), kernel, _columns_ddl(columns))
        columns |= {_state(n): one.ddl for n, _, one in self._numbered}
        columns |= {_result(n): one.result_ddl for n, _, one in self._numbered if n in self._results}
        return ByKey(tuple(self._keys), (), self._group_fold.fold, _columns_ddl(columns))

    def _table_columns(
        self, value: Callable[[str], Any], struct: Callable[[dict[str, Any]], Any], readings: dict[str, Any]
    ) -> dict[str, Any]:
        """The columns of a table with values, from a row of the kernels.

        Args:
            value: a column or a field of a struct, by its path.
            struct: a struct with these fields.
            readings: by path.
        """
        readable, hidden = {}, {}
        for n, path, statistic in self._numbered:
            state = _state(n)
            if isinstance(statistic, Heaviest):
                readable[path], hidden[path] = value(f"{state}.weights"), value(f"{state}.rest")
                continue
            readable[path] = value(self._value_names[path])
            if not statistic.is_plain:
                hidden[path] = value(state)
        columns = {name: value(name) for name in (*self._keys, "as_of")} | _facets(readable | readings, struct)
        return columns | ({STATE: struct(_facets(hidden, struct))} if hidden else {})

    @cached_property
    def _value_names(self) -> dict[str, str]:
        """By path of a statistic: the column with its value in the rows of the kernels."""
        return {path: _result(n) if n in self._results else _state(n) for n, path, _ in self._numbered}

    @cached_property
    def _read_paths(self) -> list[str]:
        """Paths of the statistics that readings may use: their names, or their facets' names, are words of the SQL."""
        texts = [one.sql.lower() for one in self.derived.readings.values()]
        words, complete = ({word for text in texts for word in form.findall(text)} for form in (_WORD, _NOT_A_PREFIX))
        return [
            path
            for path in self.derived.statistics
            if path.rpartition(".")[2] in words or path.partition(".")[0] in complete
        ]

    @cached_property
    def _reading_inputs(self) -> list[Column]:
        """The columns of a row that readings use."""
        values = {path: F.col(self._value_names[path]) for path in self._read_paths}
        return [*[F.col(name) for name in (*self._keys, "as_of")], F.col("as_of").alias("at"), *_in_facets(values)]

    @cached_property
    def _results(self) -> list[int]:
        """Numbers of the statistics whose values the kernels compute for the rows of the table and its readings."""
        if not self.derived.has_values:
            return []
        # A list of heaviest keys is in its state; only readings need it as a map.
        is_map_needed = bool(self.derived.readings)
        values = [(n, one) for n, _, one in self._numbered if not one.is_plain]
        return [n for n, one in values if is_map_needed or not isinstance(one, Heaviest)]

    @cached_property
    def _readings(self) -> dict[str, Column]:
        return {path: F.expr(one.sql).try_cast(one.type) for path, one in self.derived.readings.items()}

    @cached_property
    def _group_fold(self) -> GroupFold:
        statistics = [
            StatisticFold(
                statistic.kernel,
                _state(n),
                f"_value_{self._value_texts.index(_value_sql(statistic))}",
                f"_weight_{self._weight_texts.index(statistic.weight)}",
                statistic.half_life,
                _result(n) if n in self._results else "",
            )
            for n, _, statistic in self._numbered
        ]
        return GroupFold(tuple(self._keys), tuple(statistics))


def _value_sql(statistic: Statistic) -> str:
    value = f"try_cast(({statistic.sql}) AS {statistic.value_type})"
    return value if statistic.where == "true" else f"CASE WHEN ({statistic.where}) THEN {value} END"


def _state(number: int) -> str:
    return f"_state_{number}"


def _window_value(number: int) -> str:
    return f"_window_value_{number}"


def _result(number: int) -> str:
    return f"_result_{number}"


def _fold_and_read(fold: GroupFold, at: str, rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Keys, `as_of`, and the values of the folded rows as of the key `at`."""
    folded = (pa.RecordBatch.from_arrays([*one.columns, one[at]], [*one.schema.names, "at"]) for one in fold.fold(rows))
    for batch in fold.read(folded):
        yield batch.drop_columns("at")


def _fold_to_facets(
    fold: GroupFold, paths: tuple[str, ...], rows: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The result of the fold in the columns of a table of states; `paths` are those of its statistics."""
    for batch in fold.fold(rows):
        states = _facets({path: batch[_state(n)] for n, path in enumerate(paths)}, _arrow_struct)
        columns = {name: batch[name] for name in (*fold.keys, "as_of")} | states
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _facets(values: dict[str, Any], struct: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Values by path -> values by column; the fields of a facet become one struct."""
    return {name: fields[""] if "" in fields else struct(fields) for name, fields in by_facet(values).items()}


def _sql_struct(fields: dict[str, Column]) -> Column:
    return F.struct(*[value.alias(name) for name, value in fields.items()])


def _in_facets(values: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in _facets(values, _sql_struct).items()]


def _arrow_value(rows: pa.Table, path: str) -> Any:
    column, *fields = path.split(".")
    return pc.struct_field(rows[column], fields) if fields else rows[column]


def _arrow_struct(fields: dict[str, Any]) -> pa.StructArray:
    arrays = [one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one for one in fields.values()]
    return pa.StructArray.from_arrays(arrays, list(fields))


def _struct_ddl(fields: dict[str, str]) -> str:
    return f"STRUCT<{', '.join(f'{quoted(name)}: {ddl}' for name, ddl in fields.items())}>"


def _columns_ddl(columns: dict[str, str]) -> str:
    return ", ".join(f"{quoted(name)} {ddl}" for name, ddl in columns.items())
