"""The rows of a batch: a frame that Spark processes, or an Arrow table that the driver's process does.

The functions here, and those of commits.py, accept both and return the same kind, so a stage describes its computation
once. `Batch.select` chooses: it collects few rows. Both ways call the same kernels with the rows in the same order, so
their results are equal bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeVar, cast

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

Rows = TypeVar("Rows", DataFrame, pa.Table)


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


def rows_of(keys: DataFrame, rows: DataFrame, names: Sequence[str]) -> DataFrame:
    """The rows whose key columns are in the frame `keys`."""
    return rows.join(keys.select(*names).distinct(), list(names), "left_semi")


def evaluate(rows: Rows, *steps: Sequence[Column]) -> Rows:
    """Columns over the rows, computed by Spark; the columns of a step use those of the step before."""

    def selected(frame: DataFrame) -> DataFrame:
        return reduce(lambda one, columns: one.select(*columns), steps, frame)

    if isinstance(rows, DataFrame):
        return selected(rows)
    return selected(SparkSession.active().createDataFrame(rows)).toArrow()


def column_names(rows: Rows) -> list[str]:
    """The names of the columns."""
    return rows.columns if isinstance(rows, DataFrame) else rows.column_names


def with_constant(rows: Rows, name: str, value: str | int | bool) -> Rows:
    """The rows with a column that has the same value in all of them; an integer is a BIGINT."""
    if isinstance(rows, DataFrame):
        column = F.lit(value)
        return rows.withColumn(name, column.cast("bigint") if type(value) is int else column)
    return rows.append_column(name, pa.repeat(value, len(rows)))
