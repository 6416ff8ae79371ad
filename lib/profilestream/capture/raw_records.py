"""Raw input as records: position, verbatim payload, parse fault, and raw columns.

Every reader returns the same columns, so later steps do not depend on the format:

    position, payload, payload_encoding (utf8, base64), payload_header (CSV header of the line)
    fault, fault_reason     why the payload cannot be parsed; null when it can
    raw                     struct of the raw columns of the mapping
    extra                   map of the fields that the mapping does not name; null when there are none
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import cast

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import files
from profilestream.base.errors import SourceUnreadable
from profilestream.capture.mapping import InputSpec

COLUMNS = ("position", "payload", "payload_encoding", "payload_header", "fault", "fault_reason", "raw", "extra")

# Positions must not depend on the number of cores: with these settings every file is split at multiples of 32 MB, and
# no partition contains parts of two files.
_SPLIT_SETTINGS = {
    "spark.sql.files.maxPartitionBytes": str(32 << 20),
    "spark.sql.files.openCostInBytes": str(32 << 20),
    "spark.sql.files.minPartitionNum": "1",
}
# Mask for the line number within a split: the upper bits of the id are the partition, and a partition is one split.
_ROW_IN_SPLIT = (1 << 33) - 1
# Above 20,480 cells Spark's CSV parser fails instead of marking the line as corrupt.
_MAX_CSV_CELLS = 20_000
# Longer lines are not checked for being blank; a blank line of that length is rejected as unparseable.
_MAX_BLANK_LINE_BYTES = 200


def from_files(
    spark: SparkSession, paths: list[str], root: str, spec: InputSpec, *, max_line_bytes: int, tasks: int = 2
) -> DataFrame:
    """Records of the files of a batch.

    Args:
        root: folder of the source; positions are relative to it.
        tasks: maximum number of tasks that read and parse the files.

    Raises:
        SourceUnreadable: the header of a file cannot be read.
    """
    by_layout = _group_by_layout(spark, paths, spec)
    read = _read_parquet if spec.format == "parquet" else _read_lines
    frames = [
        read(spark, group, root, spec, layout, max_line_bytes, max(1, tasks * len(group) // len(paths)))
        for layout, group in by_layout.items()
    ]
    return reduce(DataFrame.unionByName, frames) if frames else empty(spark, spec)


def empty(spark: SparkSession, spec: InputSpec) -> DataFrame:
    """A frame without records, with all columns."""
    no_lines = spark.createDataFrame([], "value string, position string, payload_header string")
    return parse_lines(no_lines, spec, _column_names(spec), max_line_bytes=1)


def from_rows(rows: DataFrame, spec: InputSpec, batch_id: int) -> DataFrame:
    """Records of the rows of a Delta source. The position is the place in the micro-batch: table rows have no other."""
    placed = rows.select(
        F.concat_ws(":", F.lit(batch_id), F.monotonically_increasing_id()).alias("position"),
        F.struct(*rows.columns).alias("row"),
    )
    return _from_struct(placed, rows.schema, spec)


def parse_lines(lines: DataFrame, spec: InputSpec, names: tuple[str, ...], *, max_line_bytes: int) -> DataFrame:
    """Records of text lines (`value`, `position`, `payload_header`), each parsed once.

    Args:
        names: column names of the CSV cells, in order; ignored for JSON lines.
    """
    value, readable = F.col("value"), F.col("_readable")
    too_long = F.octet_length(value) > max_line_bytes
    parse = _parse_csv if spec.format == "csv" else _parse_json
    parseable = F.when(readable & ~too_long, value)
    parsed = parse(lines.withColumn("_readable", F.is_valid_utf8(value)), parseable, spec, names)
    fault = F.when(~readable, "not_utf8").when(too_long, "line_too_long").otherwise(parsed.fault)
    reason = (
        F.when(~readable, "the line contains bytes that are not UTF-8")
        .when(too_long, f"the line is longer than {max_line_bytes} bytes")
        .otherwise(parsed.reason)
    )
    flat = parsed.frame.select(
        "position",
        F.when(readable, value).otherwise(F.base64(value.cast("binary"))).alias("payload"),
        F.when(readable, "utf8").otherwise("base64").alias("payload_encoding"),
        "payload_header",
        fault.alias("fault"),
        F.when(fault.isNotNull(), reason).alias("fault_reason"),
        *[cell.alias(f"_cell_{name}") for name, cell in parsed.cells.items()],
        parsed.extra.alias("extra"),
    )
    raw = F.struct(*[F.col(f"`_cell_{name}`").alias(name) for name in parsed.cells])
    return flat.withColumn("raw", raw).select(*COLUMNS)


def schema(spec: InputSpec) -> T.StructType:
    """The raw columns of the mapping; needs a running session."""
    return cast(T.StructType, T.StructType.fromDDL(spec.columns))


def split_header(header: str, spec: InputSpec) -> tuple[str, ...]:
    """Column names in a CSV header line."""
    return tuple(n.strip() for n in next(csv.reader([header], delimiter=spec.separator, quotechar=spec.quote), []))


def _column_names(spec: InputSpec) -> tuple[str, ...]:
    return tuple(schema(spec).names)


def _group_by_layout(spark: SparkSession, paths: list[str], spec: InputSpec) -> dict[str, list[str]]:
    """Files grouped by CSV header line or by Parquet schema; other formats are one group."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        try:
            if spec.format == "csv" and spec.header:
                groups[files.first_line(spark, path, spec.encoding)].append(path)
            elif spec.format == "parquet":
                groups[spark.read.parquet(_escape_glob(path)).schema.json()].append(path)
            else:
                groups[""].append(path)
        except Exception as error:
            raise unreadable(path, error) from error
    return groups


def _escape_glob(path: str) -> str:
    """The path with glob characters escaped: Spark reads `log[1].csv` as a pattern."""
    return re.sub(r"([][{}*?\\])", r"\\\1", path)


def unreadable(path: str, error: Exception) -> SourceUnreadable:
    """The error for a file that fails while it is read."""
    message = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    message = (message.splitlines() or [type(error).__name__])[0]
    return SourceUnreadable(
        f"a file cannot be read ({message[:200]})",
        where=path,
        do=f"repair or remove the file, or skip it: --skip-file {path}",
    )


@contextmanager
def reading_files(spark: SparkSession, paths: list[str]) -> Iterator[None]:
    """Settings for every Spark action that reads records of files: only with them are positions correct.

    Raises:
        SourceUnreadable: one of the files cannot be read.
    """
    previous = {key: spark.conf.get(key, None) for key in _SPLIT_SETTINGS}
    for key, value in _SPLIT_SETTINGS.items():
        spark.conf.set(key, value)
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        named_paths = [
            path for path in paths if any(p.removeprefix("file:") in text for p in (path, files.metadata_path(path)))
        ]
        if "FAILED_READ_FILE" in text and named_paths:
            raise unreadable(named_paths[0], error) from error
        raise
    finally:
        for key, previous_value in previous.items():
            if previous_value is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, previous_value)


def _read_lines(
    spark: SparkSession, paths: list[str], root: str, spec: InputSpec, layout: str, max_line_bytes: int, tasks: int
) -> DataFrame:
    text = spark.read.text([_escape_glob(path) for path in paths]).select(
        "value",
        _relative_path(F.col("_metadata.file_path"), root).alias("_file"),
        F.col("_metadata.file_block_start").alias("_start"),
        (F.monotonically_increasing_id().bitwiseAND(F.lit(_ROW_IN_SPLIT)) + 1).alias("_line"),
    )
    value = F.col("value")
    if spec.encoding != "UTF-8":
        value = F.decode(value.cast("binary"), spec.encoding)
    is_first = (F.col("_start") == 0) & (F.col("_line") == 1)
    # A regular expression would replace bytes that are not UTF-8.
    value = F.when(is_first & value.startswith("\ufeff"), F.substr(value, F.lit(2))).otherwise(value)
    is_record = (F.octet_length(value) > _MAX_BLANK_LINE_BYTES) | (F.trim(value) != "")
    if spec.format == "csv" and spec.header:
        is_record = is_record & ~is_first
    line = F.col("_line").cast("string")
    place = F.when(F.col("_start") == 0, line).otherwise(F.concat_ws("+", "_start", line))
    has_header = spec.format == "csv" and spec.header
    lines = text.where(is_record).select(
        value.alias("value"),
        F.concat_ws(":", "_file", place).alias("position"),
        F.lit(layout if has_header else None).cast("string").alias("payload_header"),
    )
    names = split_header(layout, spec) if has_header else _column_names(spec)
    return parse_lines(lines.coalesce(tasks), spec, names, max_line_bytes=max_line_bytes)


def _relative_path(path: Column, root: str) -> Column:
    """The path of the file relative to the folder of the source; the file name if the source is one file."""
    prefix = files.metadata_path(root).rstrip("/") + "/"
    below = F.substr(path, F.lit(len(prefix) + 1))
    return F.when(path.startswith(prefix), below).otherwise(F.substring_index(path, "/", -1))


@dataclass(frozen=True)
class _ParsedLines:
    """Parsed lines: a frame, and columns over it.

    Args:
        cells: the raw columns, in the order of the mapping.
        fault, reason: why the line cannot be parsed; the fault is null when it can.
        extra: fields that the mapping does not name.
    """

    frame: DataFrame
    cells: dict[str, Column]
    fault: Column
    reason: Column
    extra: Column


def _parse_csv(lines: DataFrame, parseable: Column, spec: InputSpec, names: tuple[str, ...]) -> _ParsedLines:
    """Lines of one header. Of cells with the same name, the first one is used.

    Each line is parsed with an additional cell at its end. from_csv closes a quote that is open at the end of a line.
    The additional cell is then part of the quoted cell, so the line has too few cells and is recognized as truncated.
    """
    cells = [name if name and name not in names[:i] else f"_column_{i + 1}" for i, name in enumerate(names)]
    places = {cell: f"_{i}" for i, cell in enumerate(cells)}
    ddl = ", ".join(f"{place} string" for place in (*places.values(), "_end", "_corrupt"))
    options = {
        "sep": spec.separator, "quote": spec.quote, "escape": spec.quote, "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_corrupt", "maxCharsPerColumn": "-1",
    }  # fmt: skip
    separators = F.length(parseable) - F.length(F.replace(parseable, F.lit(spec.separator)))
    has_too_many_cells = (F.octet_length(parseable) >= _MAX_CSV_CELLS) & (separators >= _MAX_CSV_CELLS)
    extended = F.concat(F.when(~has_too_many_cells, parseable), F.lit(spec.separator + "."))
    parsed = lines.withColumn("_cells", F.from_csv(extended, ddl, options))
    raw_names = schema(spec).names
    values = {cell: F.col("_cells")[place] for cell, place in places.items()}
    return _ParsedLines(
        parsed,
        cells={name: values.get(name, F.lit(None).cast("string")) for name in raw_names},
        fault=F.when(F.col("_cells").isNull() | F.col("_cells._corrupt").isNotNull(), "unparseable"),
        reason=F.lit(f"not a CSV line of {len(cells)} cells"),
        extra=_non_null_map({cell: column for cell, column in values.items() if cell not in raw_names}),
    )


def _parse_json(lines: DataFrame, parseable: Column, spec: InputSpec, names: tuple[str, ...]) -> _ParsedLines:
    """Lines parsed once, as maps, which also contain the keys that the mapping does not name.

    Each line is parsed as an array of one object and a null. from_json reads the first value of a text and ignores the
    rest; in an array, any text after the object makes the array invalid or gives it another length than two.
    """
    fields = schema(spec)
    array = F.from_json(F.concat(F.lit("["), parseable, F.lit(",null]")), "array<map<string,string>>")
    parsed = lines.withColumn("_objects", array)
    json_object = F.get("_objects", F.lit(0))
    is_object = F.coalesce((F.size("_objects") == 2) & json_object.isNotNull(), F.lit(False))
    cells = {f.name: F.try_element_at(json_object, F.lit(f.name)) for f in fields}
    nested = {f"_in_{f.name}": _parse_nested(cells[f.name], f.dataType) for f in fields if _is_nested(f)}
    if nested:
        parsed = parsed.withColumns(nested)
    typed = {
        f.name: _nested_value(f"_in_{f.name}") if _is_nested(f) else cells[f.name].try_cast(f.dataType) for f in fields
    }
    lost = [cells[f.name].isNotNull() & typed[f.name].isNull() for f in fields if f.dataType.typeName() != "string"]
    is_wrong_type = reduce(Column.__or__, lost, F.lit(False))
    non_null_cells = reduce(Column.__add__, [cell.isNotNull().cast("int") for cell in cells.values()])
    extra = F.map_filter(json_object, lambda key, value: ~key.isin(fields.names) & value.isNotNull())
    return _ParsedLines(
        parsed,
        cells=typed,
        fault=F.when(~is_object, "unparseable").when(is_wrong_type, "wrong_type"),
        reason=F.when(is_object, _wrong_type_reason(spec)).otherwise("not one JSON object"),
        extra=F.when(F.size(json_object) > non_null_cells, F.when(F.size(extra) > 0, extra)),
    )


def _parse_nested(cell: Column, data_type: T.DataType) -> Column:
    """An array, struct or map that from_json returned as text: `v`, and `_corrupt` where a part has another type."""
    text = F.concat(F.lit('{"v":'), cell, F.lit("}"))
    options = {"columnNameOfCorruptRecord": "_corrupt"}
    return F.from_json(text, f"v {data_type.simpleString()}, _corrupt string", options)


def _nested_value(column: str) -> Column:
    return F.when(F.col(f"`{column}`")["_corrupt"].isNull(), F.col(f"`{column}`")["v"])


def _wrong_type_reason(spec: InputSpec) -> Column:
    columns = " ".join(spec.columns.split())
    return F.lit(f"a value does not have the type that the mapping declares: {columns}")


def _read_parquet(
    spark: SparkSession, paths: list[str], root: str, spec: InputSpec, layout: str, max_line_bytes: int, tasks: int
) -> DataFrame:
    stored = T.StructType.fromJson(json.loads(layout))
    rows = spark.read.schema(stored).parquet(*[_escape_glob(path) for path in paths])
    placed = rows.select(
        F.concat_ws(":", _relative_path(F.col("_metadata.file_path"), root), F.col("_metadata.row_index") + 1).alias(
            "position"
        ),
        F.struct(*[F.col(f"`{name}`") for name in stored.names]).alias("row"),
    )
    return _from_struct(placed.coalesce(tasks), stored, spec)


def _from_struct(placed: DataFrame, stored: T.StructType, spec: InputSpec) -> DataFrame:
    """Records of typed rows (`position`, `row`); the payload is the row as JSON."""
    fields = schema(spec)
    stored_names = set(stored.names)
    cells = {f.name: F.col("row")[f.name] if f.name in stored_names else F.lit(None) for f in fields}
    casts = {f.name: _cast_if_possible(placed, cells[f.name], f.dataType) for f in fields}
    lost = [cells[f.name].isNotNull() & casts[f.name].isNull() for f in fields if f.name in stored_names]
    is_wrong_type = reduce(Column.__or__, lost, F.lit(False))
    others = {name: F.col("row")[name] for name in stored.names if name not in set(fields.names)}
    return placed.select(
        "position",
        F.to_json("row").alias("payload"),
        F.lit("utf8").alias("payload_encoding"),
        F.lit(None).cast("string").alias("payload_header"),
        F.when(is_wrong_type, "wrong_type").alias("fault"),
        F.when(is_wrong_type, _wrong_type_reason(spec)).alias("fault_reason"),
        F.struct(*[column.alias(name) for name, column in casts.items()]).alias("raw"),
        _non_null_map(
            {name: F.to_json(c) if _is_nested(stored[name]) else c.cast("string") for name, c in others.items()}
        ).alias("extra"),
    )


def _cast_if_possible(placed: DataFrame, cell: Column, data_type: T.DataType) -> Column:
    """The cell in the type that the mapping declares; null when Spark has no cast between the two types."""
    try:
        placed.select(cell.try_cast(data_type))
    except AnalysisException:
        return F.lit(None).cast(data_type)
    return cell.try_cast(data_type)


def _is_nested(field: T.StructField) -> bool:
    return isinstance(field.dataType, (T.StructType, T.ArrayType, T.MapType))


def _non_null_map(values: dict[str, Column]) -> Column:
    """A map of the values that are not null; null when all are null."""
    if not values:
        return F.lit(None).cast("map<string,string>")
    pairs = F.map_from_arrays(F.array(*[F.lit(n) for n in values]), F.array(*values.values()))
    non_null = F.map_filter(pairs, lambda _, value: value.isNotNull())
    return F.when(F.size(non_null) > 0, non_null)
