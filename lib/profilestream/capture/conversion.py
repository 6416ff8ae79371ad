"""Converts raw values from the type in which a file stores them to the type that the mapping declares.

One recursive function for all formats. Fields of a struct are selected by name: a field that the file lacks is null,
and a field that the mapping lacks is unknown. A JSON object is a map of texts, and is converted like any other value. A
number that becomes a text follows the rule of `number_text`.
"""

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.capture import json_numbers, text_parsers
from profilestream.capture.json_numbers import MARK, JsonText
from profilestream.capture.number_text import apply_once, float_text, number_text
from profilestream.capture.text_parsers import BLANKS, trim_blanks
from profilestream.capture.typed_values import any_of, is_nested, replace_parts

# Types of times that are wall-clock times.
_WITHOUT_ZONE = (T.TimestampNTZType, T.DateType)
# By default, to_json writes milliseconds.
TIME_FORMATS = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}


@dataclass(frozen=True)
class Converted:
    """A converted value.

    Args:
        value: in the declared type; null when it cannot be converted.
        is_lost: whether the stored value cannot be converted; null means false.
        has_unknown: whether it has a field that the declared type lacks; null means false. None: it cannot have one.
    """

    value: Column
    is_lost: Column
    has_unknown: Column | None = None


def convert(cell: Column, stored: T.DataType, declared: T.DataType, timezone: str = "UTC") -> Converted:
    """A value of the type `stored` as a value of the type `declared`.

    Args:
        timezone: of times that state no zone, where an instant (TIMESTAMP) becomes a time without a zone or vice versa.
    """
    if isinstance(stored, T.StringType) and is_nested(declared):
        stored = json_type(declared)
        text = json_numbers.mark_if_needed(F.try_validate_utf8(cell))
        parsed = F.from_json(text, stored.simpleString())
        inner = convert(parsed, stored, declared, timezone)
        return Converted(inner.value, (_is_present(cell) & parsed.isNull()) | inner.is_lost, inner.has_unknown)
    if isinstance(declared, T.StructType) and isinstance(stored, (T.StructType, T.MapType)):
        return _convert_struct(cell, stored, declared, timezone)
    if isinstance(declared, T.ArrayType) and isinstance(stored, T.ArrayType):
        return _convert_elements(cell, stored.elementType, declared.elementType, timezone)
    if isinstance(declared, T.MapType) and isinstance(stored, T.MapType):
        values = _convert_elements(F.map_values(cell), stored.valueType, declared.valueType, timezone)
        keys = _convert_elements(F.map_keys(cell), stored.keyType, declared.keyType, timezone)
        value = F.map_from_arrays(keys.value, values.value)
        # A blank key that is no text becomes null, which no map may contain.
        has_no_key = any_of([F.exists(keys.value, F.isnull), keys.is_lost])
        return Converted(F.when(~has_no_key, value), has_no_key | values.is_lost, values.has_unknown)
    if isinstance(declared, T.StringType):
        is_in_utc = isinstance(stored, T.TimestampType) and timezone != "UTC"
        text = text_of(cell, stored)
        return Converted(F.concat(text, F.lit("Z")) if is_in_utc else text, F.lit(False))
    value = _cast(cell, stored, declared, timezone)
    is_present = _is_present(cell) if isinstance(stored, T.StringType) else cell.isNotNull()
    return Converted(value, is_present & value.isNull())


def _is_present(text: Column) -> Column:
    return F.trim(text, F.lit(BLANKS)) != ""


def text_of(cell: Column, stored: T.DataType) -> Column:
    """A value as text; bytes as the text that they encode in UTF-8, nested values as JSON with bytes in hexadecimal."""
    if is_nested(stored):
        replaced = replace_parts(cell, stored, _json_part)
        if replaced is None:
            return F.to_json(cell, TIME_FORMATS)
        return apply_once(json_numbers.plain_text, F.to_json(replaced, TIME_FORMATS))
    if isinstance(stored, JsonText):
        return json_numbers.plain_text(cell)
    if isinstance(stored, (T.FloatType, T.DoubleType)):
        return float_text(cell, stored)
    if isinstance(stored, T.DecimalType):
        return number_text(cell.cast("string"))
    return cell.cast("string")


def readable_text(cell: Column, stored: T.DataType) -> Column:
    """As text_of, but bytes in hexadecimal form."""
    return _hex_text(cell) if isinstance(stored, T.BinaryType) else text_of(cell, stored)


def _json_part(cell: Column, stored: T.DataType) -> Column | None:
    """A part of a nested value such that to_json writes it as text_of does; null: to_json needs no help."""
    if isinstance(stored, T.BinaryType):
        return _hex_text(cell)
    if isinstance(stored, (T.FloatType, T.DoubleType, T.DecimalType)):
        return F.regexp_replace(text_of(cell, stored), "^(.*[0-9])$", f"{MARK}$1")
    if isinstance(stored, T.MapType) and not isinstance(stored.keyType, T.StringType):
        keys = F.transform(F.map_keys(cell), lambda key: readable_text(key, stored.keyType))
        values = F.map_from_arrays(keys, F.map_values(cell))
        as_texts = T.MapType(T.StringType(), stored.valueType)
        replaced = replace_parts(values, as_texts, _json_part)
        return values if replaced is None else replaced
    return None


def json_type(declared: T.DataType) -> T.DataType:
    """The type in which JSON text is parsed for a declared type: objects are maps, scalars are `JsonText`.

    Objects in objects remain texts, because the values of a map have one type; `convert` parses them in turn.
    """
    if isinstance(declared, T.ArrayType):
        return T.ArrayType(json_type(declared.elementType))
    if isinstance(declared, T.MapType):
        return T.MapType(T.StringType(), json_type(declared.valueType))
    if isinstance(declared, T.StructType):
        return T.MapType(T.StringType(), JsonText())
    return JsonText()


def _convert_struct(cell: Column, stored: T.StructType | T.MapType, declared: T.StructType, timezone: str) -> Converted:
    is_map = isinstance(stored, T.MapType)
    types = {} if is_map else {field.name: field.dataType for field in stored}  # type: ignore[union-attr]
    parts = {}
    for field in declared:
        if is_map:
            value = F.try_element_at(cell, F.lit(field.name))
            part = convert(value, stored.valueType, field.dataType, timezone)  # type: ignore[union-attr]
        elif field.name in types:
            part = convert(cell[field.name], types[field.name], field.dataType, timezone)
        else:
            part = Converted(F.lit(None).cast(field.dataType), F.lit(False))
        parts[field.name] = part
    names = [field.name for field in declared]
    if is_map:
        unknown = [F.exists(F.map_keys(cell), lambda key: ~key.isin(*names))]
    else:
        unknown = [cell[name].isNotNull() for name in types if name not in parts]
    unknown += [part.has_unknown for part in parts.values() if part.has_unknown is not None]
    struct = F.struct(*[part.value.alias(name) for name, part in parts.items()])
    return Converted(
        F.when(cell.isNotNull(), struct),
        any_of(part.is_lost for part in parts.values()),
        any_of(unknown) if unknown else None,
    )


def _convert_elements(cell: Column, stored: T.DataType, declared: T.DataType, timezone: str) -> Converted:
    def element(value: Column) -> Converted:
        return convert(value, stored, declared, timezone)

    can_have_unknown = element(F.lit(None)).has_unknown is not None
    return Converted(
        F.transform(cell, lambda x: element(x).value),
        F.exists(cell, lambda x: any_of([element(x).is_lost])),
        F.exists(cell, lambda x: any_of([element(x).has_unknown])) if can_have_unknown else None,
    )


def _cast(cell: Column, stored: T.DataType, declared: T.DataType, timezone: str) -> Column:
    """The scalar in the declared type; null when Spark has no cast between the two types."""
    if is_nested(stored) or is_nested(declared):
        return F.lit(None).cast(declared)
    if isinstance(stored, T.StringType):
        text = json_numbers.without_mark(cell) if isinstance(stored, JsonText) else cell
        if isinstance(declared, T.BinaryType):
            return text.cast(declared)
        return _parse(trim_blanks(text), declared, timezone)
    if isinstance(stored, T.FractionalType) and isinstance(declared, T.IntegralType):
        return text_of(cell, stored).try_cast(declared)
    if isinstance(stored, T.FloatType):
        return cell.cast("string").try_cast(declared)
    if not _has_cast(stored, declared):
        return F.lit(None).cast(declared)
    if isinstance(stored, T.TimestampType) and isinstance(declared, _WITHOUT_ZONE):
        return _wall_clock(cell, timezone).try_cast(declared)
    value = cell.try_cast(declared)
    is_local = isinstance(stored, _WITHOUT_ZONE) and isinstance(declared, T.TimestampType)
    return _instant(value, timezone) if is_local else value


def _parse(text: Column, declared: T.DataType, timezone: str) -> Column:
    if isinstance(declared, T.IntegralType):
        return number_text(text).try_cast(declared)
    if isinstance(declared, T.NumericType):
        return F.when(text_parsers.is_number(text), text.try_cast(declared))
    if isinstance(declared, T.DateType):
        return F.when(text_parsers.is_time(text), text_parsers.with_seconds(text).try_cast(declared))
    if isinstance(declared, (T.TimestampType, T.TimestampNTZType)):
        time, has_zone = text_parsers.parse_time(text, ""), text_parsers.is_instant(text, "")
        if isinstance(declared, T.TimestampType):
            return F.when(has_zone, time).otherwise(_instant(time, timezone))
        return F.when(has_zone, _wall_clock(time, timezone)).otherwise(time).try_cast(declared)
    return text.try_cast(declared)


def _instant(local: Column, timezone: str) -> Column:
    """The instant of a wall-clock time, which is a timestamp as if in UTC; null if the clocks skip it."""
    if timezone == "UTC":
        return local
    instant = F.to_utc_timestamp(local, timezone)
    is_shown = F.from_utc_timestamp(instant, timezone) == local
    return F.when(~_is_in_years(local), local).when(is_shown, instant)


def _wall_clock(instant: Column, timezone: str) -> Column:
    """The wall-clock time of an instant, as if in UTC."""
    if timezone == "UTC":
        return instant
    return F.when(_is_in_years(instant), F.from_utc_timestamp(instant, timezone)).otherwise(instant)


def _is_in_years(time: Column) -> Column:
    """Whether the time is in the years 1 to 9999. Near the bounds of Spark's type, a change of the zone would raise."""
    return time.between(*[F.lit(day).cast("timestamp") for day in ("0001-01-04", "9999-12-28")])


def _has_cast(stored: T.DataType, declared: T.DataType) -> bool:
    numeric = (T.NumericType, T.BooleanType)
    times = (T.TimestampType, T.TimestampNTZType, T.DateType)
    if type(stored) is type(declared):
        return True
    if isinstance(stored, numeric):
        return isinstance(declared, (*numeric, T.TimestampType)) and not (
            isinstance(stored, T.BooleanType) and isinstance(declared, T.TimestampType)
        )
    if isinstance(stored, times):
        return isinstance(declared, times) or (
            isinstance(stored, T.TimestampType) and isinstance(declared, T.NumericType)
        )
    return False


def _hex_text(column: Column) -> Column:
    return F.lower(F.hex(column))
