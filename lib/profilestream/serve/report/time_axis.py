"""The time range of the charts over time: all events, except a few that are far from all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from profilestream.serve import usual_days


@dataclass(frozen=True)
class DayEvents:
    """Events of one day of the shop time zone: their number, and the times of the first and last one."""

    day: date
    events: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class TimeAxis:
    """A time range, with the number of events before and after it.

    Args:
        first_day, last_day: days of the shop time zone.
        first, last: times of the first and last event in the range.
    """

    first_day: date
    last_day: date
    first: datetime
    last: datetime
    before: int = 0
    after: int = 0


def choose_axis(days: Sequence[DayEvents]) -> TimeAxis:
    """The usual range of days, see `usual_days`.

    Args:
        days: with events, in order; at least one.
    """
    low, high = usual_days.usual_range([(day.day, day.events) for day in days])
    return TimeAxis(
        days[low].day,
        days[high].day,
        days[low].first,
        days[high].last,
        before=sum(day.events for day in days[:low]),
        after=sum(day.events for day in days[high + 1 :]),
    )
