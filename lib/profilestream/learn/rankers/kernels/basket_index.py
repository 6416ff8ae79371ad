"""All items in the order of popularity, and their rankings for users by the count rankers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.lists import flatten, groups, ranges
from profilestream.learn.kernels.ranking_metrics import top_candidates
from profilestream.learn.kernels.sums import MIN_WEIGHT, decay_factors
from profilestream.learn.rankers.kernels.basket_rows import FOLLOWERS, RankerParams, micros, positions_if_any
from profilestream.learn.rankers.kernels.item_history import ItemHistory

RANKERS = ("own_counts", "transitions", "sequence_rules", "popularity", "due_counts")
# The weight of an event of a session is multiplied by this for each later event.
RULE_DECAY = 0.6
_CHUNK_USERS = 500


class ItemScores(NamedTuple):
    """Scores of some items by one ranker, in order of cells.

    Args:
        cells: number of the user * number of items + position of the item.
        totals: the scores.
        shares: divided by the largest score of the user, rounded so that equal scores are equal.
    """

    cells: Longs
    totals: Floats
    shares: Floats

    def at(self, cells: Longs) -> tuple[Floats, Floats]:
        """Scores and shares of some cells; 0 for other items."""
        if not len(self.cells):
            return np.zeros(len(cells)), np.zeros(len(cells))
        row = np.minimum(np.searchsorted(self.cells, cells), len(self.cells) - 1)
        has_score = self.cells[row] == cells
        return self.totals[row] * has_score, self.shares[row] * has_score


class BasketIndex:
    """All items in descending order of popularity as of the newest event, for rankings; from rows with ITEM.

    Items whose rows are older than `min_as_of` (microseconds) are not ranked; null: all are ranked.
    """

    def __init__(self, items: pa.Table, params: RankerParams, min_as_of: int | None = None) -> None:
        times = micros(items)
        self.as_of, self.params = int(times.max(initial=0)), params
        weights = items["popularity"].to_numpy() * decay_factors(times, self.as_of, params.popularity_half_life_days)
        # Weights that differ only by rounding are ties, whose order is that of the ids.
        weights = np.exp(np.round(np.log(np.maximum(weights, MIN_WEIGHT)), 9))
        rank_of_id = np.argsort(np.argsort(items["key"].to_numpy()))
        order = np.lexsort((rank_of_id, -weights))
        self.shares, items = weights[order] / weights.sum(), items.take(order)
        self._is_ranked = np.ones(len(order), bool) if min_as_of is None else times[order] >= min_as_of
        self.ids: Any = items["key"].combine_chunks()
        self._items = items

    @property
    def popular(self) -> Longs:
        """Positions of the ranked items, the most popular first."""
        return np.flatnonzero(self._is_ranked)

    def rank(self, users: pa.Table, top_k: int) -> dict[str, tuple[Longs, Floats]]:
        """Positions and scores of each user's best items, (users, top_k), by ranker.

        `own_counts` scores by the user's counts, `transitions` by the mean over the items of the latest basket of the
        shares of their followers, `sequence_rules` by the sum of the decayed shares in the rules of `recent_items`.
        `due_counts` scores by the user's counts times ItemHistory.due_factors.
        These scores are divided by the largest one and increased by 1. All other items follow with their share of the
        popularity. A null row is a user without events. Items without a row are not ranked.
        """
        chunks = [
            {ranker: self._top(len(part), one, top_k) for ranker, one in scores.items()}
            for part, scores in self.scores(users)
        ]
        return {
            ranker: (
                np.vstack([chunk[ranker][0] for chunk in chunks]),
                np.vstack([chunk[ranker][1] for chunk in chunks]),
            )
            for ranker in RANKERS
        }

    def scores(self, users: pa.Table) -> Iterator[tuple[pa.Table, dict[str, ItemScores]]]:
        """Chunks of the users, at least one, and the scores by ranker; `popularity` scores no item for a user."""
        transitions, rules = (
            FollowerShares.of(self._items, *names, sources=flatten(users, list_name)[1])
            for list_name, names in zip(("basket_items", "recent_items"), FOLLOWERS, strict=True)
        )
        for n in range(0, len(users) or 1, _CHUNK_USERS):
            part = users.slice(n, _CHUNK_USERS)
            owner, own_ids = flatten(part, "item_ids")
            user, basket_ids = flatten(part, "basket_items")
            viewer, recent_ids = flatten(part, "recent_items")
            first, size = groups(viewer)
            later_events = first + size - 1 - np.arange(len(first))
            has_row, own = positions_if_any(own_ids, self.ids)
            owner, own_counts = owner[has_row], flatten(part, "counts")[1].to_numpy()[has_row]
            due_factors = ItemHistory.stored(part, owner * len(self.ids) + own, has_row).due_factors(self.as_of)
            votes = {
                "own_counts": (owner, own, own_counts),
                "transitions": transitions.votes(user, basket_ids, 1 / groups(user)[1]),
                "sequence_rules": rules.votes(viewer, recent_ids, np.asarray(RULE_DECAY**later_events, np.float64)),
                "popularity": (owner[:0], own[:0], own_counts[:0]),
                "due_counts": (owner, own, own_counts * due_factors),
            }
            yield part, {ranker: self._sum(*votes[ranker]) for ranker in RANKERS}

    def cells(self, users: pa.Table, name: str) -> Longs:
        """Cells of the items in a list column; items without a row are left out."""
        user, ids = flatten(users, name)
        has_row, item = positions_if_any(ids, self.ids)
        return np.asarray(user[has_row] * len(self.ids) + item, np.int64)

    def history(self, users: pa.Table) -> ItemHistory:
        """Of all items of the users that have a row."""
        owner, ids = flatten(users, "item_ids")
        has_row, item = positions_if_any(ids, self.ids)
        return ItemHistory.stored(users, owner[has_row] * len(self.ids) + item, has_row)

    def _sum(self, user: Longs, item: Longs, score: Floats) -> ItemScores:
        """The positive sums of the scores of each pair; only of ranked items."""
        is_ranked = self._is_ranked[item]
        cells, cell = np.unique((user * len(self.ids) + item)[is_ranked], return_inverse=True)
        totals = np.asarray(np.bincount(cell, score[is_ranked], len(cells)), np.float64)
        cells, totals = cells[totals > 0], totals[totals > 0]
        row = cells // max(len(self.ids), 1)
        largest = np.zeros(int(row.max(initial=-1)) + 1)
        np.maximum.at(largest, row, totals)
        return ItemScores(cells, totals, np.round(totals / np.maximum(largest[row], MIN_WEIGHT), 9))

    def _top(self, users: int, scores: ItemScores, top_k: int) -> tuple[Longs, Floats]:
        """The best items by a ranker, then the most popular ones."""
        n = len(self.ids)
        popular = np.arange(users)[:, None] * n + self.popular[:top_k]
        cells = np.union1d(scores.cells, popular)
        row, position = np.divmod(cells, n)
        totals, shares = scores.at(cells)
        values = np.where(totals > 0, 1 + shares, self.shares[position])
        return top_candidates(row, position, values, users, top_k)


@dataclass(frozen=True)
class FollowerShares:
    """The followers of some items, and the share of each in the counts of its item.

    Followers without a row are left out; they remain after a removal of users.

    Args:
        sources: ids of the items.
        sizes: number of followers of each source.
        items, shares: position and share of each follower, in order of source.
    """

    sources: Any
    sizes: Longs
    items: Longs
    shares: Floats

    @classmethod
    def of(cls, items: pa.Table, id_list: str, count_list: str, *, sources: Any) -> "FollowerShares":
        """From two list columns of rows with ITEM; only of the sources that have a row."""
        ids: Any = items["key"].combine_chunks()
        rows = items.take(np.unique(positions_if_any(sources, ids)[1]))
        (row, followers), counts = flatten(rows, id_list), flatten(rows, count_list)[1].to_numpy()
        has_row, item = positions_if_any(followers, ids)
        shares = (counts / np.bincount(row, counts)[row])[has_row]
        return cls(rows["key"].combine_chunks(), np.bincount(row[has_row], minlength=len(rows)), item, shares)

    def votes(self, user: Longs, source: Any, weight: Floats) -> tuple[Longs, Longs, Floats]:
        """User, follower and weighted share: one of each per follower of an item of a user."""
        has_row, row = positions_if_any(source, self.sources)
        sizes = self.sizes[row]
        entry = ranges((np.cumsum(self.sizes) - self.sizes)[row], sizes)
        return (
            np.repeat(user[has_row], sizes),
            self.items[entry],
            np.repeat(weight[has_row], sizes) * self.shares[entry],
        )
