"""The model that MLflow loads of a published version. MLflow copies this file and runs it ("models from code").

It holds no numbers: it reads the rows of its version from `published_factors`, without Spark.
"""

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from profilestream.learn import als_tasks, score_tasks
from profilestream.learn.als import Params


class Recommender(PythonModel):
    """Frame of `user_id` -> `item_ids` and `scores`, both lists, best first. `params={"top_k": n}` for n items."""

    def load_context(self, context: PythonModelContext) -> None:
        """Take all items of the version into memory."""
        config = context.model_config
        self._config, self._params = config, Params(**config["params"])
        table = DeltaTable(config["table"])
        self._rows = table.to_pyarrow_dataset().filter(pc.field("model_version") == config["model_version"])
        known = self._rows.to_table(columns=["equations"], filter=pc.field("side") == "global")
        if not known.num_rows:
            raise ValueError(
                f"{config['table']} holds no version {config['model_version']}: an alias names it no more, so its rows "
                "were removed; load one that an alias names"
            )
        now = als_tasks.globals_of(known["equations"][0].as_py(), self._params.width)
        items = self._side("item")
        at = pc.cast(pc.cast(items["as_of"], pa.timestamp("us", "UTC")), pa.int64())
        packed = als_tasks.pack_items(
            iter(items.append_column("at", at).combine_chunks().to_batches()), now, self._params
        )
        self._items = als_tasks.unpacked_items(
            [b for batch in packed for b in batch["equations"].to_pylist()], self._params
        )

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row a user, in the order of the input."""
        asked = model_input["user_id"].tolist()
        users = self._side("user", pc.field("key").isin(sorted(set(asked))))
        top_k = int((params or {}).get("top_k", self._config["top_k"]))
        ranker = self._config["ranker"]
        found = score_tasks.scored(asked, users, self._items, self._params, ranker=ranker, top_k=top_k)
        return pd.DataFrame(found.drop_columns("user_id").to_pydict())

    def _side(self, side: str, wanted: "ds.Expression | None" = None) -> pa.Table:
        is_it = pc.field("side") == side
        return self._rows.to_table(filter=is_it if wanted is None else is_it & wanted)


set_model(Recommender())
