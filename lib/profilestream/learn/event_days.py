"""The days of the events in a table: the newest one without a few events whose time is wrong."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

_SHARE = 0.999


def count_by_day(events: DataFrame) -> list[tuple[int, int]]:
    """Days since 1970 with their numbers of events, in order."""
    dated = events.where("event_date IS NOT NULL")
    rows = dated.groupBy(F.unix_date("event_date").alias("day")).count().orderBy("day").collect()
    return [(row[0], row[1]) for row in rows]


def newest_day(counts: Sequence[tuple[int, int]]) -> int | None:
    """The day of the .999 quantile of event time, from the number of events of each day, in order; null without events.

    The quantile is an event time (the lower one), so it is never the last of several events.
    """
    before, total = 0, sum(count for _, count in counts)
    for day, count in counts:
        before += count
        if before > int(_SHARE * (total - 1)):
            return day
    return None
