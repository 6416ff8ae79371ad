"""Rows of Parquet files, without columns that nobody maps and Spark cannot read."""

import json
import logging
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import files
from profilestream.base.columns import quoted
from profilestream.base.errors import BadSettings, first_sentence
from profilestream.base.jvm import java_class
from profilestream.capture import raw_records
from profilestream.capture.mapping import InputSpec
from profilestream.capture.sources.file_paths import escape_glob, folder_columns, relative_path
from profilestream.capture.typed_values import replace_parts

log = logging.getLogger(__name__)
_NANOS_PER_MICRO = 1000


@dataclass(frozen=True)
class ParquetLayout:
    """What the Parquet files of one frame have in common.

    Args:
        schema: the columns as Spark reads them, as JSON: times in nanoseconds are whole numbers.
        microseconds: the same columns if these times were in microseconds.
        folders: names of the partition values in the path.
    """

    schema: str
    microseconds: str
    folders: tuple[str, ...]


def layout_of(spark: SparkSession, path: str, root: str, spec: InputSpec) -> ParquetLayout:
    """The layout of one file.

    Raises:
        BadSettings: Spark cannot read a column that the mapping declares.
        Exception: of Java, when the file is not a Parquet file.
    """
    message = _message_type(spark, path)
    mapped = raw_records.column_names(spec)
    names = [str(message.getFieldName(n)) for n in range(message.getFieldCount())]
    fields, in_microseconds = [], []
    for n, name in enumerate(names):
        parquet_type = message.getType(n)
        is_other_case = name not in mapped and name.lower() in {m.lower() for m in (*mapped, *names[:n])}
        try:
            if is_other_case:
                raise ValueError("its name differs from another column in capital letters only")
            fields.append(_spark_field(spark, parquet_type))
            if "TimeType" in repr(fields[-1].dataType):
                raise ValueError(f"Spark has no operations on the type {fields.pop().dataType.simpleString()}")
        except (PySparkException, Py4JJavaError, ValueError) as error:
            if name in mapped:
                raise BadSettings(
                    f"Spark cannot read the column {name!r} ({parquet_type}): {_text(error)}",
                    where=path, do="write the file with another type, or remove the column from the mapping",
                ) from error  # fmt: skip
            log.warning("column %s of %s is left out: %s", name, path, _text(error))
            continue
        in_microseconds.append(_spark_field(spark, _with_microseconds(spark, parquet_type)))
    return ParquetLayout(
        T.StructType(fields).json(), T.StructType(in_microseconds).json(), folder_columns(path, root)
    )  # fmt: skip


def count_rows(paths: list[str]) -> int | None:
    """The number of rows of local files; null if it is unknown."""
    local_paths = [local for path in paths if (local := files.local_path(path)) is not None]
    try:
        rows = [pq.read_metadata(path).num_rows for path in local_paths]
    except (OSError, pa.ArrowException):  # Spark reports the error
        return None
    return sum(rows) if len(rows) == len(paths) else None


def read_records(
    spark: SparkSession, paths: list[str], root: str, spec: InputSpec, layout: ParquetLayout, max_line_bytes: int,
    tasks: int,
) -> DataFrame:  # fmt: skip
    """The records of files with one layout, as `raw_records.COLUMNS`. Nanoseconds are cut to microseconds."""
    stored = T.StructType.fromJson(json.loads(layout.schema))
    rows = spark.read.schema(stored).parquet(*[escape_glob(path) for path in paths])
    source_file = relative_path(F.col("_metadata.file_path"), root)
    in_microseconds = T.StructType.fromJson(json.loads(layout.microseconds))
    cells = {field.name: F.col(quoted(field.name)) for field in stored}
    for field in in_microseconds:
        data_type = _with_nanoseconds(stored[field.name].dataType, field.dataType)
        replaced = replace_parts(cells[field.name], data_type, _nanoseconds_as_time)
        cells[field.name] = cells[field.name] if replaced is None else replaced
    placed = rows.select(
        F.concat_ws(":", source_file, F.col("_metadata.row_index") + 1).alias("position"),
        source_file.alias("source_file"),
        F.struct(*[cell.alias(name) for name, cell in cells.items()]).alias("row"),
    )
    row_type = placed.schema["row"].dataType
    assert isinstance(row_type, T.StructType)
    return raw_records.from_struct(placed.coalesce(tasks), row_type, spec, layout.folders)


class _Nanoseconds(T.DataType):
    """The type of a whole number that is a time in nanoseconds.

    Args:
        time: type of the same time in microseconds.
    """

    def __init__(self, time: T.DataType) -> None:
        self.time = time


def _with_nanoseconds(stored: T.DataType, in_microseconds: T.DataType) -> T.DataType:
    """The stored type with _Nanoseconds at each depth where it has a whole number and the other type has a time."""
    if isinstance(stored, T.StructType) and isinstance(in_microseconds, T.StructType):
        fields = zip(stored, in_microseconds, strict=True)
        return T.StructType([T.StructField(a.name, _with_nanoseconds(a.dataType, b.dataType)) for a, b in fields])
    if isinstance(stored, T.ArrayType) and isinstance(in_microseconds, T.ArrayType):
        return T.ArrayType(_with_nanoseconds(stored.elementType, in_microseconds.elementType))
    if isinstance(stored, T.MapType) and isinstance(in_microseconds, T.MapType):
        return T.MapType(
            _with_nanoseconds(stored.keyType, in_microseconds.keyType),
            _with_nanoseconds(stored.valueType, in_microseconds.valueType),
        )
    is_time = isinstance(in_microseconds, (T.TimestampType, T.TimestampNTZType))
    return _Nanoseconds(in_microseconds) if isinstance(stored, T.LongType) and is_time else stored


def _nanoseconds_as_time(value: Column, stored: T.DataType) -> Column | None:
    """The time, cut to microseconds: a time before 1970 is rounded down too."""
    if not isinstance(stored, _Nanoseconds):
        return None
    is_cut = (value < 0) & (value % _NANOS_PER_MICRO != 0)
    micros = F.call_function("div", value, F.lit(_NANOS_PER_MICRO)) - is_cut.cast("int")
    return F.timestamp_micros(micros).cast(stored.time)


def _with_microseconds(spark: SparkSession, parquet_type: Any) -> Any:
    """The Parquet type with microseconds instead of nanoseconds at every depth."""
    if not parquet_type.isPrimitive():
        fields = java_class(spark, "java.util.ArrayList")()
        for n in range(parquet_type.getFieldCount()):
            fields.add(_with_microseconds(spark, parquet_type.getType(n)))
        return parquet_type.withNewFields(fields)
    annotation = parquet_type.getLogicalTypeAnnotation()
    if not str(annotation).startswith("TIMESTAMP(NANOS"):
        return parquet_type
    micros = java_class(spark, "org.apache.parquet.schema.LogicalTypeAnnotation$TimeUnit").MICROS
    time = java_class(spark, "org.apache.parquet.schema.LogicalTypeAnnotation").timestampType(
        annotation.isAdjustedToUTC(), micros
    )
    types = java_class(spark, "org.apache.parquet.schema.Types")
    builder = types.primitive(parquet_type.getPrimitiveTypeName(), parquet_type.getRepetition())
    return getattr(builder, "as")(time).named(parquet_type.getName())


def _message_type(spark: SparkSession, path: str) -> Any:
    """The schema in the footer of the file."""
    conf = spark._jsc.hadoopConfiguration()
    file = java_class(spark, "org.apache.parquet.hadoop.util.HadoopInputFile").fromPath(
        files.hadoop_path(spark, path), conf
    )
    reader = java_class(spark, "org.apache.parquet.hadoop.ParquetFileReader").open(file)
    try:
        return reader.getFooter().getFileMetaData().getSchema()
    finally:
        reader.close()


def _spark_field(spark: SparkSession, parquet_type: Any) -> T.StructField:
    """The column as Spark reads it."""
    package = "org.apache.spark.sql.execution.datasources.parquet.ParquetToSparkSchemaConverter"
    conf = spark._jsparkSession.sessionState().conf().clone()
    conf.setConfString("spark.sql.legacy.parquet.nanosAsLong", "true")
    converter = java_class(spark, package)(conf)
    message = java_class(spark, "org.apache.parquet.schema.Types").buildMessage().addField(parquet_type).named("spark")
    schema = T.StructType.fromJson(json.loads(converter.convert(message).json()))
    field = schema.fields[0]
    return T.StructField(field.name, field.dataType, True)


def _text(error: Exception) -> str:
    message = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    return first_sentence(message)[:200]
