"""Applies a mapping to a few lines without a stream: parse, explode, evaluate the rules, collect."""

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from profilestream.base.settings import Capture, Source, validated
from profilestream.capture import execute_mapping, ingest, raw_records
from profilestream.capture.ingest import CaptureSource
from profilestream.capture.mapping import Mapping
from profilestream.capture.sources.file_source import FileSource
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

# Time of capture; a fixed date, so that "in the future" is the same whenever the tests run.
NOW = datetime(2027, 1, 1, tzinfo=UTC)
FILE = "shop.toml"


def capture_source(mapping: str, **capture: Any) -> CaptureSource:
    """A source called `shop` with this mapping."""
    config = Source(path="/nowhere", mapping=FILE)
    settings = Capture.model_validate({"sources": {"shop": config}, **capture})
    parsed = validated(Mapping, tomllib.loads(mapping), FILE)
    reader = FileSource("shop", config.path, parsed.input, ("maxFilesPerTrigger", 1), settings.max_line_bytes)
    return CaptureSource("shop", config, parsed, settings, reader)


def parse(
    spark: SparkSession, source: CaptureSource, lines: Sequence[str | bytes], header: str | None = None
) -> DataFrame:
    """Lines as records, numbered from 1; a CSV header gives the order of the cells."""
    spec = source.mapping.input
    raw = [(str(n + 1), line.encode() if isinstance(line, str) else line, header) for n, line in enumerate(lines)]
    frame = spark.createDataFrame(raw, "position string, value binary, payload_header string")
    frame = frame.withColumn("source_file", F.lit(None).cast("string"))
    names = raw_records.split_header(header, spec) if header else tuple(raw_records.schema(spec).names)
    text = frame.withColumn("value", F.col("value").cast("string"))
    return raw_records.parse_lines(text, spec, names, max_line_bytes=source.capture.max_line_bytes)


def evaluate(source: CaptureSource, records: DataFrame) -> list[Row]:
    """Rows after every step of a batch except the search for duplicates, in order of position."""
    exploded = execute_mapping.explode(records, source.mapping)
    frame = ingest.apply_mapping(exploded.withColumn("_ingest_time", F.lit(NOW)), source, versions={})
    return frame.orderBy(F.length("position"), "position").collect()


def rule_results(rows: list[Row]) -> list[tuple[str, str | None, str | None]]:
    """Position, rule and reason of each row."""
    return [(row["position"], row["rule"], row["reason"]) for row in rows]
