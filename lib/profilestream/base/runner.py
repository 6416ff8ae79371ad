"""The rows of a batch: a frame that Spark processes, or an Arrow table that the driver's process does.

The functions here, and those of commits.py, accept both and return the same kind, so a stage describes its computation
once. `Batch.select` chooses: it collects few rows. Both ways call the same kernels.

There are two forms of kernels. That of `ByKey` reads the sorted rows of one key after another, so results are equal bit
for bit. That of a `Pass` (passes.py) reads several complete tables and writes several.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from profilestream.base.session import broadcast_if_small, frame_of_arrow, materialize

Rows = TypeVar("Rows", DataFrame, pa.Table)
# An Arrow table in more chunks is copied into one: most operations have a cost per chunk.
_MAX_CHUNKS = 20


@dataclass(frozen=True)
class Selection:
    """SQL that Spark evaluates over rows.

    Args:
        columns: of the result, by name.
        where: a SQL condition; other rows are left out.
        keys: columns of the result; rows in which one of them is null are left out.
    """

    columns: dict[str, Column]
    where: str
    keys: tuple[str, ...]

    def rows(self, frame: DataFrame) -> DataFrame:
        """The result, computed by Spark."""
        columns = [column.alias(name) for name, column in self.columns.items()]
        return frame.where(F.expr(self.where)).select(*columns).dropna(subset=list(self.keys))


def collect(frame: DataFrame, selections: Sequence[Selection]) -> list[pa.Table]:
    """The results of several selections over few rows, computed by Spark in one job."""
    prefixes = [f"_{n}_" for n in range(len(selections))]
    columns = [
        F.when(F.expr(one.where), column).alias(prefix + name)  # the keys of rows that are left out are null
        for prefix, one in zip(prefixes, selections, strict=True)
        for name, column in one.columns.items()
    ]
    evaluated = frame.select(*columns).toArrow()

    def result(prefix: str, one: Selection) -> pa.Table:
        rows = evaluated.select([prefix + name for name in one.columns]).rename_columns(list(one.columns))
        for key in one.keys:
            rows = rows.filter(rows[key].is_valid())
        return rows

    return [result(prefix, one) for prefix, one in zip(prefixes, selections, strict=True)]


@dataclass(frozen=True)
class ByKey:
    """A computation over the rows of each key.

    Args:
        keys: columns; all rows of a key are adjacent and in one call.
        order: columns by which the rows of a key are sorted; a minus before the name: in descending order.
        kernel: sorted rows -> result.
        ddl: columns of the result.
    """

    keys: tuple[str, ...]
    order: tuple[str, ...]
    kernel: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    ddl: str


def compute(by_key: ByKey, *parts: Rows) -> Rows:
    """The result over the rows of all parts. A column that a part lacks is null in its rows."""
    if isinstance(parts[0], DataFrame):
        rows = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
        sorting = [F.col(name[1:]).desc() if name.startswith("-") else F.col(name) for name in by_key.order]
        ordered = rows.repartition(*by_key.keys).sortWithinPartitions(*by_key.keys, *sorting)
        return ordered.mapInArrow(by_key.kernel, by_key.ddl)
    directions: list[tuple[str, Literal["ascending", "descending"]]] = [
        (name.removeprefix("-"), "descending" if name.startswith("-") else "ascending")
        for name in (*by_key.keys, *by_key.order)
    ]
    table = pa.concat_tables(parts, promote_options="default")
    results = list(by_key.kernel(table.sort_by(directions).combine_chunks().to_batches()))
    if results:
        return pa.Table.from_batches(results)
    return to_arrow_schema(cast(T.StructType, T.StructType.fromDDL(by_key.ddl)), timezone="UTC").empty_table()


def split_by_keys(rows: Rows, key: str, others: Rows, other_key: str, count: int | None = None) -> tuple[Rows, Rows]:
    """The rows whose key is among the keys of others, and all other rows.

    Args:
        count: number of others, if their keys are unique; by default, their different keys are broadcast.
    """
    if isinstance(rows, DataFrame):
        keys = others.select(F.col(other_key).alias(key))
        keys = F.broadcast(keys.distinct()) if count is None else broadcast_if_small(keys, count)
        return rows.join(keys, key, "left_semi"), rows.join(keys, key, "left_anti")
    is_among = pc.is_in(rows[key], value_set=pc.unique(others[other_key]))
    return _filtered(rows, is_among), _filtered(rows, pc.invert(is_among))


def _filtered(rows: pa.Table, mask: Any) -> pa.Table:
    """The rows where a mask is true; a mask without false values costs no copy of the rows."""
    return rows if pc.all(mask, min_count=0).as_py() else rows.filter(mask)


def left_join(rows: Rows, others: Rows, key: str) -> Rows:
    """The rows with the columns of others, which are null in rows without another one. Keys of others are unique."""
    if isinstance(rows, DataFrame):
        return rows.join(others, key, "left")
    position = pc.index_in(rows[key], value_set=others[key].combine_chunks())
    for name in others.column_names:
        if name != key:
            rows = rows.append_column(name, others[name].take(position))
    return rows


def renamed(rows: Rows, names: Mapping[str, str]) -> Rows:
    """These columns with other names: old name -> new name."""
    if isinstance(rows, DataFrame):
        return rows.select(*[F.col(name).alias(other) for name, other in names.items()])
    return rows.select(list(names)).rename_columns(list(names.values()))


def with_values(rows: Rows, column: str, values: Sequence[int]) -> Rows:
    """The rows whose value in a column is one of these."""
    if isinstance(rows, DataFrame):
        return rows.where(F.col(column).isin(list(values)))
    if not values:
        return rows.slice(0, 0)
    return rows.filter(pc.is_in(rows[column], value_set=pa.array(values, rows.schema.field(column).type)))


def without_nulls(rows: Rows, column: str) -> Rows:
    """The rows with a value in a column."""
    return rows.dropna(subset=[column]) if isinstance(rows, DataFrame) else rows.filter(rows[column].is_valid())


def first_rows(rows: Rows, order: Sequence[str], count: int) -> pa.Table:
    """The first rows in ascending order, in the driver."""
    if isinstance(rows, DataFrame):
        return rows.orderBy(*order).limit(count).toArrow()
    return rows.sort_by([(name, "ascending") for name in order]).slice(0, count)


def with_updates(rows: Rows, updates: Rows, key: str) -> Rows:
    """The updates, and the rows with other keys."""
    if isinstance(rows, DataFrame):
        return updates.unionByName(rows.join(updates.select(key), key, "left_anti").select(*updates.columns))
    _, unchanged = split_by_keys(rows, key, updates, key)
    return concat(unchanged, updates)


def concat(one: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of both tables."""
    rows = pa.concat_tables([one, other])
    return rows.combine_chunks() if rows.column(0).num_chunks > _MAX_CHUNKS else rows


def union(rows: Rows, *others: Rows | pa.Table) -> Rows:
    """The rows of all; a column that some of them lack is null there. Frames can be united with Arrow tables."""
    if not isinstance(rows, DataFrame):
        tables: list[Any] = [rows, *others]
        return pa.concat_tables(tables, promote_options="default")
    frames = [one if isinstance(one, DataFrame) else frame_of_arrow(rows.sparkSession, one) for one in others]
    return reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames, rows)


def collected(rows: Rows) -> pa.Table:
    """The rows in the driver."""
    return rows.toArrow() if isinstance(rows, DataFrame) else rows


def held(rows: Rows) -> Rows:
    """The rows, computed now, so that they can be read several times."""
    return materialize(rows) if isinstance(rows, DataFrame) else rows


def mean(rows: Rows, column: str) -> float | None:
    """The mean of a column; null without values."""
    value = rows.agg(F.avg(column)).collect()[0][0] if isinstance(rows, DataFrame) else pc.mean(rows[column]).as_py()
    return None if value is None else float(value)


def distinct_count(rows: Rows, column: str) -> int:
    """The number of different values of a column."""
    if isinstance(rows, DataFrame):
        return int(rows.agg(F.count_distinct(column)).collect()[0][0])
    return len(pc.unique(rows[column]))


def rows_of(keys: DataFrame, rows: DataFrame, names: Sequence[str]) -> DataFrame:
    """The rows whose key columns are in the frame `keys`."""
    return rows.join(keys.select(*names).distinct(), list(names), "left_semi")


def evaluate(rows: Rows, *steps: Sequence[Column]) -> Rows:
    """Columns over the rows, computed by Spark; the columns of a step use those of the step before."""

    def selected(frame: DataFrame) -> DataFrame:
        return reduce(lambda one, columns: one.select(*columns), steps, frame)

    if isinstance(rows, DataFrame):
        return selected(rows)
    return selected(frame_of_arrow(SparkSession.active(), rows)).toArrow()


def column_names(rows: Rows) -> list[str]:
    """The names of the columns."""
    return rows.columns if isinstance(rows, DataFrame) else rows.column_names


def with_constant(rows: Rows, name: str, value: str | int | bool) -> Rows:
    """The rows with a column that has the same value in all of them; an integer is a BIGINT."""
    if isinstance(rows, DataFrame):
        column = F.lit(value)
        return rows.withColumn(name, column.cast("bigint") if type(value) is int else column)
    return rows.append_column(name, pa.repeat(value, len(rows)))
