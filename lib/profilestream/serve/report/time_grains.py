"""Length of the periods that the report counts users and cohorts by."""

from datetime import datetime, timedelta
from typing import Literal

from profilestream.base.language import message, translate

TimeGrain = Literal["ten minutes", "hour", "day", "week", "month"]
# Maximum length of the events in days, grain of the user counts, grain of the cohorts.
_GRAINS: tuple[tuple[float, TimeGrain, TimeGrain], ...] = (
    (0.5, "ten minutes", "hour"),
    (4, "hour", "day"),
    (21, "day", "day"),
    (120, "day", "week"),
    (1100, "week", "month"),
)
# SQL for the number of the period that contains the local time {0}; consecutive periods have consecutive numbers.
PERIOD_NUMBER_SQL: dict[TimeGrain, str] = {
    "ten minutes": "unix_micros({0}) div 600000000",
    "hour": "unix_micros({0}) div 3600000000",
    "day": "datediff({0}, DATE'1970-01-01')",
    "week": "(datediff({0}, DATE'1970-01-01') + 3) div 7",
    "month": "12 * year({0}) + month({0}) - 1",
}

_NAMES: dict[TimeGrain, str] = {
    "ten minutes": message("ten minutes"),
    "hour": message("hour"),
    "day": message("day"),
    "week": message("week"),
    "month": message("month"),
}
_PLURALS: dict[TimeGrain, str] = {
    "ten minutes": message("periods of ten minutes"),
    "hour": message("hours"),
    "day": message("days"),
    "week": message("weeks"),
    "month": message("months"),
}


def name(grain: TimeGrain) -> str:
    """The grain as a word, such as `week`."""
    return translate(_NAMES[grain])


def plural_name(grain: TimeGrain) -> str:
    """The grain as a word after a number, such as `weeks`."""
    return translate(_PLURALS[grain])


def period_start(grain: TimeGrain, number: int) -> datetime:
    """Start of a numbered period, as local time without a zone."""
    match grain:
        case "ten minutes" | "hour":
            return datetime(1970, 1, 1) + number * timedelta(minutes=10 if grain == "ten minutes" else 60)
        case "day":
            return datetime(1970, 1, 1) + timedelta(days=number)
        case "week":
            return datetime(1969, 12, 29) + timedelta(weeks=number)
        case "month":
            return datetime(number // 12, number % 12 + 1, 1)


def choose_grains(first: datetime, last: datetime) -> tuple[TimeGrain, TimeGrain]:
    """The grain of the user counts and the grain of the cohorts, by the time range of the events."""
    days = (last - first) / timedelta(days=1)
    return next(((counts, cohorts) for limit, counts, cohorts in _GRAINS if days <= limit), ("month", "month"))
