"""Decayed counts of the baskets of users: the kernels of `learn_rankers`.

For each basket B of a user and the basket A before it, each pair (a, b) adds 1/|A| to the count of follower b of item
a, at the time of b; of a basket, the first MAX_BASKET_ITEMS items are used. An event b that is n events after an event
a of the same basket (a session) and later, n at most RECENT_EVENTS, adds 1/n to the count of b in the rules of item a,
also if both items are equal. These are the sequential rules of Kamehkhosh, Jannach and Ludewig (2017). An event that is
older than the user's stored ones counts for its user and item, with the weight of its age, but it belongs to no basket,
transition or rule. A row depends only on the events of its key.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.kernels.arrays import IS_DELETED, Floats, Longs
from profilestream.learn.kernels.lists import flatten, groups, lists_by_row, positions, ranges
from profilestream.learn.kernels.sums import decay_factors
from profilestream.learn.rankers.kernels import basket_evaluation, basket_rows
from profilestream.learn.rankers.kernels.basket_evaluation import BasketTargets
from profilestream.learn.rankers.kernels.basket_index import BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import (
    DELETED,
    EVENT,
    FOLLOWERS,
    ITEM,
    NEVER,
    RECENT_EVENTS,
    USER,
    BasketRows,
    RankerParams,
    micros,
)
from profilestream.learn.rankers.kernels.blend import BlendState
from profilestream.learn.rankers.kernels.item_history import ItemHistory

MAX_BASKET_ITEMS = 50
# Names of the results of update_users, if there is a state.
RESULTS = ("evaluation", "blend_sums", "gate_sums")
_USER_LISTS = ("item_ids", "basket_items", "previous_items", "recent_items")
# A count below this after a subtraction is a rounding error.
_ROUNDING = 1e-9


class WeightedPairs(NamedTuple):
    """Number of a row, position of an item, weight, and time of the weight."""

    row: Longs
    item: Longs
    weight: Floats
    time: Longs


def copy_items(stored: pa.Table) -> dict[str, pa.Table]:
    """`items`: the same rows, for every call of `update_users`."""
    return {"items": stored}


def update_users(
    events: pa.Table, stored: pa.Table, items: pa.Table, *, params: RankerParams, blend: BlendState
) -> dict[str, Any]:
    """Score the first new basket of each user by the state before the events, and count the events.

    Returns:
        `users`: rows with USER; `contributions`: to items, with ITEM. If there is a state: `evaluation`: BasketSums;
        `blend_sums`: BlendSums; `gate_sums`: GateSums.
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
    old_times, (owner, own_ids) = micros(old), flatten(old, "item_ids")
    own, own_counts = positions(own_ids, ids), flatten(old, "counts")[1].to_numpy()
    new = basket_rows.numbered_baskets(old_times, BasketRows(user, user, item, time), params)
    rows, session = basket_rows.baskets(old, new, ids), basket_rows.sessions(old, old_times, new, ids)
    results: dict[str, Any] = {}
    if index.as_of:
        targets = BasketTargets.of(old, rows, owner * len(ids) + own, len(ids), index.as_of)
        sums = basket_evaluation.evaluate(index, old, targets, session, ids, blend, time)
        results = dict(zip(RESULTS, sums, strict=True))

    in_baskets = rows.take(rows.time > NEVER)
    history = ItemHistory.stored(old, owner * len(ids) + own)
    history |= ItemHistory.of_events(user * len(ids) + item, time, 0)
    history |= ItemHistory.of_events(in_baskets.user * len(ids) + in_baskets.item, in_baskets.time, 1)
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
    cells, counts = _largest_counts(now, pairs, ids, params, params.max_items)
    lists = (lists_by_row(rows.user[each], len(keys), ids.take(rows.item[each])) for each in (is_latest, is_previous))
    recent = session.take(basket_rows.is_recent(session))
    columns = [
        keys, *_count_lists(now, cells, counts, ids), *lists,
        lists_by_row(recent.user, len(keys), ids.take(recent.item)),
        *history.at(cells).lists(cells // len(ids), len(keys)),
    ]  # fmt: skip
    users = pa.table(columns, schema=USER)

    pairs_by_list = _transitions(rows), _rules(session)
    touched = np.unique(np.concatenate([item, *(pairs.row for pairs in pairs_by_list)]))
    row, weight = np.searchsorted(touched, item), np.ones(len(item))
    followers = [pairs._replace(row=np.searchsorted(touched, pairs.row)) for pairs in pairs_by_list]
    contributions = _item_rows(ids.take(touched), (row, weight, time), followers, ids, params, len(ids))
    return {"users": users, "contributions": contributions, **results}


def update_items(contributions: pa.Table, stored: pa.Table, *, params: RankerParams) -> dict[str, pa.Table]:
    """`items`: the sums of stored rows and contributions, with the `max_followers` largest counts of each list."""
    rows = pa.concat_tables([stored, contributions]).sort_by([("key", "ascending"), ("as_of", "ascending")])
    keys, times = pc.unique(rows["key"]), micros(rows)
    row, lists = positions(rows["key"], keys), [(flatten(rows, one), flatten(rows, two)[1]) for one, two in FOLLOWERS]
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
    for _, name in FOLLOWERS:
        entry, counts = flatten(contributions, name)
        negative[name] = lists_by_row(entry, len(contributions), pc.negate(counts))
    items = update_items(pa.table(negative, schema=ITEM), stored, params=params)["items"]
    items = items.filter(pc.is_in(items["key"], value_set=stored["key"].combine_chunks()))
    columns: dict[str, Any] = {name: items[name] for name in ITEM.names}
    for names in FOLLOWERS:
        row, weights = flatten(items, names[1])
        is_left = weights.to_numpy() > _ROUNDING
        for name in names:
            values = flatten(items, name)[1].filter(pa.array(is_left))
            columns[name] = lists_by_row(row[is_left], len(items), values)
    columns[IS_DELETED] = pa.array(items["popularity"].to_numpy() <= _ROUNDING)
    return {"items": pa.table(columns, schema=ITEM.append(DELETED))}


def _largest_counts(
    now: Longs, pairs: WeightedPairs, ids: Any, params: RankerParams, limit: int
) -> tuple[Longs, Floats]:
    """Cells (row * items + item) and counts: the largest counts of each row, as of its time `now`.

    Counts that differ only by rounding are ties; ties are in order of `ids`.
    """
    cells, cell = np.unique(pairs.row * len(ids) + pairs.item, return_inverse=True)
    factors = decay_factors(pairs.time, now[pairs.row], params.half_life_days)
    count: Floats = np.bincount(cell, pairs.weight * factors, len(cells)).astype(np.float64)
    row, item = np.divmod(cells, max(len(ids), 1))
    order = np.lexsort((item, -count.astype(np.float32), row))
    order = order[np.arange(len(row)) - groups(row)[0] < limit]
    return cells[order], count[order]


def _count_lists(now: Longs, cells: Longs, counts: Floats, ids: Any) -> tuple[Any, ...]:
    """The columns `item_ids`, `counts` and `as_of`, from _largest_counts."""
    row, item = np.divmod(cells, max(len(ids), 1))
    lists = (lists_by_row(row, len(now), values) for values in (ids.take(item), counts))
    return *lists, pa.array(now).cast(ITEM.field("as_of").type)


def _item_rows(
    keys: Any, popularity: Any, followers: Sequence[WeightedPairs], ids: Any, params: RankerParams, limit: int
) -> pa.Table:
    """Rows with ITEM, as of the newest time of the item.

    Args:
        popularity: number of the row, weight and time of parts.
        followers: of each of FOLLOWERS.
    """
    row, weight, time = popularity
    now = np.full(len(keys), NEVER)
    for rows, times in ((row, time), *((pairs.row, pairs.time) for pairs in followers)):
        np.maximum.at(now, rows, times)
    factors = decay_factors(time, now[row], params.popularity_half_life_days)
    sums: Any = np.bincount(row, weight * factors, len(keys))
    transitions, rules = (
        _count_lists(now, *_largest_counts(now, pairs, ids, params, limit), ids) for pairs in followers
    )
    return pa.table([keys, *transitions, sums, *rules[:2]], schema=ITEM)


def _transitions(rows: BasketRows) -> WeightedPairs:
    """An item, and an item that is new in the next basket; weight 1 / size of the earlier basket."""
    first, size = groups(rows.basket)
    previous = first - 1  # the last row of the basket before
    is_new = (first > 0) & (rows.user[previous] == rows.user) & (rows.time > NEVER)
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
