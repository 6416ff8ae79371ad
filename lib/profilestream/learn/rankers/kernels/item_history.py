"""How often and when users had their items: number of baskets, first and last time.

Runs on executors, so it imports numpy and pyarrow only.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.lists import flatten, lists_by_row
from profilestream.learn.rankers.kernels.basket_rows import NEVER, USER, micros

_NAMES = ("item_baskets", "first_times", "last_times")
# The count of an item that was just bought is lower by this share; it falls to 1/e in this part of the interval.
_NOT_DUE, _PART = 0.4, 0.1


class ItemHistory(NamedTuple):
    """Of items of users; a cell can occur several times.

    Args:
        cells: number of the user * number of items + position of the item.
        baskets: number of baskets with the item; late events are in none.
        first, last: time of the first and of the last event, microseconds.
    """

    cells: Longs
    baskets: Longs
    first: Longs
    last: Longs

    @classmethod
    def stored(cls, users: pa.Table, cells: Longs, rows: Any = slice(None)) -> "ItemHistory":
        """From rows with USER; rows without a history have one basket, at `as_of`.

        Args:
            cells: of the elements of `item_ids` in `rows`, a mask.
        """
        owner, _ = flatten(users, "item_ids")
        has_history = np.asarray(users[_NAMES[0]].is_valid())[owner]
        columns = [np.ones(len(owner), np.int64), micros(users)[owner], micros(users)[owner]]
        for column, name in zip(columns, _NAMES, strict=True):
            column[has_history] = flatten(users, name)[1].cast(pa.int64()).to_numpy()
        return cls(cells, *(column[rows] for column in columns))

    @classmethod
    def of_events(cls, cells: Longs, times: Longs, baskets: int) -> "ItemHistory":
        """Of one event per cell, each of which adds a number of baskets."""
        return cls(cells, np.full(len(cells), baskets), times, times)

    def __or__(self, other: "ItemHistory") -> "ItemHistory":
        """Of the events of both."""
        return ItemHistory(*map(np.concatenate, zip(self, other, strict=True)))

    def at(self, cells: Longs) -> "ItemHistory":
        """Of some of the cells; each then occurs once."""
        distinct, number = np.unique(self.cells, return_inverse=True)
        baskets = np.zeros(len(distinct), np.int64)
        first, last = np.full(len(distinct), -NEVER), np.full(len(distinct), NEVER)
        np.add.at(baskets, number, self.baskets)
        np.minimum.at(first, number, self.first)
        np.maximum.at(last, number, self.last)
        row = np.searchsorted(distinct, cells)
        return ItemHistory(cells, baskets[row], first[row], last[row])

    @property
    def intervals(self) -> Floats:
        """Mean time between two baskets with the item, microseconds; 0 for one basket."""
        return np.asarray((self.last - self.first) / np.maximum(self.baskets - 1, 1) * (self.baskets > 1))

    def due_factors(self, now: int) -> Floats:
        """1 - .4 exp(-10 x), with x the time from the last event to `now`, in intervals; 1 without an interval."""
        intervals = self.intervals
        x = (now - self.last) / np.maximum(intervals, 1.0)
        return np.where(intervals > 0, 1 - _NOT_DUE * np.exp(-x / _PART), 1.0)

    def lists(self, row: Longs, rows: int) -> list[Any]:
        """The list columns of USER; the numbers of the rows are ascending."""
        types = [USER.field(name).type.value_type for name in _NAMES]
        columns = zip(self[1:], types, strict=True)
        return [lists_by_row(row, rows, pa.array(values).cast(type_)) for values, type_ in columns]
