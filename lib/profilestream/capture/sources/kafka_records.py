"""Records of Kafka: values, parsed as the lines of files, with key, headers and place.

Key, headers and time of a record are in `payload_header`, so that a rejected record is parsed again as it was captured.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.capture import raw_records
from profilestream.capture.cleaning_rules import TOMBSTONE
from profilestream.capture.conversion import Converted, convert
from profilestream.capture.mapping import AvroSchemas, InputSpec
from profilestream.capture.sources import avro_values
from profilestream.capture.typed_values import any_of, has_invalid_text

# Columns of a record that is collected: the value in base64.
LINE_SCHEMA = "value STRING, position STRING, payload_header STRING, _ingest_micros BIGINT"
COLUMNS = ("kafka_key", "kafka_timestamp", "kafka_headers", "kafka_topic", "kafka_partition", "kafka_offset")
_HEADER = "key BINARY, timestamp BIGINT, timestampType INT, headers ARRAY<STRUCT<key: STRING, value: BINARY>>"


def lines_of(rows: DataFrame) -> DataFrame:
    """The rows of Spark's connector as `value`, `position` and `payload_header`."""
    header = F.struct("key", F.unix_millis("timestamp").alias("timestamp"), "timestampType", "headers")
    return rows.select(
        F.col("value").cast("string").alias("value"),
        F.concat_ws("/", "topic", "partition", "offset").alias("position"),
        F.to_json(header).alias("payload_header"),
    )


def parse(lines: DataFrame, spec: InputSpec, max_line_bytes: int) -> DataFrame:
    """The records of values: `value` (bytes as a string), `position`, `payload_header` and perhaps `_ingest_time`.

    Returns:
        As `raw_records.parse_lines`.
    """
    fields = raw_records.schema(spec)
    own = [field for field in fields if field.name in COLUMNS]
    of_value = T.StructType([field for field in fields if field.name not in COLUMNS])
    value_spec = spec.model_copy(update={"columns": of_value.toDDL()})
    lines = lines.withColumn("source_file", F.lit(None).cast("string"))
    if spec.schemas is None:
        records = raw_records.parse_lines(lines, value_spec, tuple(of_value.names), max_line_bytes=max_line_bytes)
    else:
        records = _parse_avro(lines, value_spec, spec.schemas, max_line_bytes)
    cells = _cells(own, spec)
    is_missing = F.col("payload").isNull()
    is_invalid = any_of([has_invalid_text(cells[field.name].value, field.dataType) for field in own])
    is_lost = any_of([cell.is_lost for cell in cells.values()])
    raw = {name: F.col("raw")[name] for name in of_value.names} | {n: cell.value for n, cell in cells.items()}
    fault = F.when(is_missing, TOMBSTONE).otherwise(
        F.coalesce("fault", F.when(is_invalid, "not_utf8").when(is_lost, "wrong_type"))
    )
    reason = F.when(is_missing, "the record has no value").otherwise(
        F.coalesce("fault_reason", F.when(is_invalid | is_lost, f"one of {', '.join(cells)} has not the declared type"))
    )
    return records.withColumns({
        "fault": fault,
        "fault_reason": reason,
        "raw": F.struct(*[raw[name].alias(name) for name in fields.names]),
    })  # fmt: skip


def _parse_avro(lines: DataFrame, spec: InputSpec, schemas: AvroSchemas, max_line_bytes: int) -> DataFrame:
    """As `raw_records.parse_lines`, of Avro values."""
    value = F.col("value").cast("binary")
    too_long = F.coalesce(F.octet_length("value") > max_line_bytes, F.lit(False))
    decoded = avro_values.decode(value, schemas, value.isNotNull() & ~too_long)
    # The row is null, or its parts are, where the value cannot be decoded.
    placed = lines.withColumns({"row": decoded.row, "_reason": decoded.reason})
    stored = placed.schema["row"].dataType
    assert isinstance(stored, T.StructType)
    raw_value = raw_records.RawValue(
        payload=F.base64(value),
        encoding=F.lit("base64"),
        header=F.col("payload_header"),
        fault=F.when(too_long, "line_too_long").when(F.col("row").isNull(), "unparseable"),
        reason=F.when(too_long, f"the value is longer than {max_line_bytes} bytes").otherwise(F.col("_reason")),
    )
    return raw_records.from_struct(placed, stored, spec, value=raw_value)


def _cells(fields: list[T.StructField], spec: InputSpec) -> dict[str, Converted]:
    """The declared columns of COLUMNS."""
    if not fields:
        return {}
    header, place = F.from_json("payload_header", _HEADER), F.split("position", "/")
    millis = header["timestamp"]
    values: dict[str, tuple[Column, T.DataType]] = {
        "kafka_key": (header["key"], T.BinaryType()),
        "kafka_timestamp": (F.when(millis >= 0, F.timestamp_millis(millis)), T.TimestampType()),
        "kafka_topic": (place[0], T.StringType()),
        "kafka_partition": (place[1].cast("int"), T.IntegerType()),
        "kafka_offset": (place[2].cast("bigint"), T.LongType()),
    }
    pair = T.StructType([T.StructField("key", T.StringType()), T.StructField("value", T.BinaryType())])

    def value_of(field: T.StructField) -> tuple[Column, T.DataType]:
        if field.name != "kafka_headers":
            return values[field.name]
        if isinstance(field.dataType, T.MapType):
            return F.map_from_entries(header["headers"]), T.MapType(T.StringType(), T.BinaryType())
        return header["headers"], T.ArrayType(pair)

    return {field.name: convert(*value_of(field), field.dataType, spec.timezone) for field in fields}
