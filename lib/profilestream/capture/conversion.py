"""Converts raw values from the type in which a file stores them to the type that the mapping declares.

One recursive function for all formats. Fields of a struct are selected by name: a field that the file lacks is null,
and a field that the mapping lacks is unknown. A JSON object is a map of texts, and is converted like any other value.

A number that becomes a text follows one rule: a whole number has neither point nor exponent (12345678.0 and 12345678
are both `12345678`); other numbers keep their characters, or the shortest decimal form of a binary number.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.capture import text_parsers
from profilestream.capture.text_parsers import BLANKS, trim_blanks

_WHOLE_WITH_POINT = r"^-?[0-9]+\.0+$"
# Types of times that are wall-clock times.
_WITHOUT_ZONE = (T.TimestampNTZType, T.DateType)
_EXPONENT = r"^-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]+$"


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
        parsed = F.from_json(cell, stored.simpleString())
        inner = convert(parsed, stored, declared, timezone)
        return Converted(inner.value, (cell.isNotNull() & parsed.isNull()) | inner.is_lost, inner.has_unknown)
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
    is_present = F.trim(cell, F.lit(BLANKS)) != "" if isinstance(stored, T.StringType) else cell.isNotNull()
    return Converted(value, is_present & value.isNull())


def text_of(cell: Column, stored: T.DataType) -> Column:
    """A value as text; nested values as JSON, bytes as the text that they encode in UTF-8."""
    if is_nested(stored):
        return F.to_json(cell)
    if isinstance(stored, (T.FloatType, T.DoubleType)):
        return _float_text(cell)
    if isinstance(stored, T.DecimalType):
        return whole_number_text(cell.cast("string"))
    return cell.cast("string")


def hex_text(column: Column) -> Column:
    """Bytes in hexadecimal form, with small letters."""
    return F.lower(F.hex(column))


def whole_number_text(text: Column) -> Column:
    """The text of a decimal number, without point and exponent if it is a whole number; other texts are unchanged."""
    number = text.try_cast("decimal(38,18)")
    whole = number.try_cast("decimal(38,0)").try_cast("decimal(38,18)")
    return (
        F.when(text.rlike(_WHOLE_WITH_POINT), F.substring_index(text, ".", 1))
        .when(text.rlike(_EXPONENT) & (number.isNull() | (number == whole)),
              F.coalesce(text.try_cast("decimal(38,0)").cast("string"), text))
        .otherwise(text)
    )  # fmt: skip


def is_nested(data_type: T.DataType) -> bool:
    """Whether values of the type have parts."""
    return isinstance(data_type, (T.StructType, T.ArrayType, T.MapType))


def contains_type(data_type: T.DataType, types: tuple[type[T.DataType], ...]) -> bool:
    """Whether values of the type are, or have parts, of one of these scalar types."""
    if isinstance(data_type, T.StructType):
        return any(contains_type(field.dataType, types) for field in data_type)
    if isinstance(data_type, T.ArrayType):
        return contains_type(data_type.elementType, types)
    if isinstance(data_type, T.MapType):
        return contains_type(data_type.keyType, types) or contains_type(data_type.valueType, types)
    return isinstance(data_type, types)


def json_type(declared: T.DataType) -> T.DataType:
    """The type in which JSON text is parsed for a declared type: objects are maps, scalars are texts.

    Objects in objects remain texts, because the values of a map have one type; `convert` parses them in turn.
    """
    if isinstance(declared, T.ArrayType):
        return T.ArrayType(json_type(declared.elementType))
    if isinstance(declared, T.MapType):
        return T.MapType(T.StringType(), json_type(declared.valueType))
    if isinstance(declared, T.StructType):
        return T.MapType(T.StringType(), T.StringType())
    return T.StringType()


def any_of(conditions: Iterable[Column | None]) -> Column:
    """Whether one of the conditions is true; false without conditions. None is no condition."""
    known = [F.coalesce(c, F.lit(False)) for c in conditions if c is not None]
    return reduce(Column.__or__, known) if known else F.lit(False)


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

    can_have_unknown = element(F.lit(None).cast(stored)).has_unknown is not None
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
        return _parse(trim_blanks(cell), declared, timezone)
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
        return whole_number_text(text).try_cast(declared)
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


def _float_text(cell: Column) -> Column:
    """The shortest decimal form of a binary number; a whole number without point and exponent."""
    text = cell.cast("string")
    plain = text.try_cast("decimal(38,18)").cast("string")
    without_zeros = F.regexp_replace(plain, r"\.?0+$", "")
    is_whole = cell == F.rint(cell)
    whole = F.coalesce(cell.try_cast("decimal(38,0)").cast("string"), text)
    return (
        F.when(F.isnan(cell) | (F.abs(cell) == float("inf")), text)
        .when(is_whole, whole)
        .when(text.contains("E"), F.coalesce(F.when(plain.rlike("[1-9]"), without_zeros), text))
        .otherwise(text)
    )
