"""Ranking metrics of the prequential evaluation: a batch is ranked by the state before it, and learned afterwards.

A user's targets are the items of the batch that are not among the user's stored events. All known items except the
stored ones are ranked. Runs on executors.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.sums import Sums

LIST_LENGTH = 20


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
    reciprocal_rank = np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)
    novelty = -np.log2(np.maximum(popularity, 1e-9) / max(float(np.maximum(popularity, 0).sum()), 1e-9))
    listed_items = np.zeros(items, bool)
    listed_items[order[:, :10].ravel()] = True
    return RankingSums(
        users=float(users),
        recall_10=float((hits[:, :10].sum(axis=1) / targets).sum()),
        recall_20=float((hits.sum(axis=1) / targets).sum()),
        ndcg_10=float(ndcg(hits[:, :10], targets).sum()),
        reciprocal_rank=float(reciprocal_rank.sum()),
        novelty=float(novelty[order[:, :10]].mean(axis=1).sum()),
        listed_items=listed_items,
    )


def ndcg(hits: Bools, targets: Longs) -> Floats:
    """Discounted gain of the first 10 items, divided by that of the best order (Jarvelin and Kekalainen, 2002).

    Args:
        hits: whether each of the first items is a target, (users, at most 10).
        targets: number of targets of each user, at least 1.

    Returns:
        (users,).
    """
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.cumsum(discount)[np.minimum(targets, 10) - 1]
    return np.asarray(hits @ discount[: hits.shape[1]] / ideal)


def top_items(scores: Floats, max_items: int) -> Longs:
    """Positions of the items with the highest scores of each user, best first; ties are in order of position.

    Args:
        scores: (users, items).

    Returns:
        (users, `max_items`), or (users, items) when there are fewer items.
    """
    size = min(max_items, scores.shape[1])
    top = np.argpartition(-scores, size - 1, axis=1)[:, :size] if size else np.zeros((len(scores), 0), np.int64)
    if 0 < size < scores.shape[1]:
        lowest = np.take_along_axis(scores, top, axis=1).min(axis=1)
        # argpartition picks any of the items that tie for the last place; replace them by the first ones.
        for row in np.flatnonzero((scores >= lowest[:, None]).sum(axis=1) > size):
            top[row] = np.lexsort((np.arange(scores.shape[1]), -scores[row]))[:size]
    top.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def top_candidates(user: Longs, item: Longs, scores: Floats, users: int, max_items: int) -> tuple[Longs, Floats]:
    """As `top_items` with the scores of some candidates only: positions and scores, (users, `max_items`).

    Args:
        user, item: of each candidate, in ascending order; each user has at least `max_items` of them.
    """
    starts = np.searchsorted(user, np.arange(users))
    column = np.arange(len(user)) - starts[user]
    candidates = np.full((users, int(column.max(initial=-1)) + 1), -np.inf)
    candidates[user, column] = scores
    best = top_items(candidates, max_items)
    return item[starts[:, None] + best], np.take_along_axis(candidates, best, axis=1)
