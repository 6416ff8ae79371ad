"""Topics of Kafka as a source, read by Spark's own connector."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.checkpoints import Checkpoint
from profilestream.base.errors import BadSettings, ProfilestreamError, Refused, first_sentence
from profilestream.base.files import read_text, write_text
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Kafka, Paths
from profilestream.capture import prepared_query
from profilestream.capture.mapping import InputSpec
from profilestream.capture.raw_records import INGEST_TIME
from profilestream.capture.sources import kafka_client, kafka_gaps, kafka_records
from profilestream.capture.sources.file_source import FileSource
from profilestream.capture.sources.kafka_client import Offsets, Topic
from profilestream.capture.sources.kafka_gaps import Gap
from profilestream.capture.sources.record_source import FewLines, InputBatch, RecordSource, reading

# Errors of the connector when records or partitions are no longer available.
_LOSS_ERRORS = (
    "KAFKA_DATA_LOSS", "LOST_TOPIC_PARTITIONS", "MISMATCHED_TOPIC_PARTITIONS", "END_OFFSET_HAS_GREATER_OFFSET",
    "RESOLVED_START_OFFSET_GREATER", "KAFKA_START_OFFSET_DOES_NOT_MATCH", "Some data may have been",
    "UnknownTopicOrPartitionException", "UnknownTopicIdException",
)  # fmt: skip
_MAX_LOCAL_BYTES = 16 << 20  # of the values of a small batch


@dataclass(frozen=True)
class KafkaSource(RecordSource):
    """The records of topics.

    Args:
        max_line_bytes: longer values are rejected.
        local_max_rows: setting `stream.local_max_rows`.
        checkpoint_path: of the query that reads the source.
        paths: of the table of gaps.
    """

    name: str
    kafka: Kafka
    spec: InputSpec
    max_line_bytes: int
    local_max_rows: int
    checkpoint_path: str
    paths: Paths
    line_schema = kafka_records.LINE_SCHEMA

    @property
    def path(self) -> str:  # type: ignore[override]
        """Servers and topics, for messages."""
        return f"kafka://{self.kafka.bootstrap_servers}/{','.join(self.kafka.topics)}"

    @property
    def _where(self) -> str:
        return f"settings, capture.sources.{self.name}.kafka"

    def check_exists(self, spark: SparkSession) -> None:
        """Raise SourceMissing when a topic does not exist, and SourceUnavailable when the brokers do not answer."""
        kafka_client.topic_ids(spark, self.kafka, self._where)

    def read_stream(self, spark: SparkSession) -> DataFrame:
        """The records with key, headers and place."""
        options = kafka_client.connection_options(self.kafka, self._where)
        with kafka_client.calls_not_logged():
            reader = spark.readStream.format("kafka").options(**{f"kafka.{n}": value for n, value in options.items()})
        return (
            reader.option("subscribe", ",".join(self.kafka.topics))
            .option("startingOffsets", self._starting_offsets(spark))
            .option("maxOffsetsPerTrigger", self.kafka.max_offsets_per_trigger)
            .option("includeHeaders", True)
            .option("failOnDataLoss", True)
            .load()
        )

    def _starting_offsets(self, spark: SparkSession) -> str:
        """Where a new checkpoint starts, as an option of the connector, which needs all partitions."""
        restarted = Checkpoint(spark, self.checkpoint_path).start_offsets()
        if restarted is not None:
            return json.dumps(restarted)
        requested = self.kafka.starting_offsets
        if isinstance(requested, str):
            return requested
        topics = kafka_client.describe(spark, self.kafka, self._where)
        starts = {name: {**topic.earliest, **requested.get(name, {})} for name, topic in topics.items()}
        if invalid := [*_unavailable(starts, topics), *sorted({*requested} - {*topics})]:
            raise BadSettings(
                f"starting_offsets contains offsets that are not available: {', '.join(invalid)}",
                where=f"{self._where}.starting_offsets",
                do='correct them, or write "earliest"',
            )
        return json.dumps(starts)

    def read_batch(self, frame: DataFrame, batch_id: int, skipped: list[str]) -> InputBatch:
        """The offsets are an upper bound of the records, because compaction and transactions leave gaps."""
        spark, checkpoint = frame.sparkSession, Checkpoint(frame.sparkSession, self.checkpoint_path)
        self._check_ids(spark, checkpoint)
        count = _count_offsets(checkpoint.first_offset(batch_id), checkpoint.end_offset(batch_id))
        lines = kafka_records.lines_of(frame)
        is_small = count <= self.local_max_rows and prepared_query.is_possible(spark)
        few_lines = self._few_lines(lines, count) if is_small else None
        return InputBatch(
            lambda: kafka_records.parse(lines, self.spec, self.max_line_bytes),
            checkpoint.batch_micros(batch_id),
            units=[],
            skipped_units=[],
            max_rows=None if few_lines is None else count,
            few_lines=few_lines,
        )

    def _few_lines(self, lines: DataFrame, count: int) -> FewLines | None:
        """The records of a batch, collected by one job; null if a value is longer than its share of the memory."""
        size = F.octet_length("value")
        is_long = F.coalesce(size > _MAX_LOCAL_BYTES // max(1, count), F.lit(False))
        value = F.when(~is_long, F.base64(F.col("value").cast("binary"))).alias("value")
        with reading(lines.sparkSession):
            rows = lines.select(value, "position", "payload_header", is_long.alias("is_long")).toArrow()
        collected = rows.drop_columns(["is_long"]).to_pylist()
        return None if True in rows["is_long"].to_pylist() else {self.spec.format: collected}

    def records_of_lines(self, lines: DataFrame, layout: Any) -> DataFrame:
        """As RecordSource."""
        return kafka_records.parse(
            lines.select(
                F.unbase64("value").cast("string").alias("value"),
                "position",
                "payload_header",
                F.timestamp_micros("_ingest_micros").alias(INGEST_TIME),
            ),
            self.spec,
            self.max_line_bytes,
        )

    def read_once(self, spark: SparkSession, path: str, ingest_micros: int) -> InputBatch:
        """The lines of a text file as values of records."""
        if self.spec.format == "avro":
            raise BadSettings(
                "Avro values are not read from a file", where=path, do="use a file with one JSON per line"
            )
        spec = self.spec.model_copy(update={"header": False})
        lines = FileSource(self.name, path, spec, ("maxFilesPerTrigger", 1), self.max_line_bytes)
        return lines.read_once(spark, path, ingest_micros)

    def check(self, spark: SparkSession, checkpoint: Checkpoint, options: RunOptions) -> None:
        """Refuse gaps, or continue after them in a new epoch if they are accepted."""
        checkpoint.finish_restart()
        topics = kafka_client.describe(spark, self.kafka, self._where)
        gaps, starts = self._gaps(checkpoint, topics)
        if gaps and not options.accept_gaps:
            raise self._refused(spark, checkpoint, gaps)
        if gaps:
            kafka_gaps.store(spark, self.paths, self.name, checkpoint.epoch(), gaps, "accepted")
            checkpoint.restart(starts)
        ids = {name: topic.id for name, topic in topics.items()}
        write_text(spark, f"{checkpoint.path}/topic_ids", json.dumps(ids))

    def _gaps(self, checkpoint: Checkpoint, topics: dict[str, Topic]) -> tuple[list[Gap], Offsets]:
        next_offset = checkpoint.next_offset()
        return kafka_gaps.compare(next_offset, _stored_ids(checkpoint), topics) if next_offset else ([], {})

    def _refused(self, spark: SparkSession, checkpoint: Checkpoint, gaps: list[Gap]) -> Refused:
        """The error for gaps, which are stored."""
        kafka_gaps.store(spark, self.paths, self.name, checkpoint.epoch(), gaps, "refused")
        return Refused(
            f"{len(gaps)} range(s) of offsets are no longer available and were not read: "
            f"{'; '.join(map(str, gaps[:5]))}",
            where=f"query capture_events/{self.name}, {self.path}",
            do="if the records are lost, continue after them: --accept-gaps; all gaps are in the table capture_gaps",
        )

    def _check_ids(self, spark: SparkSession, checkpoint: Checkpoint) -> None:
        """Refuse the batch if a topic was created again: its offsets can look like those of the old topic."""
        stored = _stored_ids(checkpoint)
        current = kafka_client.topic_ids(spark, self.kafka, self._where)
        if any(stored.get(name, current[name]) != current[name] for name in current):
            gaps, _ = self._gaps(checkpoint, kafka_client.describe(spark, self.kafka, self._where))
            raise self._refused(spark, checkpoint, gaps)

    def new_units(self, spark: SparkSession, checkpoint: Checkpoint) -> int | None:
        """Unknown: records are not counted before they are read."""
        return None

    def explain(self, error: Exception, checkpoint: Checkpoint) -> ProfilestreamError | None:
        """The refusal when records or partitions became unavailable while the query ran."""
        message = str(error)
        if not any(name in message for name in _LOSS_ERRORS):
            return None
        spark = checkpoint.spark
        try:
            gaps, _ = self._gaps(checkpoint, kafka_client.describe(spark, self.kafka, self._where))
        except ProfilestreamError as missing:
            return missing
        if gaps:
            return self._refused(spark, checkpoint, gaps)
        return Refused(
            f"the topics changed while the query ran: {first_sentence(message)[:300]}",
            where=f"query capture_events/{self.name}, {self.path}",
            do="run it again",
        )


def _stored_ids(checkpoint: Checkpoint) -> dict[str, str]:
    text = read_text(checkpoint.spark, f"{checkpoint.path}/topic_ids")
    return {} if text is None else dict(json.loads(text))


def _count_offsets(first: Offsets, end: Offsets) -> int:
    """The number of offsets of a batch; a partition that was added starts at 0."""
    return sum(
        offset - first.get(topic, {}).get(number, 0)
        for topic, by_partition in end.items()
        for number, offset in by_partition.items()
    )


def _unavailable(starts: Offsets, topics: dict[str, Topic]) -> Iterator[str]:
    """The starting offsets that a partition does not have."""
    for name, by_partition in starts.items():
        topic = topics[name]
        for number, offset in by_partition.items():
            if number not in topic.earliest:
                yield f"{name}/{number} (no such partition)"
            elif not topic.earliest[number] <= offset <= topic.latest[number]:
                yield f"{name}/{number}/{offset} (available: {topic.earliest[number]} to {topic.latest[number]})"
