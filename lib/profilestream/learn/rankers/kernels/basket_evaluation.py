"""Evaluation of the rankers and their blend: the first new basket of each user, ranked by the state before it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels import evaluation_times, ranking_metrics
from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.lists import groups, lists_by_row, ranges
from profilestream.learn.kernels.sums import LATEST, Sums, total
from profilestream.learn.rankers.kernels import blend
from profilestream.learn.rankers.kernels.basket_index import RANKERS, BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import RECENT_EVENTS, BasketRows
from profilestream.learn.rankers.kernels.blend import BlendState, BlendSums, GateSums

# Targets: all items of the basket, those that the user bought before, the others, and the last item of the session.
_KINDS = ("basket", "repeat", "new", "next_item")
METRICS = tuple(f"{kind}_{name}_10" for name in ("recall", "ndcg") for kind in _KINDS)
_LISTS = (*RANKERS, blend.NAME)
_TOP = 10


@dataclass(frozen=True)
class BasketSums(Sums):
    """Metrics summed over users, and numbers of users with a value, each (rankers and blend, METRICS).

    All are evaluated with the state of one time, `state_as_of`.
    """

    totals: Floats
    users: Floats
    times: EvaluationTimes
    state_as_of: int = field(metadata=LATEST)

    def metrics(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Value and weight by ranker and metric; metrics without a user are left out."""
        by_ranker = zip(_LISTS, self.totals, self.users, strict=True)
        return {
            ranker: {
                name: (float(value / n), float(n)) for name, value, n in zip(METRICS, totals, users, strict=True) if n
            }
            for ranker, totals, users in by_ranker
            if users.any() or ranker != blend.NAME
        }


@dataclass(frozen=True)
class BasketTargets:
    """The first basket of each user that starts after a state.

    Args:
        users: their rows, with USER.
        number, item: user and position of each item of the baskets, ascending; items without a row have positions too.
        is_repeat: whether the user had the item before.
        time: of each item, ascending in a basket.
        items: number of positions.
    """

    users: pa.Table
    number: Longs
    item: Longs
    is_repeat: Bools
    time: Longs
    items: int

    @classmethod
    def of(cls, old: pa.Table, rows: BasketRows, own: Longs, items: int, state_as_of: int) -> "BasketTargets":
        """From all new baskets.

        Args:
            old: the stored rows of the users.
            own: user * items + item of the stored counts.
        """
        first, _ = groups(rows.basket)
        is_new = rows.time[first] > state_as_of
        users, start = np.unique(rows.user[is_new], return_index=True)
        targets = rows.take(np.isin(first, first[is_new][start]))
        number = np.searchsorted(users, targets.user)
        is_repeat = np.isin(targets.user * items + targets.item, own)
        return cls(old.take(users), number, targets.item, is_repeat, targets.time, items)

    @property
    def times(self) -> Longs:
        """Start of the basket of each user, (users,)."""
        return self.time[np.unique(self.number, return_index=True)[1]]

    @property
    def cells(self) -> Longs:
        """number * items + item."""
        return self.number * self.items + self.item

    def metrics(self, best: Longs) -> tuple[Floats, Floats]:
        """Recalls and nDCG of the best items of each user, (users, 10), summed, and users with a value; each (2, 3)."""
        listed = np.arange(len(best))[:, None] * self.items + best
        totals, counts = np.zeros((2, 3)), np.zeros((2, 3))
        for n, mask in enumerate((self.is_repeat | True, self.is_repeat, ~self.is_repeat)):
            sizes = np.bincount(self.number[mask], minlength=len(best))
            has_target = sizes > 0
            hits, sizes = np.isin(listed[has_target], self.cells[mask]), sizes[has_target]
            totals[:, n] = (hits.sum(axis=1) / sizes).sum(), ranking_metrics.ndcg(hits, sizes).sum()
            counts[:, n] = has_target.sum()
        return totals, counts

    def ndcg(self, best: Longs) -> Floats:
        """nDCG at 10 of each user, (users,)."""
        listed = np.arange(len(best))[:, None] * self.items + best
        return ranking_metrics.ndcg(np.isin(listed, self.cells), np.bincount(self.number, minlength=len(best)))


def evaluate(
    index: BasketIndex,
    old: pa.Table,
    targets: BasketTargets,
    session: BasketRows,
    ids: Any,
    state: BlendState,
    times: Longs,
) -> tuple[BasketSums, BlendSums, GateSums]:
    """Metrics of the first new baskets, and the sums that the blend learns from them.

    Args:
        times: of all events of the batch.
    """
    lists = [best for best, _ in index.rank(targets.users, _TOP).values()]
    blended, sums = _blend(index, targets, state)
    gate = GateSums()
    if state.has_learned:
        lists.append(blended)
        gate = GateSums.of(targets.ndcg(blended) - targets.ndcg(lists[RANKERS.index("own_counts")]), targets.times)
    totals, users = np.zeros((2, len(_LISTS), 2, len(_KINDS)))
    for n, best in enumerate(lists):
        totals[n, :, :-1], users[n, :, :-1] = targets.metrics(best)
    for n, hits in enumerate(_next_item_hits(index, old, session, ids)):
        totals[n, :, -1] = hits.any(axis=1).sum(), ranking_metrics.ndcg(hits, np.ones(len(hits), np.int64)).sum()
        users[n, :, -1] = len(hits)
    shape = len(_LISTS), len(METRICS)
    scored = EvaluationTimes.of(targets.time, int(evaluation_times.is_late(times, index.as_of).sum()))
    return BasketSums(totals.reshape(shape), users.reshape(shape), scored, index.as_of), sums, gate


def _blend(index: BasketIndex, targets: BasketTargets, state: BlendState) -> tuple[Longs, BlendSums]:
    """The best items of each user by the blend, (users, 10), and the sums of the baskets."""
    begin, best, sums = 0, list[Longs](), list[BlendSums]()
    for users, rows in blend.candidates(index, targets.users):
        probabilities = rows.probabilities(state.weights)
        best.append(rows.item[rows.top(probabilities, users, _TOP)[0]])
        is_target = np.isin((begin + rows.user) * targets.items + rows.item, targets.cells)
        times = targets.times[begin : begin + users]
        sums.append(blend.sum_baskets(rows, probabilities, is_target, times, state.weights))
        begin += users
    return np.vstack(best), total(sums, blend.HALF_LIFE_DAYS)


def _next_item_hits(index: BasketIndex, old: pa.Table, session: BasketRows, ids: Any) -> Iterator[Bools]:
    """Whether each of the best 10 is the last item of a user's first session after the state, (users, 10), by ranker.

    `sequence_rules` uses the earlier events of the session; the other rankers use the state only. Sessions whose events
    all have the same time are left out.
    """
    first, size = groups(session.basket)
    is_after = session.time[first] > index.as_of
    users, start = np.unique(session.user[is_after], return_index=True)
    start = np.flatnonzero(is_after)[start]
    last = start + size[start] - 1
    has_order = session.time[last] > session.time[start]
    users, start, last = users[has_order], start[has_order], last[has_order]
    begin = np.maximum(start, last - RECENT_EVENTS)
    number = np.repeat(np.arange(len(users)), last - begin)
    earlier = session.item[ranges(begin, last - begin)]
    recent = lists_by_row(number, len(users), ids.take(earlier))
    rows = old.take(users)
    rows = rows.set_column(rows.schema.get_field_index("recent_items"), "recent_items", recent)
    for best, _ in index.rank(rows, _TOP).values():
        yield best == session.item[last][:, None]
