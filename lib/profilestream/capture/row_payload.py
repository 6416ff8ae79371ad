"""The payload of a typed row: JSON from which exactly the same row is read again, with the type of the row as header.

`decode` inverts `encode` for every type, so a rejected row of a Parquet file or a Delta table is reprocessed as the row
that was captured. JSON has no bytes (they are written in base64), and only texts as keys (a map with other keys is an
array of entries). If a text of the row has bytes that are not UTF-8, the payload is these bytes.
"""

from dataclasses import dataclass
from typing import cast

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.capture.conversion import TIME_FORMATS
from profilestream.capture.typed_values import any_of, has_invalid_text, replace_parts

# By default, a column with the name `_corrupt_record` would not be read.
_OPTIONS = {**TIME_FORMATS, "columnNameOfCorruptRecord": "\ufdd0"}
# A charset in which every byte is a character.
_BYTES = "ISO-8859-1"


@dataclass(frozen=True)
class RowPayload:
    """A row as columns of `rejected_events`.

    Args:
        encoding: of the text, `utf8` or `base64`.
        header: type of the row, as in CREATE TABLE.
    """

    text: Column
    encoding: Column
    header: str


def encode(row: Column, stored: T.StructType) -> RowPayload:
    """The payload of a row of this type."""
    is_invalid = any_of([has_invalid_text(row, stored)])
    bytes_row = _encoded(row, stored, as_bytes=True).cast(_encoded_type(stored, as_bytes=True))
    payload = F.to_json(_encoded(row, stored, as_bytes=False), _OPTIONS)
    return RowPayload(
        text=F.when(is_invalid, F.base64(F.encode(F.to_json(bytes_row, _OPTIONS), _BYTES))).otherwise(payload),
        encoding=F.when(is_invalid, "base64").otherwise("utf8"),
        header=T.StructType([T.StructField(field.name, field.dataType) for field in stored]).toDDL(),
    )


def row_type(header: str) -> T.StructType:
    """The type of the rows whose payloads have this header."""
    return cast(T.StructType, T.StructType.fromDDL(header))


def decode(text: Column, encoding: Column, stored: T.StructType) -> Column:
    """The row of a payload."""
    plain_type = cast(T.StructType, _encoded_type(stored, as_bytes=False))
    bytes_type = cast(T.StructType, _encoded_type(stored, as_bytes=True))
    bytes_row = F.from_json(F.decode(F.unbase64(text), _BYTES), bytes_type, _OPTIONS).cast(plain_type)
    row = F.from_json(text, plain_type, _OPTIONS)
    return F.when(encoding == "base64", _decoded(bytes_row, stored, as_bytes=True)).otherwise(
        _decoded(row, stored, as_bytes=False)
    )


def _encoded(value: Column, stored: T.DataType, *, as_bytes: bool) -> Column:
    def part(value: Column, stored: T.DataType) -> Column | None:
        if isinstance(stored, T.StringType) and as_bytes:
            return F.decode(value.cast("binary"), _BYTES)
        if _has_other_keys(stored):
            return _encoded(F.map_entries(value), _entries_type(stored), as_bytes=as_bytes)
        return None

    replaced = replace_parts(value, stored, part)
    return value if replaced is None else replaced


def _decoded(value: Column, stored: T.DataType, *, as_bytes: bool) -> Column:
    def part(value: Column, stored: T.DataType) -> Column | None:
        if isinstance(stored, T.StringType) and as_bytes:
            return F.encode(value, _BYTES).cast("string")
        if _has_other_keys(stored):
            return F.map_from_entries(_decoded(value, _entries_type(stored), as_bytes=as_bytes))
        return None

    replaced = replace_parts(value, stored, part)
    return value if replaced is None else replaced


def _encoded_type(stored: T.DataType, *, as_bytes: bool) -> T.DataType:
    """The type of the JSON; as bytes, the names of its fields are written byte by byte too."""
    if isinstance(stored, T.StructType):
        return T.StructType([
            T.StructField(
                field.name.encode().decode(_BYTES) if as_bytes else field.name,
                _encoded_type(field.dataType, as_bytes=as_bytes),
            )
            for field in stored
        ])  # fmt: skip
    if isinstance(stored, T.ArrayType):
        return T.ArrayType(_encoded_type(stored.elementType, as_bytes=as_bytes))
    if _has_other_keys(stored):
        return _encoded_type(_entries_type(stored), as_bytes=as_bytes)
    if isinstance(stored, T.MapType):
        return T.MapType(stored.keyType, _encoded_type(stored.valueType, as_bytes=as_bytes))
    return stored


def _has_other_keys(stored: T.DataType) -> bool:
    return isinstance(stored, T.MapType) and not isinstance(stored.keyType, T.StringType)


def _entries_type(stored: T.DataType) -> T.ArrayType:
    assert isinstance(stored, T.MapType)
    fields = [T.StructField("key", stored.keyType), T.StructField("value", stored.valueType)]
    return T.ArrayType(T.StructType(fields))
