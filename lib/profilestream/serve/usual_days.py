"""The days of a log without a few events that are far from all others: for the time axes of the page, and for tags."""

from collections.abc import Sequence
from datetime import date

_MIN_EVENTS = 10
_OUTSIDE_SHARE = 0.05


def usual_range(days: Sequence[tuple[date, int]]) -> tuple[int, int]:
    """Positions of the first and the last day of the range of all days, without single events far from the others.

    The range starts with the n days from the 5 % to the 95 % quantile of the events. A day outside of them is in the
    range if it is at most n days away from the next day in the range. So a log with a few events in its first years is
    complete, and an event with a wrong date does not extend the range. A log of less than ten events is complete.

    Args:
        days: with events, in order, each with its number of events; at least one.
    """
    low, high = _bulk(days)
    max_gap = (days[high][0] - days[low][0]).days + 1
    while low > 0 and (days[low][0] - days[low - 1][0]).days <= max_gap:
        low -= 1
    while high + 1 < len(days) and (days[high + 1][0] - days[high][0]).days <= max_gap:
        high += 1
    return low, high


def _bulk(days: Sequence[tuple[date, int]]) -> tuple[int, int]:
    """Positions of the days with the quantiles; at least one event is outside of each. All days of a short log."""
    total = sum(events for _, events in days)
    if total < _MIN_EVENTS:
        return 0, len(days) - 1
    outside = max(1, int(total * _OUTSIDE_SHARE))
    return _position(days, outside), len(days) - 1 - _position(days[::-1], outside)


def _position(days: Sequence[tuple[date, int]], event: int) -> int:
    """Position of the day with the event of this number, from 0."""
    for position, (_, events) in enumerate(days):
        event -= events
        if event < 0:
            return position
    return len(days) - 1
