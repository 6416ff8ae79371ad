"""Measures of each day of a user, from its events. Arrow tables in and out; runs on executors."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.lists import groups, lists_by_row

# `day` (since 1970) and `hour` (0 to 23) are those of the shop's time zone.
_EVENT_TYPES: dict[str, pa.DataType] = {
    "user_id": pa.string(), "time_micros": pa.int64(), "day": pa.int64(), "hour": pa.int64(), "event_type": pa.string(),
    "category": pa.string(), "region": pa.string(), "value": pa.float64(),
}  # fmt: skip
EVENT = pa.schema([pa.field(name, type_) for name, type_ in _EVENT_TYPES.items()])
# `measures`: one value per element of MEASURES; NaN: the day has no events with such a value.
_DAY_TYPES: dict[str, pa.DataType] = {"user_id": pa.string(), "day": pa.int64(), "measures": pa.list_(pa.float64())}
DAY = pa.schema([pa.field(name, type_) for name, type_ in _DAY_TYPES.items()])
HABITS = ("hour", "category", "region", "event_type")
MEASURES = ("events", "times", "value", "returns", *HABITS)
# Share of events by value of a habit, over all users.
HabitShares = Mapping[str, Mapping[Any, float]]
MIN_SHARE = 1e-3
# Weight of the population in the shares of a user, in days; purchases that are added to those of a user.
_PRIOR_DAYS, _PRIOR_PURCHASES = 2.0, 10.0


def user_days(events: pa.Table, *, half_life_days: float, habit_shares: HabitShares) -> dict[str, pa.Table]:
    """`days`: one row with DAY per user and day, in this order; all events of a user are in one call.

    `events`, `times`: log(1 + number) of events and of their distinct times. `value`: log(1 + mean value of the
    purchases); values that are null or not finite are ignored, negative ones are 0. `returns`: returns per purchase
    until this day, decayed, with ten purchases added; NaN without a return. Habits: mean over the events with a value
    of -log(share of the user's earlier days with this value), decayed, with two days of the population added.

    Args:
        events: rows with EVENT in any order.
        habit_shares: shares below MIN_SHARE, and those of other values, are replaced by MIN_SHARE.
    """
    user_ids, user = _codes(events["user_id"])
    time, day = (events[name].to_numpy() for name in ("time_micros", "day"))
    order = np.lexsort((time, day, user))
    user, time, day = user[order], time[order], day[order]
    is_new_day = changes(user, day)
    row, first = np.cumsum(is_new_day) - 1, np.flatnonzero(is_new_day)
    days = _Days(user[first], day[first], half_life_days)
    type_ = np.array(events["event_type"].to_pylist(), object)[order]
    value = events["value"].to_numpy()[order]
    count = len(first)
    columns = [
        np.log1p(np.bincount(row, minlength=count)),
        np.log1p(np.bincount(row[changes(user, day, time)], minlength=count)),
        _mean_values(row, np.where(type_ == "purchase", value, np.nan), count),
        _return_shares(days, *(np.bincount(row[type_ == name], minlength=count) for name in ("return", "purchase"))),
        *(_surprises(days, row, *_habit(events[name], order, habit_shares[name])) for name in HABITS),
    ]
    return {"days": day_rows(user_ids.take(days.user), days.day, np.column_stack(columns))}


def day_rows(user_ids: Any, day: Longs, measures: Floats) -> pa.Table:
    """Rows with DAY; `measures` is (rows, measures)."""
    row = np.repeat(np.arange(len(day)), measures.shape[1])
    lists = lists_by_row(row, len(day), pa.array(measures.reshape(-1)))
    return pa.table({"user_id": user_ids, "day": pa.array(day), "measures": lists}, schema=DAY)


def changes(*columns: Longs) -> Bools:
    """Of rows that are ordered by the columns: whether a row differs from the row before it; true for the first."""
    is_change = np.ones(len(columns[0]), bool)
    is_change[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return is_change


def by_rank(group: Longs) -> Iterator[Longs]:
    """Positions of the first row of each group, then of the second ones, and so on; the groups are ascending."""
    rank = np.arange(len(group)) - groups(group)[0]
    order = np.argsort(rank, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(rank[order])) + 1)


class _Days:
    """The rows of the result: user and day, ordered."""

    def __init__(self, user: Longs, day: Longs, half_life_days: float) -> None:
        self.user, self.day, self._half_life_days = user, day, half_life_days

    def sums_before(self, rows: Longs, group: Longs, weight: Floats) -> Floats:
        """Decayed sum of the weights of earlier elements of the same group.

        Args:
            rows: the day of each element; ordered by group and day.
        """
        sums, day = np.zeros(len(rows)), self.day[rows]
        for number, now in enumerate(by_rank(group)):
            if number:
                factor = np.exp2(-(day[now] - day[now - 1]) / self._half_life_days)
                sums[now] = (sums[now - 1] + weight[now - 1]) * factor
        return sums


def _codes(column: Any) -> tuple[Any, Longs]:
    """The distinct values, and the position of the value of each row; -1: null."""
    values: Any = pc.unique(column.drop_null() if isinstance(column, pa.ChunkedArray) else column)
    indices: Any = pc.fill_null(pc.index_in(column, value_set=values), -1)
    return values, np.asarray(indices.to_numpy(), np.int64)


def _mean_values(row: Longs, value: Floats, count: int) -> Floats:
    is_value = np.isfinite(value)
    row, value = row[is_value], np.maximum(value[is_value], 0.0)
    number = np.bincount(row, minlength=count)
    # A quotient before the sum: the sum of large values would be infinite.
    return np.where(number > 0, np.log1p(np.bincount(row, value / number[row], count)), np.nan)


def _return_shares(days: _Days, returns: Longs, purchases: Longs) -> Floats:
    earlier = days.sums_before(np.arange(len(days.day)), days.user, purchases.astype(float))
    return np.where(returns > 0, returns / (earlier + purchases + _PRIOR_PURCHASES), np.nan)


def _habit(column: Any, order: Longs, shares: Mapping[Any, float]) -> tuple[Longs, Floats]:
    """The values of a habit as codes, -1 for null, by event; and the share of each code."""
    values, codes = _codes(column)
    return codes[order], np.array([max(shares.get(value, 0.0), MIN_SHARE) for value in values.to_pylist()])


def _surprises(days: _Days, row: Longs, code: Longs, shares: Floats) -> Floats:
    """-log(share of earlier days) of the values of a habit, by day; NaN: the day has no value.

    Args:
        code: by event; -1: no value.
        shares: by code, of the population.
    """
    width = len(shares) or 1
    key, events = np.unique((row * width + code)[code >= 0], return_counts=True)
    row, code = key // width, key % width
    total = np.bincount(row, events, len(days.day))
    part = events / total[row]
    group = days.user[row] * width + code
    order = np.argsort(group, kind="stable")
    same = np.empty(len(row))
    same[order] = days.sums_before(row[order], group[order], part[order])
    with_value = np.flatnonzero(total)
    number = np.zeros(len(days.day))
    number[with_value] = days.sums_before(with_value, days.user[with_value], np.ones(len(with_value)))
    surprise = -np.log((same + _PRIOR_DAYS * shares[code]) / (number[row] + _PRIOR_DAYS)) * part
    return np.where(total > 0, np.bincount(row, surprise, len(days.day)), np.nan)
