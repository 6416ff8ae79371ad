"""Lists of the users in one partition by the rankers of `basket_counts`, with items that they already bought.

Arrow tables in and out. Runs on executors, so it imports numpy and pyarrow only, besides the kernels of the rankers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.rankers.kernels.count_rankers import BasketIndex, RankerParams
from profilestream.serve.scores import ranked_lists

SCHEMA = ranked_lists.SCHEMA.append(pa.field("purpose", pa.string())).append(
    pa.field("as_of", pa.timestamp("us", "UTC"))
)
# The ranker of each purpose; items that it does not score follow by popularity.
RANKER_OF_PURPOSE = {"buy_again": "own_counts", "next_basket": "own_counts", "next_in_session": "sequence_rules"}
_ONLY_SCORED = ("buy_again", "next_in_session")
_POPULAR = "popular now"


@dataclass(frozen=True)
class BasketListOptions:
    """Which lists, and which items they may contain.

    Args:
        purposes: keys of RANKER_OF_PURPOSE.
        top_k: items per user and purpose, at most.
        min_as_of: leave out items without an event since this time, microseconds; null: none.
        action: what the user did with an item that is counted, as a verb in the past.
    """

    purposes: tuple[str, ...]
    top_k: int
    min_as_of: int | None
    action: str = "bought"


def rank_baskets(
    users: pa.Table, items: pa.Table, *, params: RankerParams, options: BasketListOptions
) -> dict[str, pa.Table]:
    """`lists`: rows with SCHEMA.

    Args:
        users, items: rows of `basket_counts`, with count_rankers.USER and ITEM; all items.
    """
    if not len(items):
        return {}
    index = BasketIndex(items, params, options.min_as_of)
    ranked = index.rank(users, options.top_k)
    lists = [_rows(users, index, purpose, *ranked[RANKER_OF_PURPOSE[purpose]], options) for purpose in options.purposes]
    return {"lists": pa.concat_tables(lists)}


def _rows(
    users: pa.Table, index: BasketIndex, purpose: str, items: Longs, scores: Floats, options: BasketListOptions
) -> pa.Table:
    """The rows of one purpose, from positions and scores of the best items of each user, (users, items)."""
    is_scored = scores > 1
    user, column = np.nonzero(is_scored if purpose in _ONLY_SCORED else scores >= 0)
    item, is_scored = items[user, column], is_scored[user, column]
    ranker = np.where(is_scored, RANKER_OF_PURPOSE[purpose], "popularity")
    texts = {
        "own_counts": f"because you {options.action} it before",
        "sequence_rules": "often follows your latest items",
    }
    reason = np.where(is_scored, texts[RANKER_OF_PURPOSE[purpose]], _POPULAR)
    n = len(user)
    purposes, as_of = pa.array([purpose] * n, pa.string()), pa.array([index.as_of] * n, SCHEMA.field("as_of").type)
    columns: list[Any] = [
        users["key"].take(user), column + 1, index.ids.take(item), scores[user, column], ranker,
        pa.nulls(n, pa.string()), reason, ranker, purposes, as_of,
    ]  # fmt: skip
    return pa.table(columns, schema=SCHEMA)
