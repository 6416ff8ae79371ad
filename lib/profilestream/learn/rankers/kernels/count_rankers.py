"""Decayed counts of the baskets of users, and rankings of items by these counts: the kernels of `learn_rankers`.

A basket of a user contains events with gaps of at most `basket_gap_minutes`; its items are distinct, in order of time.
For each basket B and the basket A before it, each pair (a, b) adds 1/|A| to the count of follower b of item a, at the
time of b. Of a basket, the first MAX_BASKET_ITEMS items are used. An event that is older than the user's stored ones
counts for its user and its item with the weight of its age, but it belongs to no basket and no transition. Counts are
decayed to the time of their row. So each row depends only on its own events, and not on partitions.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.kernels import evaluation_times
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.ranking_metrics import top_items
from profilestream.learn.kernels.sums import LATEST, MIN_WEIGHT, Sums, decay_factors

_TIME, _STRINGS = pa.timestamp("us", "UTC"), pa.list_(pa.string())
_COUNTED: list[Any] = [("key", pa.string()), ("item_ids", _STRINGS), ("counts", pa.list_(pa.float64())), ("as_of", _TIME)]
# In the order of sorting.
EVENT = pa.schema([("user_id", pa.string()), ("time_micros", pa.int64()), ("item_id", pa.string())])
# Rows of the table `basket_counts`. The counts of an item are those of its followers.
USER = pa.schema([*_COUNTED, ("basket_items", _STRINGS), ("previous_items", _STRINGS)])
ITEM = pa.schema([*_COUNTED, ("popularity", pa.float64())])
RANKERS = ("own_counts", "transitions", "popularity")
METRICS = ("basket_recall_10", "repeat_recall_10", "new_recall_10")
MAX_BASKET_ITEMS = 50
_CHUNK_USERS, _NEVER = 500, -(2**62)


@dataclass(frozen=True)
class RankerParams:
    """The settings of the counts; see settings.Rankers."""

    basket_gap_minutes: float = 30.0
    half_life_days: float = 90.0
    popularity_half_life_days: float = 14.0
    max_followers: int = 100


@dataclass(frozen=True)
class BasketSums(Sums):
    """Sums over users: recall by RANKERS and METRICS, (rankers, metrics), and users with a value of METRICS, (metrics,).

    Args:
        state_as_of: newest event time of the state that ranked, microseconds since 1970.
    """

    recalls: Floats
    users: Floats
    times: EvaluationTimes
    state_as_of: int = field(metadata=LATEST)

    def metrics(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Value and weight by ranker and metric; metrics without a user are left out."""
        return {
            ranker: {m: (float(r / n), float(n)) for m, r, n in zip(METRICS, recalls, self.users, strict=True) if n}
            for ranker, recalls in zip(RANKERS, self.recalls, strict=True)
        }


@dataclass(frozen=True)
class BasketIndex:
    """All items, the most popular first (ties by id), for rankings.

    Args:
        items: rows with ITEM.
        shares: of each item in the total popularity as of `as_of`, the newest event time.
    """

    items: pa.Table
    shares: Floats
    as_of: int

    @classmethod
    def of(cls, items: pa.Table, params: RankerParams) -> "BasketIndex":
        """From rows with ITEM in any order."""
        times = _micros(items)
        as_of = int(times.max(initial=0))
        weight = items["popularity"].to_numpy() * decay_factors(times, as_of, params.popularity_half_life_days)
        weight = np.maximum(weight, MIN_WEIGHT)
        order = np.lexsort((np.argsort(np.argsort(items["key"].to_numpy())), -weight))
        return cls(items.take(order), weight[order] / weight.sum(), as_of)

    @cached_property
    def ids(self) -> Any:
        """Of the items."""
        return self.items["key"].combine_chunks()

    @cached_property
    def _followers(self) -> tuple[Longs, Longs, Floats]:
        """Number of followers of each item, and position and share in the item's counts of each follower."""
        item, ids = _flat(self.items, "item_ids")
        counts = _flat(self.items, "counts")[1].to_numpy()
        return np.bincount(item, minlength=len(self.ids)), codes(ids, self.ids), counts / np.bincount(item, counts)[item]

    def rank(self, users: pa.Table, top_k: int) -> dict[str, tuple[Longs, Floats]]:
        """Positions of the best items of each user, best first, and their scores, (users, top_k), by ranker.

        `own_counts`: the user's counts; `transitions`: mean over the items of the latest basket of the shares of their
        followers. Scores above 0 are divided by the largest one and increased by 1; all other items follow by their
        share of the popularity. Only these candidates are scored, for some users at a time.

        Args:
            users: rows with USER; a null row is a user without events.
        """
        parts = [self._rank(users.slice(n, _CHUNK_USERS), top_k) for n in range(0, len(users) or 1, _CHUNK_USERS)]
        return {ranker: tuple(map(np.vstack, zip(*(part[ranker] for part in parts), strict=True))) for ranker in RANKERS}  # type: ignore[misc]

    def _rank(self, users: pa.Table, top_k: int) -> dict[str, tuple[Longs, Floats]]:
        owner, own_ids = _flat(users, "item_ids")
        own = owner, codes(own_ids, self.ids), _flat(users, "counts")[1].to_numpy()
        user, basket_ids = _flat(users, "basket_items")
        basket, (lengths, followers, shares) = codes(basket_ids, self.ids), self._followers
        entry = _ranges((np.cumsum(lengths) - lengths)[basket], lengths[basket])
        size = np.bincount(user, minlength=len(users))[user]
        weight = np.repeat(1 / size, lengths[basket])
        pairs = np.repeat(user, lengths[basket]), followers[entry], shares[entry] * weight
        none = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        return {r: self._top(len(users), *p, top_k) for r, p in zip(RANKERS, (own, pairs, none), strict=True)}

    def _top(self, users: int, user: Longs, item: Longs, score: Floats, top_k: int) -> tuple[Longs, Floats]:
        """The best items by the sum of the scores of each pair of user and item."""
        n = len(self.ids)
        popular = np.arange(users)[:, None] * n + np.arange(min(top_k, n))
        cells, cell = np.unique(np.append(user * n + item, popular), return_inverse=True)
        total = np.bincount(cell, np.append(score, np.zeros(popular.size)), len(cells))
        row, position = cells // max(n, 1), cells % max(n, 1)
        starts = np.searchsorted(row, np.arange(users))
        largest = np.maximum.reduceat(total, starts) if n else np.zeros(users)
        scores = np.where(total > 0, 1 + total / np.maximum(largest[row], MIN_WEIGHT), self.shares[position])
        column = np.arange(len(row)) - starts[row]
        candidates = np.full((users, int(column.max(initial=-1)) + 1), -np.inf)
        candidates[row, column] = scores
        best = top_items(candidates, top_k)
        return position[starts[:, None] + best], np.take_along_axis(candidates, best, axis=1)


class BasketRows(NamedTuple):
    """Distinct items of baskets, by user and basket in order of time; the time of stored ones is _NEVER."""

    user: Longs
    basket: Longs
    item: Longs
    time: Longs

    def take(self, rows: Any) -> "BasketRows":
        """Some of the rows."""
        return BasketRows(*(column[rows] for column in self))


def copy_items(stored: pa.Table) -> dict[str, pa.Table]:
    """All items, for every call of `update_users`."""
    return {"items": stored}


def update_users(events: pa.Table, stored: pa.Table, items: pa.Table, *, params: RankerParams) -> dict[str, Any]:
    """Score the first new basket of each user by the state before the events, and count the events.

    Returns:
        `users`: rows with USER; `contributions`: to items, with ITEM; `evaluation`: BasketSums, if there is a state.
    """
    if not len(events):
        return {}
    events = events.sort_by([(name, "ascending") for name in EVENT.names])
    index, keys, event_ids = BasketIndex.of(items, params), pc.unique(events["user_id"]), pc.unique(events["item_id"])
    new_ids = event_ids.filter(pc.invert(pc.is_in(event_ids, value_set=index.ids)))
    ids = pa.concat_arrays([index.ids, new_ids.take(pc.array_sort_indices(new_ids))])
    user, item, time = codes(events["user_id"], keys), codes(events["item_id"], ids), events["time_micros"].to_numpy()
    old = stored.take(pc.index_in(keys, value_set=stored["key"].combine_chunks()))
    old_times = _micros(old)
    now = np.maximum(old_times, time[np.searchsorted(user, np.arange(len(keys)), "right") - 1])
    owner, own_ids = _flat(old, "item_ids")
    own, old_counts = codes(own_ids, ids), _flat(old, "counts")[1].to_numpy()
    old_weights = old_counts * decay_factors(old_times, now, params.half_life_days)[owner]
    weights = np.append(old_weights, decay_factors(time, now[user], params.half_life_days))
    item_ids, counts = _sum_counts(np.append(owner, user), np.append(own, item), weights, len(keys), ids)

    baskets = _baskets(old, old_times, BasketRows(user, user, item, time), ids, params)
    evaluation = {"evaluation": _evaluate(index, old, baskets, owner * len(ids) + own, len(ids), time)} if index.as_of else {}
    first, _ = _groups(baskets.basket)
    baskets = baskets.take(np.arange(len(first)) - first < MAX_BASKET_ITEMS)
    first, size = _groups(baskets.basket)
    previous = first - 1  # the last row of the basket before
    has_previous = (first > 0) & (baskets.user[previous] == baskets.user)
    is_pair = has_previous & (baskets.time > _NEVER)
    lengths = size[previous[is_pair]]
    source = baskets.item[_ranges(first[previous[is_pair]], lengths)]
    follower, pair_time, weight = (
        np.repeat(column, lengths) for column in (baskets.item[is_pair], baskets.time[is_pair], 1 / lengths)
    )
    touched = np.unique(np.append(item, source))
    contributions = _item_rows(
        ids.take(touched), (np.searchsorted(touched, item), np.ones(len(item)), time),
        (np.searchsorted(touched, source), follower, weight, pair_time), ids, params,
    )  # fmt: skip
    last = np.searchsorted(baskets.user, np.arange(len(keys)), "right") - 1
    is_latest = first == first[last][baskets.user]
    is_before = np.isin(first, first[previous[last[has_previous[last]]]])
    columns = [keys, item_ids, counts, _times(now), *(_lists(baskets, rows, ids, len(keys)) for rows in (is_latest, is_before))]
    return {"users": pa.table(columns, schema=USER), "contributions": contributions, **evaluation}


def update_items(contributions: pa.Table, stored: pa.Table, *, params: RankerParams) -> dict[str, pa.Table]:
    """`items`: the sums of stored rows and contributions, with the `max_followers` largest counts of each item."""
    rows = pa.concat_tables([stored, contributions]).sort_by([("key", "ascending"), ("as_of", "ascending")])
    keys, times = pc.unique(rows["key"]), _micros(rows)
    row, (entry, follower_ids) = codes(rows["key"], keys), _flat(rows, "item_ids")
    ids = pc.unique(follower_ids)
    ids = ids.take(pc.array_sort_indices(ids))
    followers = row[entry], codes(follower_ids, ids), _flat(rows, "counts")[1].to_numpy(), times[entry]
    popularity = row, rows["popularity"].to_numpy(), times
    return {"items": _item_rows(keys, popularity, followers, ids, params, params.max_followers)}


def codes(values: Any, ids: Any) -> Longs:
    """The position of each value in the ids, which contain all of them."""
    positions = pc.index_in(values, value_set=ids)
    assert not positions.null_count, "an item of a user has no row"
    return np.asarray(positions.to_numpy(), np.int64)


def _micros(rows: pa.Table) -> Longs:
    """The column `as_of` in microseconds; _NEVER for nulls."""
    return np.asarray(rows["as_of"].cast(pa.int64()).fill_null(_NEVER).to_numpy(), np.int64)


def _times(micros: Longs) -> Any:
    return pa.array(micros).cast(_TIME)


def _flat(rows: pa.Table, name: str) -> tuple[Longs, Any]:
    """Number of the row, and value, of each element of a list column; nulls have none."""
    lists: Any = rows[name].combine_chunks()
    return np.asarray(pc.list_parent_indices(lists).to_numpy(), np.int64), pc.list_flatten(lists)


def _ranges(starts: Longs, lengths: Longs) -> Longs:
    """start, start + 1, ... of each length, concatenated."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())


def _groups(groups: Longs) -> tuple[Longs, Longs]:
    """Of each element of a sorted array: position of the first equal element, and their number."""
    first = np.searchsorted(groups, groups)
    return first, np.searchsorted(groups, groups, "right") - first


def _sum_counts(row: Longs, item: Longs, weight: Floats, rows: int, ids: Any, limit: int | None = None) -> tuple[Any, Any]:
    """Lists of the ids and counts of each row, largest first; ties by item, also if they differ by rounding."""
    cells, cell = np.unique(row * len(ids) + item, return_inverse=True)
    count = np.bincount(cell, weight, len(cells))
    row = cells // max(len(ids), 1)
    order = np.lexsort((cells, -count.astype(np.float32), row))
    order = order[np.arange(len(row)) - _groups(row)[0] < (limit or len(row))]
    offsets = pa.array(np.searchsorted(row[order], np.arange(rows + 1)), pa.int32())
    values = ids.take(cells[order] % max(len(ids), 1)), pa.array(count[order])
    item_ids, counts = (pa.ListArray.from_arrays(offsets, each) for each in values)
    return item_ids, counts


def _item_rows(keys: Any, events: Any, followers: Any, ids: Any, params: RankerParams, limit: int | None = None) -> pa.Table:
    """Rows with ITEM as of their newest event.

    Args:
        events: number of the row in `keys`, weight and time of each.
        followers: number of the row, position in `ids`, weight and time of each.
    """
    row, weight, time = events
    source, follower, follower_weight, pair_time = followers
    now = np.full(len(keys), _NEVER)
    np.maximum.at(now, np.append(row, source), np.append(time, pair_time))
    factors = decay_factors(pair_time, now[source], params.half_life_days)
    lists = _sum_counts(source, follower, follower_weight * factors, len(keys), ids, limit)
    factors = decay_factors(time, now[row], params.popularity_half_life_days)
    return pa.table([keys, *lists, _times(now), np.bincount(row, weight * factors, len(keys))], schema=ITEM)


def _baskets(old: pa.Table, old_times: Longs, events: BasketRows, ids: Any, params: RankerParams) -> BasketRows:
    """The stored baskets of each user, and those of the events that are not older than the stored ones.

    Args:
        old: rows with USER, null for new users.
        events: of all users, in order of time; their baskets are not used.
    """
    rows = events.take(events.time >= old_times[events.user])
    first, _ = _groups(rows.user)
    before = np.where(first == np.arange(len(first)), old_times[rows.user], np.roll(rows.time, 1))
    starts = np.cumsum(rows.time - before > params.basket_gap_minutes * 60_000_000)
    is_start = np.diff(starts, prepend=0)
    # 0: the stored basket before the latest one, 1: the latest one and events that continue it, 2 ...: new ones.
    numbers = 1 + starts - (starts - is_start)[first]
    parts = [
        BasketRows(user, np.full(len(user), number), codes(values, ids), np.full(len(user), _NEVER))
        for number, (user, values) in enumerate((_flat(old, "previous_items"), _flat(old, "basket_items")))
    ]
    parts.append(rows._replace(basket=numbers))
    rows = BasketRows(*map(np.concatenate, zip(*parts, strict=True)))
    rows = rows._replace(basket=rows.user * (2 + numbers.max(initial=0)) + rows.basket)
    _, distinct = np.unique(rows.basket * len(ids) + rows.item, return_index=True)
    return rows.take(distinct[np.lexsort((distinct, rows.basket[distinct]))])


def _lists(baskets: BasketRows, rows: Any, ids: Any, users: int) -> Any:
    """The items in some rows, as one list per user."""
    offsets = np.searchsorted(baskets.user[rows], np.arange(users + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), ids.take(baskets.item[rows]))


def _evaluate(index: BasketIndex, old: pa.Table, baskets: BasketRows, own: Longs, items: int, times: Longs) -> BasketSums:
    """Recalls of the first basket of each user that starts after the time of the state.

    Args:
        own: user * items + item for the stored counts.
        times: of all events.
    """
    first, _ = _groups(baskets.basket)
    is_new = baskets.time[first] > index.as_of
    users, start = np.unique(baskets.user[is_new], return_index=True)
    targets = baskets.take(np.isin(first, first[is_new][start]))
    cells, number = targets.user * items + targets.item, np.searchsorted(users, targets.user)
    is_repeat = np.isin(cells, own)
    masks = np.ones(len(cells), bool), is_repeat, ~is_repeat
    sizes = [np.bincount(number[mask], minlength=len(users)) for mask in masks]
    recalls = [
        [(np.isin(cells, users[:, None] * items + best)[mask] / size[number[mask]]).sum() for mask, size in zip(masks, sizes)]
        for best, _ in index.rank(old.take(users), 10).values()
    ]
    late_rows = int(evaluation_times.is_late(times, index.as_of).sum())
    users_of_metrics = np.array([np.count_nonzero(size) for size in sizes], float)
    return BasketSums(np.array(recalls), users_of_metrics, EvaluationTimes.of(targets.time, late_rows), index.as_of)
