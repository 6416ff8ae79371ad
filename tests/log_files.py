"""Appends events to the table as capture does, without running it."""

from profilestream.base import tables
from profilestream.base.settings import Settings
from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def append_events(rows: DataFrame, settings: Settings) -> DataFrame:
    """Append rows to the existing table `events`, in one commit with one file per date; returns the rows.

    Args:
        rows: clean, distinct events; missing columns are null.
    """
    event_time = F.col("event_time")
    defaults = {
        "event_date": F.to_date(event_time), "event_period": F.to_date(event_time), "ingest_time": event_time,
        "source": F.lit("shop"), "position": F.col("event_id"), "epoch": F.lit("one"), "batch_id": F.lit(0),
    }  # fmt: skip
    missing = [field for field in tables.EVENTS.schema if field.name not in rows.columns]
    filled = {field.name: defaults.get(field.name, F.lit(None)).cast(field.dataType) for field in missing}
    events = rows.withColumns(filled).select(*tables.EVENTS.names)
    events.coalesce(1).write.format("delta").mode("append").save(tables.EVENTS.path(settings.paths))
    return events
