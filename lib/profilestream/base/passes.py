"""Passes: kernels that read several complete tables and write several, called by Spark or by the driver's process.

As in runner.py, the type of the rows decides who calls them.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import pyarrow as pa
from pyspark import cloudpickle
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from profilestream.base.runner import Rows
from profilestream.base.session import materialize

# Rows of an output per Arrow batch that a task returns.
_CHUNK_ROWS = 10_000


@dataclass(frozen=True)
class Pass:
    """A computation over complete tables: by Spark once per partition, with Arrow tables once.

    Args:
        kernel: function of one table per input, by name, and of the arguments of `run_pass`; returns tables by name of
            the output, and results by name. Those that are empty may be missing. The order of the rows of an input is
            not defined.
        inputs, outputs: columns by name. No input, output or result has the name of another one.
        keys: key column by input. All rows with the same key, in all of these inputs, are in one call. If one input has
            a key, each call gets all rows of the inputs without a key; they are `packed` outputs of another pass.
        packed: outputs that Spark moves as one value per call, not as rows.
        results: small objects, such as sums, that the driver gets from each call; pickled, also if a notebook defines
            their class.
    """

    kernel: Callable[..., Mapping[str, Any]]
    inputs: Mapping[str, pa.Schema]
    outputs: Mapping[str, pa.Schema] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    packed: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    def is_binary(self, name: str) -> bool:
        """Whether Spark moves an input, an output or a result as one value per call."""
        is_read_by_all = bool(self.keys) and name in self.inputs and name not in self.keys
        return name in self.packed or name in self.results or is_read_by_all


def run_pass(one: Pass, inputs: Mapping[str, Rows], **arguments: Any) -> tuple[dict[str, Rows], dict[str, list[Any]]]:
    """The outputs of a pass, and the results of all calls, by name. Inputs that are missing have no rows.

    If there is one output and no result, Spark computes it when it is read. Otherwise it computes all of them now, and
    stores the outputs on the executors.

    Raises:
        TypeError: an input or output does not have the declared columns.
    """
    run: Any = _run_by_spark if isinstance(next(iter(inputs.values())), DataFrame) else _run_in_driver
    outputs: tuple[dict[str, Rows], dict[str, list[Any]]] = run(one, inputs, arguments)
    return outputs


def _run_in_driver(
    one: Pass, inputs: Mapping[str, pa.Table], arguments: Mapping[str, Any]
) -> tuple[dict[str, pa.Table], dict[str, list[Any]]]:
    outputs = call_kernel(one, inputs, arguments)
    return outputs, {name: outputs.pop(name) for name in one.results}


def call_kernel(one: Pass, inputs: Mapping[str, pa.Table], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All outputs and lists of results of one call."""
    tables = {
        name: _with_columns(inputs[name], schema, name) if name in inputs else schema.empty_table()
        for name, schema in one.inputs.items()
    }
    returned = one.kernel(**tables, **arguments)
    outputs = {
        name: _with_columns(returned[name], schema, name) if name in returned else schema.empty_table()
        for name, schema in one.outputs.items()
    }
    return outputs | {name: [returned[name]] if name in returned else [] for name in one.results}


def _with_columns(rows: Rows, schema: pa.Schema, name: str) -> Rows:
    """The rows with the columns of the schema only.

    Raises:
        TypeError: a column is missing or has another type; whether values may be null is not compared.
    """
    actual: dict[str, Any] = {each.name: each.type for each in rows.schema} if isinstance(rows, pa.Table) else {}
    expected: dict[str, Any] = {each.name: each.type for each in schema}
    if isinstance(rows, DataFrame):
        actual, expected = (
            {each.name: each.dataType.simpleString() for each in one}
            for one in (rows.schema, from_arrow_schema(schema))
        )
    if wrong := {name: kind for name, kind in expected.items() if actual.get(name) != kind}:
        raise TypeError(f"{name} has the columns {actual}; needed: {wrong}")
    if isinstance(rows, DataFrame):
        return rows.select(*schema.names)
    return pa.Table.from_arrays([rows[column] for column in schema.names], schema=schema)


def _run_by_spark(
    one: Pass, inputs: Mapping[str, DataFrame], arguments: Mapping[str, Any]
) -> tuple[dict[str, DataFrame], dict[str, list[Any]]]:
    """The pass over frames. A row of one input or output is a struct in the column of its name; the others are null."""
    spark = next(iter(inputs.values())).sparkSession
    parts = int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    types = {name: from_arrow_schema(pa.schema([(name, type_)])).fields[0] for name, type_ in _types(one).items()}

    def moved(name: str, frame: DataFrame) -> DataFrame:
        if one.is_binary(name):
            numbers = F.broadcast(spark.range(parts).select(F.col("id").cast("int").alias("part")))
            frame, part, value = frame.crossJoin(numbers), F.col("part"), F.col("packed")
        else:
            frame = _with_columns(frame, one.inputs[name], name)
            part = F.pmod(F.xxhash64(one.keys[name]), F.lit(parts)).cast("int") if one.keys else F.lit(0)
            value = F.struct(*frame.columns)
        null = F.lit(None)
        columns = [(value if other == name else null.cast(types[other].dataType)).alias(other) for other in one.inputs]
        return frame.select(part.alias("part"), *columns)

    rows = reduce(DataFrame.unionByName, [moved(name, frame) for name, frame in inputs.items()])
    if one.keys:
        rows = rows.repartitionById(parts, F.col("part"))
    result_type = T.StructType([types[name] for name in (*one.outputs, *one.results)])
    written = rows.drop("part").mapInArrow(partial(_call_in_task, one=one, arguments=arguments), result_type)
    if one.outputs and len(result_type) > 1:
        written = materialize(written)
    results: dict[str, list[Any]] = {name: [] for name in one.results}
    if one.results:
        is_result = reduce(Column.__or__, [F.col(name).isNotNull() for name in one.results])
        for row in written.select(*one.results).where(is_result).collect():
            for name, cell in row.asDict().items():
                results[name] += [] if cell is None else [pickle.loads(cell)]
    return {name: _rows_of(written, one, name) for name in one.outputs}, results


def _rows_of(written: DataFrame, one: Pass, name: str) -> DataFrame:
    """The rows of an output."""
    columns = F.col(name).alias("packed") if one.is_binary(name) else f"{name}.*"
    return written.where(F.col(name).isNotNull()).select(columns)


def _types(one: Pass) -> dict[str, pa.DataType]:
    """The type of the column of each input, output and result."""
    schemas = {**one.inputs, **one.outputs, **dict.fromkeys(one.results, pa.schema([]))}
    return {name: pa.binary() if one.is_binary(name) else pa.struct(list(schema)) for name, schema in schemas.items()}


def _call_in_task(
    batches: Iterator[pa.RecordBatch], one: Pass, arguments: Mapping[str, Any]
) -> Iterator[pa.RecordBatch]:
    """The outputs and results of the kernel for the rows of one partition."""
    parts = list(batches)
    outputs = call_kernel(one, {name: _table_of(parts, one, name) for name in one.inputs}, arguments)
    del parts
    types: dict[str, Any] = {name: type_ for name, type_ in _types(one).items() if name in outputs}
    for name, output in outputs.items():
        for chunk in _chunks(output, one.is_binary(name)):
            columns = [chunk if other == name else pa.nulls(len(chunk), type_) for other, type_ in types.items()]
            yield pa.RecordBatch.from_arrays(columns, list(types))


def _chunks(output: pa.Table | list[Any], is_binary: bool) -> list[Any]:
    """The rows of an output as arrays of structs, or one binary value per result or packed table."""
    if isinstance(output, list):
        cells = [cloudpickle.dumps(result) for result in output]  # type: ignore[no-untyped-call]
        return [pa.array([cell], pa.binary()) for cell in cells]
    if is_binary:
        return [pa.array([_write_cell(output)], pa.binary())] if output.num_rows else []
    return [part.to_struct_array() for part in output.combine_chunks().to_batches(max_chunksize=_CHUNK_ROWS)]


def _table_of(batches: Sequence[pa.RecordBatch], one: Pass, name: str) -> pa.Table:
    """The rows of an input in a column of these batches."""
    columns: list[Any] = [batch[name].drop_null() for batch in batches]
    schema = one.inputs[name]
    if one.is_binary(name):
        tables = [pa.ipc.open_stream(cell).read_all() for column in columns for cell in column.to_pylist()]
    else:
        tables = [pa.Table.from_struct_array(column).cast(schema) for column in columns if len(column)]
    return pa.concat_tables([schema.empty_table(), *tables])


def _write_cell(table: pa.Table) -> bytes:
    """A table as one binary value in Arrow's IPC format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
