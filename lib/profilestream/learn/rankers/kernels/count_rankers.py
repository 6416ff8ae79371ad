"""Decayed counts of the baskets of users, and rankings of items by these counts: the kernels of `learn_rankers`.

A basket of a user contains events with gaps of at most `basket_gap_minutes`. For each basket B and the basket A before
it, each pair (a, b) adds 1/|A| to the count of follower b of item a, at the time of b; of a basket, the first
MAX_BASKET_ITEMS items are used. An event b that is n events after an event a of the same basket (a session) and later,
n at most RECENT_EVENTS, adds 1/n to the count of b in the rules of item a, also if both items are equal. These are the
sequential rules of Kamehkhosh, Jannach and Ludewig (2017). An event that is older than the user's stored ones counts
for its user and item, with the weight of its age, but it belongs to no basket, transition or rule. A row depends only
on the events of its key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.kernels import evaluation_times
from profilestream.learn.kernels.arrays import IS_DELETED, Floats, Longs
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.lists import flatten, groups, lists_by_row, positions, ranges
from profilestream.learn.kernels.ranking_metrics import top_candidates
from profilestream.learn.kernels.sums import LATEST, MIN_WEIGHT, Sums, decay_factors

_TIME: Any = pa.timestamp("us", "UTC")
_STRINGS: Any = pa.list_(pa.string())
_TYPES: Any = {"key": pa.string(), "item_ids": _STRINGS, "counts": pa.list_(pa.float64()), "as_of": _TIME}
_NAMES = ("user_id", "time_micros", "item_id")
EVENT = pa.schema([pa.field(name, pa.int64() if name == "time_micros" else pa.string()) for name in _NAMES])
# Rows of the table `basket_counts`. The counts of an item are those of its followers.
USER = pa.schema(_TYPES | {"basket_items": _STRINGS, "previous_items": _STRINGS, "recent_items": _STRINGS})
ITEM = pa.schema(_TYPES | {"popularity": pa.float64(), "rule_items": _STRINGS, "rule_counts": pa.list_(pa.float64())})
RANKED = pa.schema([pa.field("item_ids", _STRINGS), pa.field("scores", pa.list_(pa.float64()))])
DELETED: Any = pa.field(IS_DELETED, pa.bool_())
RANKERS = ("own_counts", "transitions", "sequence_rules", "popularity")
METRICS = ("basket_recall_10", "repeat_recall_10", "new_recall_10", "next_item_recall_10")
MAX_BASKET_ITEMS = 50
# Events of a session whose rules rank its next item; the weight of each is multiplied by RULE_DECAY per later event.
RECENT_EVENTS, RULE_DECAY = 10, 0.6
_CHUNK_USERS, _NEVER = 500, -(2**62)
# Columns of ITEM: followers in the next basket, and in the same session.
_FOLLOWERS = (("item_ids", "counts"), ("rule_items", "rule_counts"))
_USER_LISTS = ("item_ids", "basket_items", "previous_items", "recent_items")
# A smaller rest of a count after a subtraction is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RankerParams:
    """See settings.Rankers."""

    basket_gap_minutes: float = 30.0
    half_life_days: float = 90.0
    popularity_half_life_days: float = 14.0
    max_items: int = 1000
    max_followers: int = 100


@dataclass(frozen=True)
class BasketSums(Sums):
    """Recall summed over users, (RANKERS, METRICS), and users with a value, (METRICS,), by the state of a time."""

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


class BasketIndex:
    """All items in descending order of popularity as of the newest event, for rankings; from rows with ITEM.

    Items whose rows are older than `min_as_of` (microseconds) are not ranked; null: all are ranked.
    """

    def __init__(self, items: pa.Table, params: RankerParams, min_as_of: int | None = None) -> None:
        times = _micros(items)
        self.as_of = int(times.max(initial=0))
        weights = items["popularity"].to_numpy() * decay_factors(times, self.as_of, params.popularity_half_life_days)
        # Weights that differ only by rounding are ties, whose order is that of the ids.
        weights = np.exp(np.round(np.log(np.maximum(weights, MIN_WEIGHT)), 9))
        rank_of_id = np.argsort(np.argsort(items["key"].to_numpy()))
        order = np.lexsort((rank_of_id, -weights))
        self.shares, items = weights[order] / weights.sum(), items.take(order)
        self._is_ranked = np.ones(len(order), bool) if min_as_of is None else times[order] >= min_as_of
        self.ids: Any = items["key"].combine_chunks()
        self._items = items

    def rank(self, users: pa.Table, top_k: int) -> dict[str, tuple[Longs, Floats]]:
        """Positions and scores of each user's best items, (users, top_k), by ranker; scores only candidates, in chunks.

        `own_counts` scores by the user's counts, `transitions` by the mean over the items of the latest basket of the
        shares of their followers, `sequence_rules` by the sum of the decayed shares in the rules of `recent_items`.
        These scores are divided by the largest one and increased by 1. All other items follow with their share of the
        popularity. A null row is a user without events. Items without a row are not ranked.
        """
        transitions, rules = (
            FollowerShares.of(self._items, *names, sources=flatten(users, list_name)[1])
            for list_name, names in zip(("basket_items", "recent_items"), _FOLLOWERS, strict=True)
        )
        chunks = [
            self._rank(users.slice(n, _CHUNK_USERS), transitions, rules, top_k)
            for n in range(0, len(users) or 1, _CHUNK_USERS)
        ]
        return {
            ranker: (
                np.vstack([chunk[ranker][0] for chunk in chunks]),
                np.vstack([chunk[ranker][1] for chunk in chunks]),
            )
            for ranker in RANKERS
        }

    def _rank(
        self, users: pa.Table, transitions: "FollowerShares", rules: "FollowerShares", top_k: int
    ) -> dict[str, tuple[Longs, Floats]]:
        owner, own_ids = flatten(users, "item_ids")
        user, basket_ids = flatten(users, "basket_items")
        viewer, recent_ids = flatten(users, "recent_items")
        first, size = groups(viewer)
        later_events = first + size - 1 - np.arange(len(first))
        has_row, own = _positions_if_any(own_ids, self.ids)
        own_counts = flatten(users, "counts")[1].to_numpy()[has_row]
        pairs = (
            (owner[has_row], own, own_counts),
            transitions.votes(user, basket_ids, 1 / groups(user)[1]),
            rules.votes(viewer, recent_ids, np.asarray(RULE_DECAY**later_events, np.float64)),
            (owner[:0], own[:0], own_counts[:0]),
        )
        return {ranker: self._top(len(users), *each, top_k) for ranker, each in zip(RANKERS, pairs, strict=True)}

    def _top(self, users: int, user: Longs, item: Longs, score: Floats, top_k: int) -> tuple[Longs, Floats]:
        """The best items by the sum of the scores of each pair."""
        n, is_ranked = len(self.ids), self._is_ranked[item]
        popular = np.arange(users)[:, None] * n + np.flatnonzero(self._is_ranked)[:top_k]
        cells, cell = np.unique(np.append((user * n + item)[is_ranked], popular), return_inverse=True)
        total = np.bincount(cell, np.append(score[is_ranked], np.zeros(popular.size)), len(cells))
        row, position = np.divmod(cells, n)
        largest = np.zeros(users)
        np.maximum.at(largest, row, total)
        scores = np.where(
            total > 0, np.round(1 + total / np.maximum(largest[row], MIN_WEIGHT), 9), self.shares[position]
        )
        return top_candidates(row, position, scores, users, top_k)


@dataclass(frozen=True)
class FollowerShares:
    """The items that follow each of some items, and their shares in the sum of its counts; followers without a row are
    left out, as after a removal of users.

    Args:
        sources: ids of the items.
        sizes: number of followers of each source.
        items, shares: position and share of each follower, in order of source.
    """

    sources: Any
    sizes: Longs
    items: Longs
    shares: Floats

    @classmethod
    def of(cls, items: pa.Table, id_list: str, count_list: str, *, sources: Any) -> "FollowerShares":
        """From two list columns of rows with ITEM; only of the sources that have a row."""
        ids: Any = items["key"].combine_chunks()
        rows = items.take(np.unique(_positions_if_any(sources, ids)[1]))
        (row, followers), counts = flatten(rows, id_list), flatten(rows, count_list)[1].to_numpy()
        has_row, item = _positions_if_any(followers, ids)
        shares = (counts / np.bincount(row, counts)[row])[has_row]
        return cls(rows["key"].combine_chunks(), np.bincount(row[has_row], minlength=len(rows)), item, shares)

    def votes(self, user: Longs, source: Any, weight: Floats) -> tuple[Longs, Longs, Floats]:
        """User, follower and weighted share, of each follower of an item of a user."""
        has_row, row = _positions_if_any(source, self.sources)
        sizes = self.sizes[row]
        entry = ranges((np.cumsum(self.sizes) - self.sizes)[row], sizes)
        return (
            np.repeat(user[has_row], sizes),
            self.items[entry],
            np.repeat(weight[has_row], sizes) * self.shares[entry],
        )


class BasketRows(NamedTuple):
    """Distinct items of baskets, in order of user, basket and time; the time of stored ones is _NEVER."""

    user: Longs
    basket: Longs
    item: Longs
    time: Longs

    def take(self, rows: Any) -> "BasketRows":
        """Some of the rows."""
        return BasketRows(*(column[rows] for column in self))


class WeightedPairs(NamedTuple):
    """Number of a row, position of an item, weight, and time of the weight."""

    row: Longs
    item: Longs
    weight: Floats
    time: Longs


def copy_items(stored: pa.Table) -> dict[str, pa.Table]:
    """`items`: the same rows, for every call of `update_users`."""
    return {"items": stored}


def update_users(events: pa.Table, stored: pa.Table, items: pa.Table, *, params: RankerParams) -> dict[str, Any]:
    """Score the first new basket of each user by the state before the events, and count the events.

    Returns:
        `users`: rows with USER; `contributions`: to items, with ITEM; `evaluation`: BasketSums, if there is a state.
    """
    if not len(events):
        return {}
    events = events.sort_by([(name, "ascending") for name in EVENT.names])
    index, keys = BasketIndex(items, params), pc.unique(events["user_id"])
    old = stored.take(pc.index_in(keys, value_set=stored["key"].combine_chunks()))
    # Items of a user can have no row after other users were removed.
    used_ids = [events["item_id"].combine_chunks(), *(flatten(old, name)[1] for name in _USER_LISTS)]
    new_ids = pc.unique(pa.concat_arrays(used_ids))
    new_ids = new_ids.filter(pc.invert(pc.is_in(new_ids, value_set=index.ids)))
    ids = pa.concat_arrays([index.ids, new_ids.take(pc.array_sort_indices(new_ids))])
    user, item = positions(events["user_id"], keys), positions(events["item_id"], ids)
    time = events["time_micros"].to_numpy()
    old_times, (owner, own_ids) = _micros(old), flatten(old, "item_ids")
    own, own_counts = positions(own_ids, ids), flatten(old, "counts")[1].to_numpy()
    new = _numbered_baskets(old_times, BasketRows(user, user, item, time), params)
    rows, session = _baskets(old, new, ids), _sessions(old, old_times, new, ids)
    evaluation = (
        {"evaluation": _evaluate(index, old, rows, session, owner * len(ids) + own, ids, time)} if index.as_of else {}
    )

    first, _ = groups(rows.basket)
    rows = rows.take(np.arange(len(first)) - first < MAX_BASKET_ITEMS)
    first, _ = groups(rows.basket)
    last = np.searchsorted(rows.user, np.arange(len(keys)), "right") - 1
    is_latest = first == first[last][rows.user]
    # The basket before the latest one of a user, if it is not the latest one of another user.
    is_previous = np.isin(first, first[first[last] - 1]) & ~is_latest
    now = np.maximum(old_times, time[np.searchsorted(user, np.arange(len(keys)), "right") - 1])
    weights = np.append(own_counts, np.ones(len(item)))
    pairs = WeightedPairs(np.append(owner, user), np.append(own, item), weights, np.append(old_times[owner], time))
    counts = _sum_counts(now, pairs, ids, params, params.max_items)
    lists = (lists_by_row(rows.user[each], len(keys), ids.take(rows.item[each])) for each in (is_latest, is_previous))
    recent = session.take(_is_recent(session))
    users = pa.table([keys, *counts, *lists, lists_by_row(recent.user, len(keys), ids.take(recent.item))], schema=USER)

    pairs_by_list = _transitions(rows), _rules(session)
    touched = np.unique(np.concatenate([item, *(pairs.row for pairs in pairs_by_list)]))
    row, weight = np.searchsorted(touched, item), np.ones(len(item))
    followers = [pairs._replace(row=np.searchsorted(touched, pairs.row)) for pairs in pairs_by_list]
    contributions = _item_rows(ids.take(touched), (row, weight, time), followers, ids, params, len(ids))
    return {"users": users, "contributions": contributions, **evaluation}


def update_items(contributions: pa.Table, stored: pa.Table, *, params: RankerParams) -> dict[str, pa.Table]:
    """`items`: the sums of stored rows and contributions, with the `max_followers` largest counts of each list."""
    rows = pa.concat_tables([stored, contributions]).sort_by([("key", "ascending"), ("as_of", "ascending")])
    keys, times = pc.unique(rows["key"]), _micros(rows)
    row, lists = positions(rows["key"], keys), [(flatten(rows, one), flatten(rows, two)[1]) for one, two in _FOLLOWERS]
    ids = pc.unique(pa.concat_arrays([followers for (_, followers), _ in lists])).sort()
    pairs = [
        WeightedPairs(row[entry], positions(followers, ids), counts.to_numpy(), times[entry])
        for (entry, followers), counts in lists
    ]
    popularity = row, rows["popularity"].to_numpy(), times
    return {"items": _item_rows(keys, popularity, pairs, ids, params, params.max_followers)}


def remove_from_items(contributions: pa.Table, stored: pa.Table, *, params: RankerParams) -> dict[str, pa.Table]:
    """`items`: stored rows without the contributions; those of items without other events are deleted."""
    negative: dict[str, Any] = {name: contributions[name] for name in ITEM.names}
    negative["popularity"] = pc.negate(contributions["popularity"])
    for _, name in _FOLLOWERS:
        entry, counts = flatten(contributions, name)
        negative[name] = lists_by_row(entry, len(contributions), pc.negate(counts))
    items = update_items(pa.table(negative, schema=ITEM), stored, params=params)["items"]
    items = items.filter(pc.is_in(items["key"], value_set=stored["key"].combine_chunks()))
    columns: dict[str, Any] = {name: items[name] for name in ITEM.names}
    for names in _FOLLOWERS:
        row, weights = flatten(items, names[1])
        is_left = weights.to_numpy() > _ROUNDING
        for name in names:
            values = flatten(items, name)[1].filter(pa.array(is_left))
            columns[name] = lists_by_row(row[is_left], len(items), values)
    columns[IS_DELETED] = pa.array(items["popularity"].to_numpy() <= _ROUNDING)
    return {"items": pa.table(columns, schema=ITEM.append(DELETED))}


def _positions_if_any(values: Any, ids: Any) -> tuple[Any, Longs]:
    """Whether the ids contain each value, and the positions of those that they contain."""
    indices: Any = pc.index_in(values, value_set=ids)
    return indices.is_valid().to_numpy(zero_copy_only=False), np.asarray(indices.drop_null().to_numpy(), np.int64)


def _micros(rows: pa.Table) -> Longs:
    """The column `as_of` in microseconds; _NEVER for nulls."""
    times: Any = rows["as_of"].cast(pa.int64()).fill_null(pa.scalar(_NEVER))
    return np.asarray(times.to_numpy(), np.int64)


def _sum_counts(now: Longs, pairs: WeightedPairs, ids: Any, params: RankerParams, limit: int) -> tuple[Any, ...]:
    """The columns `item_ids`, `counts` and `as_of`: the largest counts of each row, as of its time `now`.

    Counts that differ only by rounding are ties; ties are in order of `ids`.
    """
    cells, cell = np.unique(pairs.row * len(ids) + pairs.item, return_inverse=True)
    factors = decay_factors(pairs.time, now[pairs.row], params.half_life_days)
    count = np.bincount(cell, pairs.weight * factors, len(cells))
    row, item = np.divmod(cells, max(len(ids), 1))
    order = np.lexsort((item, -count.astype(np.float32), row))
    order = order[np.arange(len(row)) - groups(row)[0] < limit]
    lists = (lists_by_row(row[order], len(now), values) for values in (ids.take(item[order]), count[order]))
    return *lists, pa.array(now).cast(_TIME)


def _item_rows(
    keys: Any, popularity: Any, followers: Sequence[WeightedPairs], ids: Any, params: RankerParams, limit: int
) -> pa.Table:
    """Rows with ITEM, as of the newest time of the item.

    Args:
        popularity: number of the row, weight and time of parts.
        followers: of each of _FOLLOWERS.
    """
    row, weight, time = popularity
    now = np.full(len(keys), _NEVER)
    for rows, times in ((row, time), *((pairs.row, pairs.time) for pairs in followers)):
        np.maximum.at(now, rows, times)
    factors = decay_factors(time, now[row], params.popularity_half_life_days)
    sums: Any = np.bincount(row, weight * factors, len(keys))
    transitions, rules = (_sum_counts(now, pairs, ids, params, limit) for pairs in followers)
    return pa.table([keys, *transitions, sums, *rules[:2]], schema=ITEM)


def _transitions(rows: BasketRows) -> WeightedPairs:
    """An item, and an item that is new in the next basket; weight 1 / size of the earlier basket."""
    first, size = groups(rows.basket)
    previous = first - 1  # the last row of the basket before
    is_new = (first > 0) & (rows.user[previous] == rows.user) & (rows.time > _NEVER)
    sizes = size[previous[is_new]]
    source = rows.item[ranges(first[previous[is_new]], sizes)]
    columns = (rows.item[is_new], 1 / sizes, rows.time[is_new])
    return WeightedPairs(source, *(np.repeat(column, sizes) for column in columns))


def _rules(session: BasketRows) -> WeightedPairs:
    """The items of two events of a session, of which the second is later; weight 1 / distance in events."""
    parts = []
    for steps in range(1, RECENT_EVENTS + 1):
        second = np.arange(steps, len(session.item))
        first = second - steps
        is_pair = (session.basket[second] == session.basket[first]) & (session.time[second] > session.time[first])
        first, second = first[is_pair], second[is_pair]
        parts.append((session.item[first], session.item[second], np.full(len(second), 1 / steps), session.time[second]))
    return WeightedPairs(*map(np.concatenate, zip(*parts, strict=True)))


def _sessions(old: pa.Table, old_times: Longs, new: BasketRows, ids: Any) -> BasketRows:
    """The stored recent events of each user, at the time of the latest one, and the new events, in order."""
    user, values = flatten(old, "recent_items")
    stored = BasketRows(user, np.ones(len(user), np.int64), positions(values, ids), old_times[user])
    rows = BasketRows(*map(np.concatenate, zip(stored, new, strict=True)))
    rows = rows._replace(basket=rows.user * (1 + rows.basket.max(initial=0)) + rows.basket)
    return rows.take(np.argsort(rows.basket, kind="stable"))


def _is_recent(session: BasketRows) -> Any:
    """Whether each event is one of the last RECENT_EVENTS of the latest session of its user."""
    last = np.searchsorted(session.user, session.user, "right") - 1
    return (session.basket == session.basket[last]) & (last - np.arange(len(last)) < RECENT_EVENTS)


def _numbered_baskets(old_times: Longs, events: BasketRows, params: RankerParams) -> BasketRows:
    """The events that are not older than the stored ones; basket 1 continues the latest stored one.

    Args:
        events: of all users, in order of time; their baskets are not used.
    """
    rows = events.take(events.time >= old_times[events.user])
    first, _ = groups(rows.user)
    before = np.where(first == np.arange(len(first)), old_times[rows.user], np.roll(rows.time, 1))
    is_start = rows.time - before > params.basket_gap_minutes * 60_000_000
    starts = np.cumsum(is_start)
    return rows._replace(basket=1 + starts - (starts - is_start)[first])


def _baskets(old: pa.Table, new: BasketRows, ids: Any) -> BasketRows:
    """The stored baskets of each user, and those of new events.

    Args:
        old: rows with USER, null for new users.
        new: from _numbered_baskets.
    """
    # 0: the stored basket before the latest one, 1: the latest one and events that continue it, 2 ...: new ones.
    parts = [new]
    for number, name in enumerate(("previous_items", "basket_items")):
        user, values = flatten(old, name)
        part = BasketRows(user, np.full(len(user), number), positions(values, ids), np.full(len(user), _NEVER))
        parts.insert(number, part)
    rows = BasketRows(*map(np.concatenate, zip(*parts, strict=True)))
    rows = rows._replace(basket=rows.user * (1 + rows.basket.max()) + rows.basket)
    _, distinct = np.unique(rows.basket * len(ids) + rows.item, return_index=True)
    return rows.take(distinct[np.lexsort((distinct, rows.basket[distinct]))])


def _evaluate(
    index: BasketIndex, old: pa.Table, rows: BasketRows, session: BasketRows, own: Longs, ids: Any, times: Longs
) -> BasketSums:
    """Recalls of the first basket of each user that starts after the time of the state.

    Args:
        own: user * number of ids + item for the stored counts.
        times: of all events.
    """
    items = len(ids)
    first, _ = groups(rows.basket)
    is_new = rows.time[first] > index.as_of
    users, start = np.unique(rows.user[is_new], return_index=True)
    targets = rows.take(np.isin(first, first[is_new][start]))
    cells, number = targets.user * items + targets.item, np.searchsorted(users, targets.user)
    is_repeat = np.isin(cells, own)
    masks = np.array([np.ones(len(cells)), is_repeat, ~is_repeat])
    sizes = np.zeros((len(masks), len(users)))
    np.add.at(sizes.T, number, masks.T)
    weights = masks / np.maximum(sizes[:, number], 1)
    best_items = (best for best, _ in index.rank(old.take(users), 10).values())
    recalls = np.array([weights @ np.isin(cells, users[:, None] * items + best) for best in best_items])
    late_rows = int(evaluation_times.is_late(times, index.as_of).sum())
    hits = _next_item_hits(index, old, session, ids)
    return BasketSums(
        np.column_stack([recalls, hits.sum(axis=1)]),
        np.append((sizes > 0).sum(axis=1), hits.shape[1]).astype(float),
        EvaluationTimes.of(targets.time, late_rows),
        index.as_of,
    )


def _next_item_hits(index: BasketIndex, old: pa.Table, session: BasketRows, ids: Any) -> Floats:
    """Whether the last item of each user's first session after the state is among the best 10, (RANKERS, users).

    `sequence_rules` uses the earlier events of the session; the other rankers use the state only. Sessions whose events
    all have the same time are left out.
    """
    first, size = groups(session.basket)
    is_after = session.time[first] > index.as_of
    users, start = np.unique(session.user[is_after], return_index=True)
    start = np.flatnonzero(is_after)[start]
    last = start + size[start] - 1
    has_order = session.time[last] > session.time[start]
    users, start, last = users[has_order], start[has_order], last[has_order]
    begin = np.maximum(start, last - RECENT_EVENTS)
    number = np.repeat(np.arange(len(users)), last - begin)
    earlier = session.item[ranges(begin, last - begin)]
    recent = lists_by_row(number, len(users), ids.take(earlier))
    rows = old.take(users)
    rows = rows.set_column(rows.schema.get_field_index("recent_items"), "recent_items", recent)
    best_items = (best for best, _ in index.rank(rows, 10).values())
    return np.array([(best == session.item[last][:, None]).any(axis=1) for best in best_items], float)
