"""Ranking metrics of the prequential evaluation: a batch is ranked by the state before it, and learned afterwards.

A user's targets are the items of the batch that are not among the user's stored events. All known items except the
stored ones are ranked. Runs on executors.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profilestream.learn.als import AlsParams, Floats, Longs
from profilestream.learn.item_index import ItemIndex, UserItems, top_items
from profilestream.learn.sums import Sums

Bools = NDArray[np.bool_]
LIST_LENGTH = 20
_MAX_CELLS = 4_000_000


@dataclass(frozen=True)
class RankingSums(Sums):
    """Sums of the metrics of one ranker over users.

    Args:
        listed_items: whether an item is among the first 10 of any user, (items,).
        users: number of users with at least one target.
        recall_10, recall_20: share of the targets among the first 10 (20) items.
        ndcg_10: discounted gain of the first 10 items divided by that of the best order (Jarvelin and Kekalainen,
            2002).
        reciprocal_rank: 1 / rank of the first target among the first 20 items, 0 when there is none.
        novelty: mean of -log2(share of the item in the total popularity) over the first 10 items (Vargas and Castells,
            2011).
        ratings, squared_error: explicit: number of predicted ratings, and the sum of their squared errors.
    """

    listed_items: Bools
    users: float = 0.0
    recall_10: float = 0.0
    recall_20: float = 0.0
    ndcg_10: float = 0.0
    reciprocal_rank: float = 0.0
    novelty: float = 0.0
    ratings: float = 0.0
    squared_error: float = 0.0

    def metrics(self) -> dict[str, tuple[float, float]]:
        """Value and weight (users or ratings) by metric of `model_metrics`; metrics without a value are left out."""
        totals = {
            "recall_10": self.recall_10, "recall_20": self.recall_20, "ndcg_10": self.ndcg_10,
            "mrr_20": self.reciprocal_rank, "novelty": self.novelty,
        }  # fmt: skip
        values: dict[str, tuple[float, float]] = {}
        if self.users:
            values |= {name: (total / self.users, self.users) for name, total in totals.items()}
            values["coverage"] = float(self.listed_items.mean()), self.users
        if self.ratings:
            values["rmse"] = (self.squared_error / self.ratings) ** 0.5, self.ratings
        return values


def sum_by_ranker(parts: Iterable[tuple[str, RankingSums]]) -> dict[str, RankingSums]:
    """The total of each ranker's sums."""
    totals: dict[str, RankingSums] = {}
    for ranker, sums in parts:
        totals[ranker] = totals[ranker] + sums if ranker in totals else sums
    return totals


def evaluate(scores: Floats, is_target: Bools, is_excluded: Bools, popularity: Floats) -> RankingSums:
    """The sums of one ranker over the users with a target.

    Args:
        scores, is_target, is_excluded: (users, items); excluded items are ranked last.
        popularity: (items,).
    """
    has_target = is_target.any(axis=1)
    scores, is_target, is_excluded = scores[has_target], is_target[has_target], is_excluded[has_target]
    users, items = scores.shape
    if not users:
        return RankingSums(np.zeros(items, bool))
    order = top_items(np.where(is_excluded, -np.inf, scores), LIST_LENGTH)
    hits = np.take_along_axis(is_target, order, axis=1)
    targets = is_target.sum(axis=1)
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(targets, 10)]
    reciprocal_rank = np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)
    novelty = -np.log2(np.maximum(popularity, 1e-9) / max(float(np.maximum(popularity, 0).sum()), 1e-9))
    listed_items = np.zeros(items, bool)
    listed_items[order[:, :10].ravel()] = True
    return RankingSums(
        users=float(users),
        recall_10=float((hits[:, :10].sum(axis=1) / targets).sum()),
        recall_20=float((hits.sum(axis=1) / targets).sum()),
        ndcg_10=float((hits[:, :10] @ discount[: hits[:, :10].shape[1]] / ideal).sum()),
        reciprocal_rank=float(reciprocal_rank.sum()),
        novelty=float(novelty[order[:, :10]].mean(axis=1).sum()),
        listed_items=listed_items,
    )


def evaluate_rankers(
    index: ItemIndex, vectors: Floats, user_items: UserItems, targets: Longs, params: AlsParams
) -> dict[str, RankingSums]:
    """The sums of every ranker over these users; the users are scored in chunks to limit memory.

    Args:
        vectors: user vectors, (users, width).
        user_items: items that the users have; they are not ranked.
        targets: user number and item position of each target, (pairs, 2).
    """
    chunk = max(1, _MAX_CELLS // max(len(index.item_ids), 1))
    parts = (
        _evaluate_chunk(index, vectors[begin : begin + chunk], begin, user_items, targets, params)
        for begin in range(0, len(vectors), chunk)
    )
    return sum_by_ranker(part for sums in parts for part in sums.items())


def _evaluate_chunk(
    index: ItemIndex, vectors: Floats, begin: int, user_items: UserItems, targets: Longs, params: AlsParams
) -> dict[str, RankingSums]:
    """The sums of the users from number `begin`, one per vector."""
    size, items = len(vectors), len(index.item_ids)
    chunk_items = user_items.of_users(begin, begin + size)
    is_target, is_excluded = np.zeros((size, items), bool), np.zeros((size, items), bool)
    is_excluded[chunk_items.user, chunk_items.item] = True
    in_chunk = targets[(targets[:, 0] >= begin) & (targets[:, 0] < begin + size)]
    is_target[in_chunk[:, 0] - begin, in_chunk[:, 1]] = True
    is_target &= ~is_excluded
    return {
        ranker: evaluate(scores, is_target, is_excluded, index.popularity)
        for ranker, scores in index.scores(vectors, chunk_items, params).items()
    }
