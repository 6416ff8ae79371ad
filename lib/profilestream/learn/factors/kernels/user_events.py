"""Stored and new events of the users in one partition, as flat arrays, and what they contribute to items.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profilestream.learn.factors.kernels import als, als_rows
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums, GroupedRows, Strings, Vectors
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.lists import ranges
from profilestream.learn.kernels.sums import decay_factors


@dataclass(frozen=True)
class UserEvents:
    """Events of users, one element per event in each array.

    Args:
        item_ids: the ids that `item` indexes, ascending.
        user: number of the user.
        time: event time in microseconds.
        category: of new events; None for stored ones.
        is_new: false for an event that is stored already.
    """

    item_ids: Strings
    user: Longs
    item: Longs
    weight: Floats
    rating: Floats
    time: Longs
    category: Strings
    is_new: NDArray[np.bool_]

    @classmethod
    def read(
        cls, state: pa.Table, new: pa.Table, user_ids: Strings, state_users: Longs, params: AlsParams
    ) -> "UserEvents":
        """Stored and new events, in order of user, time and item.

        Args:
            state, new: rows with als_rows.USER and als_rows.EVENT.
            user_ids: all users of the partition, ascending.
            state_users: number of the user of each state row.
        """
        row, stored_ids, weights = als_rows.stored_events(state)
        both = np.concatenate([stored_ids, als_rows.strings(new, "item_id")]).astype(object)
        item_ids, item = np.unique(both, return_inverse=True)
        stored, added = len(stored_ids), new.num_rows
        new_users = np.searchsorted(user_ids, als_rows.strings(new, "user_id"))
        ratings = als_rows.concat_binary(state, "event_ratings", np.float32)
        ratings = np.concatenate([ratings, als_rows.numbers(new, "rating")])
        events = cls(
            item_ids=item_ids,
            user=np.concatenate([state_users[row], new_users]).astype(np.int64),
            item=item,
            weight=np.concatenate([weights, als_rows.numbers(new, "weight")]),
            rating=ratings if params.is_explicit else np.zeros(stored + added),
            time=np.concatenate(
                [als_rows.concat_binary(state, "event_times", np.int64), als_rows.numbers(new, "time_micros")]
            ),
            category=np.concatenate([np.full(stored, None, object), als_rows.strings(new, "category")]),
            is_new=np.repeat([False, True], [stored, added]),
        )
        events = replace(events, weight=_effective_weights(events))
        return events.take(np.lexsort((events.rating, events.weight, events.item, events.time, events.user)))

    def take(self, index: NDArray[Any]) -> "UserEvents":
        """The events at these positions, or where a mask is true."""
        return UserEvents(
            self.item_ids, self.user[index], self.item[index], self.weight[index], self.rating[index],
            self.time[index], self.category[index], self.is_new[index],
        )  # fmt: skip

    def pairs(self) -> Longs:
        """A number for the user-item pair of each event."""
        return self.user * len(self.item_ids) + self.item

    def least_squares_rows(
        self, users: int, item_vectors: Vectors, global_sums: GlobalSums, params: AlsParams
    ) -> GroupedRows:
        """Rows for als.solve_users: implicit one per user and item with the net weight, explicit one per rating."""
        if params.is_explicit:
            vectors = item_vectors[self.item].astype(float)
            targets = als.target_values(self.rating, vectors, global_sums, params)
            starts = np.searchsorted(self.user, np.arange(users))
            return GroupedRows(starts, als.design_vectors(vectors, params), self.weight, targets)
        pairs, index = np.unique(self.pairs(), return_inverse=True)
        net = np.maximum(np.bincount(index, self.weight, len(pairs)), 0.0)
        items = len(self.item_ids)
        starts = np.searchsorted(pairs, np.arange(users) * items)
        return GroupedRows(starts, item_vectors[pairs % items].astype(float), net, np.ones(len(pairs)))


def _effective_weights(events: UserEvents) -> Floats:
    """Weights in which new returns remove at most the weight that the user has of the item.

    Larger returns would make the item's normal equations indefinite, so they could not be solved.
    """
    pairs, pair = np.unique(events.pairs(), return_inverse=True)
    stored = np.bincount(pair, np.where(events.is_new, 0.0, events.weight), len(pairs))
    added = np.bincount(pair, np.where(events.is_new, events.weight, 0.0), len(pairs))
    size = np.bincount(pair, np.where(events.is_new, np.abs(events.weight), 0.0), len(pairs))
    scale = (np.maximum(stored + added, 0) - np.maximum(stored, 0)) / np.maximum(size, 1e-300)
    return np.where(events.is_new, scale[pair] * np.abs(events.weight), events.weight)


def new_event_contributions(
    user_ids: Strings, events: UserEvents, new: UserEvents, vectors: Vectors, params: AlsParams
) -> pa.Table:
    """Contributions of new events to items, with the user's earlier items as neighbors.

    Implicit: one row per user and item, valid at the time of its latest new event. Explicit: one row per rating, so
    different ratings of one item by a user stay separate.

    Args:
        events: all events of the users.
        new: the new ones of these events.
        vectors: new vectors of the users.
    """
    pair = new.pairs()
    group = pair if not params.is_explicit else np.arange(len(pair))
    groups, first, index = np.unique(group, return_index=True, return_inverse=True)
    latest = np.full(len(groups), np.iinfo(np.int64).min)
    np.maximum.at(latest, index, new.time)
    weight, popularity = (
        np.bincount(index, new.weight * factors, len(groups))
        for factors in item_decay_factors(new.time, latest[index], params)
    )
    last_category = np.full(len(groups), -1)  # -1 selects the null after the categories
    np.maximum.at(last_category, index, np.where(new.category != None, np.arange(len(index)), -1))  # noqa: E711
    neighbor_ids, neighbor_times = _preceding_items(events, pair[first], params)
    return als_rows.table(
        als_rows.CONTRIBUTION, len(groups), item_id=new.item_ids[new.item[first]], user_id=user_ids[new.user[first]],
        weight=weight, rating=new.rating[first], decayed_weight=weight, popularity=popularity, time_micros=latest,
        category=np.append(new.category, [None])[last_category], vector=als_rows.to_cells(vectors[new.user[first]]),
        neighbor_ids=neighbor_ids, neighbor_times=neighbor_times,
    )  # fmt: skip


def item_decay_factors(times: Longs, now: int | Longs, params: AlsParams) -> tuple[Floats, Floats]:
    """Decay factors of an item's normal equations, and of its popularity."""
    return (
        decay_factors(times, now, params.half_life_days),
        decay_factors(times, now, params.popularity_half_life_days),
    )


def _preceding_items(events: UserEvents, new_pairs: Longs, params: AlsParams) -> tuple[Any, list[bytes]]:
    """For each user-item pair with a new event: the items that the user had before, and the later time of both items.

    The list is empty unless the item is new to the user. So a pair of items counts once per user, when the second item
    is added. Stored items precede items of the batch, which are ordered by their latest event.
    """
    items = len(events.item_ids)
    positive = events.take(events.weight > 0)
    if not len(positive.user) or not params.max_neighbors:
        return pa.array([[]] * len(new_pairs), pa.list_(pa.string())), [b""] * len(new_pairs)
    pairs, index = np.unique(positive.pairs(), return_inverse=True)
    latest = np.full(len(pairs), np.iinfo(np.int64).min)
    np.maximum.at(latest, index, positive.time)
    is_new = np.bincount(index, ~positive.is_new, len(pairs)) == 0
    order = np.lexsort((pairs, latest, is_new, pairs // items))
    place = np.argsort(order)
    latest = latest[order]
    user = pairs[order] // items
    rank = np.arange(len(pairs)) - np.searchsorted(user, user)

    match = np.searchsorted(pairs, new_pairs).clip(max=len(pairs) - 1)
    is_new_item = (pairs[match] == new_pairs) & is_new[match]
    # Of several ratings of an item by a user only the first one has neighbors.
    is_repeated = np.ones(len(new_pairs), bool)
    is_repeated[np.unique(new_pairs, return_index=True)[1]] = False
    at = place[match]
    sizes = np.where(is_new_item & ~is_repeated, np.minimum(rank[at], params.neighbor_history), 0)
    flat = ranges(at - sizes, sizes)
    times = np.maximum(np.repeat(latest[at], sizes), latest[flat])
    ends = np.cumsum(sizes)
    neighbor_ids = pa.ListArray.from_arrays(
        pa.array(np.append(0, ends), pa.int32()), pa.array(events.item_ids[pairs[order][flat] % items], pa.string())
    )
    return neighbor_ids, [times[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]
