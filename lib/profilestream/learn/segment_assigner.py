"""The MLflow model of published segments. MLflow copies this file and executes it ("models from code").

The model stores no numbers: it reads the rows of its version from `published_segments`, without Spark.
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


class SegmentAssigner(PythonModel):
    """Mean vectors, one column per dimension -> `segment_id` of the nearest center and `distance` to it.

    The distance is in standard deviations, in the scaling of the version. A missing value, and a dimension with scale
    0, count as the mean of all users.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the centers of the version into memory."""
        config = context.model_config
        has_version = pc.field("model_version") == config["model_version"]
        columns = ["segment_id", "center", "location", "scale"]
        dataset = DeltaTable(config["table"]).to_pyarrow_dataset()
        rows = dataset.to_table(columns=columns, filter=has_version).to_pylist()
        if not rows:
            raise ValueError(
                f"{config['table']} has no rows of version {config['model_version']}: they were removed because no "
                "alias names this version; load a version that has an alias"
            )
        rows.sort(key=lambda row: row["segment_id"])
        self._ids = np.array([row["segment_id"] for row in rows])
        self._dimensions = sorted(dict(rows[0]["location"]))
        self._centers = np.array([self._vector(row["center"]) for row in rows])
        self._location, self._scale = (self._vector(rows[0][name]) for name in ("location", "scale"))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row per row of the input, in the same order."""
        difference = np.nan_to_num(model_input[self._dimensions].to_numpy(dtype=float) - self._location)
        points = np.divide(difference, self._scale, out=np.zeros_like(difference), where=self._scale > 0)
        nearest, squared = kmeans.nearest_centers(points, self._centers)
        return pd.DataFrame({"segment_id": self._ids[nearest], "distance": np.sqrt(squared)})

    def _vector(self, items: list[tuple[str, float]]) -> Floats:
        values = dict(items)
        return np.array([values[name] for name in self._dimensions])


set_model(SegmentAssigner())
