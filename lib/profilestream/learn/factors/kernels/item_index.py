"""All items of one model version in memory, and the scores of all items for some users, by each ranker.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.factors.kernels.als import AlsParams, Strings, Vectors
from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.lists import ranges

RANKERS = ("blend", "factors", "neighbors", "popularity", "category")

# Packed items: as in `factors`, but weights, popularity and neighbor counts are decayed to the time of packing.
# `latest_event` is in microseconds.
_TYPES: dict[str, pa.DataType] = {
    "item_id": pa.string(),
    "vector": pa.binary(),
    "decayed_weight": pa.float64(),
    "popularity": pa.float64(),
    "latest_event": pa.int64(),
    "category": pa.string(),
    "neighbor_ids": pa.list_(pa.string()),
    "neighbor_counts": pa.list_(pa.float32()),
}
SCHEMA = pa.schema([pa.field(name, type_) for name, type_ in _TYPES.items()])


@dataclass(frozen=True)
class UserItems:
    """Items that users have, with the positive net weight of their events; one element per user and item.

    Args:
        user: number of the user, (pairs,).
        item: position of the item in the index, (pairs,).
        weight: (pairs,).
    """

    user: Longs
    item: Longs
    weight: Floats

    @classmethod
    def from_events(cls, index: "ItemIndex", user: Longs, item_ids: Strings, weight: Floats) -> "UserItems":
        """Net weights by user and item, where they are positive; unknown items are ignored.

        Args:
            user, item_ids, weight: one element per event.
        """
        position = index.positions(item_ids)
        is_indexed = position >= 0
        items = len(index.item_ids)
        cells, cell = np.unique(user[is_indexed] * items + position[is_indexed], return_inverse=True)
        total = np.bincount(cell, weight[is_indexed], len(cells)).astype(float)
        cells, total = cells[total > 0], total[total > 0]
        return cls(cells // max(items, 1), cells % max(items, 1), total)

    def of_users(self, begin: int, end: int) -> "UserItems":
        """The pairs of users `begin` to `end` - 1, renumbered from 0."""
        is_selected = (self.user >= begin) & (self.user < end)
        return UserItems(self.user[is_selected] - begin, self.item[is_selected], self.weight[is_selected])


@dataclass(frozen=True)
class ItemIndex:
    """All items, in ascending order of id.

    Args:
        item_ids: (items,).
        vectors: (items, width).
        decayed_weights: total decayed weight of each item's events, (items,).
        popularity: the same, decayed by the half-life of the popularity, (items,).
        latest_event: time of each item's latest event in microseconds, (items,).
        category_codes: index into `category_names`, -1 for none, (items,).
        starts: position of each item's first neighbor, (items + 1,).
        neighbors, similarity: neighbors of the items that users of this index can have, concatenated. Each pair of such
            items is contained in both directions, with the similarity of the neighbor for a user who has the item.
    """

    item_ids: Strings
    vectors: Vectors
    decayed_weights: Floats
    popularity: Floats
    latest_event: Longs
    category_codes: Longs
    category_names: Strings
    starts: Longs
    neighbors: Longs
    similarity: Floats

    @classmethod
    def from_rows(cls, rows: pa.Table, params: AlsParams, user_items: Strings | None = None) -> "ItemIndex":
        """The index of rows with SCHEMA, in any order.

        Args:
            user_items: ids of all items that the users have; null: any.
        """
        rows = rows.sort_by("item_id")
        item_ids = _objects(rows["item_id"])
        decayed_weights = np.maximum(rows["decayed_weight"].to_numpy(), 0.0)
        categories: Any = rows["category"].combine_chunks().dictionary_encode()
        starts, neighbors, similarity = _similarities(rows, decayed_weights, user_items)
        return cls(
            item_ids=item_ids,
            vectors=np.frombuffer(b"".join(_list(rows["vector"])), np.float32).reshape(-1, params.width),
            decayed_weights=decayed_weights,
            popularity=rows["popularity"].to_numpy(),
            latest_event=rows["latest_event"].to_numpy(),
            category_codes=categories.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64),
            category_names=_objects(categories.dictionary),
            starts=starts,
            neighbors=neighbors,
            similarity=similarity,
        )

    def positions(self, item_ids: Sequence[str] | Strings) -> Longs:
        """The position of each id in the index; -1 for an unknown id."""
        ids = np.asarray(item_ids, dtype=object)
        if not len(self.item_ids) or not len(ids):
            return np.full(len(ids), -1)
        position = np.searchsorted(self.item_ids, ids).clip(max=len(self.item_ids) - 1)
        return np.where(self.item_ids[position] == ids, position, -1)

    def popularity_scores(self) -> Floats:
        """Popularity c on a log scale from 0 to 1: log(1 + c) / log(1 + max c), (items,)."""
        logs = np.log1p(np.maximum(self.popularity, 0.0))
        scores: Floats = logs / max(float(logs.max(initial=0.0)), 1e-12)
        return scores

    def scores(
        self, vectors: Floats, user_items: UserItems, params: AlsParams, rankers: Sequence[str] = RANKERS
    ) -> dict[str, Floats]:
        """Scores of all items for each user, (users, items), by ranker.

        - `factors`: product of the user vector and the item vector.
        - `neighbors`: sum of the item's similarities to the user's items.
        - `popularity`: log-scaled popularity of the item.
        - `category`: that popularity times the share of the item's category in the weight of the user's items.
        - `blend`: `factors` plus the others, each times its weight in the parameters.

        Args:
            vectors: user vectors, (users, width); zero for new users.
            user_items: items of the users.
            rankers: the result also contains `blend` and its parts.
        """
        users, weights = len(vectors), blend_weights(params)
        functions: dict[str, Callable[[], Floats]] = {
            "factors": lambda: self.products(vectors, params),
            "neighbors": lambda: self.neighbor_scores(users, user_items),
            "popularity": lambda: np.broadcast_to(self.popularity_scores(), (users, len(self.item_ids))),
            "category": lambda: self.category_scores(users, user_items),
        }
        by_ranker = {name: scores() for name, scores in functions.items() if name in {*rankers, *weights}}
        return {"blend": sum((w * by_ranker[ranker] for ranker, w in weights.items()), np.zeros(1)), **by_ranker}

    def products(self, vectors: Floats, params: AlsParams) -> Floats:
        """Products of users and items plus the item biases; without user biases, which do not change a ranking."""
        k = params.k
        p = np.hstack([vectors[:, :k], np.ones((len(vectors), 1))]).astype(np.float32)
        q = np.hstack([self.vectors[:, :k], self.vectors[:, k:].sum(axis=1)[:, None]])
        products: Floats = np.asarray(p @ q.astype(np.float32).T)
        return products

    def neighbor_scores(self, users: int, user_items: UserItems) -> Floats:
        """Sum of each item's similarities to the user's items, (users, items)."""
        items = len(self.item_ids)
        sizes = self.starts[user_items.item + 1] - self.starts[user_items.item]
        flat = ranges(self.starts[user_items.item], sizes)
        cell = np.repeat(user_items.user, sizes) * items + self.neighbors[flat]
        return np.bincount(cell, self.similarity[flat], users * items).astype(float).reshape(users, items)

    def category_scores(self, users: int, user_items: UserItems) -> Floats:
        """Popularity score of each item times the share of its category in the user's weight, (users, items)."""
        categories = len(self.category_names)
        has_category = self.category_codes[user_items.item] >= 0
        cell = user_items.user[has_category] * categories + self.category_codes[user_items.item[has_category]]
        total = np.bincount(cell, user_items.weight[has_category], users * categories).astype(float)
        weight = total.reshape(users, categories)
        # The last column, selected by code -1, is for items without a category.
        shares = np.hstack([weight / np.maximum(weight.sum(axis=1), 1e-12)[:, None], np.zeros((users, 1))])
        scores: Floats = shares[:, self.category_codes] * self.popularity_scores()
        return scores

    def similarities(self, user_item: Longs, item: Longs) -> Floats:
        """Similarity of `item` for a user who has `user_item`, (pairs,); 0 for items that are not neighbors."""
        cells, total = self._pairs
        pair = user_item * len(self.item_ids) + item
        position = np.searchsorted(cells, pair).clip(max=max(len(cells) - 1, 0))
        return np.where(cells[position] == pair, total[position], 0.0) if len(cells) else np.zeros(len(pair))

    @cached_property
    def _pairs(self) -> tuple[Longs, Floats]:
        """Each ordered pair of items once, as a number, and its similarity."""
        items = len(self.item_ids)
        pairs = np.repeat(np.arange(items), self.starts[1:] - self.starts[:-1]) * items + self.neighbors
        # A pair occurs twice when some users had the one item first and other users the other item.
        cells, first = np.unique(pairs, return_index=True)
        return cells, np.add.reduceat(self.similarity, first) if len(first) else np.zeros(0)


def blend_weights(params: AlsParams) -> dict[str, float]:
    """Weight of each ranker of the blend, where it is not 0."""
    weights = {
        "factors": 1.0,
        "neighbors": params.neighbor_weight,
        "popularity": params.popularity_weight,
        "category": params.category_weight,
    }
    return {ranker: weight for ranker, weight in weights.items() if weight}


def _similarities(rows: pa.Table, decayed_weights: Floats, user_items: Strings | None) -> tuple[Longs, Longs, Floats]:
    """Start positions, neighbors and similarities; both directions of each pair, by the item that the user has.

    The similarity is count / sqrt(weight of the item that the user has). The weight of the neighbor is left out on
    purpose. Dividing by it too ranks pairs of rare items first, and recall falls below that of popularity
    (docs/learners.md).
    """
    item_ids: Any = rows["item_id"].combine_chunks()
    neighbor_ids: Any = rows["neighbor_ids"].combine_chunks()
    neighbor_counts: Any = rows["neighbor_counts"].combine_chunks()
    n = rows.num_rows
    lengths = pc.fill_null(pc.list_value_length(neighbor_ids), 0).to_numpy(zero_copy_only=False)
    item, flat_ids = np.repeat(np.arange(n), lengths), neighbor_ids.flatten()
    count = neighbor_counts.flatten().to_numpy(zero_copy_only=False).astype(float)
    is_source = np.ones(n, bool)
    if user_items is not None:
        ids = pa.array(user_items, pa.string())
        is_source = _is_in(item_ids, ids)
        is_used = is_source[item] | _is_in(flat_ids, ids)
        item, flat_ids, count = item[is_used], flat_ids.filter(pa.array(is_used)), count[is_used]
    positions: Any = pc.index_in(flat_ids, value_set=item_ids)
    neighbor = positions.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    item, neighbor, count = (values[neighbor >= 0] for values in (item, neighbor, count))
    source, target = np.concatenate([item, neighbor]), np.concatenate([neighbor, item])
    count = np.concatenate([count, count])
    source, target, count = (values[is_source[source]] for values in (source, target, count))
    # A returned item has no weight any more, but its pairs were counted; so the count is a lower bound of the weight.
    similarity = count / np.sqrt(np.maximum(np.maximum(decayed_weights[source], count), 1e-9))
    order = np.lexsort((target, source))
    starts = np.searchsorted(source[order], np.arange(n + 1))
    return starts, target[order], similarity[order]


def _is_in(values: Any, ids: Any) -> Bools:
    return np.asarray(pc.is_in(values, value_set=ids).to_numpy(zero_copy_only=False), bool)


def _objects(column: Any) -> Strings:
    return np.asarray(column.to_pylist(), dtype=object)


def _list(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values
