"""The fold: events -> one row per key, and several rows per key -> one.

A row of a derived table contains states (statistics.py) and `as_of`, the newest event time folded into it; decayed
weights are valid at that time. So rows of a key can be merged in any order, and a late event needs no special case. A
row of a table with one row per key contains values for readers in addition.

Spark evaluates the SQL of a declaration, and brings the rows of a key together in the order of their times; the kernels
(kernels/) compute the states. The driver collects rows only for small batches.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.derive.kernels.group_fold import GroupFold, StatisticFold
from profilestream.derive.kernels.kernel import TIMESTAMP
from profilestream.derive.statistics import Heaviest, by_facet
from profilestream.derive.table_declaration import STATE, DerivedTable, Statistic

_ORDER = ("event_time", "source", "event_id")
BATCH_COLUMNS = ("epoch", "batch_id")


@dataclass(frozen=True)
class Fold:
    """The frame operations of a declared table."""

    derived: DerivedTable

    def partials(self, events: DataFrame) -> DataFrame:
        """Events -> one row of the table per key, without epoch and batch."""
        return self._fold(self._event_rows(events), _ORDER)

    def merge_rows(self, rows: DataFrame, order: tuple[str, ...] = BATCH_COLUMNS) -> DataFrame:
        """Rows of the table, several per key -> one row per key.

        Args:
            order: columns of the rows that order rows of a key with equal `as_of`, so that sums are the same bit for
                bit. Columns that the rows do not have are left out.
        """
        tie_breakers = [name for name in order if name in rows.columns]
        return self._fold(self._stored_rows(rows, *tie_breakers), ("event_time", *tie_breakers))

    def update(self, stored: DataFrame, events: DataFrame) -> DataFrame:
        """The stored rows of the events' keys, one per key, with the events folded into them.

        Only rows of the events' keys are in the result.
        """
        new = self._event_rows(events)
        touched = stored.join(new.select(*self._keys).distinct(), self._keys, "left_semi")
        old = self._stored_rows(touched).withColumn("is_stored", F.lit(True))
        rows = old.unionByName(new.withColumn("is_stored", F.lit(False)), allowMissingColumns=True)
        return self._fold(rows, ("is_stored", *_ORDER))

    def read(self, rows: DataFrame, at: Column | None = None) -> DataFrame:
        """Rows, one per key -> keys, `as_of`, and the values of statistics and readings at `at`.

        Args:
            at: a timestamp; where it is null, and by default, values are as of `as_of`.
        """
        time = F.col("as_of") if at is None else at
        inputs = rows.select(*self._keys, "as_of", time.alias("at"), *self._stored_states)
        types = [f"{_state(n)} {statistic.result_ddl}" for n, _, statistic in self._numbered]
        outputs = ", ".join([*self._key_ddl, "as_of timestamp", "at timestamp", *types])
        read = inputs.mapInArrow(self._group_fold.read, outputs)
        by_column = read.select(*self._keys, "as_of", "at", *_in_facets(self._state_columns))
        values = {path: F.col(path) for path in self.derived.statistics}
        return by_column.select(*self._keys, "as_of", *_in_facets(values | self._readings))

    def for_statistic(self, path: str) -> "Fold":
        """The fold of one statistic of the table."""
        derived = self.derived
        single = {"statistics": {path: derived.statistics[path]}, "readings": {}, "population": None}
        return Fold(derived.model_copy(update=single))

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.derived.keys)

    @cached_property
    def _key_ddl(self) -> list[str]:
        return [f"`{name}` {key.type}" for name, key in self.derived.keys.items()]

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

    @cached_property
    def _event_columns(self) -> dict[str, Column]:
        """Keys, order, values and weights of an event."""
        keys = {name: F.expr(key.of).cast(key.type) for name, key in self.derived.keys.items()}
        order = {name: F.col(name) for name in _ORDER}
        values = {f"_value_{n}": F.expr(sql) for n, sql in enumerate(self._value_texts)}
        weights = {f"_weight_{n}": F.expr(sql).try_cast("double") for n, sql in enumerate(self._weight_texts)}
        return keys | order | values | weights

    def _event_rows(self, events: DataFrame) -> DataFrame:
        """The events that satisfy `where` and have all keys, with the columns of the kernels."""
        columns = [column.alias(name) for name, column in self._event_columns.items()]
        return events.where(F.expr(self.derived.where)).select(*columns).dropna(subset=self._keys)

    def _few_event_columns(self, prefix: str) -> list[Column]:
        """The columns of `_event_rows` with a prefix; the keys of other events are null."""
        is_relevant = F.expr(self.derived.where)
        return [F.when(is_relevant, one).alias(prefix + name) for name, one in self._event_columns.items()]

    def _stored_rows(self, rows: DataFrame, *more: str) -> DataFrame:
        """Rows of the table with the columns of the kernels."""
        return rows.select(*self._keys, F.col("as_of").alias("event_time"), *more, *self._stored_states)

    @cached_property
    def _stored_states(self) -> list[Column]:
        """The states of the kernels, from a row of the table."""

        def state(path: str, statistic: Statistic) -> Column:
            if statistic.is_plain or not self.derived.has_values:
                return F.col(path)
            hidden = F.col(f"{STATE}.{path}")
            if isinstance(statistic, Heaviest):
                return F.struct(F.col(path).alias("weights"), hidden.alias("rest"))
            return hidden

        return [state(path, statistic).alias(_state(n)) for n, path, statistic in self._numbered]

    def _fold(self, rows: DataFrame, order: tuple[str, ...]) -> DataFrame:
        """One row of the table per key; a stored row comes before the events of its key."""
        ascending = [F.col(name).desc() if name == "is_stored" else F.col(name) for name in order]
        by_key = rows.repartition(*self._keys).sortWithinPartitions(*self._keys, *ascending)
        states = [f"{_state(n)} {statistic.ddl}" for n, _, statistic in self._numbered]
        results = [f"{_result(n)} {statistic.result_ddl}" for n, _, statistic in self._numbered if n in self._results]
        ddl = ", ".join([*self._key_ddl, "as_of timestamp", *states, *results])
        folded = by_key.mapInArrow(self._group_fold.fold, ddl)
        if self.derived.has_values:
            return self._with_values(folded)
        return folded.select(*self._keys, "as_of", *_in_facets(self._state_columns))

    def merge_locally(self, rows: pa.Table, order: tuple[str, ...]) -> pa.Table:
        """As `merge_rows`, for few rows of a table of states, in the process of the driver."""
        return self._states_in_facets(self._fold_locally(self._stored_locally(rows, *order), ("event_time", *order)))

    def update_locally(self, spark: SparkSession, stored: pa.Table, events: pa.Table) -> pa.Table:
        """As `update`, for few events in the process of the driver; Spark evaluates the readings.

        Args:
            stored: the stored rows of the events' keys.
            events: from `local_events`.
        """
        if not len(events):
            return self.derived.table.arrow_schema.empty_table().drop_columns(list(BATCH_COLUMNS))
        old = self._stored_locally(stored)
        old = old.append_column("is_stored", pa.repeat(True, len(old)))
        new = events.append_column("is_stored", pa.repeat(False, len(events)))
        rows = pa.concat_tables([old, new], promote_options="default")
        folded = self._fold_locally(rows, ("is_stored", *_ORDER))
        return self._with_values(spark.createDataFrame(folded)).toArrow()

    def _stored_locally(self, rows: pa.Table, *more: str) -> pa.Table:
        """As `_stored_rows`."""

        def value(path: str) -> Any:
            column, *fields = path.split(".")
            return pc.struct_field(rows[column], fields) if fields else rows[column]

        def state(path: str, statistic: Statistic) -> Any:
            if statistic.is_plain or not self.derived.has_values:
                return value(path)
            hidden = value(f"{STATE}.{path}")
            if isinstance(statistic, Heaviest):
                parts = [value(path).combine_chunks(), hidden.combine_chunks()]
                return pa.StructArray.from_arrays(parts, ["weights", "rest"])
            return hidden

        columns: dict[str, Any] = {name: rows[name] for name in (*self._keys, *more)} | {"event_time": rows["as_of"]}
        return pa.table(columns | {_state(n): state(path, statistic) for n, path, statistic in self._numbered})

    def _fold_locally(self, rows: pa.Table, order: tuple[str, ...]) -> pa.Table:
        """Rows of the kernels, one per key, in their columns."""
        directions: list[tuple[str, Literal["ascending", "descending"]]] = [
            (name, "descending" if name == "is_stored" else "ascending") for name in (*self._keys, *order)
        ]
        ordered = rows.sort_by(directions).combine_chunks()
        types = {**{key: rows.schema.field(key).type for key in self._keys}, "as_of": TIMESTAMP}
        types |= {_state(n): statistic.kernel.type for n, _, statistic in self._numbered}
        folded = list(self._group_fold.fold(ordered.to_batches()))
        return pa.Table.from_batches(folded, folded[0].schema if folded else pa.schema(list(types.items())))

    def _states_in_facets(self, folded: pa.Table) -> pa.Table:
        states = {path: folded[_state(n)].combine_chunks() for n, path, _ in self._numbered}
        return pa.table({name: folded[name] for name in (*self._keys, "as_of")} | _arrow_facets(states))

    def _with_values(self, folded: DataFrame) -> DataFrame:
        """Rows with values, readings and the column `state`, from those of the kernels."""
        by_path, by_column = self._value_columns
        return folded.select(*by_path).select(*by_column)

    @cached_property
    def _value_columns(self) -> tuple[list[Column], list[Column]]:
        """The columns that readings use, over the rows of the kernels; and the columns of the table over these."""
        values, readable, hidden = {}, {}, {}
        for n, path, statistic in self._numbered:
            state = F.col(_state(n))
            values[path] = F.col(_result(n)) if n in self._results else state
            readable[path] = values[path]
            if isinstance(statistic, Heaviest):
                readable[path], hidden[path] = state["weights"], state["rest"]
            elif not statistic.is_plain:
                hidden[path] = state
        states = [_state(n) for n, _, _ in self._numbered]
        results = [_result(n) for n in self._results]
        keys = [F.col(name) for name in (*self._keys, "as_of")]
        kernel_columns = [F.col(name) for name in (*states, *results)]
        state_column = [F.struct(*_in_facets(hidden)).alias(STATE)] if hidden else []
        return (
            [*keys, F.col("as_of").alias("at"), *_in_facets(values), *kernel_columns],
            [*keys, *_in_facets(readable | self._readings), *state_column],
        )

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


def local_events(events: DataFrame, folds: list[Fold]) -> list[pa.Table]:
    """The events of each fold, with the columns of the kernels; Spark evaluates the expressions of all in one job.

    Events that do not satisfy `where`, or lack a key, are left out.
    """
    prefixes = [f"_{n}_" for n in range(len(folds))]
    columns = [one for prefix, fold in zip(prefixes, folds, strict=True) for one in fold._few_event_columns(prefix)]
    evaluated = events.select(*columns).toArrow()

    def rows(prefix: str, fold: Fold) -> pa.Table:
        names = list(fold._event_columns)
        own = evaluated.select([prefix + name for name in names]).rename_columns(names)
        for key in fold.derived.keys:
            own = own.filter(own[key].is_valid())
        return own

    return [rows(prefix, fold) for prefix, fold in zip(prefixes, folds, strict=True)]


def local_partials(events: DataFrame, folds: list[Fold]) -> list[pa.Table]:
    """The rows of `Fold.partials` for few events and several tables of states, in the process of the driver."""
    rows = local_events(events, folds)
    return [fold._states_in_facets(fold._fold_locally(own, _ORDER)) for fold, own in zip(folds, rows, strict=True)]


def _value_sql(statistic: Statistic) -> str:
    value = f"try_cast(({statistic.sql}) AS {statistic.value_type})"
    return value if statistic.where == "true" else f"CASE WHEN ({statistic.where}) THEN {value} END"


def _state(number: int) -> str:
    return f"_state_{number}"


def _result(number: int) -> str:
    return f"_result_{number}"


def _in_facets(values: dict[str, Column]) -> list[Column]:
    """Columns by path -> columns; the fields of a facet become one struct."""
    return [
        (fields[""] if "" in fields else F.struct(*[value.alias(field) for field, value in fields.items()])).alias(name)
        for name, fields in by_facet(values).items()
    ]


def _arrow_facets(values: dict[str, Any]) -> dict[str, Any]:
    """Arrow arrays by path -> arrays by column; the fields of a facet become one struct."""
    return {
        name: fields[""] if "" in fields else pa.StructArray.from_arrays(list(fields.values()), list(fields))
        for name, fields in by_facet(values).items()
    }
