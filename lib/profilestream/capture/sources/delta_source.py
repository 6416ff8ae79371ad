"""A Delta table as a source: its appended rows."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import files
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.columns import quoted
from profilestream.base.delta_table import log_entry
from profilestream.base.errors import ProfilestreamError, Refused, first_sentence
from profilestream.base.jvm import java_class
from profilestream.base.queries import RunOptions
from profilestream.capture import raw_records
from profilestream.capture.mapping import InputSpec
from profilestream.capture.sources.record_source import InputBatch, RecordSource, reading

log = logging.getLogger(__name__)

# Names of Spark's and Delta's errors when the source table changed other than by appended rows.
_CHANGE_ERRORS = (
    "DELTA_SOURCE_TABLE_IGNORE_CHANGES", "DELTA_SOURCE_IGNORE_DELETE", "DELTA_SCHEMA_CHANGED",
    "DELTA_STREAMING_INCOMPATIBLE_SCHEMA_CHANGE", "DELTA_STREAMING_SCHEMA", "DELTA_BLOCK_COLUMN_MAPPING",
    "DIFFERENT_DELTA_TABLE_READ_BY_STREAMING_SOURCE", "DELTA_TABLE_NOT_FOUND", "DELTA_PATH_DOES_NOT_EXIST",
    "DELTA_FILE_NOT_FOUND", "DELTA_LOG_FILE_NOT_FOUND", "DELTA_STREAMING_CANNOT_CONTINUE",
    "DELTA_UNSUPPORTED_SOURCE",
)  # fmt: skip


@dataclass(frozen=True)
class DeltaSource(RecordSource):
    """The rows that are appended to a Delta table.

    Args:
        path: of the table.
        on_change: what happens at a commit that removes or rewrites rows.
        rate_limit: option of Delta's streaming source that limits a micro-batch, and its value.
    """

    name: str
    path: str
    spec: InputSpec
    on_change: str
    rate_limit: tuple[str, int]

    def read_stream(self, spark: SparkSession) -> DataFrame:
        """The rows of the table."""
        reader = spark.readStream.format("delta").option(*self.rate_limit)
        if self.on_change == "skip":
            reader = reader.option("skipChangeCommits", True)
        return reader.load(files.qualified(self.path)).withColumn("ingest_time", F.current_timestamp())

    def read_batch(self, frame: DataFrame, batch_id: int, skipped: list[str]) -> InputBatch:
        """Table rows have no place of their own, so the position is the number of the row in the micro-batch."""
        rows = frame.withColumn("_id", F.monotonically_increasing_id())
        task = F.shiftright("_id", 33)
        by_task = rows.groupBy(task.alias("task")).agg(
            F.count(F.lit(1)).alias("rows"), F.max(F.unix_micros("ingest_time")).alias("micros")
        )
        with reading(frame.sparkSession):
            tasks: list[Any] = by_task.orderBy("task").collect()
        rows_before, offsets = 0, []
        for row in tasks:
            offsets += [F.lit(row["task"]), F.lit(rows_before)]
            rows_before += row["rows"]
        first = F.element_at(F.create_map(*offsets), task) if offsets else F.lit(0)
        number = first + F.col("_id").bitwiseAND(F.lit((1 << 33) - 1)) + 1
        position = F.concat_ws(":", F.lit(batch_id), number)
        micros = max((row["micros"] for row in tasks), default=0)
        return InputBatch(
            lambda: self.records(rows.drop("ingest_time"), position), micros, [], [], max_rows=rows_before
        )

    def read_once(self, spark: SparkSession, path: str, ingest_micros: int) -> InputBatch:
        """All rows of a table."""
        rows = spark.read.format("delta").load(files.qualified(path)).withColumn("ingest_time", F.current_timestamp())
        return replace(self.read_batch(rows, 0, []), ingest_micros=ingest_micros)

    def records(self, rows: DataFrame, position: Any) -> DataFrame:
        """Records of rows of the table."""
        names = [name for name in rows.columns if name != "_id"]
        placed = rows.select(
            position.alias("position"),
            F.lit(None).cast("string").alias("source_file"),
            F.struct(*[F.col(quoted(name)) for name in names]).alias("row"),
        )
        row_type = placed.schema["row"].dataType
        assert isinstance(row_type, T.StructType)
        return raw_records.from_struct(placed, row_type, self.spec)

    def check(self, spark: SparkSession, checkpoint: Checkpoint, options: RunOptions) -> None:
        """Refuse a table that another one replaced, and removed or rewritten rows if `on_change` is `stop`."""
        self.check_exists(spark)
        offset = checkpoint.last_offset()
        if "reservoirVersion" not in offset:
            return
        log_class = java_class(spark, "org.apache.spark.sql.delta.DeltaLog")
        delta_log = log_class.forTable(spark._jsparkSession, files.qualified(self.path))
        snapshot = delta_log.startTransaction().snapshot()
        if str(offset["reservoirId"]) != str(snapshot.metadata().id()):
            raise self._refused("it was removed and created again")
        first = int(offset["reservoirVersion"]) + bool(offset["isStartingVersion"])
        for version in range(first, int(snapshot.version()) + 1):
            operation = self._change(spark, version)
            if operation and self.on_change == "stop":
                raise self._refused(f"version {version} ({operation}) removed or rewrote rows")
            if operation:
                log.warning(
                    "version %s (%s) of %s is skipped: neither the rows that it removed nor those that it added count",
                    version, operation, self.path,
                )  # fmt: skip

    def _change(self, spark: SparkSession, version: int) -> str:
        """The operation of a commit that removes or rewrites rows; empty for other commits."""
        actions = log_entry(spark, self.path, version) or []
        if not any(action["remove"].get("dataChange", True) for action in actions if "remove" in action):
            return ""
        return next((str(a["commitInfo"].get("operation")) for a in actions if "commitInfo" in a), "a commit")

    def new_units(self, spark: SparkSession, checkpoint: Checkpoint) -> int | None:
        """Unknown: the rows of a table are not counted before they are read."""
        return None

    def explain(self, error: Exception, checkpoint: Checkpoint) -> ProfilestreamError | None:
        """The refusal when the table changed while the query ran, or changed its columns."""
        message = str(error)
        if not any(name in message for name in _CHANGE_ERRORS):
            return None
        return self._refused(first_sentence(message)[:300])

    def _refused(self, what: str) -> Refused:
        return Refused(
            f"the source table changed: {what}",
            where=f"query capture_events/{self.name}, table {self.path}",
            do=f'to skip commits that remove or rewrite rows, set capture.sources.{self.name}.on_change = "skip" '
            "(rows that such a commit adds are skipped too); after a renamed or retyped column or a new table, remove "
            "the checkpoint of the source and start with --accept-new-epoch (docs/running.md#delta-sources)",
        )
