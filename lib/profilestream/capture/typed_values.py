"""Functions that visit the parts of a typed value at every depth: fields, elements, keys and values."""

from collections.abc import Callable, Iterable
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T


def is_nested(data_type: T.DataType) -> bool:
    """Whether values of the type have parts."""
    return isinstance(data_type, (T.StructType, T.ArrayType, T.MapType))


def any_of(conditions: Iterable[Column | None]) -> Column:
    """Whether one of the conditions is true; false without conditions. None is no condition."""
    known = [F.coalesce(c, F.lit(False)) for c in conditions if c is not None]
    return reduce(Column.__or__, known) if known else F.lit(False)


def replace_parts(
    value: Column, data_type: T.DataType, part: Callable[[Column, T.DataType], Column | None]
) -> Column | None:
    """The value in which each part for which `part` returns a column is this column; null if there is no such part.

    Args:
        part: of the value itself and, where it returns null, of its parts.
    """
    replaced = part(value, data_type)
    if replaced is not None:
        return replaced
    if isinstance(data_type, T.StructType):
        fields = {f.name: replace_parts(value[f.name], f.dataType, part) for f in data_type}
        if all(field is None for field in fields.values()):
            return None
        columns = [(value[name] if field is None else field).alias(name) for name, field in fields.items()]
        return F.when(value.isNotNull(), F.struct(*columns))
    if isinstance(data_type, T.ArrayType):
        return _replace_elements(value, data_type.elementType, part)
    if isinstance(data_type, T.MapType):
        keys = _replace_elements(F.map_keys(value), data_type.keyType, part)
        values = _replace_elements(F.map_values(value), data_type.valueType, part)
        if keys is None and values is None:
            return None
        return F.map_from_arrays(
            F.map_keys(value) if keys is None else keys, F.map_values(value) if values is None else values
        )
    return None


def has_invalid_text(value: Column, data_type: T.DataType) -> Column | None:
    """Whether a text of the value contains bytes that are not UTF-8; None if values of the type have no text."""
    if isinstance(data_type, T.StringType):
        return value.isNotNull() & ~F.is_valid_utf8(value)
    if isinstance(data_type, T.StructType):
        fields = [has_invalid_text(value[f.name], f.dataType) for f in data_type]
        return None if all(field is None for field in fields) else any_of(fields)
    if isinstance(data_type, T.ArrayType):
        return _has_invalid_element(value, data_type.elementType)
    if isinstance(data_type, T.MapType):
        keys = _has_invalid_element(F.map_keys(value), data_type.keyType)
        values = _has_invalid_element(F.map_values(value), data_type.valueType)
        return None if keys is None and values is None else any_of([keys, values])
    return None


def _replace_elements(
    array: Column, data_type: T.DataType, part: Callable[[Column, T.DataType], Column | None]
) -> Column | None:
    if replace_parts(F.lit(None), data_type, part) is None:
        return None
    return F.transform(array, lambda element: replace_parts(element, data_type, part))  # type: ignore[arg-type,return-value]


def _has_invalid_element(array: Column, data_type: T.DataType) -> Column | None:
    if has_invalid_text(F.lit(None), data_type) is None:
        return None
    return F.exists(array, lambda element: any_of([has_invalid_text(element, data_type)]))
