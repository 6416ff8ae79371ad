"""Raw input as records: position, verbatim payload, parse fault, and raw columns.

Every reader returns the same columns, so later steps do not depend on the format:

    position, source_file   place of the record; path of its file below the folder of the source (null for tables)
    payload, payload_encoding (utf8, base64), payload_header (CSV header of the line, or type of a typed row)
    fault, fault_reason     why the payload cannot be parsed; null when it can
    raw                     struct of the raw columns of the mapping
    extra                   map of the fields that the mapping does not name; null when there are none
"""

import csv
from dataclasses import dataclass
from functools import reduce
from typing import cast

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base.columns import quoted
from profilestream.capture import row_payload
from profilestream.capture.conversion import Converted, convert, readable_text, text_of
from profilestream.capture.guarded_sql import null_if_raises
from profilestream.capture.json_numbers import (
    JsonText,
    changes_number,
    has_point_zero,
    has_string_with_point_zero,
    mark_numbers,
    marked_number,
    plain_text,
)
from profilestream.capture.mapping import InputSpec
from profilestream.capture.typed_values import any_of, has_invalid_text, is_nested

COLUMNS = (
    "position", "source_file", "payload", "payload_encoding", "payload_header", "fault", "fault_reason", "raw", "extra",
)  # fmt: skip
# Column of the time of the batch; records have it if their plan is used for several batches.
INGEST_TIME = "_ingest_time"
# A CSV line that ends inside a quoted cell, and the lines that belong to this cell. Such a line is no record, so it is
# not reprocessed.
OPEN_QUOTE_REASON = "the line ends inside a quoted cell"
INSIDE_QUOTES_REASON = "the line is part of a quoted cell that begins on an earlier line"
# Above 20,480 cells Spark's CSV parser fails instead of marking the line as corrupt.
_MAX_CSV_CELLS = 20_000


def schema(spec: InputSpec) -> T.StructType:
    """The raw columns of the mapping; needs a running session."""
    return cast(T.StructType, T.StructType.fromDDL(spec.columns))


def column_names(spec: InputSpec) -> tuple[str, ...]:
    """Names of the raw columns of the mapping."""
    return tuple(schema(spec).names)


def split_header(header: str, spec: InputSpec) -> tuple[str, ...]:
    """Column names in a CSV header line."""
    escape = spec.escape or None
    cells = next(csv.reader([header], delimiter=spec.separator, quotechar=spec.quote, escapechar=escape), [])
    return tuple(name.strip() for name in cells)


def empty(spark: SparkSession, spec: InputSpec) -> DataFrame:
    """A frame without records, with all columns."""
    no_lines = spark.createDataFrame([], "value string, position string, source_file string, payload_header string")
    return parse_lines(no_lines, spec, column_names(spec), max_line_bytes=1)


def parse_lines(
    lines: DataFrame, spec: InputSpec, names: tuple[str, ...], *, max_line_bytes: int, charset: str = "UTF-8",
    folder_columns: tuple[str, ...] = (),
) -> DataFrame:  # fmt: skip
    """Records of text lines (`value`, `position`, `source_file`, `payload_header`), each parsed once.

    Args:
        names: column names of the CSV cells, in order; ignored for other formats.
        charset: in which the bytes of `value` are text.
        folder_columns: names of the partition values in the paths of the files; they replace columns of the lines.

    Returns:
        COLUMNS, and `_ingest_time` if the lines have it.
    """
    stored, more = F.col("value"), [name for name in lines.columns if name == INGEST_TIME]
    text = stored if charset == "UTF-8" else F.col("_text")
    if charset != "UTF-8":
        decoded = null_if_raises(F.decode(stored.cast("binary"), charset), stored.isNotNull())
        lines = lines.withColumn("_text", F.regexp_replace(decoded, "[\\r\ufeff]", ""))
    readable, too_long = F.col("_readable"), F.octet_length(stored) > max_line_bytes
    is_readable = F.is_valid_utf8(stored) if charset == "UTF-8" else text.isNotNull()
    parseable = F.when(readable & ~too_long, text)
    parse = {"csv": _parse_csv, "text": _parse_text}.get(spec.format, _parse_json)
    parsed = parse(lines.withColumn("_readable", is_readable), parseable, spec, names)
    in_folder, others = _folder_cells(spec, folder_columns)
    cells = parsed.cells | in_folder
    fault = (
        F.when(~readable, "not_utf8")
        .when(too_long, "line_too_long")
        .otherwise(F.coalesce(parsed.fault, F.when(_is_lost(cells), "wrong_type")))
    )
    reason = (
        F.when(~readable, f"the line contains bytes that are not {charset}")
        .when(too_long, f"the line is longer than {max_line_bytes} bytes")
        .when(parsed.fault.isNotNull(), parsed.reason)
        .otherwise(_wrong_type_reason(spec))
    )
    flat = parsed.frame.select(
        "position",
        "source_file",
        F.when(readable, text).otherwise(F.base64(stored.cast("binary"))).alias("payload"),
        F.when(readable, "utf8").otherwise("base64").alias("payload_encoding"),
        "payload_header",
        fault.alias("fault"),
        F.when(fault.isNotNull(), reason).alias("fault_reason"),
        *[cell.value.alias(f"_cell_{name}") for name, cell in cells.items()],
        _extra(parsed.extra, cells, parsed.texts, others, spec).alias("extra"),
        *more,
    )
    raw = F.struct(*[F.col(quoted(f"_cell_{name}")).alias(name) for name in cells])
    return flat.withColumn("raw", raw).select(*COLUMNS, *more)


@dataclass(frozen=True)
class RawValue:
    """The value that a typed row was decoded from.

    Args:
        payload, encoding, header: of the record.
        fault, reason: why it cannot be decoded; the fault is null when it can, and not constant.
    """

    payload: Column
    encoding: Column
    header: Column
    fault: Column
    reason: Column


def from_struct(
    placed: DataFrame, stored: T.StructType, spec: InputSpec, folder_columns: tuple[str, ...] = (),
    value: RawValue | None = None,
) -> DataFrame:  # fmt: skip
    """Records of typed rows (`position`, `source_file`, `row`, and perhaps `_ingest_time`).

    Args:
        stored: type of `row`.
        folder_columns: as for parse_lines.
        value: that the row was decoded from; null: the payload is the row as JSON, and its header the type.

    Returns:
        COLUMNS, and `_ingest_time` if the rows have it.
    """
    value = value or _row_value(F.col("row"), stored)
    more = [name for name in placed.columns if name == INGEST_TIME]
    row, fields = F.col("row"), schema(spec)
    types = {field.name: field.dataType for field in stored}
    in_folder, folder_values = _folder_cells(spec, folder_columns)
    cells = {
        f.name: convert(row[f.name], types[f.name], f.dataType, spec.timezone)
        if f.name in types
        else Converted(F.lit(None).cast(f.dataType), F.lit(False))
        for f in fields
    } | in_folder
    others = {name: readable_text(row[name], types[name]) for name in types if name not in cells} | folder_values
    texts = {name: text_of(row[name], types[name]) for name in cells if name in types and is_nested(types[name])}
    is_invalid = any_of(
        [*[has_invalid_text(cells[f.name].value, f.dataType) for f in fields],
         *_invalid_stored_texts(row, types, cells, spec)]
    )  # fmt: skip
    fault = F.coalesce(value.fault, F.when(is_invalid, "not_utf8").when(_is_lost(cells), "wrong_type"))
    reason = (
        F.when(value.fault.isNotNull(), value.reason)
        .when(is_invalid, "a value contains bytes that are not UTF-8")
        .otherwise(_wrong_type_reason(spec))
    )
    return placed.select(
        "position",
        "source_file",
        value.payload.alias("payload"),
        value.encoding.alias("payload_encoding"),
        value.header.alias("payload_header"),
        fault.alias("fault"),
        F.when(fault.isNotNull(), reason).alias("fault_reason"),
        F.struct(*[cell.value.alias(name) for name, cell in cells.items()]).alias("raw"),
        _extra(None, cells, texts, others, spec).alias("extra"),
        *more,
    )


def _row_value(row: Column, stored: T.StructType) -> RawValue:
    payload = row_payload.encode(row, stored)
    # Must not be constant: Spark would remove the CASE WHEN of guards (guarded_sql.py).
    fault = F.when(F.length("position") < 0, "unparseable")
    return RawValue(payload.text, payload.encoding, F.lit(payload.header), fault, fault)


def _invalid_stored_texts(
    row: Column, types: dict[str, T.DataType], cells: dict[str, Converted], spec: InputSpec
) -> list[Column]:
    """Whether a stored text with bytes that are not UTF-8 is part of `extra`, or cannot be converted; per column."""
    conditions = []
    for name, data_type in types.items():
        invalid = has_invalid_text(row[name], data_type)
        if invalid is None:
            continue
        if name in cells:
            unknown = cells[name].has_unknown if spec.unknown_fields == "extra" else None
            conditions.append(any_of([cells[name].is_lost, unknown]) & invalid)
        elif spec.unknown_fields == "extra":
            conditions.append(invalid)
    return conditions


def folder_value(name: str) -> Column:
    """The partition value in the path of the file, such as `2026-03-01` in `date=2026-03-01/part.csv`; null without."""
    value = F.regexp_extract("source_file", rf"(?:^|/)\Q{name}\E=([^/]*)/", 1)
    is_null = value.isin("", "__HIVE_DEFAULT_PARTITION__")
    return F.when(~is_null, F.coalesce(F.try_url_decode(F.replace(value, F.lit("+"), F.lit("%2B"))), value))


def _folder_cells(spec: InputSpec, folder_columns: tuple[str, ...]) -> tuple[dict[str, Converted], dict[str, Column]]:
    """The partition values of the path: cells of the raw columns, and the values that the mapping does not name.

    They replace columns of the same names in the file, in all formats, as in Spark and Hive.
    """
    fields = {f.name: f.dataType for f in schema(spec)}
    cells = {
        n: convert(folder_value(n), T.StringType(), fields[n], spec.timezone) for n in folder_columns if n in fields
    }
    return cells, {name: folder_value(name) for name in folder_columns if name not in fields}


@dataclass(frozen=True)
class _ParsedLines:
    """Parsed lines: a frame, and columns over it.

    Args:
        cells: the raw columns, by name.
        texts: nested raw columns as text, for `extra`.
        fault, reason: why the line cannot be parsed; the fault is null when it can.
        extra: map of the fields that the mapping does not name; null when there are none.
    """

    frame: DataFrame
    cells: dict[str, Converted]
    texts: dict[str, Column]
    fault: Column
    reason: Column
    extra: Column


def _parse_text(lines: DataFrame, parseable: Column, spec: InputSpec, names: tuple[str, ...]) -> _ParsedLines:
    """Whole lines, in the one raw column."""
    cell = Converted(parseable, F.lit(False))
    nothing = F.lit(None).cast("string")
    fault = F.when(F.length("position") < 0, "unparseable")  # never constant, as in from_struct
    return _ParsedLines(lines, {column_names(spec)[0]: cell}, {}, fault, nothing, _no_extra())


def _parse_csv(lines: DataFrame, parseable: Column, spec: InputSpec, names: tuple[str, ...]) -> _ParsedLines:
    """Lines of one header. Of cells with the same name, the first one is used.

    Each line is parsed with an additional cell at its end. from_csv closes a quote that is open at the end of a line.
    The additional cell is then part of the quoted cell, so the line has too few cells and is recognized as truncated.
    """
    cells = [name if name and name not in names[:i] else f"_column_{i + 1}" for i, name in enumerate(names)]
    places = {cell: f"_{i}" for i, cell in enumerate(cells)}
    ddl = ", ".join(f"{place} string" for place in (*places.values(), "_end", "_corrupt"))
    options = {
        "sep": spec.separator, "quote": spec.quote, "escape": spec.escape or spec.quote, "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_corrupt", "maxCharsPerColumn": "-1",
    }  # fmt: skip
    has_too_many_cells = (F.octet_length(parseable) >= _MAX_CSV_CELLS) & (
        _count(parseable, spec.separator) >= _MAX_CSV_CELLS
    )
    extended = F.concat(F.when(~has_too_many_cells, parseable), F.lit(spec.separator + "."))
    parsed = lines.withColumn("_cells", F.from_csv(extended, ddl, options))
    fields = schema(spec)
    values = {cell: F.col("_cells")[place] for cell, place in places.items()}
    is_no_header = spec.header and not set(names) & set(fields.names)
    is_corrupt = F.col("_cells").isNull() | F.col("_cells._corrupt").isNotNull()
    unreadable = F.when(is_corrupt & has_open_quote(parseable, spec), F.lit(OPEN_QUOTE_REASON)).otherwise(
        f"not a CSV line of {len(cells)} cells"
    )
    no_header = F.lit(
        "the header has none of the columns of the mapping: check header, separator, skip_lines and encoding"
    )
    return _ParsedLines(
        parsed,
        cells={
            f.name: convert(values[f.name], T.StringType(), f.dataType, spec.timezone)
            if f.name in values
            else Converted(F.lit(None).cast(f.dataType), F.lit(False))
            for f in fields
        },
        texts={},
        fault=F.when(parseable.isNotNull(), "header_unknown") if is_no_header else F.when(is_corrupt, "unparseable"),
        reason=no_header if is_no_header else unreadable,
        extra=_non_null_map({cell: column for cell, column in values.items() if cell not in fields.names}),
    )


def reject_lines(records: DataFrame, quoted: DataFrame) -> DataFrame:
    """The records, with those at these positions rejected as parts of a quoted cell."""
    marked = records.join(F.broadcast(quoted.withColumn("_is_quoted", F.lit(True))), "position", "left")
    is_quoted = F.col("_is_quoted").isNotNull() & F.col("fault").isNull()
    return marked.withColumns(
        {
            "fault_reason": F.when(is_quoted, INSIDE_QUOTES_REASON).otherwise(F.col("fault_reason")),
            "fault": F.when(is_quoted, "unparseable").otherwise(F.col("fault")),
        }
    ).select(*COLUMNS)


def has_open_quote(line: Column, spec: InputSpec) -> Column:
    """Whether a CSV line has an odd number of quotes, so that a quoted cell is open at its end."""
    text = F.replace(line, F.lit(spec.escape + spec.quote), F.lit("")) if spec.escape else line
    return _count(text, spec.quote) % 2 == 1


def _count(text: Column, character: str) -> Column:
    return F.length(text) - F.length(F.replace(text, F.lit(character), F.lit("")))


def _parse_json(lines: DataFrame, parseable: Column, spec: InputSpec, names: tuple[str, ...]) -> _ParsedLines:
    """Lines parsed once, as maps, which also contain the keys that the mapping does not name.

    Each line is parsed as an array of one object and a null. from_json reads the first value of a text and ignores the
    rest; in an array, any text after the object makes the array invalid or gives it another length than two.

    Numbers are marked where from_json would change them. A value such as 3.0 is a number or a string: if the line has
    strings such as "3.0" too, it is parsed a second time, with all numbers marked.

    Each group of columns is a separate projection, because the next group reads each of its columns several times.
    """
    fields = schema(spec)
    changes, marked = F.col("_changes"), mark_numbers(parseable)
    line = F.when(changes, marked).otherwise(parseable)
    parsed = lines.withColumn("_changes", changes_number(parseable)).withColumn("_objects", _json_objects(line))
    json_object = F.get("_objects", F.lit(0))
    # A line can end the array itself, such as `{},null]`, but not with both numbers of elements.
    has_two = (F.size("_objects") == 2) & (
        ~parseable.contains("null]") | (F.size(_json_objects(F.concat(line, F.lit(",null")))) == 3)
    )
    is_object = F.coalesce(has_two & json_object.isNotNull(), F.lit(False))
    cells = {f.name: F.col(quoted(f"_json_{f.name}")) for f in fields}
    parsed = parsed.withColumns({f"_json_{name}": F.try_element_at(json_object, F.lit(name)) for name in cells})
    unknown = F.map_filter(json_object, lambda key, value: ~key.isin(fields.names) & value.isNotNull())
    non_null_cells = reduce(Column.__add__, [cell.isNotNull().cast("int") for cell in cells.values()])
    has_unknown = (
        F.size(json_object) > non_null_cells
        if spec.unknown_fields == "extra"
        else F.coalesce(json_object.isNull(), F.lit(False))
    )
    parsed = parsed.withColumn("_unknown", F.when(has_unknown, F.when(F.size(unknown) > 0, unknown)))
    texts = [f.name for f in fields if isinstance(f.dataType, T.StringType)]
    is_ambiguous = any_of(
        [*[has_point_zero(cells[name]) for name in texts], F.exists(F.map_values("_unknown"), has_point_zero)]
    )
    has_strings = is_ambiguous & has_string_with_point_zero(parseable)
    parsed = parsed.withColumn("_exact", F.when(~changes & has_strings, F.get(_json_objects(marked), F.lit(0))))
    exact = F.col("_exact")

    def exact_text(value: Column, name: Column) -> Column:
        number = F.when(~changes & has_point_zero(value), marked_number(value)).otherwise(value)
        return F.when(exact.isNull(), number).otherwise(F.try_element_at(exact, name))

    parsed = parsed.withColumns({f"_json_{name}": exact_text(cells[name], F.lit(name)) for name in texts})
    exact_unknown = F.transform_values(F.col("_unknown"), lambda name, value: plain_text(exact_text(value, name)))
    return _ParsedLines(
        parsed,
        cells={f.name: convert(cells[f.name], JsonText(), f.dataType, spec.timezone) for f in fields},
        texts={f.name: plain_text(cells[f.name]) for f in fields if is_nested(f.dataType)},
        fault=F.when(~is_object, "unparseable"),
        reason=F.lit("not one JSON object"),
        extra=F.when(F.col("_unknown").isNotNull(), exact_unknown),
    )


def _json_objects(text: Column) -> Column:
    return F.from_json(F.concat(F.lit("["), text, F.lit(",null]")), "array<map<string,string>>")


def _is_lost(cells: dict[str, Converted]) -> Column:
    return any_of([cell.is_lost for cell in cells.values()])


def _wrong_type_reason(spec: InputSpec) -> Column:
    columns = " ".join(spec.columns.split())
    return F.lit(f"a value does not have the type that the mapping declares: {columns}")


def _extra(
    parsed: Column | None, cells: dict[str, Converted], texts: dict[str, Column], others: dict[str, Column],
    spec: InputSpec,
) -> Column:  # fmt: skip
    """The values that the mapping does not name; of a nested column with unknown fields, the complete column.

    Args:
        parsed: map of unknown values by name.
        texts: nested columns as text.
        others: further unknown values, by name.
    """
    if spec.unknown_fields == "ignore":
        return _no_extra()
    with_unknown = {
        name: F.when(any_of([cells[name].has_unknown]), text)
        for name, text in texts.items()
        if cells[name].has_unknown is not None
    }
    more = {**with_unknown, **others}
    if not more:
        return _no_extra() if parsed is None else parsed
    further = _non_null_map(more)
    return further if parsed is None else F.coalesce(F.map_concat(parsed, further), parsed, further)


def _no_extra() -> Column:
    return F.lit(None).cast("map<string,string>")


def _non_null_map(values: dict[str, Column]) -> Column:
    """A map of the values that are not null; null when all are null."""
    if not values:
        return _no_extra()
    pairs = F.map_from_arrays(F.array(*[F.lit(n) for n in values]), F.array(*values.values()))
    non_null = F.map_filter(pairs, lambda _, value: value.isNotNull())
    return F.when(F.size(non_null) > 0, non_null)
