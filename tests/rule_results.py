"""What a mapping makes of a few lines, without a stream: read, exploded, judged, collected."""

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from profilestream.base.settings import Capture, Source, validated
from profilestream.capture import canonical_columns, ingest, raw_records
from profilestream.capture.ingest import Log
from profilestream.capture.mapping import Mapping
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

# When the lines come in; a fixed day, so that "in the future" is the same whenever the tests run.
NOW = datetime(2027, 1, 1, tzinfo=UTC)
FILE = "shop.toml"


def log_of(mapping: str, **capture: Any) -> Log:
    """A source called `shop` with this mapping."""
    source = Source(path="/nowhere", mapping=FILE)
    rules = Capture.model_validate({"sources": {"shop": source}, **capture})
    return Log("shop", source, validated(Mapping, tomllib.loads(mapping), FILE), rules)


def parsed(spark: SparkSession, log: Log, lines: Sequence[str | bytes], header: str | None = None) -> DataFrame:
    """Lines as records, numbered from 1; a CSV header gives the order of their cells."""
    shape = log.mapping.input
    raw = [(str(n + 1), line.encode() if isinstance(line, str) else line, header) for n, line in enumerate(lines)]
    frame = spark.createDataFrame(raw, "position string, value binary, payload_header string")
    names = raw_records.split_header(header, shape) if header else tuple(raw_records.schema(shape).names)
    text = frame.withColumn("value", F.col("value").cast("string"))
    return raw_records.parsed_lines(text, shape, names, max_line_bytes=log.capture.max_line_bytes)


def judged(log: Log, raw: DataFrame) -> list[Row]:
    """Records after every step of a batch but the search for duplicates, in order of position."""
    frame = ingest.judge(
        canonical_columns.exploded(raw, log.mapping), log, ingest_micros=int(NOW.timestamp() * 1e6), versions={}
    )
    return frame.orderBy(F.length("position"), "position").collect()


def verdicts(rows: list[Row]) -> list[tuple[str, str | None, str | None]]:
    """Position, rule and reason of each row."""
    return [(row["position"], row["rule"], row["reason"]) for row in rows]
