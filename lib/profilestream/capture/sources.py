"""Where records come from: folders of files and Delta tables. (Kafka takes its place here later.)

A folder of files is streamed as a list of files; the rows are read when a batch is written. So every file can have
its own header, a broken one can be named and passed over, and the checkpoint holds names and nothing of the schema.
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

_FILE = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
# Without it Spark drops files that are a week older than the newest one, silently.
_ANY_AGE = "36500d"
_BYTES_A_TASK = 16 << 20


@dataclass(frozen=True)
class Arrived:
    """What a micro-batch brings.

    Args:
        records: as in `records.COLUMNS`.
        ingest_micros: the batch's time, microseconds since 1970 UTC; the same when the batch is replayed.
        paths: input files, without those passed over.
        skipped: input files that the batch passes over because they cannot be read.
        replayed: rejected rows that are put through again (`position`, `reprocessed_from`); null when they come from a source.
    """

    records: DataFrame
    ingest_micros: int
    paths: list[str]
    skipped: list[str]
    replayed: DataFrame | None = None


def read_stream(spark: SparkSession, source: Source, mapping: Mapping, settings: Settings) -> DataFrame:
    """The source as a streaming frame: a row a file, or the rows of a Delta table; with `ingest_time`."""
    if mapping.input.format == "delta":
        stream = (
            spark.readStream.format("delta").options(**_limits(source, settings)).load(files.qualified(source.path))
        )
        return stream.withColumn("ingest_time", F.current_timestamp())
    reader = spark.readStream.format("binaryFile").schema(_FILE).option("recursiveFileLookup", True)
    reader = reader.option("maxFileAge", _ANY_AGE).options(**_limits(source, settings))
    if mapping.input.glob:
        reader = reader.option("pathGlobFilter", mapping.input.glob)
    return reader.load(files.qualified(source.path)).select(
        "path", "length", F.current_timestamp().alias("ingest_time")
    )


def arrived(
    batch: DataFrame, source: Source, mapping: Mapping, *, batch_id: int, skip_files: list[str], max_line_bytes: int
) -> Arrived:
    """The records of one micro-batch."""
    spark = batch.sparkSession
    micros = F.unix_micros("ingest_time").alias("micros")
    if mapping.input.format == "delta":
        first = batch.select(micros).first()
        rows = raw_records.from_rows(batch.drop("ingest_time"), mapping.input, batch_id)
        return Arrived(rows, 0 if first is None else int(first["micros"]), [], [])
    listed: list[Any] = sorted(batch.select("path", micros, "length").collect())
    paths = [row["path"] for row in listed if files.qualified(row["path"]) not in skip_files]
    skipped = [row["path"] for row in listed if row["path"] not in paths]
    cores = spark.sparkContext.defaultParallelism
    tasks = cores * max(1, math.ceil(sum(row["length"] for row in listed) / _BYTES_A_TASK / cores))
    rows = raw_records.from_files(spark, paths, source.path, mapping.input, max_line_bytes=max_line_bytes, tasks=tasks)
    return Arrived(rows, max((row["micros"] for row in listed), default=0), paths, skipped)


def _limits(source: Source, settings: Settings) -> dict[str, str | int]:
    if settings.stream.max_bytes_per_trigger and source.max_files_per_trigger is None:
        return {"maxBytesPerTrigger": str(settings.stream.max_bytes_per_trigger)}
    return {"maxFilesPerTrigger": source.max_files_per_trigger or settings.stream.max_files_per_trigger}
