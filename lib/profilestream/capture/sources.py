"""Sources of records: folders of files, and Delta tables.

Spark streams a folder as a list of files; the rows are read when a batch is written. So each file can have its own
header, an unreadable file can be named and skipped, and the checkpoint contains file names only, no schema.
"""

import math
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.settings import Settings, Source
from profilestream.capture import raw_records
from profilestream.capture.mapping import Mapping

_FILE_SCHEMA = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
# By default Spark silently ignores files that are a week older than the newest one.
_MAX_FILE_AGE = "36500d"
_BYTES_PER_TASK = 16 << 20


@dataclass(frozen=True)
class InputBatch:
    """The input of one micro-batch.

    Args:
        records: columns as in `raw_records.COLUMNS`.
        ingest_micros: time of the batch, microseconds since 1970 UTC; a retry of the batch has the same time.
        paths: input files, without the skipped ones.
        skipped_paths: unreadable input files that are named by --skip-file.
        reprocessed_rows: rejected rows that are reprocessed (`position`, `reprocessed_from`); null for a source.
    """

    records: DataFrame
    ingest_micros: int
    paths: list[str]
    skipped_paths: list[str]
    reprocessed_rows: DataFrame | None = None


def read_stream(spark: SparkSession, source: Source, mapping: Mapping, settings: Settings) -> DataFrame:
    """The source as a streaming frame: one row per file, or the rows of a Delta table; with `ingest_time`."""
    if mapping.input.format == "delta":
        stream = (
            spark.readStream.format("delta")
            .options(**_rate_limits(source, settings))
            .load(files.qualified(source.path))
        )
        return stream.withColumn("ingest_time", F.current_timestamp())
    reader = spark.readStream.format("binaryFile").schema(_FILE_SCHEMA).option("recursiveFileLookup", True)
    reader = reader.option("maxFileAge", _MAX_FILE_AGE).options(**_rate_limits(source, settings))
    if mapping.input.glob:
        reader = reader.option("pathGlobFilter", mapping.input.glob)
    return reader.load(files.qualified(source.path)).select(
        "path", "length", F.current_timestamp().alias("ingest_time")
    )


def read_batch(
    batch: DataFrame, source: Source, mapping: Mapping, *, batch_id: int, skip_files: list[str], max_line_bytes: int
) -> InputBatch:
    """The input of one micro-batch of `read_stream`."""
    spark = batch.sparkSession
    micros = F.unix_micros("ingest_time").alias("micros")
    if mapping.input.format == "delta":
        first = batch.select(micros).first()
        rows = raw_records.from_rows(batch.drop("ingest_time"), mapping.input, batch_id)
        return InputBatch(rows, 0 if first is None else int(first["micros"]), [], [])
    listed: list[Any] = sorted(batch.select("path", micros, "length").collect())
    paths = [row["path"] for row in listed if files.qualified(row["path"]) not in skip_files]
    skipped_paths = [row["path"] for row in listed if row["path"] not in paths]
    cores = spark.sparkContext.defaultParallelism
    tasks = cores * max(1, math.ceil(sum(row["length"] for row in listed) / _BYTES_PER_TASK / cores))
    rows = raw_records.from_files(spark, paths, source.path, mapping.input, max_line_bytes=max_line_bytes, tasks=tasks)
    return InputBatch(rows, max((row["micros"] for row in listed), default=0), paths, skipped_paths)


def _rate_limits(source: Source, settings: Settings) -> dict[str, str | int]:
    if settings.stream.max_bytes_per_trigger and source.max_files_per_trigger is None:
        return {"maxBytesPerTrigger": str(settings.stream.max_bytes_per_trigger)}
    return {"maxFilesPerTrigger": source.max_files_per_trigger or settings.stream.max_files_per_trigger}
