"""Lists of the users in one partition by the rankers of `basket_counts`, with items that they already bought.

Arrow tables in and out. Runs on executors, so it imports numpy and pyarrow only, besides the kernels of the rankers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.rankers.kernels import basket_rows, blend
from profilestream.learn.rankers.kernels.basket_index import BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import RankerParams
from profilestream.serve.scores import ranked_lists

SCHEMA = ranked_lists.SCHEMA.append(pa.field("purpose", pa.string())).append(
    pa.field("as_of", pa.timestamp("us", "UTC"))
)
# The ranker of each purpose; items that it does not score follow by popularity.
RANKER_OF_PURPOSE = {"buy_again": "due_counts", "next_basket": "own_counts", "next_in_session": "sequence_rules"}
_ONLY_SCORED = ("buy_again", "next_in_session")
_REASONS = {
    "own_counts": "because you {action} it before",
    "transitions": "often follows your latest basket",
    "sequence_rules": "often follows your latest items",
    "popularity": "popular now",
}


@dataclass(frozen=True)
class BasketListOptions:
    """Which lists, and which items they may contain.

    Args:
        purposes: keys of RANKER_OF_PURPOSE.
        top_k: items per user and purpose, at most.
        min_as_of: leave out items without an event since this time, microseconds; null: none.
        action: what the user did with an item that is counted, as a verb in the past.
        blend_weights: of blend.INPUTS: the ranker of `next_basket` is the blend; empty: it is `own_counts`.
    """

    purposes: tuple[str, ...]
    top_k: int
    min_as_of: int | None
    action: str = "bought"
    blend_weights: tuple[float, ...] = ()


def rank_baskets(
    users: pa.Table, items: pa.Table, *, params: RankerParams, options: BasketListOptions
) -> dict[str, pa.Table]:
    """`lists`: rows with SCHEMA.

    Args:
        users, items: rows of `basket_counts`, with basket_rows.USER and ITEM; all items.
    """
    if not len(items):
        return {}
    index = BasketIndex(items, params, options.min_as_of)
    ranked = index.rank(users, options.top_k)
    lists = []
    for purpose in options.purposes:
        if purpose == "next_basket" and options.blend_weights:
            entries = _blend_entries(users, index, options)
        else:
            entries = _ranker_entries(users, index, purpose, *ranked[RANKER_OF_PURPOSE[purpose]])
        lists.append(_rows(users, index, purpose, entries, options))
    return {"lists": pa.concat_tables(lists)}


class _Entries(NamedTuple):
    """Entries of lists in order of user and rank; `rank` begins with 0, `placed_by` is the ranker of the reason."""

    user: Longs
    rank: Longs
    item: Longs
    score: Floats
    ranker: Any
    placed_by: Any


def _ranker_entries(users: pa.Table, index: BasketIndex, purpose: str, items: Longs, scores: Floats) -> _Entries:
    """From positions and scores of the best items of each user, (users, items).

    `next_in_session` has lists of users with an open session only: their latest event is at most the gap between two
    baskets before the newest event of all users.
    """
    is_listed = scores > 1 if purpose in _ONLY_SCORED else scores >= 0
    if purpose == "next_in_session":
        pause = index.as_of - basket_rows.micros(users)
        is_listed = is_listed & (pause <= index.params.basket_gap_minutes * 60_000_000)[:, None]
    user, rank = np.nonzero(is_listed)
    score = scores[user, rank]
    ranker = np.where(score > 1, RANKER_OF_PURPOSE[purpose], "popularity")
    return _Entries(user, rank, items[user, rank], score, ranker, ranker)


def _blend_entries(users: pa.Table, index: BasketIndex, options: BasketListOptions) -> _Entries:
    """The candidates with the highest probability of each user."""
    items, scores, placed_by = blend.rank(index, users, np.array(options.blend_weights), options.top_k)
    user, rank = np.indices(items.shape).reshape(2, -1)
    rankers = np.array(blend.PLACING_RANKERS)[placed_by.ravel()]
    return _Entries(user, rank, items.ravel(), scores.ravel(), np.full(len(user), blend.NAME), rankers)


def _rows(users: pa.Table, index: BasketIndex, purpose: str, entries: _Entries, options: BasketListOptions) -> pa.Table:
    """Rows with SCHEMA."""
    n = len(entries.user)
    if purpose == "buy_again":
        reasons = _history_reasons(users, index, entries, options.action)
    else:
        reasons = [_REASONS[ranker].format(action=options.action) for ranker in entries.placed_by.tolist()]
    purposes, as_of = pa.array([purpose] * n, pa.string()), pa.array([index.as_of] * n, SCHEMA.field("as_of").type)
    columns: list[Any] = [
        users["key"].take(entries.user), entries.rank + 1, index.ids.take(entries.item), entries.score, entries.ranker,
        pa.nulls(n, pa.string()), pa.array(reasons, pa.string()), entries.placed_by, purposes, as_of,
    ]  # fmt: skip
    return pa.table(columns, schema=SCHEMA)


def _history_reasons(users: pa.Table, index: BasketIndex, entries: _Entries, action: str) -> list[str]:
    """How often, at which mean interval, and when the user had each item before, in days before the newest event."""
    history = index.history(users).at(entries.user * len(index.ids) + entries.item)
    intervals = np.rint(history.intervals / MICROS_PER_DAY).astype(np.int64)
    columns = history.baskets, intervals, (index.as_of - history.last) // MICROS_PER_DAY
    return [_history_reason(action, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _history_reason(action: str, baskets: int, interval: int, age: int) -> str:
    """The interval and the age are whole days; an interval of 0 is left out."""
    last = "less than a day ago" if age < 1 else f"{_days(age)} ago"
    if baskets < 2:
        return f"you {action} it {last}"
    interval_text = f", about every {_days(interval)}" if interval else ""
    return f"you {action} it {baskets} times{interval_text}; the last time was {last}"


def _days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"
