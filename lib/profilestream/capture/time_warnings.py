"""Warnings about the event times of a batch: all are the same, or a few are far from the others."""

import logging
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import accumulate

log = logging.getLogger(__name__)

# Fewer rows show neither that a log has no times nor which times are usual.
_MIN_ROWS = 100
# A date is far when its distance from the middle 90 % of the rows exceeds this number of days and this multiple of the
# length of the middle 90 %.
_MIN_DAYS = 30
_SPANS = 3


def check(rows: Mapping[date, int], first: int | None, last: int | None, name: str) -> None:
    """Log the warnings of a batch.

    Args:
        rows: number of rows by date, in order of date.
        first, last: the smallest and the largest event time, microseconds since 1970; null without rows.
        name: of the batch, for the message.
    """
    total = sum(rows.values())
    if total < _MIN_ROWS:
        return
    if first == last:
        log.warning("all %s events of %s have one event time: decay, windows and sessions have no meaning",
                    f"{total:,}", name)  # fmt: skip
    far = distant_dates(rows)
    if far:
        log.warning(
            "%s of %s events of %s are far from the usual dates (median %s): %s; check columns.event_time and timezone "
            "of the mapping, and capture.min_event_date", f"{sum(far.values()):,}", f"{total:,}", name,
            _quantile(rows, 0.5), ", ".join(map(str, list(far)[:5])),
        )  # fmt: skip


def distant_dates(rows: Mapping[date, int]) -> dict[date, int]:
    """The dates that are far from the middle 90 % of the rows, with their numbers of rows.

    Args:
        rows: number of rows by date, in order of date; at least one.
    """
    start, end = _quantile(rows, 0.05), _quantile(rows, 0.95)
    distance = max(_MIN_DAYS, _SPANS * (end - start).days)
    return {day: n for day, n in rows.items() if (start - day).days > distance or (day - end).days > distance}


def _quantile(rows: Mapping[date, int], q: float) -> date:
    target = q * sum(rows.values())
    reached: Iterator[date] = (
        day for day, passed in zip(rows, accumulate(rows.values()), strict=True) if passed >= target
    )
    return next(reached)
