"""Rows of the rankers, and the baskets and sessions of events.

A basket of a user contains events with gaps of at most `basket_gap_minutes`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.kernels.arrays import IS_DELETED, Longs
from profilestream.learn.kernels.lists import flatten, groups, positions

_TIME: Any = pa.timestamp("us", "UTC")
_STRINGS: Any = pa.list_(pa.string())
_TYPES: Any = {"key": pa.string(), "item_ids": _STRINGS, "counts": pa.list_(pa.float64()), "as_of": _TIME}
_NAMES = ("user_id", "time_micros", "item_id")
EVENT = pa.schema([pa.field(name, pa.int64() if name == "time_micros" else pa.string()) for name in _NAMES])
# Rows of the table `basket_counts`. The counts of an item are those of its followers.
_USER_TYPES: Any = {"basket_items": _STRINGS, "previous_items": _STRINGS, "recent_items": _STRINGS}
_TIMES: Any = pa.list_(_TIME)
USER = pa.schema(
    _TYPES | _USER_TYPES | {"item_baskets": pa.list_(pa.int64()), "first_times": _TIMES, "last_times": _TIMES}
)
ITEM = pa.schema(_TYPES | {"popularity": pa.float64(), "rule_items": _STRINGS, "rule_counts": pa.list_(pa.float64())})
BLEND = pa.schema(_TYPES | {"blend_weights": pa.list_(pa.float64()), "blend_sums": pa.list_(pa.float64())})
RANKED = pa.schema([pa.field("item_ids", _STRINGS), pa.field("scores", pa.list_(pa.float64()))])
DELETED: Any = pa.field(IS_DELETED, pa.bool_())
# Columns of ITEM: followers in the next basket, and in the same session.
FOLLOWERS = (("item_ids", "counts"), ("rule_items", "rule_counts"))
# Number of the last events of a session whose rules rank its next item.
RECENT_EVENTS = 10
# The time of stored items of baskets, and of users without a row.
NEVER = -(2**62)


@dataclass(frozen=True)
class RankerParams:
    """See settings.Rankers."""

    basket_gap_minutes: float = 30.0
    half_life_days: float = 90.0
    popularity_half_life_days: float = 14.0
    max_items: int = 1000
    max_followers: int = 100


class BasketRows(NamedTuple):
    """Distinct items of baskets, in order of user, basket and time; the time of stored ones is NEVER."""

    user: Longs
    basket: Longs
    item: Longs
    time: Longs

    def take(self, rows: Any) -> "BasketRows":
        """Some of the rows."""
        return BasketRows(*(column[rows] for column in self))


def positions_if_any(values: Any, ids: Any) -> tuple[Any, Longs]:
    """Whether the ids contain each value, and the positions of those that they contain."""
    indices: Any = pc.index_in(values, value_set=ids)
    return indices.is_valid().to_numpy(zero_copy_only=False), np.asarray(indices.drop_null().to_numpy(), np.int64)


def micros(rows: pa.Table) -> Longs:
    """The column `as_of` in microseconds; NEVER for nulls."""
    times: Any = rows["as_of"].cast(pa.int64()).fill_null(pa.scalar(NEVER))
    return np.asarray(times.to_numpy(), np.int64)


def sessions(old: pa.Table, old_times: Longs, new: BasketRows, ids: Any) -> BasketRows:
    """The stored recent events of each user, at the time of the latest one, and the new events, in order."""
    user, values = flatten(old, "recent_items")
    stored = BasketRows(user, np.ones(len(user), np.int64), positions(values, ids), old_times[user])
    rows = BasketRows(*map(np.concatenate, zip(stored, new, strict=True)))
    rows = rows._replace(basket=rows.user * (1 + rows.basket.max(initial=0)) + rows.basket)
    return rows.take(np.argsort(rows.basket, kind="stable"))


def is_recent(session: BasketRows) -> Any:
    """Whether each event is one of the last RECENT_EVENTS of the latest session of its user."""
    last = np.searchsorted(session.user, session.user, "right") - 1
    return (session.basket == session.basket[last]) & (last - np.arange(len(last)) < RECENT_EVENTS)


def numbered_baskets(old_times: Longs, events: BasketRows, params: RankerParams) -> BasketRows:
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


def baskets(old: pa.Table, new: BasketRows, ids: Any) -> BasketRows:
    """The stored baskets of each user, and those of new events.

    Args:
        old: rows with USER, null for new users.
        new: from numbered_baskets.
    """
    # 0: the stored basket before the latest one, 1: the latest one and events that continue it, 2 ...: new ones.
    parts = [new]
    for number, name in enumerate(("previous_items", "basket_items")):
        user, values = flatten(old, name)
        part = BasketRows(user, np.full(len(user), number), positions(values, ids), np.full(len(user), NEVER))
        parts.insert(number, part)
    rows = BasketRows(*map(np.concatenate, zip(*parts, strict=True)))
    rows = rows._replace(basket=rows.user * (1 + rows.basket.max()) + rows.basket)
    _, distinct = np.unique(rows.basket * len(ids) + rows.item, return_index=True)
    return rows.take(distinct[np.lexsort((distinct, rows.basket[distinct]))])
