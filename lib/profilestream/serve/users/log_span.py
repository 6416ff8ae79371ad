"""The length of the log, for rules that compare days: without it, every user of a short log is new or rising."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.serve import usual_days


@dataclass(frozen=True)
class LogSpan:
    """The days from the first to the last day of the log, UTC, without a few events that are far from all others.

    Args:
        days: both days included; 0 without events.
        weekend_share: share of these days that are a Saturday or a Sunday.
    """

    first_day: date
    days: int
    weekend_share: float

    @property
    def last_day(self) -> date:
        """The last day of the log."""
        return self.first_day + timedelta(days=max(0, self.days - 1))

    @property
    def column(self) -> Column:
        """STRUCT<first_day: DATE, days: INT, weekend_share: DOUBLE>."""
        values = {"first_day": self.first_day, "days": self.days, "weekend_share": self.weekend_share}
        return F.struct(*[F.lit(value).alias(name) for name, value in values.items()])


def measure(events_by_day: Mapping[date, int]) -> LogSpan:
    """The span of a log, by the rule of `usual_days`.

    Args:
        events_by_day: number of events by day.
    """
    counts = sorted(events_by_day.items())
    if not counts:
        return LogSpan(date(1970, 1, 1), 0, 0.0)
    low, high = usual_days.usual_range(counts)
    first_day = counts[low][0]
    days = (counts[high][0] - first_day).days + 1
    weekend_days = sum((first_day + timedelta(days=n)).weekday() >= 5 for n in range(days))
    return LogSpan(first_day, days, weekend_days / days)
