"""The MLflow model of published factors: user ids -> recommended items. MLflow copies this file and runs it.

The file has no vectors: it reads the rows of its version from `published_factors`, without Spark.
"""

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from profilestream.learn import als_rows, als_tasks, score_tasks
from profilestream.learn.als import AlsParams


class Recommender(PythonModel):
    """Frame with `user_id` -> frame with `item_ids` and `scores`: lists, best item first.

    `params={"top_k": n}` sets the number of items per user.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read all items of the version into memory.

        Raises:
            ValueError: the rows of the version were removed.
        """
        config = context.model_config
        self._config, self._params = config, AlsParams(**config["params"])
        table = DeltaTable(config["table"])
        self._rows = table.to_pyarrow_dataset().filter(pc.field("model_version") == config["model_version"])
        global_rows = self._rows.to_table(columns=["global_sums"], filter=pc.field("side") == "global")
        if not global_rows.num_rows:
            raise ValueError(
                f"{config['table']} has no rows of version {config['model_version']}: they were removed after its last "
                "alias was; load a version that has an alias"
            )
        global_sums = als_rows.global_sums_from_bytes(global_rows["global_sums"][0].as_py(), self._params.width)
        items = self._rows_of("item")
        time_micros = pc.cast(pc.cast(items["as_of"], pa.timestamp("us", "UTC")), pa.int64())
        rows = items.append_column("time_micros", time_micros).combine_chunks().to_batches()
        packed = als_tasks.pack_items(iter(rows), global_sums, self._params)
        self._items = als_tasks.unpack_items(
            [data for batch in packed for data in batch["payload"].to_pylist()], self._params
        )

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row per user, in the order of the input. Items that the user already has are left out."""
        user_ids = model_input["user_id"].tolist()
        users = self._rows_of("user", pc.field("key").isin(sorted(set(user_ids))))
        top_k = int((params or {}).get("top_k", self._config["top_k"]))
        ranker = self._config["ranker"]
        ranked = score_tasks.recommend_items(user_ids, users, self._items, self._params, ranker=ranker, top_k=top_k)
        return pd.DataFrame(ranked.drop_columns("user_id").to_pydict())

    def _rows_of(self, side: str, condition: "ds.Expression | None" = None) -> pa.Table:
        has_side = pc.field("side") == side
        return self._rows.to_table(filter=has_side if condition is None else has_side & condition)


set_model(Recommender())
