"""Row accounting, batches of capture and stages, and alarms for the report."""

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.capture import row_accounting
from profilestream.serve.report.view_pipeline import (
    AlarmRow,
    CaptureBatch,
    PipelineView,
    RejectedByRule,
    SourceRows,
    StageDurations,
)
from profilestream.serve.users.all_users import read_or_empty

_MAX_CAPTURE_BATCHES, _MAX_STAGE_BATCHES, _MAX_ALARMS, _MAX_RULES = 300, 40, 20, 30


def pipeline(spark: SparkSession, settings: Settings) -> PipelineView:
    """Row accounting, the newest batches and alarms of capture, and the durations of all stages."""
    batches = read_or_empty(spark, tables.CAPTURE_BATCHES, settings)
    alarms = read_or_empty(spark, tables.CAPTURE_ALARMS, settings)
    rejected = read_or_empty(spark, tables.REJECTED_EVENTS, settings)
    by_source = row_accounting.counts_by_source(batches).select(*SourceRows.__dataclass_fields__).collect()
    by_rule = row_accounting.rejected_by_rule(rejected).limit(_MAX_RULES).collect()
    return PipelineView(
        sources=tuple(SourceRows(*row) for row in by_source),
        rejected=tuple(RejectedByRule(row["source"], row["rule"], row["reason"], row["rows"]) for row in by_rule),
        capture_batches=_capture_batches(batches),
        stages=_stage_durations(read_or_empty(spark, tables.STAGE_BATCHES, settings)),
        alarms=_alarms(alarms),
        alarm_count=alarms.count(),
    )


def _capture_batches(batches: DataFrame) -> tuple[CaptureBatch, ...]:
    columns = ("source", "batch_id", "ingest_time", "rows_clean", "rows_rejected", "rows_duplicate")
    by_time = batches.where("kind = 'source'").orderBy(F.desc("ingest_time"), F.desc("batch_id"))
    rows = by_time.limit(_MAX_CAPTURE_BATCHES).select(*columns, "lateness_seconds_max").collect()
    return tuple(CaptureBatch(*row) for row in reversed(rows))


def _stage_durations(stage_batches: DataFrame) -> tuple[StageDurations, ...]:
    by_time = Window.partitionBy("stage").orderBy(F.desc("started_at"), F.desc("batch_id"))
    by_stage = stage_batches.withColumn("position", F.row_number().over(by_time)).groupBy("stage")
    is_newest = F.col("position") <= _MAX_STAGE_BATCHES
    newest = F.collect_list(F.when(is_newest, F.struct("started_at", "batch_id", "seconds")))
    has_cost = F.expr("cpu_seconds IS NOT NULL AND bytes_written IS NOT NULL")
    cost_rows = F.nullif(F.sum(F.when(has_cost, F.col("rows_in"))), F.lit(0))
    costs = [
        (F.sum(F.when(has_cost, F.col(column))) / cost_rows * 1e6).alias(column)
        for column in ("cpu_seconds", "bytes_written")
    ]
    rows = by_stage.agg(
        F.count(F.lit(1)).alias("batches"), F.sum("rows_in").alias("rows"), F.sum("seconds").alias("seconds"),
        F.median("seconds").alias("median"), F.sort_array(newest)["seconds"].alias("newest"),
        F.min("started_at").alias("first_start"), *costs,
    ).orderBy("first_start", "stage")  # fmt: skip
    return tuple(
        StageDurations(
            row["stage"],
            row["batches"],
            row["rows"],
            row["seconds"],
            row["median"],
            tuple(row["newest"]),
            row["cpu_seconds"],
            row["bytes_written"],
        )
        for row in rows.collect()
    )


def _alarms(alarms: DataFrame) -> tuple[AlarmRow, ...]:
    newest = alarms.orderBy(F.desc("ingest_time"), F.desc("batch_id"), "source", "measure").limit(_MAX_ALARMS)
    rows = newest.select("source", "batch_id", "event_time_max", "measure", "message").collect()
    return tuple(AlarmRow(*row) for row in rows)
