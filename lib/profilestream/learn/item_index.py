"""All items as a model version has them, in memory, and what they say of a user: one score for each way to rank.

Runs on executors, so it imports numpy and pyarrow only, beside the arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profilestream.learn.als import Floats, Longs, Params, Vectors

Strings = NDArray[np.object_]
RANKERS = ("blend", "factors", "neighbors", "popularity", "category")

# Of an item, as in `factors`: `popular` and the weights of its neighbors are already what they are worth now; `newest`
# is the time of its newest event in microseconds.
_KINDS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "vector": pa.binary(),
    "counted": pa.float64(),
    "popular": pa.float64(),
    "newest": pa.int64(),
    "category": pa.string(),
    "others": pa.list_(pa.string()),
    "weights": pa.list_(pa.float32()),
}
SCHEMA = pa.schema([pa.field(name, kind) for name, kind in _KINDS.items()])


@dataclass(frozen=True)
class Liked:
    """Items of users: who, which (by place in the catalogue), and how much, each (pairs,)."""

    user: Longs
    item: Longs
    weight: Floats

    @classmethod
    def net(cls, items: "ItemIndex", user: Longs, names: Strings, weight: Floats) -> "Liked":
        """What was given less what was taken back, by user and item, where anything is left; only of known items.

        Args:
            user, names, weight: of each event; the users by number.
        """
        place = items.places(names)
        known = place >= 0
        cells, index = np.unique(user[known] * len(items.names) + place[known], return_inverse=True)
        total = np.bincount(index, weight[known], len(cells)).astype(float)
        cells, total = cells[total > 0], total[total > 0]
        return cls(cells // max(len(items.names), 1), cells % max(len(items.names), 1), total)

    def of_users(self, begin: int, end: int) -> "Liked":
        """Those of the users from number `begin` to before `end`, who are then counted from 0."""
        mine = (self.user >= begin) & (self.user < end)
        return Liked(self.user[mine] - begin, self.item[mine], self.weight[mine])


@dataclass(frozen=True)
class ItemIndex:
    """All items, in order of id.

    Args:
        names: (items,).
        vectors: (items, width).
        counted: weight of all their events, decayed, (items,).
        popular: decayed counts, (items,).
        newest: time of the newest event in microseconds, (items,).
        categories: number of each item's category, -1 for none, (items,).
        category_names: by that number.
        starts: where the neighbors of each item begin, (items + 1,).
        neighbors, similarity: of all items, one after the other; both directions of a pair are there, each with the
            similarity of the neighbor to one who has the item.
    """

    names: Strings
    vectors: Vectors
    counted: Floats
    popular: Floats
    newest: Longs
    categories: Longs
    category_names: Strings
    starts: Longs
    neighbors: Longs
    similarity: Floats

    @classmethod
    def of(cls, items: pa.Table, params: Params) -> "ItemIndex":
        """From rows of SCHEMA, in any order."""
        items = items.sort_by("key")
        names = _objects(items["key"])
        counted = np.maximum(items["counted"].to_numpy(), 0.0)
        categories: Any = items["category"].combine_chunks().dictionary_encode()
        starts, neighbors, similarity = _similar(items, counted)
        return cls(
            names=names,
            vectors=np.frombuffer(b"".join(_list(items["vector"])), np.float32).reshape(-1, params.width),
            counted=counted,
            popular=items["popular"].to_numpy(),
            newest=items["newest"].to_numpy(),
            categories=categories.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64),
            category_names=_objects(categories.dictionary),
            starts=starts,
            neighbors=neighbors,
            similarity=similarity,
        )

    def places(self, names: Sequence[str] | Strings) -> Longs:
        """Where each name stands; -1 when it is not there."""
        wanted = np.asarray(names, dtype=object)
        if not len(self.names) or not len(wanted):
            return np.full(len(wanted), -1)
        at = np.searchsorted(self.names, wanted).clip(max=len(self.names) - 1)
        return np.where(self.names[at] == wanted, at, -1)

    def popularity(self) -> Floats:
        """Decayed counts between 0 and 1: log(1 + c) / log(1 + max c), (items,)."""
        grown = np.log1p(np.maximum(self.popular, 0.0))
        result: Floats = grown / max(float(grown.max(initial=0.0)), 1e-12)
        return result

    def scores(self, vectors: Floats, liked: Liked, params: Params) -> dict[str, Floats]:
        """Of every item for every user (users, items), by each of RANKERS.

        `factors` is the product of the vectors; `neighbors` the similarity to what the user has, summed; `category`
        the popularity of an item times the share of its category in what the user has; `blend` the first plus the
        others with their shares.

        Args:
            vectors: of users, (users, width); zero for new ones.
            liked: what they have, with positive weights.
        """
        factors = self._product(vectors, np.zeros(len(self.names)), params)
        return {
            "blend": self.blend(vectors, liked, params),
            "factors": factors,
            "neighbors": self.by_neighbors(len(vectors), liked),
            "popularity": np.broadcast_to(self.popularity(), factors.shape),
            "category": self.by_category(len(vectors), liked),
        }

    def blend(self, vectors: Floats, liked: Liked, params: Params) -> Floats:
        """The ranker of that name alone; float32."""
        found: Any = self._product(vectors, params.popularity_share * self.popularity(), params)
        if params.neighbor_share:
            found += params.neighbor_share * self.by_neighbors(len(vectors), liked)
        if params.category_share:
            found += params.category_share * self.by_category(len(vectors), liked)
        result: Floats = found
        return result

    def by_neighbors(self, users: int, liked: Liked) -> Floats:
        """Summed similarity of every item to what each user has, (users, items)."""
        items = len(self.names)
        sizes = self.starts[liked.item + 1] - self.starts[liked.item]
        at = spread(self.starts[liked.item], sizes)
        cell = np.repeat(liked.user, sizes) * items + self.neighbors[at]
        return np.bincount(cell, self.similarity[at], users * items).astype(float).reshape(users, items)

    def by_category(self, users: int, liked: Liked) -> Floats:
        """Popularity of every item times the share of its category in what each user has, (users, items)."""
        kinds = len(self.category_names)
        known = self.categories[liked.item] >= 0
        cell = liked.user[known] * kinds + self.categories[liked.item[known]]
        weight = np.bincount(cell, liked.weight[known], users * kinds).astype(float).reshape(users, kinds)
        shares = np.hstack([weight / np.maximum(weight.sum(axis=1), 1e-12)[:, None], np.zeros((users, 1))])
        result: Floats = shares[:, self.categories] * self.popularity()
        return result

    def similarity_of(self, has: Longs, item: Longs) -> Floats:
        """Of items to one that a user has, (pairs,); 0 where they have no common users that are known."""
        cells, summed = self._pairs
        wanted = has * len(self.names) + item
        at = np.searchsorted(cells, wanted).clip(max=max(len(cells) - 1, 0))
        return np.where(cells[at] == wanted, summed[at], 0.0) if len(cells) else np.zeros(len(wanted))

    @cached_property
    def _pairs(self) -> tuple[Longs, Floats]:
        """Every pair of items once, as a number, and its similarity."""
        items = len(self.names)
        pairs = np.repeat(np.arange(items), self.starts[1:] - self.starts[:-1]) * items + self.neighbors
        # A pair of which each item came after the other, in turn, stands there twice.
        cells, first = np.unique(pairs, return_index=True)
        return cells, np.add.reduceat(self.similarity, first) if len(first) else np.zeros(0)

    def _product(self, vectors: Floats, more: Floats, params: Params) -> Floats:
        """Of users and items, plus what is the same for all users; a user's bias changes no order and is left out."""
        k = params.k
        p = np.hstack([vectors[:, :k], np.ones((len(vectors), 1))]).astype(np.float32)
        q = np.hstack([self.vectors[:, :k], (self.vectors[:, k:].sum(axis=1) + more)[:, None]]).astype(np.float32)
        result: Floats = np.asarray(p @ q.T)
        return result


def best(scores: Floats, most: int) -> Longs:
    """The items with the highest scores of each user, best first, (users, `most` or all); equal ones in order of id."""
    some = min(most, scores.shape[1])
    found = np.argpartition(-scores, some - 1, axis=1)[:, :some] if some else np.zeros((len(scores), 0), np.int64)
    if 0 < some < scores.shape[1]:
        last = np.take_along_axis(scores, found, axis=1).min(axis=1)
        # Where items without a place equal the last one that has a place, those with the first ids get it.
        for row in np.flatnonzero((scores >= last[:, None]).sum(axis=1) > some):
            found[row] = np.lexsort((np.arange(scores.shape[1]), -scores[row]))[:some]
    found.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def spread(starts: Longs, sizes: Longs) -> Longs:
    """The numbers starts[0], starts[0] + 1, ... (sizes[0] of them), then those from starts[1] on, and so forth."""
    before = np.cumsum(sizes) - sizes
    result: Longs = np.arange(int(sizes.sum())) - np.repeat(before - starts, sizes)
    return result


def _similar(items: pa.Table, counted: Floats) -> tuple[Longs, Longs, Floats]:
    """Both directions of every pair, by the item that it begins with: count / sqrt(weight of that item).

    The weight of the other one is left out on purpose: divided by it too, pairs of items that hardly anybody has come
    first, and recall falls below that of popularity (docs/learners.md).
    """
    others: Any = items["others"].combine_chunks()
    weights: Any = items["weights"].combine_chunks()
    n = items.num_rows
    owner = np.repeat(np.arange(n), pc.fill_null(pc.list_value_length(others), 0).to_numpy(zero_copy_only=False))
    at: Any = pc.index_in(others.flatten(), value_set=items["key"].combine_chunks())
    place = at.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    count = weights.flatten().to_numpy(zero_copy_only=False).astype(float)
    owner, place, count = (part[place >= 0] for part in (owner, place, count))
    one, other = np.concatenate([owner, place]), np.concatenate([place, owner])
    count = np.concatenate([count, count])
    # What was given back weighs nothing any more, but its pairs were counted.
    similarity = count / np.sqrt(np.maximum(np.maximum(counted[one], count), 1e-9))
    order = np.lexsort((other, one))
    starts = np.searchsorted(one[order], np.arange(n + 1))
    return starts, other[order], similarity[order]


def _objects(column: Any) -> Strings:
    return np.asarray(column.to_pylist(), dtype=object)


def _list(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values
