"""The best items of users by a published version: the same for a model that MLflow loads and for a job of Spark.

Runs on executors, so it imports numpy and pyarrow only, beside the arithmetic.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from profilestream.learn import als_tasks
from profilestream.learn.als import Floats, Longs, Params
from profilestream.learn.item_index import ItemIndex, Liked, best

# Of a user, from `factors`: what `scored` needs.
COLUMNS = ("key", "vector", "others", "weights")
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string()),
        pa.field("item_ids", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float64())),
    ]
)
_CELLS = 4_000_000


def scored(
    asked: Sequence[str], users: pa.Table, items: ItemIndex, params: Params, *, ranker: str, top_k: int
) -> pa.Table:
    """Of each asked user, in that order, the items with the highest scores, best first: rows of SCHEMA.

    Items that the user has (more given than taken back among its kept events) are left out. A user that is not known
    has a zero vector and nothing, so only what is popular counts.

    Args:
        users: rows with COLUMNS; those that were not asked for are passed over.
        ranker: one of catalogue.RANKERS.
    """
    keys = np.asarray(users["key"].to_pylist(), dtype=object)
    row_of = dict(zip(keys, range(len(keys)), strict=True))
    rows = np.array([row_of.get(user, -1) for user in asked], np.int64)
    vectors = np.zeros((len(asked), params.width))
    vectors[rows >= 0] = als_tasks.vectors_of(users, params).astype(float)[rows[rows >= 0]]
    liked = _liked(users, rows, items)
    at_once = max(1, _CELLS // max(len(items.names), 1))
    parts = []
    for begin in range(0, len(asked), at_once):
        mine = liked.of_users(begin, min(begin + at_once, len(asked)))
        scores = items.scores(vectors[begin : begin + at_once], mine, params)[ranker].copy()
        scores[mine.user, mine.item] = -np.inf
        parts.append(_rows(asked[begin : begin + at_once], scores, items, top_k))
    return pa.concat_tables([SCHEMA.empty_table(), *parts])


def _liked(users: pa.Table, rows: Longs, items: ItemIndex) -> Liked:
    """What the asked users have, by their numbers."""
    user, names, weight = als_tasks.kept_by(users.take(rows[rows >= 0]))
    return Liked.net(items, np.flatnonzero(rows >= 0)[user], names, weight)


def _rows(asked: Sequence[str], scores: Floats, items: ItemIndex, top_k: int) -> pa.Table:
    order = best(scores, top_k)
    worth = np.take_along_axis(scores, order, axis=1)
    stays = np.isfinite(worth)
    offsets = pa.array(np.append(0, np.cumsum(stays.sum(axis=1))), pa.int32())
    return pa.table(
        [
            pa.array(asked, pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array(items.names[order[stays]], pa.string())),
            pa.ListArray.from_arrays(offsets, pa.array(worth[stays], pa.float64())),
        ],
        schema=SCHEMA,
    )
