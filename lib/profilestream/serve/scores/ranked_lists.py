"""The items to recommend to each user, with scores and reasons, in one partition. Arrow tables in and out.

Runs on executors, so it imports numpy and pyarrow only, beside the arithmetic of the learners.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profilestream.learn import als_tasks, item_index
from profilestream.learn.als import Floats, Longs, Params
from profilestream.learn.item_index import ItemIndex, Liked

COLUMNS = "user_id string, rank int, item_id string, score double, ranker string, because string, reason string"
_KINDS: dict[str, pa.DataType] = {"string": pa.string(), "int": pa.int32(), "double": pa.float64()}
SCHEMA = pa.schema([pa.field(name, _KINDS[kind]) for name, kind in (column.split() for column in COLUMNS.split(", "))])
_CELLS = 4_000_000
# Of a user without a vector the rankers come one after the other: scores of each lie above all of the next.
_CHAIN = ("neighbors", "category", "popularity")


@dataclass(frozen=True)
class Wanted:
    """What a list should be.

    Args:
        top_n: items a user, at most.
        exclude_bought: leave out what the user has.
        newest_since: leave out items without an event since then, microseconds.
        most_per_category: items of one category, at most.
        bought: what a purchase weighs; what a user has with less was only looked at.
    """

    top_n: int
    exclude_bought: bool
    newest_since: int | None
    most_per_category: int | None
    bought: float


@dataclass(frozen=True)
class _Users:
    """Some users: who, with which vectors (zero for none), and what they have."""

    names: NDArray[np.object_]
    vectors: Floats
    liked: Liked


def ranked(batches: Iterator[pa.RecordBatch], params: Params, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """Rows of users and of the catalogue -> rows of SCHEMA.

    A user is one row of kind STATE (key, vector, others, weights), or, without a vector, rows of kind NEW (key, other,
    weight; other is null when nothing is known).
    """
    table = pa.Table.from_batches(list(batches), als_tasks.SCHEMA)
    items = als_tasks.unpacked_items(als_tasks.of_kind(table, als_tasks.CATALOGUE)["equations"].to_pylist(), params)
    if not len(items.names):
        return
    users = _users(als_tasks.of_kind(table, als_tasks.STATE), als_tasks.of_kind(table, als_tasks.NEW), items, params)
    at_once = max(1, _CELLS // len(items.names))
    for begin in range(0, len(users.names), at_once):
        end = min(begin + at_once, len(users.names))
        some = _Users(users.names[begin:end], users.vectors[begin:end], users.liked.of_users(begin, end))
        yield _lists(some, items, params, wanted)


def cosines(batches: Iterator[pa.RecordBatch], vector: bytes, params: Params) -> Iterator[pa.RecordBatch]:
    """Rows (key, vector) -> (key, cosine with a vector); without the biases."""
    one = np.frombuffer(vector, np.float32)[: params.k].astype(float)
    for batch in batches:
        others = als_tasks.vectors_of(pa.Table.from_batches([batch]), params)[:, : params.k].astype(float)
        size = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
        cosine = others @ one / np.maximum(size, 1e-12)
        yield pa.RecordBatch.from_arrays([batch["key"], pa.array(cosine, pa.float64())], ["key", "cosine"])


def _users(own: pa.Table, without: pa.Table, items: ItemIndex, params: Params) -> _Users:
    names = np.unique(_objects(without, "key"))
    vectors = np.vstack([als_tasks.vectors_of(own, params).astype(float), np.zeros((len(names), params.width))])
    user, has, weight = als_tasks.kept_by(own)
    told = without.filter(without["other"].is_valid())
    user = np.concatenate([user, own.num_rows + np.searchsorted(names, _objects(told, "key"))])
    has = np.concatenate([has, _objects(told, "other")])
    weight = np.concatenate([weight, told["weight"].to_numpy()])
    liked = Liked.net(items, user, has, weight)
    return _Users(np.concatenate([_objects(own, "key"), names]), vectors, liked)


def _objects(table: pa.Table, name: str) -> NDArray[np.object_]:
    return np.asarray(table[name].to_pylist(), dtype=object)


def _lists(users: _Users, items: ItemIndex, params: Params, wanted: Wanted) -> pa.RecordBatch:
    has_vector = np.abs(users.vectors).sum(axis=1) > 0
    scores = np.array(items.blend(users.vectors, users.liked, params), dtype=float)
    if not has_vector.all():
        chained = _chained(users, items)
        scores[~has_vector] = chained[~has_vector]
    if wanted.exclude_bought:
        scores[users.liked.user, users.liked.item] = -np.inf
    if wanted.newest_since is not None:
        scores[:, items.newest < wanted.newest_since] = -np.inf
    user, item, rank = _chosen(scores, items, wanted)
    score = scores[user, item]
    link = np.clip(len(_CHAIN) - 1 - score // 2, 0, len(_CHAIN) - 1).astype(int)
    chain = np.asarray(_CHAIN, dtype=object)[link]
    because, reason = _reasons(users, items, wanted, user, item)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(users.names[user], pa.string()),
            pa.array(rank + 1, pa.int32()),
            pa.array(items.names[item], pa.string()),
            pa.array(np.where(has_vector[user], score, score % 2), pa.float64()),
            pa.array(np.where(has_vector[user], "blend", chain), pa.string()),
            pa.array(because, pa.string()),
            pa.array(reason, pa.string()),
        ],
        schema=SCHEMA,
    )


def _chained(users: _Users, items: ItemIndex) -> Floats:
    """Scores for users without a vector: 4 to 5 by neighbors, 2 to 3 by category, 0 to 1 by popularity."""
    near = items.by_neighbors(len(users.names), users.liked)
    same = items.by_category(len(users.names), users.liked)
    return np.where(near > 0, 4 + near / (1 + near), np.where(same > 0, 2 + same, items.popularity()))


def _chosen(scores: Floats, items: ItemIndex, wanted: Wanted) -> tuple[Longs, Longs, Longs]:
    """User, item and rank from 0 of every entry of the lists."""
    many = wanted.top_n if wanted.most_per_category is None else 20 * wanted.top_n
    order = item_index.best(scores, many)
    user = np.repeat(np.arange(len(order)), order.shape[1])
    item = order.ravel()
    stays = np.isfinite(scores[user, item])
    user, item = user[stays], item[stays]
    if wanted.most_per_category is not None:
        kind = items.categories[item]
        first = _number(np.column_stack([user, kind])) < wanted.most_per_category
        user, item = user[first | (kind < 0)], item[first | (kind < 0)]
    rank = _number(user[:, None])
    listed = rank < wanted.top_n
    return user[listed], item[listed], rank[listed]


def _number(keys: Longs) -> Longs:
    """How many equal rows stand before each row, (rows,)."""
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return number


def _reasons(
    users: _Users, items: ItemIndex, wanted: Wanted, user: Longs, item: Longs
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Of each entry the item that speaks for it, null when none does, and the reason in words."""
    liked, n = users.liked, len(users.names)
    cut = np.searchsorted(liked.user, np.arange(n + 1))
    sizes = (cut[1:] - cut[:-1])[user]
    entry = np.repeat(np.arange(len(user)), sizes)
    has = item_index.spread(cut[user], sizes)
    near = items.similarity_of(liked.item[has], item[entry])
    # Without common users, what the vectors say; that counts less than any common user.
    one, other = (items.vectors[places].astype(float) for places in (item[entry], liked.item[has]))
    like = (one * other).sum(axis=1) * (np.abs(users.vectors).sum(axis=1) > 0)[user[entry]]
    strength = np.where(near > 0, 1e6 + near, like * liked.weight[has])
    order = np.lexsort((liked.item[has], -strength, entry))
    best = np.full(len(user), -1)
    firsts = order[np.unique(entry[order], return_index=True)[1]]
    best[entry[firsts]] = np.where(strength[firsts] > 0, has[firsts], -1)

    speaks = best >= 0
    because = np.full(len(user), None, object)
    because[speaks] = items.names[liked.item[best[speaks]]]
    kinds = items.categories[item]
    own = set(zip(liked.user.tolist(), items.categories[liked.item].tolist(), strict=True))
    in_own = np.array(
        [kind >= 0 and (one, kind) in own for one, kind in zip(user.tolist(), kinds.tolist(), strict=True)], bool
    )
    did = (
        np.where(liked.weight[best] >= wanted.bought, "bought", "looked at")
        if len(liked.weight)
        else np.full(len(user), "")
    )
    words = [
        f"because you {did[n]} {because[n]}" if speaks[n]
        else f"popular in {items.category_names[kinds[n]]}" if in_own[n]
        else "popular"
        for n in range(len(user))
    ]  # fmt: skip
    return because, np.asarray(words, dtype=object)
