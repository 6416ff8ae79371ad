"""The predictor of published rankers: user ids -> ranked items."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.predictor import Options, PublishedRows
from profilestream.learn.rankers.kernels.basket_index import BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import ITEM, RANKED, USER, RankerParams


class BasketRecommender:
    """`user_id` -> `item_ids` and `scores`: lists, best item first; bought items are not left out.

    Options: `ranker`, one of basket_index.RANKERS, and `top_k`, the number of items per user.
    """

    outputs: ClassVar[pa.Schema] = RANKED

    def __init__(self, rows: PublishedRows, params: Mapping[str, Any], options: Options) -> None:
        self._rows = rows
        self._index = BasketIndex(rows.read(ITEM.names, pc.field("side") == "item"), RankerParams(**params))

    def predict(self, inputs: pa.Table, options: Options) -> pa.Table:
        """The items with the highest scores of each user."""
        user_ids = inputs["user_id"].cast(pa.string())
        is_requested = (pc.field("side") == "user") & pc.field("key").isin(pc.unique(user_ids))
        users = self._rows.read(USER.names, is_requested)
        users = users.take(pc.index_in(user_ids, value_set=users["key"].combine_chunks()))
        items, scores = self._index.rank(users, int(options["top_k"]))[options["ranker"]]
        ids = self._index.ids
        columns: list[Any] = [[ids.take(row) for row in items], list(scores)]
        return pa.table(columns, schema=self.outputs)
