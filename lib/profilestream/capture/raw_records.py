"""Raw input as records: position, verbatim payload, parse fault, and raw columns.

Every reader returns the same columns, so later steps do not depend on the format:

    position, source_file   place of the record; path of its file below the folder of the source (null for tables)
    payload, payload_encoding (utf8, base64), payload_header (CSV header of the line)
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
from profilestream.capture.conversion import (
    Converted,
    any_of,
    contains_type,
    convert,
    hex_text,
    is_nested,
    text_of,
    whole_number_text,
)
from profilestream.capture.guarded_sql import null_if_raises
from profilestream.capture.mapping import InputSpec
from profilestream.capture.text_parsers import DIGITS

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
# Values of these types keep digits of a number that a double does not.
_EXACT_TYPES = (T.StringType, T.DecimalType, T.IntegralType)
_INVALID_TEXT = "\u0000invalid\u0000"
# A JSON number with a point or an exponent, as Spark writes a double.
_JSON_DOUBLE = r"^-?[0-9]+\.[0-9]+(E-?[0-9]+)?$"
_JSON_DOUBLE_INSIDE = r"[:\[,]-?[0-9]+\.[0-9]+"
# By default, to_json writes milliseconds.
_TIMES = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
# Text before and after a key in compact JSON, and in JSON with spaces.
_JSON_SEPARATORS = ((',"', ":"), (' "', ": "), ('{"', ":"), ('{"', ": "))
# Prefix of strings and keys in a line whose numbers are put in quotes, to tell them apart. A private-use character.
_MARK = "\ue000"
_JSON_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_JSON_STRING = r'"((?:[^"\\]|\\.)*+)"'
# Matches each string and each number of a JSON text; `"$1$2"` then quotes the numbers.
_JSON_STRING_OR_NUMBER = rf"{_JSON_STRING}|({_JSON_NUMBER})"


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


def from_struct(
    placed: DataFrame, stored: T.StructType, spec: InputSpec, folder_columns: tuple[str, ...] = ()
) -> DataFrame:
    """Records of typed rows (`position`, `source_file`, `row`); the payload is the row as JSON.

    Args:
        stored: type of `row`.
        folder_columns: as for parse_lines.
    """
    row, fields = F.col("row"), schema(spec)
    types = {field.name: field.dataType for field in stored}
    in_folder, folder_values = _folder_cells(spec, folder_columns)
    cells = {
        f.name: convert(row[f.name], types[f.name], f.dataType, spec.timezone)
        if f.name in types
        else Converted(F.lit(None).cast(f.dataType), F.lit(False))
        for f in fields
    } | in_folder
    plain = {name: _plain(row[name], data_type, is_mapped=name in cells) for name, data_type in types.items()}
    others = {name: text_of(plain[name], types[name]) for name in types if name not in cells}
    others |= folder_values
    texts = {name: text_of(row[name], types[name]) for name in cells if name in types and is_nested(types[name])}
    invalid = {
        name: row[name].isNotNull() & ~F.is_valid_utf8(row[name].cast("string"))
        for name, data_type in types.items()
        if contains_type(data_type, (T.StringType, T.BinaryType))
        and (name in cells or not isinstance(data_type, T.BinaryType))
    }
    is_invalid = any_of(list(invalid.values()))
    # Must not be constant: Spark would remove the CASE WHEN of guards (guarded_sql.py).
    base_fault = F.when(F.length("position") < 0, "unparseable")
    fault = F.when(is_invalid, "not_utf8").when(_is_lost(cells), "wrong_type").otherwise(base_fault)
    reason = F.when(is_invalid, "a value contains bytes that are not UTF-8").otherwise(_wrong_type_reason(spec))
    return placed.select(
        "position",
        "source_file",
        F.when(is_invalid, F.base64(_invalid_payload(row, types, invalid)))
        .otherwise(F.to_json(F.struct(*[column.alias(name) for name, column in plain.items()]), _TIMES))
        .alias("payload"),
        F.when(is_invalid, "base64").otherwise("utf8").alias("payload_encoding"),
        F.lit(None).cast("string").alias("payload_header"),
        fault.alias("fault"),
        F.when(fault.isNotNull(), reason).alias("fault_reason"),
        F.struct(*[cell.value.alias(name) for name, cell in cells.items()]).alias("raw"),
        _extra(None, cells, texts, others, spec).alias("extra"),
    )


def _plain(column: Column, data_type: T.DataType, *, is_mapped: bool) -> Column:
    """Bytes as text: those of a mapped raw column as UTF-8, others in hexadecimal form. Other types are unchanged."""
    if not isinstance(data_type, T.BinaryType):
        return column
    return column.cast("string") if is_mapped else hex_text(column)


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

    from_json reads a number with a decimal point or an exponent as a double, so its text can differ from the line. Such
    a line is parsed a second time with its numbers as strings. There, the other strings and the keys start with _MARK.

    Each group of columns is a separate projection, because the next group reads each of its columns several times.
    """
    fields = schema(spec)
    parsed = lines.withColumn("_objects", _json_objects(parseable))
    json_object = F.get("_objects", F.lit(0))
    # A line can end the array itself, such as `{},null]`, but not with both numbers of elements.
    has_two = (F.size("_objects") == 2) & (
        ~parseable.contains("null]") | (F.size(_json_objects(F.concat(parseable, F.lit(",null")))) == 3)
    )
    is_object = F.coalesce(has_two & json_object.isNotNull(), F.lit(False))
    cells = {f.name: F.col(quoted(f"_json_{f.name}")) for f in fields}
    parsed = parsed.withColumns(
        {
            **{f"_json_{name}": F.try_element_at(json_object, F.lit(name)) for name in cells},
            "_is_flat": ~F.substr(parseable, F.lit(2)).contains("{"),
        }
    )
    unknown = F.map_filter(json_object, lambda key, value: ~key.isin(fields.names) & value.isNotNull())
    non_null_cells = reduce(Column.__add__, [cell.isNotNull().cast("int") for cell in cells.values()])
    has_unknown = (
        F.size(json_object) > non_null_cells
        if spec.unknown_fields == "extra"
        else F.coalesce(json_object.isNull(), F.lit(False))
    )
    exact_fields = [f for f in fields if contains_type(f.dataType, _EXACT_TYPES)]
    rounded = {f.name: F.col(f"`_rounded_{f.name}`") for f in exact_fields}
    parsed = parsed.withColumns(
        {f"_rounded_{f.name}": _is_rounded(F.lit(f.name), cells[f.name], f, parseable) for f in exact_fields}
    )
    has_rounded_unknown = has_unknown & F.exists(
        F.map_entries(unknown), lambda entry: _is_rounded(entry["key"], entry["value"], None, parseable)
    )
    marked = F.regexp_replace(parseable, _JSON_STRING, f'"{_MARK}$1"')
    with_quotes = F.regexp_replace(marked, _JSON_STRING_OR_NUMBER, '"$1$2"')
    has_rounded = any_of([*rounded.values(), has_rounded_unknown])
    parsed = parsed.withColumns(
        {
            "_unknown": F.when(has_unknown, F.when(F.size(unknown) > 0, unknown)),
            "_exact": F.when(has_rounded, F.get(_json_objects(with_quotes), F.lit(0))),
        }
    )
    parsed = parsed.withColumns(
        {f"_json_{f.name}": _exact_text(F.lit(f.name), cells[f.name], rounded[f.name], f) for f in exact_fields}
    )
    exact_unknown = F.transform_values(
        F.col("_unknown"),
        lambda key, value: _exact_text(key, value, _is_rounded(key, value, None, parseable), None),
    )
    return _ParsedLines(
        parsed,
        cells={f.name: convert(cells[f.name], T.StringType(), f.dataType, spec.timezone) for f in fields},
        texts={f.name: cells[f.name] for f in fields if is_nested(f.dataType)},
        fault=F.when(~is_object, "unparseable"),
        reason=F.lit("not one JSON object"),
        extra=F.when(F.col("_unknown").isNotNull(), exact_unknown),
    )


def _json_objects(text: Column) -> Column:
    return F.from_json(F.concat(F.lit("["), text, F.lit(",null]")), "array<map<string,string>>")


def _is_rounded(name: Column, value: Column, field: T.StructField | None, line: Column) -> Column:
    """Whether the text of a JSON value can differ from the line, because from_json read a number as a double.

    False: it is a number with a decimal point, and its text is in the line. Null: it is not such a number.

    Args:
        field: its declaration; null when it has none.
    """
    has_double_inside = value.rlike(_JSON_DOUBLE_INSIDE)
    if field is not None and is_nested(field.dataType):
        return F.when(has_double_inside, F.lit(True))
    last = F.right(value, F.lit(1))
    # In a line with an object inside, the text in the line can belong to another key.
    is_verbatim = F.col("_is_flat") & ~value.contains("E") & _is_number_in_line(name, value, line)
    is_double = value.rlike(_JSON_DOUBLE) & ~(F.col("_is_flat") & _is_string_in_line(name, value, line))
    scalar = F.when(is_verbatim, F.lit(False)).when(is_double, F.lit(True))
    nested = F.when(_is_container(value) & has_double_inside, F.lit(True))
    return F.when(value.contains("."), F.when(last.isin(*DIGITS), scalar).otherwise(nested))


def _exact_text(name: Column, value: Column, is_rounded: Column, field: T.StructField | None) -> Column:
    """The text of a JSON value as in the line, and of a whole number without a decimal point.

    Args:
        is_rounded: as _is_rounded returns it.
    """
    marked = F.try_element_at(F.col("_exact"), F.concat(F.lit(_MARK), name))
    if field is not None and is_nested(field.dataType):
        # JSON whose numbers are strings.
        exact = F.regexp_replace(marked, r'"(-?[0-9]+)\.0+"', '"$1"')
    else:
        exact = F.when(_is_container(marked), F.regexp_replace(marked, rf'"({_JSON_NUMBER})"', "$1")).otherwise(
            whole_number_text(marked)
        )
    unmarked = F.regexp_replace(exact, f'"{_MARK}', '"')
    is_string = marked.isNull() | marked.startswith(_MARK)
    whole = F.when(value.endswith(".0"), F.substring_index(value, ".", 1)).otherwise(value)
    return F.when(is_rounded, F.when(is_string, value).otherwise(unmarked)).when(~is_rounded, whole).otherwise(value)


def _is_container(text: Column) -> Column:
    """Whether a JSON text is an object or an array."""
    return F.right(text, F.lit(1)).isin("}", "]")


def _is_number_in_line(name: Column, value: Column, line: Column) -> Column:
    """Whether a line contains a value verbatim and without quotes after its name; false for unusual whitespace."""
    # No form starts with a quote: Spark's search compares the text at every place of its first byte.
    forms = [(start, colon, end) for start, colon in _JSON_SEPARATORS for end in (",", "}")]
    return _contains_any(
        line, [F.concat(F.lit(start), name, F.lit(f'"{colon}'), value, F.lit(end)) for start, colon, end in forms]
    )


def _is_string_in_line(name: Column, value: Column, line: Column) -> Column:
    """Whether a line contains a value in quotes after its name."""
    colons = (":", ": ", " : ", " :")
    return _contains_any(line, [F.concat(F.lit('"'), name, F.lit(f'"{colon}"'), value, F.lit('"')) for colon in colons])


def _contains_any(line: Column, texts: list[Column]) -> Column:
    return reduce(Column.__or__, [F.contains(line, text) for text in texts])


def _invalid_payload(row: Column, types: dict[str, T.DataType], invalid: dict[str, Column]) -> Column:
    """The row as JSON, as bytes, in which the text columns with invalid bytes are unchanged."""
    texts = [name for name in invalid if isinstance(types[name], (T.StringType, T.BinaryType))]
    marks = {n: F.when(invalid[n], f"{_INVALID_TEXT}{n}").otherwise(row[n].cast("string")) for n in texts}
    marked = F.struct(*[marks.get(n, row[n]).alias(n) for n in types])
    payload = F.to_json(marked)
    for name in texts:
        mark = _INVALID_TEXT.replace("\u0000", "\\u0000") + name
        payload = F.when(
            invalid[name], F.replace(payload, F.lit(mark), row[name].cast("string"))
        ).otherwise(payload)  # fmt: skip
    return payload.cast("binary")


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
