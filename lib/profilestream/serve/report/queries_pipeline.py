"""How capture and the stages went: tables to numbers."""

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.capture import row_accounting
from profilestream.serve.report.view_model import Account, Alarm, Captured, Health, Pace, Rejects
from profilestream.serve.users.user_frame import stored

_BATCHES, _OF_STAGE, _ALARMS, _RULES = 300, 40, 20, 30


def health(spark: SparkSession, settings: Settings) -> Health:
    """All of capture and of the batches of stages."""
    batches = stored(spark, tables.CAPTURE_BATCHES, settings)
    alarms = stored(spark, tables.CAPTURE_ALARMS, settings)
    by_source = row_accounting.conservation(batches).select(*Account.__dataclass_fields__).collect()
    rules = row_accounting.rejects(stored(spark, tables.REJECTED_EVENTS, settings)).limit(_RULES).collect()
    return Health(
        accounts=tuple(Account(*row) for row in by_source),
        rejects=tuple(Rejects(row["source"], row["rule"], row["reason"], row["rows"]) for row in rules),
        captured=_captured(batches),
        paces=_paces(stored(spark, tables.STAGE_BATCHES, settings)),
        alarms=_alarms(alarms),
        alarm_count=alarms.count(),
    )


def _captured(batches: DataFrame) -> tuple[Captured, ...]:
    columns = ("source", "batch_id", "ingest_time", "rows_clean", "rows_rejected", "rows_duplicate")
    newest = batches.where("kind = 'source'").orderBy(F.desc("ingest_time"), F.desc("batch_id")).limit(_BATCHES)
    rows = newest.select(*columns, "lateness_seconds_max").collect()
    return tuple(Captured(*row) for row in reversed(rows))


def _paces(stages: DataFrame) -> tuple[Pace, ...]:
    newest = F.row_number().over(Window.partitionBy("stage").orderBy(F.desc("started_at"), F.desc("batch_id")))
    listed = F.collect_list(F.when(F.col("place") <= _OF_STAGE, F.struct("started_at", "batch_id", "seconds")))
    by_stage = stages.withColumn("place", newest).groupBy("stage")
    rows = by_stage.agg(
        F.count(F.lit(1)).alias("batches"), F.sum("rows_in").alias("rows"), F.sum("seconds").alias("seconds"),
        F.median("seconds").alias("median"), F.sort_array(listed)["seconds"].alias("newest"),
        F.min("started_at").alias("since"),
    ).orderBy("since", "stage")  # fmt: skip
    return tuple(
        Pace(row["stage"], row["batches"], row["rows"], row["seconds"], row["median"], tuple(row["newest"]))
        for row in rows.collect()
    )


def _alarms(alarms: DataFrame) -> tuple[Alarm, ...]:
    newest = alarms.orderBy(F.desc("ingest_time"), F.desc("batch_id"), "source", "measure").limit(_ALARMS)
    rows = newest.select("source", "batch_id", "event_time_max", "measure", "message").collect()
    return tuple(Alarm(*row) for row in rows)
