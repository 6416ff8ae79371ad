"""The predictor of published factors: user ids -> recommended items."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.factors.kernels import als_rows, als_tasks, score_tasks
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.factors.kernels.item_index import ItemIndex
from profilestream.learn.predictor import Options, PublishedRows


class ItemRecommender:
    """`user_id` -> `item_ids` and `scores`: lists, best item first. Items that the user already has are left out.

    All items are in memory; the rows of users are read when they are needed. Options: `ranker`, one of
    item_index.RANKERS, and `top_k`, the number of items per user.
    """

    outputs: ClassVar[pa.Schema] = pa.schema([score_tasks.SCHEMA.field(name) for name in ("item_ids", "scores")])

    def __init__(self, rows: PublishedRows, params: Mapping[str, Any], options: Options) -> None:
        self._rows, self._params = rows, AlsParams(**params)
        (cell,) = rows.read(["global_sums"], pc.field("side") == "global")["global_sums"].to_pylist()
        global_sums = als_rows.global_sums_from_bytes(cell, self._params.width)
        items = rows.read(where=pc.field("side") == "item")
        packed = als_tasks.pack_items(items, global_sums=global_sums, params=self._params)["items"]
        self._index = ItemIndex.from_rows(packed, self._params)

    def predict(self, inputs: pa.Table, options: Options) -> pa.Table:
        """The items with the highest scores of each user."""
        user_ids = [str(user_id) for user_id in inputs["user_id"].to_pylist()]
        is_requested = (pc.field("side") == "user") & pc.field("key").isin(sorted(set(user_ids)))
        users = self._rows.read(where=is_requested)
        ranker, top_k = options["ranker"], int(options["top_k"])
        ranked = score_tasks.recommend_items(user_ids, users, self._index, self._params, ranker=ranker, top_k=top_k)
        return ranked.select(self.outputs.names)
