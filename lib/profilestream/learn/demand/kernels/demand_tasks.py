"""Kernels of `learn_demand`: units are added to the rows of their key, and complete periods are forecast and scored."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.demand.kernels import demand_models
from profilestream.learn.demand.kernels.demand_models import DemandParams, ErrorSums, RidgeSums
from profilestream.learn.kernels.arrays import IS_DELETED, Floats, Longs
from profilestream.learn.kernels.lists import flatten, lists_by_row
from profilestream.learn.kernels.sums import LATEST, MICROS_PER_DAY, Sums

_TIME: Any = pa.timestamp("us", "UTC")
_STRING: Any = pa.string()
_DAYS, _UNITS = pa.list_(pa.date32()), pa.list_(pa.float64())
_DELETED: Any = pa.field(IS_DELETED, pa.bool_())
# Sold units, one row per level: an event is a row of its item and a row of its category.
SALE = pa.schema([("level", _STRING), ("key", _STRING), ("time_micros", pa.int64()), ("units", pa.float64())])
# Rows of the table `demand_units`.
SERIES = pa.schema([("level", _STRING), ("key", _STRING), ("days", _DAYS), ("units", _UNITS), ("as_of", _TIME)])
CHANGED = SERIES.append(_DELETED)
# Rows of the table `demand_forecasts`.
_FORECAST: Any = [
    ("level", _STRING), ("key", _STRING), ("ahead", pa.int32()), ("day", pa.date32()), ("units", pa.float64()),
    ("error", pa.float64()), ("as_of", _TIME), _DELETED,
]  # fmt: skip
FORECAST = pa.schema(_FORECAST)
# Smaller units after a subtraction are rounding.
_ROUNDING = 1e-9
# The share of events that are not later than a complete day.
_QUANTILE = 0.999


@dataclass(frozen=True)
class Level:
    """Periods of a kind of keys. Day 0 is 1970-01-01, a Thursday; weeks begin on Monday.

    Args:
        name: in the column `level`.
        days: length of a period.
        first_day: a day on which a period begins.
        naive_periods: the naive forecast is the units of this many periods earlier.
        ahead: number of next periods that are forecast.
    """

    name: str
    days: int
    first_day: int
    naive_periods: int
    ahead: int

    def period(self, day: Any) -> Any:
        """Number of the period of a day, or of days."""
        return (day - self.first_day) // self.days

    def day(self, period: Any) -> Any:
        """First day of a period, or of periods."""
        return period * self.days + self.first_day


ITEM, CATEGORY = Level("item", 7, 4, 1, 1), Level("category", 1, 0, 7, 7)
LEVELS = (ITEM, CATEGORY)


@dataclass(frozen=True)
class Span:
    """The complete periods [begin, end) of a level that forecasts are computed from."""

    level: Level
    begin: int
    end: int

    def units(self, stored: pa.Table, changed: pa.Table) -> tuple[Any, Floats]:
        """All keys of the level, and their units, (keys, periods); a changed row replaces the stored one."""
        stored, changed = (_of_level(rows, self.level).select(SERIES.names) for rows in (stored, changed))
        is_changed: Any = pc.is_in(stored["key"], value_set=changed["key"].combine_chunks())
        rows = pa.concat_tables([stored.filter(pc.invert(is_changed)), changed])
        row, days, units = _entries(rows)
        period = self.level.period(days)
        is_inside = (period >= self.begin) & (period < self.end)
        matrix = np.zeros((len(rows), self.end - self.begin))
        matrix[row[is_inside], period[is_inside] - self.begin] = units[is_inside]
        return rows["key"], matrix


@dataclass(frozen=True)
class DayCounts(Sums):
    """Number of events by day, and the newest event time in microseconds."""

    days: Longs = field(default_factory=lambda: np.zeros(0, np.int64), metadata={"combine": np.append})
    counts: Longs = field(default_factory=lambda: np.zeros(0, np.int64), metadata={"combine": np.append})
    newest: int = field(default=0, metadata=LATEST)

    def by_day(self) -> "DayCounts":
        """One positive number per day, in order of the days."""
        days, position = np.unique(self.days, return_inverse=True)
        counts = np.bincount(position, self.counts, len(days)).astype(np.int64)
        return DayCounts(days[counts > 0], counts[counts > 0], self.newest)

    def complete_until(self, history_days: int) -> int | None:
        """All days before this one are complete: it has the .999 quantile of the event times of the history.

        Null without events. The history ends with the .999 quantile of all event times, so few wrong future times do
        not remove other days from it.
        """
        if not len(self.days):
            return None
        is_recent = self.days > _quantile_day(self.days, self.counts) - history_days
        return _quantile_day(self.days[is_recent], self.counts[is_recent])

    def span(self, level: Level, history_days: int) -> Span:
        """All complete periods of the history; none without events.

        The period in which the log begins is complete only if the log begins on its first day.
        """
        until = self.complete_until(history_days)
        if until is None:
            return Span(level, 0, 0)
        first, end = int(self.days[0]), level.period(until)
        begin = max(level.period(first + level.days - 1), level.period(until - history_days))
        return Span(level, min(begin, end), end)

    @classmethod
    def of(cls, rows: pa.Table) -> "DayCounts":
        """From the rows of the level `all`: one or none."""
        _, days, counts = _entries(rows)
        return cls(days, counts.astype(np.int64), int(_micros(rows).max(initial=0)))

    def row(self) -> pa.Table:
        """The row of the level `all`, with CHANGED."""
        row, newest = np.zeros(len(self.days), np.int64), np.array([self.newest])
        return _changed("all", pa.array([""]), row, self.days, self.counts.astype(float), newest)


def _quantile_day(days: Longs, counts: Longs) -> int:
    shares = np.cumsum(counts) / counts.sum()
    return int(days[np.searchsorted(shares, _QUANTILE)])


def add_units(sales: pa.Table, stored: pa.Table, *, sign: int) -> dict[str, Any]:
    """Rows of the keys of the sales, whose units are added or subtracted; and the number of events by day.

    Args:
        sales, stored: rows with SALE and SERIES.
        sign: 1 or -1. A subtraction removes no more than is stored.
    """
    if not len(sales):
        return {}
    times = _of_level(sales, ITEM)["time_micros"].to_numpy()
    days, counts = np.unique(times // MICROS_PER_DAY, return_counts=True)
    newest = int(times.max(initial=0)) if sign > 0 else 0
    changed = pa.concat_tables([_added(level, sales, stored, sign) for level in LEVELS])
    return {"series": changed, "counts": DayCounts(days, sign * counts, newest)}


def _added(level: Level, sales: pa.Table, stored: pa.Table, sign: int) -> pa.Table:
    """The changed rows of a level, with CHANGED. A subtraction does not change `as_of`."""
    sales, times = _of_level(sales, level), _of_level(sales, level)["time_micros"].to_numpy()
    first_day: Longs = level.day(level.period(times // MICROS_PER_DAY))
    amount: Floats = sign * sales["units"].to_numpy()
    added = _changed(level.name, sales["key"], np.arange(len(sales)), first_day, amount, times * (sign > 0))
    rows = pa.concat_tables([_of_level(stored, level), added.select(SERIES.names)])
    encoded: Any = rows["key"].combine_chunks().dictionary_encode()
    key = encoded.indices.to_numpy().astype(np.int64)
    row, days, units = _entries(rows)
    cells, cell = np.unique(np.column_stack([key[row], days]), axis=0, return_inverse=True)
    sums = np.bincount(cell.ravel(), units, len(cells)).astype(float)
    cells, sums = cells[sums > _ROUNDING], sums[sums > _ROUNDING]
    as_of = np.zeros(len(encoded.dictionary), np.int64)
    np.maximum.at(as_of, key, _micros(rows))
    return _changed(level.name, encoded.dictionary, cells[:, 0], cells[:, 1], sums, as_of)


def _changed(level: str, keys: Any, row: Longs, days: Longs, units: Floats, as_of: Longs) -> pa.Table:
    """Rows with CHANGED; those without a period are deleted.

    Args:
        keys, as_of: of each row.
        row, days, units: number of the row, ascending, first day, and units of each period.
    """
    lists = (lists_by_row(row, len(keys), each) for each in (_dates(days), pa.array(units)))
    is_empty: Any = np.bincount(row, minlength=len(keys)) == 0
    times: Any = pa.array(as_of).cast(_TIME)
    columns: list[Any] = [pa.repeat(level, len(keys)), keys, *lists, times, pa.array(is_empty)]
    return pa.table(columns, schema=CHANGED)


def _of_level(rows: pa.Table, level: Level) -> pa.Table:
    return rows.filter(pc.field("level") == level.name)


def _micros(rows: pa.Table) -> Longs:
    return rows["as_of"].cast(pa.int64()).to_numpy()


def _entries(series: pa.Table) -> tuple[Longs, Longs, Floats]:
    """Row, first day, and units of each stored period."""
    row, days = flatten(series, "days")
    return row, days.cast(pa.int32()).to_numpy().astype(np.int64), flatten(series, "units")[1].to_numpy()


def _dates(days: Longs) -> Any:
    return pa.array(days.astype(np.int32)).cast(pa.date32())


def sum_ridge(stored: pa.Table, changed: pa.Table, *, span: Span) -> dict[str, RidgeSums]:
    """The normal equations of each week of the span."""
    return {"ridge": demand_models.sum_weeks(span.units(stored, changed)[1])}


def score_forecasts(
    stored: pa.Table, changed: pa.Table, *, span: Span, coefficients: Floats, params: DemandParams
) -> dict[str, ErrorSums]:
    """Errors of the forecasts of each period of the span, each from earlier periods."""
    _, units = span.units(stored, changed)
    forecasts = _forecasts(units, span, coefficients, params)[:, : units.shape[1]]
    return {"errors": ErrorSums.of(units, forecasts, demand_models.previous(units, span.level.naive_periods))}


def forecast_next(
    stored: pa.Table, changed: pa.Table, *, span: Span, coefficients: Floats, params: DemandParams, errors: Floats,
    as_of: int,
) -> dict[str, pa.Table]:  # fmt: skip
    """Rows with FORECAST for the periods after the span; rows of keys without a forecast are deleted.

    Args:
        errors: WAPE by group of forecasts.
        as_of: newest event time of the state, microseconds.
    """
    keys, units = span.units(stored, changed)
    level, ahead = span.level, span.level.ahead
    forecasts = _forecasts(units, span, coefficients, params)[:, units.shape[1] :].ravel()
    key, number = np.divmod(np.arange(len(forecasts)), ahead)
    columns: list[Any] = [
        pa.repeat(level.name, len(forecasts)), keys.take(pa.array(key)), pa.array((number + 1).astype(np.int32)),
        _dates(level.day(span.end + number)), pa.array(np.nan_to_num(forecasts)),
        pa.array(errors[demand_models.groups_of(forecasts)], from_pandas=True),
        pa.repeat(as_of, len(forecasts)).cast(_TIME), pa.array(np.isnan(forecasts)),
    ]  # fmt: skip
    return {"forecasts": pa.table(columns, schema=FORECAST)}


def _forecasts(units: Floats, span: Span, coefficients: Floats, params: DemandParams) -> Floats:
    if span.level == ITEM:
        return demand_models.forecast_items(units, coefficients)
    return demand_models.forecast_categories(units, span.level.day(span.begin) % 7, params)
