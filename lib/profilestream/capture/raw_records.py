"""Raw input as records: position, verbatim payload, what is wrong with it as a line, and its raw columns.

Every reader ends in the same columns, so that nothing later depends on the format:

    position, payload, payload_encoding (utf8, base64), payload_header (the CSV header the line belongs to)
    fault, fault_reason     null, or why the payload cannot be read at all
    raw                     struct of the mapping's raw columns
    extra                   map of what the mapping does not name; null when there is nothing
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
from profilestream.capture.mapping import Input

COLUMNS = ("position", "payload", "payload_encoding", "payload_header", "fault", "fault_reason", "raw", "extra")

# Positions must not depend on the number of cores: with these every file is cut at multiples of 32 MB, and no two files
# share a task.
_SPLITS = {
    "spark.sql.files.maxPartitionBytes": str(32 << 20),
    "spark.sql.files.openCostInBytes": str(32 << 20),
    "spark.sql.files.minPartitionNum": "1",
}
# A line's number within its split: the upper bits of the id name the task, and each task reads one split.
_ROW_IN_SPLIT = (1 << 33) - 1
# Spark's CSV parser raises, instead of telling a broken line, above 20,480 cells.
_MOST_CELLS = 20_000
# Lines above this many bytes are not searched for blanks only; a blank line that long is told as unparseable.
_SURELY_NOT_BLANK = 200


def from_files(
    spark: SparkSession, paths: list[str], root: str, shape: Input, *, max_line_bytes: int, tasks: int = 2
) -> DataFrame:
    """Records of the files of a batch.

    Args:
        root: the source's folder; positions are relative to it.
        tasks: how many share the work behind the reading, where one task reads one file.

    Raises:
        SourceUnreadable: a file that breaks already when its head is read.
    """
    by_layout = _layouts(spark, paths, shape)
    read = _parquet if shape.format == "parquet" else _lines
    frames = [
        read(spark, group, root, shape, layout, max_line_bytes, max(1, tasks * len(group) // len(paths)))
        for layout, group in by_layout.items()
    ]
    return reduce(DataFrame.unionByName, frames) if frames else empty(spark, shape)


def empty(spark: SparkSession, shape: Input) -> DataFrame:
    """No records, in the right columns."""
    no_lines = spark.createDataFrame([], "value string, position string, payload_header string")
    return parsed_lines(no_lines, shape, _names(shape), max_line_bytes=1)


def from_rows(rows: DataFrame, shape: Input, batch_id: int) -> DataFrame:
    """Records of a Delta source's rows. Their position is their place in the micro-batch, since a row has no other."""
    placed = rows.select(
        F.concat_ws(":", F.lit(batch_id), F.monotonically_increasing_id()).alias("position"),
        F.struct(*rows.columns).alias("row"),
    )
    return _from_struct(placed, rows.schema, shape)


def parsed_lines(lines: DataFrame, shape: Input, names: tuple[str, ...], *, max_line_bytes: int) -> DataFrame:
    """Records of text lines (`value`, `position`, `payload_header`), each parsed once.

    Args:
        names: the CSV columns in the order in which these lines have them; passed over for JSON lines.
    """
    value, readable = F.col("value"), F.col("_readable")
    too_long = F.octet_length(value) > max_line_bytes
    parse = _parsed_csv if shape.format == "csv" else _parsed_json
    sound = F.when(readable & ~too_long, value)
    parsed = parse(lines.withColumn("_readable", F.is_valid_utf8(value)), sound, shape, names)
    fault = F.when(~readable, "not_utf8").when(too_long, "line_too_long").otherwise(parsed.fault)
    reason = (
        F.when(~readable, "the line holds bytes that are not UTF-8")
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


def schema(shape: Input) -> T.StructType:
    """The mapping's raw columns; needs a running session."""
    return cast(T.StructType, T.StructType.fromDDL(shape.columns))


def split_header(header: str, shape: Input) -> tuple[str, ...]:
    """Column names in a CSV header line."""
    return tuple(n.strip() for n in next(csv.reader([header], delimiter=shape.separator, quotechar=shape.quote), []))


def _names(shape: Input) -> tuple[str, ...]:
    return tuple(schema(shape).names)


def _layouts(spark: SparkSession, paths: list[str], shape: Input) -> dict[str, list[str]]:
    """Files by what they have in common: the CSV header line, the Parquet schema, or nothing."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        try:
            if shape.format == "csv" and shape.header:
                groups[files.first_line(spark, path, shape.encoding)].append(path)
            elif shape.format == "parquet":
                groups[spark.read.parquet(_literal(path)).schema.json()].append(path)
            else:
                groups[""].append(path)
        except Exception as error:
            raise unreadable(path, error) from error
    return groups


def _literal(path: str) -> str:
    """The path as Spark reads names: it takes `log[1].csv` for a pattern."""
    return re.sub(r"([][{}*?\\])", r"\\\1", path)


def unreadable(path: str, error: Exception) -> SourceUnreadable:
    """The error for a file that breaks while it is read."""
    words = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    words = (words.splitlines() or [type(error).__name__])[0]
    return SourceUnreadable(
        f"a file cannot be read ({words[:200]})",
        where=path,
        do=f"mend or remove the file, or go on without it: --skip-file {path}",
    )


@contextmanager
def reading(spark: SparkSession, paths: list[str]) -> Iterator[None]:
    """Around every action that reads records of files: positions are right only then, and failures name the file."""
    before = {key: spark.conf.get(key, None) for key in _SPLITS}
    for key, value in _SPLITS.items():
        spark.conf.set(key, value)
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        named = [
            path for path in paths if any(p.removeprefix("file:") in text for p in (path, files.as_metadata(path)))
        ]
        if "FAILED_READ_FILE" in text and named:
            raise unreadable(named[0], error) from error
        raise
    finally:
        for key, was in before.items():
            if was is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, was)


def _lines(
    spark: SparkSession, paths: list[str], root: str, shape: Input, layout: str, max_line_bytes: int, tasks: int
) -> DataFrame:
    text = spark.read.text([_literal(path) for path in paths]).select(
        "value",
        _relative(F.col("_metadata.file_path"), root).alias("_file"),
        F.col("_metadata.file_block_start").alias("_start"),
        (F.monotonically_increasing_id().bitwiseAND(F.lit(_ROW_IN_SPLIT)) + 1).alias("_line"),
    )
    value = F.col("value")
    if shape.encoding != "UTF-8":
        value = F.decode(value.cast("binary"), shape.encoding)
    first = (F.col("_start") == 0) & (F.col("_line") == 1)
    # Not by a regular expression: that would mend bytes that are not UTF-8.
    value = F.when(first & value.startswith("\ufeff"), F.substr(value, F.lit(2))).otherwise(value)
    is_record = (F.octet_length(value) > _SURELY_NOT_BLANK) | (F.trim(value) != "")
    if shape.format == "csv" and shape.header:
        is_record = is_record & ~first
    line = F.col("_line").cast("string")
    place = F.when(F.col("_start") == 0, line).otherwise(F.concat_ws("+", "_start", line))
    has_header = shape.format == "csv" and shape.header
    lines = text.where(is_record).select(
        value.alias("value"),
        F.concat_ws(":", "_file", place).alias("position"),
        F.lit(layout if has_header else None).cast("string").alias("payload_header"),
    )
    names = split_header(layout, shape) if has_header else _names(shape)
    return parsed_lines(lines.coalesce(tasks), shape, names, max_line_bytes=max_line_bytes)


def _relative(path: Column, root: str) -> Column:
    """The file's path below the source's folder; its bare name when the source is that file."""
    prefix = files.as_metadata(root).rstrip("/") + "/"
    below = F.substr(path, F.lit(len(prefix) + 1))
    return F.when(path.startswith(prefix), below).otherwise(F.substring_index(path, "/", -1))


@dataclass(frozen=True)
class _Parsed:
    """Lines that were parsed, and how to read what came of them: columns over `frame`.

    Args:
        cells: the raw columns, in the mapping's order.
        fault, reason: null, or why the line cannot be read.
    """

    frame: DataFrame
    cells: dict[str, Column]
    fault: Column
    reason: Column
    extra: Column


def _parsed_csv(lines: DataFrame, sound: Column, shape: Input, names: tuple[str, ...]) -> _Parsed:
    """Lines of one header. A name that stands twice counts once, at its first place.

    Each line is parsed with one more cell at its end, since from_csv closes a quote that is open at the end of a line:
    so the cell is swallowed, and a line that was cut there is known.
    """
    cells = [name if name and name not in names[:i] else f"_column_{i + 1}" for i, name in enumerate(names)]
    places = {cell: f"_{i}" for i, cell in enumerate(cells)}
    typed = ", ".join(f"{place} string" for place in (*places.values(), "_end", "_corrupt"))
    options = {
        "sep": shape.separator, "quote": shape.quote, "escape": shape.quote, "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_corrupt", "maxCharsPerColumn": "-1",
    }  # fmt: skip
    separators = F.length(sound) - F.length(F.replace(sound, F.lit(shape.separator)))
    crowded = (F.octet_length(sound) >= _MOST_CELLS) & (separators >= _MOST_CELLS)
    whole = F.concat(F.when(~crowded, sound), F.lit(shape.separator + "."))
    parsed = lines.withColumn("_cells", F.from_csv(whole, typed, options))
    wanted = schema(shape).names
    value = {cell: F.col("_cells")[place] for cell, place in places.items()}
    return _Parsed(
        parsed,
        cells={name: value.get(name, F.lit(None).cast("string")) for name in wanted},
        fault=F.when(F.col("_cells").isNull() | F.col("_cells._corrupt").isNotNull(), "unparseable"),
        reason=F.lit(f"not a CSV line of {len(cells)} cells"),
        extra=_present({cell: column for cell, column in value.items() if cell not in wanted}),
    )


def _parsed_json(lines: DataFrame, sound: Column, shape: Input, names: tuple[str, ...]) -> _Parsed:
    """Lines parsed once, as maps: so unknown keys are found without a second look.

    Each line is parsed as an array of one object and a null, since from_json reads the first value of a text and
    passes over whatever follows: that makes the array unreadable, or of another length than two.
    """
    wanted = schema(shape)
    one = F.from_json(F.concat(F.lit("["), sound, F.lit(",null]")), "array<map<string,string>>")
    parsed = lines.withColumn("_objects", one)
    found = F.get("_objects", F.lit(0))
    is_one = F.coalesce((F.size("_objects") == 2) & found.isNotNull(), F.lit(False))
    cells = {f.name: F.try_element_at(found, F.lit(f.name)) for f in wanted}
    inner = {f"_in_{f.name}": _inner_json(cells[f.name], f.dataType) for f in wanted if _nested(f)}
    if inner:
        parsed = parsed.withColumns(inner)
    typed = {f.name: _whole(f"_in_{f.name}") if _nested(f) else cells[f.name].try_cast(f.dataType) for f in wanted}
    lost = [cells[f.name].isNotNull() & typed[f.name].isNull() for f in wanted if f.dataType.typeName() != "string"]
    wrong = reduce(Column.__or__, lost, F.lit(False))
    present = reduce(Column.__add__, [cell.isNotNull().cast("int") for cell in cells.values()])
    more = F.map_filter(found, lambda key, value: ~key.isin(wanted.names) & value.isNotNull())
    return _Parsed(
        parsed,
        cells=typed,
        fault=F.when(~is_one, "unparseable").when(wrong, "wrong_type"),
        reason=F.when(is_one, _wrong_type(shape)).otherwise("not one JSON object"),
        extra=F.when(F.size(found) > present, F.when(F.size(more) > 0, more)),
    )


def _inner_json(cell: Column, kind: T.DataType) -> Column:
    """An array, struct or map, which from_json gave as text: `v`, and `_odd` when anything in it has another type."""
    within = F.concat(F.lit('{"v":'), cell, F.lit("}"))
    return F.from_json(within, f"v {kind.simpleString()}, _odd string", {"columnNameOfCorruptRecord": "_odd"})


def _whole(inner: str) -> Column:
    return F.when(F.col(f"`{inner}`")["_odd"].isNull(), F.col(f"`{inner}`")["v"])


def _wrong_type(shape: Input) -> Column:
    columns = " ".join(shape.columns.split())
    return F.lit(f"a value has not the type that the mapping states: {columns}")


def _parquet(
    spark: SparkSession, paths: list[str], root: str, shape: Input, layout: str, max_line_bytes: int, tasks: int
) -> DataFrame:
    stored = T.StructType.fromJson(json.loads(layout))
    rows = spark.read.schema(stored).parquet(*[_literal(path) for path in paths])
    placed = rows.select(
        F.concat_ws(":", _relative(F.col("_metadata.file_path"), root), F.col("_metadata.row_index") + 1).alias(
            "position"
        ),
        F.struct(*[F.col(f"`{name}`") for name in stored.names]).alias("row"),
    )
    return _from_struct(placed.coalesce(tasks), stored, shape)


def _from_struct(placed: DataFrame, stored: T.StructType, shape: Input) -> DataFrame:
    """Records of typed rows (`position`, `row`); the payload is the row as JSON."""
    wanted = schema(shape)
    have = set(stored.names)
    cells = {f.name: F.col("row")[f.name] if f.name in have else F.lit(None) for f in wanted}
    casts = {f.name: _as_stated(placed, cells[f.name], f.dataType) for f in wanted}
    lost = [cells[f.name].isNotNull() & casts[f.name].isNull() for f in wanted if f.name in have]
    wrong = reduce(Column.__or__, lost, F.lit(False))
    others = {name: F.col("row")[name] for name in stored.names if name not in set(wanted.names)}
    return placed.select(
        "position",
        F.to_json("row").alias("payload"),
        F.lit("utf8").alias("payload_encoding"),
        F.lit(None).cast("string").alias("payload_header"),
        F.when(wrong, "wrong_type").alias("fault"),
        F.when(wrong, _wrong_type(shape)).alias("fault_reason"),
        F.struct(*[column.alias(name) for name, column in casts.items()]).alias("raw"),
        _present(
            {name: F.to_json(c) if _nested(stored[name]) else c.cast("string") for name, c in others.items()}
        ).alias("extra"),
    )


def _as_stated(placed: DataFrame, cell: Column, kind: T.DataType) -> Column:
    """The cell in the type that the mapping states; null when no value of its own type has a form in that one."""
    try:
        placed.select(cell.try_cast(kind))
    except AnalysisException:
        return F.lit(None).cast(kind)
    return cell.try_cast(kind)


def _nested(field: T.StructField) -> bool:
    return isinstance(field.dataType, (T.StructType, T.ArrayType, T.MapType))


def _present(values: dict[str, Column]) -> Column:
    """A map of the values that are not null; null when there is none."""
    if not values:
        return F.lit(None).cast("map<string,string>")
    pairs = F.map_from_arrays(F.array(*[F.lit(n) for n in values]), F.array(*values.values()))
    kept = F.map_filter(pairs, lambda _, value: value.isNotNull())
    return F.when(F.size(kept) > 0, kept)
