"""Avro values as rows, by spark-avro."""

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.avro.functions import from_avro

from profilestream.capture.guarded_sql import null_if_raises
from profilestream.capture.mapping import AvroSchemas

# The wire format of Confluent: a zero byte, the id of the writer's schema in four bytes, and the value.
_HEADER_BYTES = 5
_MAX_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Decoded:
    """A decoded value.

    Args:
        row: with the fields of the reader's schema; null when the value cannot be decoded.
        reason: why it cannot.
    """

    row: Column
    reason: Column


def decode(value: Column, schemas: AvroSchemas, is_readable: Column) -> Decoded:
    """The row of a value.

    Args:
        is_readable: whether the value is decoded; not constant.
    """
    if not schemas.by_id:
        return Decoded(
            _row(value, schemas.reader, schemas.reader, is_readable), F.lit("not a value of the Avro schema")
        )
    has_header = (F.octet_length(value) >= _HEADER_BYTES) & (F.hex(F.substring(value, 1, 1)) == "00")
    schema_id = F.conv(F.hex(F.substring(value, 2, 4)), 16, 10).cast("bigint")
    body = F.substring(value, _HEADER_BYTES + 1, _MAX_BYTES)
    rows = [
        _row(body, text, schemas.reader, is_readable & has_header & (schema_id == number))
        for number, text in schemas.by_id.items()
    ]
    reason = (
        F.when(~has_header, "not in the wire format of Confluent")
        .when(~schema_id.isin(*schemas.by_id), F.concat(F.lit("there is no Avro schema with the id "), schema_id))
        .otherwise(F.concat(F.lit("not a value of the Avro schema with the id "), schema_id))
    )
    return Decoded(F.coalesce(*rows), reason)


def _row(value: Column, writer: str, reader: str, condition: Column) -> Column:
    return null_if_raises(from_avro(value, writer, {"mode": "FAILFAST", "avroSchema": reader}), condition)
