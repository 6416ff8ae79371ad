"""The time range of the charts over time: all events, except a few that are far from all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

_MIN_EVENTS = 10
_OUTSIDE_SHARE = 0.05


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
    """The range of all days with events, without single events that are far from the others.

    The range starts with the n days from the 5 % to the 95 % quantile of the events. A day outside of them is in the
    range if it is at most n days away from the next day in the range. So a log with a few events in
    its first years is shown completely, and an event with a wrong date does not extend the range.

    Args:
        days: with events, in order; at least one.
    """
    low, high = _bulk(days)
    max_gap = (days[high].day - days[low].day).days + 1
    while low > 0 and (days[low].day - days[low - 1].day).days <= max_gap:
        low -= 1
    while high + 1 < len(days) and (days[high + 1].day - days[high].day).days <= max_gap:
        high += 1
    return TimeAxis(
        days[low].day,
        days[high].day,
        days[low].first,
        days[high].last,
        before=sum(day.events for day in days[:low]),
        after=sum(day.events for day in days[high + 1 :]),
    )


def _bulk(days: Sequence[DayEvents]) -> tuple[int, int]:
    """Positions of the days with the quantiles; at least one event is outside of each. All days of a short log."""
    total = sum(day.events for day in days)
    if total < _MIN_EVENTS:
        return 0, len(days) - 1
    outside = max(1, int(total * _OUTSIDE_SHARE))
    return _position(days, outside), len(days) - 1 - _position(days[::-1], outside)


def _position(days: Sequence[DayEvents], event: int) -> int:
    """Position of the day with the event of this number, from 0."""
    for position, day in enumerate(days):
        event -= day.events
        if event < 0:
            return position
    return len(days) - 1
