"""Events as capture would have written them, without running it: for tests of what follows."""

from profilestream.base import tables
from profilestream.base.settings import Settings
from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def arrive(rows: DataFrame, settings: Settings) -> DataFrame:
    """Append rows to `events`, which is there, in one commit with a file a date; gives them.

    Args:
        rows: clean events that come once; of the columns those that say something.
    """
    moment = F.col("event_time")
    made = {
        "event_date": F.to_date(moment), "ingest_time": moment, "source": F.lit("shop"), "position": F.col("event_id"),
        "epoch": F.lit("one"), "batch_id": F.lit(0),
    }  # fmt: skip
    lacking = [field for field in tables.EVENTS.schema if field.name not in rows.columns]
    filled = {field.name: made.get(field.name, F.lit(None)).cast(field.dataType) for field in lacking}
    events = rows.withColumns(filled).select(*tables.EVENTS.names)
    events.coalesce(1).write.format("delta").mode("append").save(tables.EVENTS.path(settings.paths))
    return events
