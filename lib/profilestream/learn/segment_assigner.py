"""The model that MLflow loads of published segments. MLflow copies this file and runs it ("models from code").

It holds no numbers: it reads the rows of its version from `published_segments`, without Spark.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from deltalake import DeltaTable
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from profilestream.learn import kmeans
from profilestream.learn.als import Floats


class Assigner(PythonModel):
    """Frame of mean vectors, a column a dimension -> `segment_id` of the nearest center and `distance` to it.

    The distance is in standard deviations, in the scaling of the version. A value that is missing counts as the mean
    of the population, and so does a dimension that did not vary.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Take the centers of the version into memory."""
        config = context.model_config
        is_it = pc.field("model_version") == config["model_version"]
        columns = ["segment_id", "center", "location", "scale"]
        rows = DeltaTable(config["table"]).to_pyarrow_dataset().to_table(columns=columns, filter=is_it).to_pylist()
        if not rows:
            raise ValueError(
                f"{config['table']} holds no version {config['model_version']}: an alias names it no more, so its rows "
                "were removed; load one that an alias names"
            )
        rows.sort(key=lambda row: row["segment_id"])
        self._ids = np.array([row["segment_id"] for row in rows])
        self._dimensions = sorted(dict(rows[0]["location"]))
        self._centers = np.array([self._vector(row["center"]) for row in rows])
        self._location, self._scale = (self._vector(rows[0][name]) for name in ("location", "scale"))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row a vector, in the order of the input."""
        apart = np.nan_to_num(model_input[self._dimensions].to_numpy(dtype=float) - self._location)
        points = np.divide(apart, self._scale, out=np.zeros_like(apart), where=self._scale > 0)
        places, squared = kmeans.nearest(points, self._centers)
        return pd.DataFrame({"segment_id": self._ids[places], "distance": np.sqrt(squared)})

    def _vector(self, told: list[tuple[str, float]]) -> Floats:
        values = dict(told)
        return np.array([values[name] for name in self._dimensions])


set_model(Assigner())
