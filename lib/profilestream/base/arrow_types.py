"""Arrow types of the SQL types of columns, without a Spark session."""

import re
from collections.abc import Iterator

import pyarrow as pa

_TYPES: dict[str, pa.DataType] = {
    "STRING": pa.string(), "BIGINT": pa.int64(), "INT": pa.int32(), "DOUBLE": pa.float64(), "FLOAT": pa.float32(),
    "BOOLEAN": pa.bool_(), "BINARY": pa.binary(), "DATE": pa.date32(), "TIMESTAMP": pa.timestamp("us", "UTC"),
}  # fmt: skip
_NOT_NULL = " NOT NULL"


def arrow_field(name: str, sql_type: str) -> "pa.Field[pa.DataType]":
    """A column with a type as in CREATE TABLE, such as `DOUBLE` or `STRING NOT NULL`; times are in UTC.

    Raises:
        ValueError: the type is none of those that the tables use.
    """
    is_nullable = not sql_type.upper().endswith(_NOT_NULL)
    return pa.field(name, _arrow_type(sql_type if is_nullable else sql_type[: -len(_NOT_NULL)]), is_nullable)


def _arrow_type(sql_type: str) -> pa.DataType:
    kind, _, inner = sql_type.strip().removesuffix(">").partition("<")
    match kind.upper(), list(_parts(inner)):
        case "ARRAY", [element]:
            return pa.list_(arrow_field("element", element))
        case "MAP", [key, value]:
            return pa.map_(_arrow_type(key), _arrow_type(value))
        case "STRUCT", fields:
            pairs = [field.partition(":") for field in fields]
            return pa.struct([arrow_field(name.strip(), type_.strip()) for name, _, type_ in pairs])
        case name, [] if name in _TYPES:
            return _TYPES[name]
    raise ValueError(f"no Arrow type for {sql_type!r}; known are {', '.join(_TYPES)}, ARRAY, MAP and STRUCT")


def _parts(text: str) -> Iterator[str]:
    """The parts between the commas that are outside of inner brackets."""
    depth, start = 0, 0
    for match in re.finditer("[<>,]", text):
        depth += {"<": 1, ">": -1, ",": 0}[match.group()]
        if match.group() == "," and not depth:
            yield text[start : match.start()].strip()
            start = match.end()
    if text:
        yield text[start:].strip()
