"""Test, then learn: how a log is cut, what its batches ask, and what a ranking answers.

A log's first fifth is there from the beginning; the rest comes in batches. Of a batch each user is asked for what it
bought, items that had at least ten buyers before; all items that were sold before are ranked. First pairs: items that
the user bought before, at any time, are neither asked for nor ranked. Any pairs: they are both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from profilestream.learn.als import Floats, Longs
from profilestream.learn.item_index import best
from profilestream.learn.ranking_metrics import SHOWN

from benchmarks.logs import Log

BATCH, BUYERS = 3_000, 10
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """What a batch asks.

    Args:
        begin, end: numbers of its events.
        users: with a purchase in it, by place in the log's users.
        bought: by them before, (users, items).
        buys: of items with enough buyers, in the batch, (users, items).
        sold: which items were, before, (items,).
    """

    begin: int
    end: int
    users: Longs
    bought: Bools
    buys: Bools
    sold: Bools

    def answered(self, scores: Floats) -> "Answer":
        """What a ranking of all items for the users says, (users, items)."""
        return Answer(
            _recalls(np.where(self.sold & ~self.bought, scores, -np.inf), self.buys & ~self.bought),
            _recalls(np.where(self.sold, scores, -np.inf), self.buys),
        )


@dataclass(frozen=True)
class Answer:
    """Recall at 20 of each user of a batch; NaN where nothing was asked.

    Args:
        first: first pairs.
        any: any pairs.
    """

    first: Floats
    any: Floats

    def asked(self) -> Floats:
        """Of the first pairs, those of users that were asked."""
        return self.first[~np.isnan(self.first)]


def first_fifth(log: Log) -> int:
    """How many events are there from the beginning."""
    return len(log) // 5


def first_third(log: Log) -> int:
    """How many events may be used to choose settings."""
    return len(log) // 3


def batches(log: Log, until: int | None = None) -> Iterator[Asked]:
    """What each batch asks, up to an event number; a last batch that is not full is left out.

    A batch is asked before it is added to what was bought.
    """
    bought = np.zeros((len(log.users), len(log.items)), bool)
    end = first_fifth(log)
    _add(bought, log, 0, end)
    for begin in range(end, (len(log) if until is None else until) - BATCH + 1, BATCH):
        part = slice(begin, begin + BATCH)
        is_purchase = log.weight[part] > 0
        users, user = np.unique(log.user[part][is_purchase], return_inverse=True)
        buys = np.zeros((len(users), len(log.items)), bool)
        buys[user, log.item[part][is_purchase]] = True
        buyers = bought.sum(axis=0)
        yield Asked(begin, begin + BATCH, users, bought[users], buys & (buyers >= BUYERS), buyers > 0)
        _add(bought, log, begin, begin + BATCH)


def _add(bought: Bools, log: Log, begin: int, end: int) -> None:
    purchases = begin + np.flatnonzero(log.weight[begin:end] > 0)
    bought[log.user[purchases], log.item[purchases]] = True


def _recalls(scores: Floats, is_target: Bools) -> Floats:
    found = np.full(len(scores), np.nan)
    has = np.flatnonzero(is_target.any(axis=1))
    hits = np.take_along_axis(is_target[has], best(scores[has], SHOWN), axis=1)
    found[has] = hits.sum(axis=1) / is_target[has].sum(axis=1)
    return found
