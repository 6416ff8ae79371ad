"""Forecast demand for the report, as plain values."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class DemandRow:
    """Units of an item or a category.

    Args:
        units: forecast, for the next week (item) or the next 7 days (category).
        last: units sold in the 7 days before.
        error: sum of the absolute errors of forecasts of similar size, divided by the units; null: none is known.
    """

    name: str
    units: float
    last: float
    error: float | None


@dataclass(frozen=True)
class DemandView:
    """The largest forecasts of a level, largest first.

    Args:
        level: `item` or `category`.
        first: first day of the forecast period.
    """

    level: str
    first: date
    rows: tuple[DemandRow, ...]
