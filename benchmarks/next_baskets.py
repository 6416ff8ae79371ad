"""Recall of the next basket, week by week: the users of a week are ranked by the state before it, which then learns it.

The last eight weeks of a log are evaluated; the weeks before are learned in the same way. The targets of a user are the
items of the first basket of the week, of users with an earlier basket. All items that were sold before are ranked, also
those that the user bought before.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from profilestream.base import runner
from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.rankers import rankers_batch
from profilestream.learn.rankers.kernels import blend
from profilestream.learn.rankers.kernels.basket_index import BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import EVENT, ITEM, USER, RankerParams
from profilestream.learn.rankers.kernels.blend import BlendState

from benchmarks.real_datasets import Log

WEEKS, TOP = 8, 10
# The list `next_basket`, by the blend or by own_counts.
SERVED = "served"
WEEK_MICROS, GAP_MICROS = 7 * 86_400_000_000, 30 * 60_000_000


@dataclass(frozen=True)
class BasketWeek:
    """The first baskets of a week.

    Args:
        begin, end: numbers of the first event of the week and of the first event after it.
        users: as positions in the log's users.
        targets, bought_before: items of the basket, and of all earlier purchases of the user, (users, items).
    """

    begin: int
    end: int
    users: Longs
    targets: Bools
    bought_before: Bools

    def recalls(self, ranked: Longs) -> Floats:
        """Recall of all, repeated, and new items of each user, (3, users); NaN for users without such items.

        Args:
            ranked: positions of the best items in the log's items, (users, TOP).
        """
        parts = (self.targets, self.targets & self.bought_before, self.targets & ~self.bought_before)
        with np.errstate(invalid="ignore"):
            return np.array([np.take_along_axis(x, ranked, axis=1).sum(axis=1) / x.sum(axis=1) for x in parts])


def weeks(log: Log) -> Iterator[BasketWeek]:
    """The evaluated weeks, in order; the first event of the first one is the end of the history."""
    starts = log.time_micros[-1] + 1 - WEEK_MICROS * np.arange(WEEKS, -1, -1)
    bounds = np.searchsorted(log.time_micros, starts)
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        bought = np.zeros((len(log.users), len(log.items)), bool)
        earlier = np.flatnonzero(log.weight[:begin] > 0)
        bought[log.user[earlier], log.item[earlier]] = True
        week = begin + np.flatnonzero(log.weight[begin:end] > 0)
        week = week[np.lexsort((log.time_micros[week], log.user[week]))]
        user, time = log.user[week], log.time_micros[week]
        is_start = np.diff(user, prepend=-1).astype(bool) | (np.diff(time, prepend=0) > GAP_MICROS)
        basket = np.cumsum(is_start)
        is_first = basket == basket[np.searchsorted(user, user)]
        targets = np.zeros_like(bought)
        targets[user[is_first], log.item[week][is_first]] = True
        users = np.flatnonzero(targets.any(axis=1) & bought.any(axis=1))
        yield BasketWeek(int(begin), int(end), users, targets[users], bought[users])


def recalls_by_ranker(log: Log, params: RankerParams) -> dict[str, Floats]:
    """Recalls of the count rankers, of the blend, and of the served list, (3, users of all weeks).

    The blend is learned week by week from the beginning of the log; SERVED is the blend in weeks in which it has passed
    its gate before, else `own_counts`.
    """
    users, items, state, begin = USER.empty_table(), ITEM.empty_table(), BlendState.empty(), 0
    by_ranker = defaultdict[str, list[Floats]](list)
    evaluated = {week.begin: week for week in weeks(log)}
    for end in _week_ends(log):
        events = _purchases(log, begin, end)
        known = users.filter(pc.is_in(users["key"], value_set=events["user_id"].combine_chunks()))
        learned = rankers_batch.learn(known, items, events, state, params, nullcontext)
        begin, state = end, learned.blend
        users = runner.with_updates(users, learned.users, "key")
        items = runner.with_updates(items, learned.items, "key")
        if (week := evaluated.get(end)) is not None:
            index = BasketIndex(items, params)
            keys = pa.array(log.users[week.users], pa.string())
            rows = users.take(pc.index_in(keys, value_set=users["key"].combine_chunks()))
            best = {ranker: ranked for ranker, (ranked, _) in index.rank(rows, TOP).items()}
            best[blend.NAME] = blend.rank(index, rows, state.weights, TOP)[0]
            best[SERVED] = best[blend.NAME if state.gate.is_passed else "own_counts"]
            position = np.searchsorted(log.items, index.ids.to_numpy(zero_copy_only=False))
            for ranker, ranked in best.items():
                by_ranker[ranker].append(week.recalls(position[ranked]))
    return {ranker: np.hstack(recalls) for ranker, recalls in by_ranker.items()}


def _week_ends(log: Log) -> list[int]:
    """Number of the first event after each week of the log except the last one."""
    end, first = log.time_micros[-1] + 1, log.time_micros[0]
    count = int((end - first) // WEEK_MICROS)
    bounds: list[int] = np.searchsorted(log.time_micros, end - WEEK_MICROS * np.arange(count, 0, -1)).tolist()
    return bounds


def _purchases(log: Log, begin: int, end: int) -> pa.Table:
    rows = begin + np.flatnonzero(log.weight[begin:end] > 0)
    columns = [log.users[log.user[rows]], log.time_micros[rows], log.items[log.item[rows]]]
    return pa.table([pa.array(column, each.type) for column, each in zip(columns, EVENT, strict=True)], schema=EVENT)


def summary(by_ranker: Mapping[str, Floats]) -> str:
    """Mean recalls by ranker, as text."""
    means = {ranker: np.nanmean(recalls, axis=1) for ranker, recalls in by_ranker.items()}
    return "; ".join(f"{ranker} {all_:.4f} ({repeat:.4f}, {new:.4f})" for ranker, (all_, repeat, new) in means.items())
