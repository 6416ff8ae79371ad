"""The partition of `events`: the day, month or year of the event date, by `capture.partition_by`."""

from collections.abc import Iterable
from datetime import date

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.settings import PartitionBy


def sql(partition_by: PartitionBy) -> str:
    """`event_period` as SQL over `event_date`."""
    return "event_date" if partition_by == "day" else f"trunc(event_date, '{partition_by}')"


def periods_of(dates: Iterable[date]) -> list[date]:
    """The partitions that can contain events of these dates, for each length that a partition can have."""
    days = set(dates)
    return sorted({*days, *(day.replace(day=1) for day in days), *(day.replace(month=1, day=1) for day in days)})


def on_dates(dates: Iterable[date]) -> Column:
    """Whether an event is on one of these dates, as a condition that lets Delta read only their partitions.

    From a list of dates, Delta's statistics of files use only the first and the last one. So the condition also names
    the partitions.
    """
    days = sorted(set(dates))
    return F.col("event_period").isin(periods_of(days)) & F.col("event_date").isin(days)
