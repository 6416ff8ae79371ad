"""Prequential evaluation on a log: each batch is ranked with a model of the events before it.

The first fifth of a log is history; the rest is split into batches. The targets of a user in a batch are the purchased
items that at least ten users bought before. All items that were sold before are ranked. First pairs: items that the
user bought before are neither targets nor ranked. Any pairs: they are both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.ranking_metrics import LIST_LENGTH, top_items

from benchmarks.real_datasets import Log

BATCH_SIZE, MIN_BUYERS = 3_000, 10
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class EvalBatch:
    """The users, targets and exclusions of a batch.

    Args:
        begin, end: numbers of its first event and of the first event after it.
        users: with a purchase in the batch, as positions in the log's users.
        bought_before: items of each user before the batch, (users, items).
        targets: items that each user buys in the batch, with enough buyers before it, (users, items).
        is_sold: items with a buyer before the batch, (items,).
    """

    begin: int
    end: int
    users: Longs
    bought_before: Bools
    targets: Bools
    is_sold: Bools

    def evaluate(self, scores: Floats) -> "Recalls":
        """Recall of a ranking.

        Args:
            scores: of all items, (users, items).
        """
        is_first = self.is_sold & ~self.bought_before
        return Recalls(
            _recalls(np.where(is_first, scores, -np.inf), self.targets & ~self.bought_before),
            _recalls(np.where(self.is_sold, scores, -np.inf), self.targets),
        )


@dataclass(frozen=True)
class Recalls:
    """Recall at 20 of each user of a batch; NaN for users without a target.

    Args:
        first: of first pairs.
        any: of any pairs.
    """

    first: Floats
    any: Floats

    def of_first_pairs(self) -> Floats:
        """Recall of first pairs, of the users with a target."""
        return self.first[~np.isnan(self.first)]


def first_fifth(log: Log) -> int:
    """Number of events of the history before the first batch."""
    return len(log) // 5


def first_third(log: Log) -> int:
    """Number of events that may be used to choose hyperparameters."""
    return len(log) // 3


def batches(log: Log, until: int | None = None) -> Iterator[EvalBatch]:
    """The batches up to an event number, in order; an incomplete last batch is left out."""
    bought = np.zeros((len(log.users), len(log.items)), bool)
    end = first_fifth(log)
    _add_purchases(bought, log, 0, end)
    for begin in range(end, (len(log) if until is None else until) - BATCH_SIZE + 1, BATCH_SIZE):
        part = slice(begin, begin + BATCH_SIZE)
        is_purchase = log.weight[part] > 0
        users, user = np.unique(log.user[part][is_purchase], return_inverse=True)
        purchases = np.zeros((len(users), len(log.items)), bool)
        purchases[user, log.item[part][is_purchase]] = True
        buyers = bought.sum(axis=0)
        targets = purchases & (buyers >= MIN_BUYERS)
        yield EvalBatch(begin, begin + BATCH_SIZE, users, bought[users], targets, buyers > 0)
        _add_purchases(bought, log, begin, begin + BATCH_SIZE)


def _add_purchases(bought: Bools, log: Log, begin: int, end: int) -> None:
    purchases = begin + np.flatnonzero(log.weight[begin:end] > 0)
    bought[log.user[purchases], log.item[purchases]] = True


def _recalls(scores: Floats, is_target: Bools) -> Floats:
    recalls = np.full(len(scores), np.nan)
    users = np.flatnonzero(is_target.any(axis=1))
    hits = np.take_along_axis(is_target[users], top_items(scores[users], LIST_LENGTH), axis=1)
    recalls[users] = hits.sum(axis=1) / is_target[users].sum(axis=1)
    return recalls
