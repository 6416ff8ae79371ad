"""The evaluated rows of a batch of any size, in Spark's cache."""

import itertools
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base import event_period, tables
from profilestream.base.session import materialize
from profilestream.capture import batch_monitor, currency, dedupe, execute_mapping
from profilestream.capture.batch_rows import (
    GROUP,
    REJECTED_COLUMNS,
    REUSED_REASON,
    BatchContext,
    conditions,
    skipped_files,
    warnings_of,
)
from profilestream.capture.cleaning_rules import BOT_WARNING
from profilestream.capture.mapping import Mapping
from profilestream.capture.sources.record_source import InputBatch

_ROWS_PER_FILE = 500_000
# With at most this number of rows, one task writes the events of a date faster than several tasks: fewer files.
_SMALL_BATCH_ROWS = 50_000


@dataclass
class SparkRows:
    """The rows of a batch as a frame in the cache.

    Args:
        rows: as `ingest.apply_mapping` returns them.
        records: the exploded records that they are computed from.
        repeats: as `dedupe.find_repeats` returns them.
        busy: users and minutes with more events than the bot rule allows; null without a bot rule.
    """

    rows: DataFrame
    records: DataFrame
    summary: list[dict[str, Any]]
    rows_in: int
    repeats: DataFrame | None = None
    busy: DataFrame | None = None

    def __post_init__(self) -> None:
        self._clean = self.good

    @property
    def good(self) -> DataFrame:
        """The rows that no rule rejects."""
        return self.rows.where(F.col("rule").isNull())

    def find_repeats(self, context: BatchContext, dates: list[date]) -> list[dict[str, Any]]:
        """Find the rows that repeat the id of an earlier row. The methods below exclude them.

        Args:
            dates: of the good rows.

        Returns:
            By `outcome` (duplicate, id_reused): the number of rows `n`, and of rows with each warning.
        """
        context.known_ids.clear()  # Spark stores the events of the batch
        stored = dedupe.stored_events_of_batch(context.batch, context.source, dates, context.mapping)
        self.repeats = dedupe.find_repeats(self.good, stored, context.mapping)
        self._clean = dedupe.without_repeats(self.good, self.repeats)
        return [] if self.repeats is None else counts_by_outcome(self.repeats, context.mapping)

    def add_bot_warnings(self, max_events_per_minute: int) -> int:
        """Add a warning to the rows of users and minutes with more events; returns the number of such rows."""
        by_minute = self._clean.where(F.col("user_id").isNotNull()).groupBy(
            F.col("user_id").alias("_user"), F.date_trunc("minute", "event_time").alias("_minute")
        )
        self.busy = materialize(by_minute.count().where(F.col("count") > max_events_per_minute))
        return int(self.busy.agg(F.coalesce(F.sum("count"), F.lit(0)).alias("n")).collect()[0]["n"])

    def count_currencies(self, codes: list[str]) -> int:
        """Number of rows with one of these currencies."""
        return self._clean.where(F.col("currency").isin(codes)).count()

    def count_records(self) -> int:
        """The number of records, counted again."""
        return self.records.count()

    def events(self, context: BatchContext, rows: dict[date, int]) -> DataFrame:
        """The rows of `events`, in order of date.

        Args:
            rows: number of rows by date, in order of date.
        """
        clean = self._clean
        if self.busy is not None:
            minute = F.date_trunc("minute", "event_time")
            is_busy = (F.col("user_id") == F.col("_user")) & (minute == F.col("_minute"))
            warnings = F.when(F.col("_user").isNotNull(), F.array_append("warnings", F.lit(BOT_WARNING)))
            clean = clean.join(F.broadcast(self.busy), is_busy, "left")
            clean = clean.withColumn("warnings", F.coalesce(warnings, "warnings"))
        frame = clean.withColumns(constant_columns(context))
        names = set(frame.columns)
        # One SQL text per column: thirty Column objects cost 0.15 s per batch.
        cells = {
            f.name: (f.name if f.name in names else "NULL", f.dataType.simpleString()) for f in tables.EVENTS.schema
        }
        cells["event_period"] = (event_period.sql(context.partition_by), "date")
        columns = [f"CAST({cell} AS {sql_type}) AS {name}" for name, (cell, sql_type) in cells.items()]
        return _in_date_order(frame.selectExpr(*columns), rows)

    def rejected(self, context: BatchContext, count: int, reused: int) -> DataFrame:
        """The rows of `rejected_events`: rows rejected by a rule, reused ids with different content, skipped files.

        Args:
            count, reused: number of these rows, and of rows with reused ids.
        """
        rejected = self.rows.where(F.col("rule").isNotNull()).select(*REJECTED_COLUMNS)
        if self.repeats is not None and reused:
            repeats = F.broadcast(self.repeats.where("outcome = 'id_reused'").select("position", "event_id"))
            payloads = self.records.select("position", "payload", "payload_encoding", "payload_header")
            reason = F.concat(F.lit(REUSED_REASON), "event_id")
            rejected = rejected.unionByName(
                payloads.join(repeats, "position").select(
                    "position", F.lit("id_reused").alias("rule"), reason.alias("reason"), *REJECTED_COLUMNS[3:]
                )
            )
        if files := skipped_files(context.inputs):
            schema = ", ".join(f"{name} string" for name in REJECTED_COLUMNS)
            rejected = rejected.unionByName(rejected.sparkSession.createDataFrame(files, schema))  # type: ignore[type-var]
        rejected = _with_reprocessed_from(rejected, context.inputs, context.mapping).withColumns(
            constant_columns(context)
        )
        return rejected.select(*tables.REJECTED_EVENTS.names).coalesce(1 + count // _ROWS_PER_FILE)


def constant_columns(context: BatchContext) -> dict[str, Column]:
    """The columns that are constant in a batch."""
    columns = {name: F.lit(value) for name, value in context.constants.items()}
    return {**columns, "ingest_time": F.timestamp_micros(columns["ingest_time"]),
            "batch_id": columns["batch_id"].cast("bigint")}  # fmt: skip


def summarize(rows: DataFrame, mapping: Mapping) -> list[dict[str, Any]]:
    """The summary of SparkRows. The first action on the batch: it fills the cache."""
    rule, event_date, failed = GROUP
    currencies = F.collect_set("currency") if currency.has_currencies(mapping) else F.array()
    groups = rows.groupBy(rule, F.col(event_date).cast("string").alias(event_date), failed).agg(
        F.count(F.lit(1)).alias("n"),
        currencies.alias("currencies"),
        F.unix_micros(F.min("event_time")).alias("first"),
        F.unix_micros(F.max("event_time")).alias("last"),
        *[F.expr(f"count_if({sql})").alias(name) for name, sql in conditions(mapping).items()],
        *[F.expr(f"sum({sql})").alias(name) for name, sql in batch_monitor.sums(mapping).items()],
    )
    return [row.asDict() for row in groups.collect()]


def counts_by_outcome(repeats: DataFrame, mapping: Mapping) -> list[dict[str, Any]]:
    """The counts that `SparkRows.find_repeats` returns."""
    warned = [F.expr(f"count_if({sql})").alias(name) for name, sql in warnings_of(mapping).items()]
    return [row.asDict() for row in repeats.groupBy("outcome").agg(F.count(F.lit(1)).alias("n"), *warned).collect()]


def _in_date_order(events: DataFrame, rows: dict[date, int]) -> DataFrame:
    """The rows of `events`, partitioned and sorted by date, so that the files of a commit are in order of date.

    A stream reads the files of a commit in the order in which tasks write them, and a learner is evaluated in that
    order. A task writes one file per partition; without the ranges, every task of a backfill writes one for every date.
    Several tasks write a date with many rows.

    Args:
        rows: number of rows by date, in order of date.
    """
    total = sum(rows.values())
    if total <= _ROWS_PER_FILE:
        ordered = events.coalesce(1) if total <= _SMALL_BATCH_ROWS or len(rows) > 1 else events
        return ordered.sortWithinPartitions("event_period", "event_date")
    # Ranges from known counts: repartitionByRange would compute the rows once more to find them.
    ranges = _ranges(rows)
    day, number = F.col("event_date"), F.lit(0)
    for (_, tasks), (first, _) in itertools.pairwise(ranges):
        number += F.when(day >= first, tasks).otherwise(0)
    for first, tasks in ranges:
        if tasks > 1:
            number += F.when(day == first, F.pmod(F.xxhash64("event_id"), F.lit(tasks))).otherwise(0)
    tasks = sum(tasks for _, tasks in ranges)
    return events.repartitionById(tasks, number.cast("int")).sortWithinPartitions("event_period", "event_date")


def _ranges(rows: dict[date, int]) -> list[tuple[date, int]]:
    """First date and number of tasks of each range of dates; a date with many rows is a range of several tasks."""
    ranges: list[tuple[date, int]] = []
    size = 0
    for day, count in rows.items():
        if not ranges or size + count > _ROWS_PER_FILE:
            ranges.append((day, -(-count // _ROWS_PER_FILE)))
            size = 0
        size += count
    return ranges


def _with_reprocessed_from(rejected: DataFrame, inputs: InputBatch, mapping: Mapping) -> DataFrame:
    if inputs.reprocessed_rows is None:
        return rejected.withColumn("reprocessed_from", F.lit(None).cast("string"))
    origins = inputs.reprocessed_rows.select(F.col("position").alias("_position"), "reprocessed_from")
    return rejected.join(F.broadcast(origins), is_of_position("_position", mapping), "left")


def is_of_position(name: str, mapping: Mapping) -> Column:
    """Whether a record, or the line that contains it, has the position in the column of this name."""
    # Without a second position, Spark can use a hash join.
    positions = [F.col("position"), *([execute_mapping.line_position()] if mapping.input.explode else [])]
    return F.col(name).isin(*positions) if len(positions) > 1 else F.col(name) == positions[0]
