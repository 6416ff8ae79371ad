"""Ranking metrics of all rankers of the factors."""

import numpy as np

from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.factors.kernels.item_index import ItemIndex, UserItems
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.ranking_metrics import RankingSums, evaluate, sum_by_ranker

_MAX_CELLS = 4_000_000


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
