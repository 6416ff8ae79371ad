"""How good a ranking was, asked of every batch before it is learned from (prequential: test, then learn).

Runs on executors. A user's targets are the items of the batch that are not among its kept events; every known item
that is not among them is ranked.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profilestream.learn.als import Floats, Longs, Params
from profilestream.learn.item_index import ItemIndex, Liked, best

Bools = NDArray[np.bool_]
SHOWN = 20
_CELLS = 4_000_000


@dataclass(frozen=True)
class Sums:
    """Sums over users of one ranker ranking; those of two parts of a batch add up.

    Args:
        users: with at least one target.
        recall_10, recall_20: share of the targets among the first 10 (20).
        ndcg_10: discounted gain of the first 10 over that of the best order (Jarvelin and Kekalainen, 2002).
        reciprocal_rank: 1 / place of the first target among the first 20, 0 when there is none.
        novelty: mean of -log2(share of the item in all popularity) over the first 10 (Vargas and Castells, 2011).
        items: which ones stood among someone's first 10, one flag an item in order of id.
        ratings, squared_error: explicit: how many were foretold, and the sum of the squared errors.
    """

    users: float
    recall_10: float
    recall_20: float
    ndcg_10: float
    reciprocal_rank: float
    novelty: float
    items: Bools
    ratings: float = 0.0
    squared_error: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.users + other.users,
            self.recall_10 + other.recall_10,
            self.recall_20 + other.recall_20,
            self.ndcg_10 + other.ndcg_10,
            self.reciprocal_rank + other.reciprocal_rank,
            self.novelty + other.novelty,
            self.items | other.items,
            self.ratings + other.ratings,
            self.squared_error + other.squared_error,
        )

    def means(self) -> dict[str, float | int | None]:
        """The columns of `model_metrics`; null what nobody was asked for."""
        by_user = {
            "recall_10": self.recall_10, "recall_20": self.recall_20, "ndcg_10": self.ndcg_10,
            "mrr_20": self.reciprocal_rank, "novelty": self.novelty,
        }  # fmt: skip
        return {
            "users": int(self.users),
            **{name: total / self.users if self.users else None for name, total in by_user.items()},
            "coverage": float(self.items.mean()) if self.users else None,
            "rmse": (self.squared_error / self.ratings) ** 0.5 if self.ratings else None,
        }

    @classmethod
    def zero(cls, items: int) -> "Sums":
        """Of no user."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.zeros(items, bool))

    def as_bytes(self) -> tuple[bytes, bytes]:
        """The numbers, and the flags of the items."""
        ranked = [self.users, self.recall_10, self.recall_20, self.ndcg_10, self.reciprocal_rank, self.novelty]
        return np.array([*ranked, self.ratings, self.squared_error]).tobytes(), self.items.tobytes()

    @classmethod
    def of_bytes(cls, numbers: bytes, items: bytes) -> "Sums":
        """The reverse of `as_bytes`."""
        users, recall_10, recall_20, ndcg_10, reciprocal_rank, novelty, ratings, error = np.frombuffer(numbers).tolist()
        flags = np.frombuffer(items, bool)
        return cls(users, recall_10, recall_20, ndcg_10, reciprocal_rank, novelty, flags, ratings, error)


def together(sums: Iterable[tuple[str, Sums]]) -> dict[str, Sums]:
    """The sums of each ranker, added up."""
    found: dict[str, Sums] = {}
    for name, one in sums:
        found[name] = found[name] + one if name in found else one
    return found


def judge(scores: Floats, is_target: Bools, is_seen: Bools, popular: Floats) -> Sums:
    """The sums of one ranker over users with a target.

    Args:
        scores, is_target, is_seen: (users, items).
        popular: decayed counts, (items,).
    """
    has = is_target.any(axis=1)
    scores, is_target, is_seen = scores[has], is_target[has], is_seen[has]
    users, items = scores.shape
    if not users:
        return Sums.zero(items)
    order = best(np.where(is_seen, -np.inf, scores), SHOWN)
    hits = np.take_along_axis(is_target, order, axis=1)
    targets = is_target.sum(axis=1)
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(targets, 10)]
    first = np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)
    surprise = -np.log2(np.maximum(popular, 1e-9) / max(float(np.maximum(popular, 0).sum()), 1e-9))
    shown = np.zeros(items, bool)
    shown[order[:, :10].ravel()] = True
    return Sums(
        users=float(users),
        recall_10=float((hits[:, :10].sum(axis=1) / targets).sum()),
        recall_20=float((hits.sum(axis=1) / targets).sum()),
        ndcg_10=float((hits[:, :10] @ discount[: hits[:, :10].shape[1]] / ideal).sum()),
        reciprocal_rank=float(first.sum()),
        novelty=float(surprise[order[:, :10]].mean(axis=1).sum()),
        items=shown,
    )


def judge_all(catalogue: ItemIndex, vectors: Floats, liked: Liked, target: Longs, params: Params) -> dict[str, Sums]:
    """Every ranker over many users, some of them at a time.

    Args:
        vectors: of users, (users, width).
        liked: what they have; these items are not ranked.
        target: (user, item) pairs by number, (pairs, 2).
    """
    items = len(catalogue.names)
    found: dict[str, Sums] = {}
    at_once = max(1, _CELLS // max(items, 1))
    for begin in range(0, len(vectors), at_once):
        size = min(at_once, len(vectors) - begin)
        mine = liked.of_users(begin, begin + size)
        is_target, is_seen = np.zeros((size, items), bool), np.zeros((size, items), bool)
        is_seen[mine.user, mine.item] = True
        wanted = target[(target[:, 0] >= begin) & (target[:, 0] < begin + size)]
        is_target[wanted[:, 0] - begin, wanted[:, 1]] = True
        is_target &= ~is_seen
        for name, scores in catalogue.scores(vectors[begin : begin + size], mine, params).items():
            judged = judge(scores, is_target, is_seen, catalogue.popular)
            found[name] = found[name] + judged if name in found else judged
    return found
