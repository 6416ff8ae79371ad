"""The length of the log, for rules that compare days: without it, every user of a short log is new or rising."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

# The oldest events that do not count, as a share and at least: stray events must not make the log longer.
_STRAY_SHARE, _STRAY_EVENTS = 0.01, 1


@dataclass(frozen=True)
class LogSpan:
    """The days from the first to the newest day of the log, UTC.

    Args:
        days: both days included; 0 without events.
        weekend_share: share of these days that are a Saturday or a Sunday.
    """

    first_day: date
    days: int
    weekend_share: float

    @property
    def column(self) -> Column:
        """STRUCT<first_day: DATE, days: INT, weekend_share: DOUBLE>."""
        values = {"first_day": self.first_day, "days": self.days, "weekend_share": self.weekend_share}
        return F.struct(*[F.lit(value).alias(name) for name, value in values.items()])


def measure(events_by_day: Mapping[date, int], last_day: date) -> LogSpan:
    """The span of a log; the oldest event and the oldest 1 % of the events do not count, unless there are no others.

    Args:
        events_by_day: number of events by day; days after `last_day` are ignored.
        last_day: day of the newest event of any user.
    """
    counts = sorted((day, count) for day, count in events_by_day.items() if day <= last_day)
    strays = max(_STRAY_EVENTS, _STRAY_SHARE * sum(count for _, count in counts))
    first_day, passed = last_day, 0
    for first_day, count in counts:  # noqa: B007 - the day at which the loop ends
        passed += count
        if passed > strays:
            break
    days = (last_day - first_day).days + 1 if counts else 0
    weekend_days = sum((first_day + timedelta(days=n)).weekday() >= 5 for n in range(days))
    return LogSpan(first_day, days, weekend_days / days if days else 0.0)
