"""Recommendation lists of the users in one partition, with scores and reasons. Arrow tables in and out.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from profilestream.learn.factors.kernels import als_rows, item_index
from profilestream.learn.factors.kernels.als import AlsParams, Strings
from profilestream.learn.factors.kernels.item_index import ItemIndex, UserItems
from profilestream.learn.kernels import ranking_metrics
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.lists import ranges

_TYPES: dict[str, pa.DataType] = {
    "user_id": pa.string(), "rank": pa.int32(), "item_id": pa.string(), "score": pa.float64(), "ranker": pa.string(),
    "reason_item_id": pa.string(), "reason": pa.string(), "reason_ranker": pa.string(),
}  # fmt: skip
SCHEMA = pa.schema([pa.field(name, type_) for name, type_ in _TYPES.items()])
# Inputs: users of the model, as in `factors`; a user and an item, which may be null, with a weight; a user and an item.
USER = pa.schema([als_rows.USER.field(name) for name in ("key", "vector", "item_ids", "item_weights")])
PREFERENCE = pa.schema([als_rows.EVENT.field(name) for name in ("user_id", "item_id", "weight")])
PAIR = pa.schema([als_rows.EVENT.field(name) for name in ("user_id", "item_id")])
_MAX_CELLS = 4_000_000
# Rankers for users without a vector, best first: all items that the first one ranks precede those of the next one.
_FALLBACK_RANKERS = ("neighbors", "category", "popularity")
# Added to the similarity of neighbors, so that it exceeds any product of vectors.
_NEIGHBOR_BONUS = 1e6
# Top items per list entry among which the entries are selected when the items of one category are limited.
_CANDIDATES_PER_ENTRY = 20


@dataclass(frozen=True)
class ListOptions:
    """Which items a list may contain.

    Args:
        top_k: items per user, at most.
        exclude_bought: leave out the items that the user bought.
        exclude_seen: leave out the items in the user's stored events.
        min_event_time: leave out items without an event since this time, microseconds; null: none.
        max_per_category: items of one category per list; null: no limit.
        average_user: mean vector of all users, (width,); empty: zeros.
        closed_items: ids of items that only users for whom they are reserved may get.
    """

    top_k: int
    exclude_bought: bool
    exclude_seen: bool
    min_event_time: int | None
    max_per_category: int | None
    average_user: tuple[float, ...] = ()
    closed_items: tuple[str, ...] = ()


@dataclass(frozen=True)
class _UserBlock:
    """Ids, vectors (zero without a vector) and items of some users.

    Args:
        bought: items that the users bought; they need not be in `items`.
        reserved: closed items that the users may get.
    """

    user_ids: Strings
    vectors: Floats
    items: UserItems
    bought: UserItems
    reserved: UserItems

    def part(self, begin: int, end: int) -> "_UserBlock":
        """Users `begin` to `end` - 1."""
        pairs = (items.of_users(begin, end) for items in (self.items, self.bought, self.reserved))
        return _UserBlock(self.user_ids[begin:end], self.vectors[begin:end], *pairs)


def rank_items(
    users: pa.Table,
    preferences: pa.Table,
    bought: pa.Table,
    reserved: pa.Table,
    items: pa.Table,
    *,
    params: AlsParams,
    options: ListOptions,
) -> dict[str, pa.Table]:
    """`lists`: rows of SCHEMA.

    Args:
        users: users with a vector, with USER.
        preferences: of users without one, with PREFERENCE; the item is null when the user has none.
        bought: items that the users bought, with PAIR.
        reserved: closed items that the users may get, with PAIR.
        items: all items, from als_tasks.pack_items.
    """
    index = ItemIndex.from_rows(items, params)
    if not len(index.item_ids):
        return {}
    block = _user_block(users, preferences, bought, reserved, index, params)
    chunk = max(1, _MAX_CELLS // len(index.item_ids))
    begins = range(0, len(block.user_ids), chunk)
    lists = [_lists(block.part(begin, begin + chunk), index, params, options) for begin in begins]
    return {"lists": pa.Table.from_batches(lists, SCHEMA)}


def cosine_similarities(
    batches: Iterator[pa.RecordBatch], vector: bytes, params: AlsParams
) -> Iterator[pa.RecordBatch]:
    """Rows (key, vector) -> (key, cosine of the vector and the given one), both without biases."""
    reference = np.frombuffer(vector, np.float32)[: params.k].astype(float)
    for batch in batches:
        vectors = als_rows.stored_vectors(pa.Table.from_batches([batch]), params)[:, : params.k].astype(float)
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference)
        cosine = vectors @ reference / np.maximum(norms, 1e-12)
        yield pa.RecordBatch.from_arrays([batch["key"], pa.array(cosine, pa.float64())], ["key", "cosine"])


def vector_sums(batches: Iterator[pa.RecordBatch], params: AlsParams) -> Iterator[pa.RecordBatch]:
    """Rows (key, vector) -> (sum of the vectors as float64, number of rows)."""
    for batch in batches:
        vectors = als_rows.stored_vectors(pa.Table.from_batches([batch]), params).astype(float)
        total = pa.array([vectors.sum(axis=0).tobytes()], pa.binary())
        yield pa.RecordBatch.from_arrays([total, pa.array([len(vectors)], pa.int64())], ["total", "rows"])


def _user_block(
    users: pa.Table, preferences: pa.Table, bought: pa.Table, reserved: pa.Table, index: ItemIndex, params: AlsParams
) -> _UserBlock:
    new_ids = np.unique(als_rows.strings(preferences, "user_id"))
    vectors = np.vstack([als_rows.stored_vectors(users, params).astype(float), np.zeros((len(new_ids), params.width))])
    user, item_ids, weight = als_rows.stored_events(users)
    with_item = preferences.filter(preferences["item_id"].is_valid())
    new_user = users.num_rows + np.searchsorted(new_ids, als_rows.strings(with_item, "user_id"))
    user = np.concatenate([user, new_user])
    item_ids = np.concatenate([item_ids, als_rows.strings(with_item, "item_id")])
    weight = np.concatenate([weight, with_item["weight"].to_numpy()])
    user_ids = np.concatenate([als_rows.strings(users, "key"), new_ids])
    items = UserItems.from_events(index, user, item_ids, weight)
    return _UserBlock(user_ids, vectors, items, *(_pairs(rows, user_ids, index) for rows in (bought, reserved)))


def _pairs(rows: pa.Table, user_ids: Strings, index: ItemIndex) -> UserItems:
    """The users and items in rows with PAIR; rows of other users and unknown items are ignored."""
    numbers = {user_id: number for number, user_id in enumerate(user_ids)}
    user = np.array([numbers.get(user_id, -1) for user_id in rows["user_id"].to_pylist()], np.int64)
    item_ids = als_rows.strings(rows, "item_id")[user >= 0]
    return UserItems.from_events(index, user[user >= 0], item_ids, np.ones(len(item_ids)))


def _lists(users: _UserBlock, index: ItemIndex, params: AlsParams, options: ListOptions) -> pa.RecordBatch:
    has_vector = np.abs(users.vectors).sum(axis=1) > 0
    by_ranker = index.scores(users.vectors, users.items, params, rankers=("popularity",))
    scores = np.array(by_ranker["blend"], dtype=float)
    if not has_vector.all():
        fallback = _fallback_scores(users, index)
        scores[~has_vector] = fallback[~has_vector]
    _exclude_items(scores, users, index, options)
    user, item, rank = _select_items(scores, index, options)
    score = scores[user, item]
    step = np.clip(len(_FALLBACK_RANKERS) - 1 - score // 2, 0, len(_FALLBACK_RANKERS) - 1).astype(int)
    fallback_ranker = np.asarray(_FALLBACK_RANKERS, dtype=object)[step]
    placing_ranker = _placing_rankers(by_ranker, index, params, options, user, item)
    reason_ranker = np.where(has_vector[user], placing_ranker, fallback_ranker)
    reason_item_id, reason = _reasons(users, index, user, item, reason_ranker)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(users.user_ids[user], pa.string()),
            pa.array(rank + 1, pa.int32()),
            pa.array(index.item_ids[item], pa.string()),
            pa.array(np.where(has_vector[user], score, score % 2), pa.float64()),
            pa.array(np.where(has_vector[user], "blend", fallback_ranker), pa.string()),
            pa.array(reason_item_id, pa.string()),
            pa.array(reason, pa.string()),
            pa.array(reason_ranker, pa.string()),
        ],
        schema=SCHEMA,
    )


def _exclude_items(scores: Floats, users: _UserBlock, index: ItemIndex, options: ListOptions) -> None:
    """Set the scores of items that a list must not contain to -infinity."""
    if options.exclude_seen:
        scores[users.items.user, users.items.item] = -np.inf
    if options.exclude_bought:
        scores[users.bought.user, users.bought.item] = -np.inf
    if options.min_event_time is not None:
        scores[:, index.latest_event < options.min_event_time] = -np.inf
    reserved = users.reserved.user, users.reserved.item
    reserved_scores = scores[reserved]
    closed = index.positions(options.closed_items)
    scores[:, closed[closed >= 0]] = -np.inf
    scores[reserved] = reserved_scores


def _placing_rankers(
    by_ranker: dict[str, Floats], index: ItemIndex, params: AlsParams, options: ListOptions, user: Longs, item: Longs
) -> Strings:
    """For each entry of the lists, the ranker of the blend with the largest contribution to the score of the item.

    The contribution of a ranker is its weighted score of the item minus the mean of its weighted scores of all items
    for the user. For a sum of scores this is the Shapley value (Lundberg and Lee, 2017, for linear models). The score
    that `factors` gives the item for the average user is the same for all users, so it belongs to `popularity`.
    An item without a score by `category` was not placed by it.
    """
    weights = {"popularity": 0.0} | item_index.blend_weights(params)
    average = index.products(np.array([options.average_user or np.zeros(params.width)]), params)[0]
    shared = {"factors": average.mean() - average[item], "popularity": average[item] - average.mean()}
    contributions = {
        ranker: weight * (by_ranker[ranker][user, item] - by_ranker[ranker].mean(axis=1)[user])
        + shared.get(ranker, 0.0)
        for ranker, weight in weights.items()
    }
    if "category" in contributions:
        contributions["category"][by_ranker["category"][user, item] <= 0] = -np.inf
    rankers: Strings = np.asarray(list(weights), dtype=object)[np.argmax(list(contributions.values()), axis=0)]
    return rankers


def _fallback_scores(users: _UserBlock, index: ItemIndex) -> Floats:
    """Scores for users without a vector: 4 to 5 by neighbors, 2 to 3 by category, 0 to 1 by popularity."""
    neighbors = index.neighbor_scores(len(users.user_ids), users.items)
    category = index.category_scores(len(users.user_ids), users.items)
    without_neighbors = np.where(category > 0, 2 + category, index.popularity_scores())
    return np.where(neighbors > 0, 4 + neighbors / (1 + neighbors), without_neighbors)


def _select_items(scores: Floats, index: ItemIndex, options: ListOptions) -> tuple[Longs, Longs, Longs]:
    """User number, item position and rank (from 0) of each entry of the lists."""
    is_limited = options.max_per_category is not None
    order = ranking_metrics.top_items(scores, _CANDIDATES_PER_ENTRY * options.top_k if is_limited else options.top_k)
    user = np.repeat(np.arange(len(order)), order.shape[1])
    item = order.ravel()
    is_allowed = np.isfinite(scores[user, item])
    user, item = user[is_allowed], item[is_allowed]
    if options.max_per_category is not None:
        category = index.category_codes[item]
        is_within_limit = _running_count(np.column_stack([user, category])) < options.max_per_category
        is_within_limit |= category < 0
        user, item = user[is_within_limit], item[is_within_limit]
    rank = _running_count(user[:, None])
    is_listed = rank < options.top_k
    return user[is_listed], item[is_listed], rank[is_listed]


def _running_count(keys: Longs) -> Longs:
    """For each row, the number of equal rows before it, (rows,)."""
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    count = np.empty(len(order), np.int64)
    count[order] = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return count


def _reasons(users: _UserBlock, index: ItemIndex, user: Longs, item: Longs, ranker: Strings) -> tuple[Strings, Strings]:
    """For each entry of the lists: the user's item that is its reason (null without one), and the reason as text.

    Args:
        ranker: the ranker that placed the item.
    """
    own = users.items
    best = _best_own_items(users, index, user, item)
    has_item = (best >= 0) & np.isin(ranker, ("factors", "neighbors"))
    reason_item_id = np.full(len(user), None, object)
    reason_item_id[has_item] = index.item_ids[own.item[best[has_item]]]
    texts = {"popularity": "popular now", "factors": "liked by similar users", "neighbors": "liked by similar users"}
    reason = np.asarray(
        [texts.get(name) or f"popular in {_category_name(index, n)}" for name, n in zip(ranker, item, strict=True)],
        dtype=object,
    )
    bought = set(zip(users.bought.user.tolist(), users.bought.item.tolist(), strict=True))
    for n in np.flatnonzero(has_item):
        action = "bought" if (user[n], own.item[best[n]]) in bought else "looked at"
        reason[n] = f"because you {action} {reason_item_id[n]}"
    return reason_item_id, reason


def _category_name(index: ItemIndex, item: int) -> str:
    return str(index.category_names[index.category_codes[item]])


def _best_own_items(users: _UserBlock, index: ItemIndex, user: Longs, item: Longs) -> Longs:
    """For each entry of the lists, the number of the user's other item that supports it most; -1 without one.

    Items with common users precede all others and are compared by similarity. The others are compared by the product of
    both item vectors times the weight of the user's item, if the user has a vector.
    """
    own = users.items
    bounds = np.searchsorted(own.user, np.arange(len(users.user_ids) + 1))
    sizes = (bounds[1:] - bounds[:-1])[user]
    entry = np.repeat(np.arange(len(user)), sizes)
    number = ranges(bounds[user], sizes)
    similarity = index.similarities(own.item[number], item[entry])
    vectors, own_vectors = (index.vectors[position].astype(float) for position in (item[entry], own.item[number]))
    has_vector = (np.abs(users.vectors).sum(axis=1) > 0)[user[entry]]
    product = (vectors * own_vectors).sum(axis=1) * has_vector
    support = np.where(similarity > 0, _NEIGHBOR_BONUS + similarity, product * own.weight[number])
    support[own.item[number] == item[entry]] = 0
    order = np.lexsort((own.item[number], -support, entry))
    best = np.full(len(user), -1)
    first = order[np.unique(entry[order], return_index=True)[1]]
    best[entry[first]] = np.where(support[first] > 0, number[first], -1)
    return best
