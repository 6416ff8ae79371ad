"""MemoryTables: the state of a learner in memory, without Spark, for notebooks, benchmarks and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from profilestream.base.delta_table import Table
from profilestream.learn.kernels.arrays import IS_DELETED
from profilestream.learn.learner_spec import Learned, LearnerSpec


@dataclass(frozen=True)
class MemoryTables:
    """The rows of a learner's tables by name, with all columns except `epoch` and `batch_id`; as StateTables.

    spec.learn(LearnerBatch(rows, len(rows), tables)) learns a batch; `with_learned` is the state after it.
    """

    by_name: Mapping[str, pa.Table] = field(default_factory=dict)

    def rows(
        self, table: Table, columns: Sequence[str], keys: pa.Table | None = None, **values: str | Sequence[int]
    ) -> pa.Table:
        """As StateTables.rows."""
        rows = self.all_rows(table)
        for name, value in values.items():
            type_ = rows.schema.field(name).type
            rows = rows.filter(pc.is_in(rows[name], pa.array([value] if isinstance(value, str) else value, type_)))
        if keys is not None:
            rows = rows.take(_positions(rows, keys, "left semi"))
        return rows.select(list(columns))

    def last_batch(self, table: Table) -> pa.Table:
        """As StateTables.last_batch."""
        return self.all_rows(table)

    def with_learned(self, spec: LearnerSpec, learned: Learned) -> "MemoryTables":
        """The state after a batch, as stage.py commits it.

        Raises:
            KeyError: the result lacks a table or a column of a table.
        """
        return MemoryTables(
            {
                table.name: self._updated(table, learned.rows[table.name])
                if table.is_updated
                else self._appended(table, learned.rows[table.name])
                for table in spec.tables
            }
        )

    def all_rows(self, table: Table) -> pa.Table:
        """The rows of a table, with all columns except `epoch` and `batch_id`."""
        return self.by_name.get(table.name, _schema(table).empty_table())

    def _updated(self, table: Table, rows: pa.Table) -> pa.Table:
        """The stored rows with other keys, and the rows that are not deleted."""
        stored, keys = self.all_rows(table), list(table.key)
        unchanged = _positions(stored, rows.select(keys), "left anti")
        if IS_DELETED in rows.column_names:
            rows = rows.filter(pc.invert(rows[IS_DELETED]))
        return pa.concat_tables([stored.take(unchanged), _with_columns(table, rows)]).combine_chunks()

    def _appended(self, table: Table, rows: pa.Table) -> pa.Table:
        """The rows of the last batch that appended some."""
        return _with_columns(table, rows) if len(rows) else self.all_rows(table)


def _positions(
    rows: pa.Table, keys: pa.Table, join_type: Literal["left semi", "left anti"]
) -> "pa.ChunkedArray[pa.Int64Scalar]":
    """The positions of the rows whose key columns are in another table, or are not."""
    names = keys.column_names
    numbered = rows.select(names).append_column("row", pa.array(range(len(rows)), pa.int64()))
    return numbered.join(keys, names, join_type=join_type)["row"].sort()


def _schema(table: Table) -> pa.Schema:
    return pa.schema([column for column in table.arrow_schema if column.name not in ("epoch", "batch_id")])


def _with_columns(table: Table, rows: pa.Table) -> pa.Table:
    schema = _schema(table)
    return rows.select(schema.names).cast(schema)
