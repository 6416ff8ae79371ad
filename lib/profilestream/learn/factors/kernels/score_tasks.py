"""The top items of users by a published version; used by the MLflow model and by Spark jobs.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from profilestream.learn.factors.kernels import als_rows
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.factors.kernels.item_index import ItemIndex, UserItems
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.ranking_metrics import top_items

# Columns of user rows of `factors` that `recommend_items` reads.
COLUMNS = ("key", "vector", "item_ids", "item_weights")
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string()),
        pa.field("item_ids", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float64())),
    ]
)
_MAX_CELLS = 4_000_000


def recommend_items(
    user_ids: Sequence[str], users: pa.Table, index: ItemIndex, params: AlsParams, *, ranker: str, top_k: int
) -> pa.Table:
    """The items with the highest scores of each user, best first: rows of SCHEMA in the order of `user_ids`.

    Items with a positive net weight in the user's stored events are left out. An unknown user has a zero vector and no
    items, so only popularity counts.

    Args:
        users: user rows with COLUMNS; rows of other users are ignored.
        ranker: one of item_index.RANKERS.
    """
    vectors = als_rows.vectors_of(user_ids, users, params)
    user_items = _user_items(users, als_rows.positions(user_ids, users), index)
    chunk = max(1, _MAX_CELLS // max(len(index.item_ids), 1))
    parts = []
    for begin in range(0, len(user_ids), chunk):
        chunk_ids = user_ids[begin : begin + chunk]
        chunk_items = user_items.of_users(begin, begin + len(chunk_ids))
        scores = index.scores(vectors[begin : begin + chunk], chunk_items, params)[ranker].copy()
        scores[chunk_items.user, chunk_items.item] = -np.inf
        parts.append(_top_rows(chunk_ids, scores, index, top_k))
    return pa.concat_tables([SCHEMA.empty_table(), *parts])


def _user_items(users: pa.Table, rows: Longs, index: ItemIndex) -> UserItems:
    """Items of the users, numbered by their position in `rows`."""
    user, item_ids, weight = als_rows.stored_events(users.take(rows[rows >= 0]))
    return UserItems.from_events(index, np.flatnonzero(rows >= 0)[user], item_ids, weight)


def _top_rows(user_ids: Sequence[str], scores: Floats, index: ItemIndex, top_k: int) -> pa.Table:
    order = top_items(scores, top_k)
    top_scores = np.take_along_axis(scores, order, axis=1)
    is_ranked = np.isfinite(top_scores)
    offsets = pa.array(np.append(0, np.cumsum(is_ranked.sum(axis=1))), pa.int32())
    return pa.table(
        [
            pa.array(user_ids, pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array(index.item_ids[order[is_ranked]], pa.string())),
            pa.ListArray.from_arrays(offsets, pa.array(top_scores[is_ranked], pa.float64())),
        ],
        schema=SCHEMA,
    )
