"""The MLflow model of every published version. MLflow copies this file and runs it ("models from code").

The file has no numbers: its predictor reads the rows of the version from the published table, without Spark.
"""

import json
from importlib import import_module
from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from profilestream.learn.predictor import Predictor, PublishedRows


class PublishedModel(PythonModel):
    """Calls the predictor that the configuration of the model names; parameters of `predict` are its options."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the rows of the version into memory."""
        config = context.model_config
        module, name = config["predictor"].rsplit(".", 1)
        predictor: type[Predictor] = getattr(import_module(module), name)
        self._options = config["options"]
        rows = PublishedRows(config["table"], config["model_version"])
        self._predictor = predictor(rows, json.loads(config["params"]), self._options)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row per row of the input, in the same order."""
        inputs = pa.Table.from_pandas(model_input, preserve_index=False)
        predicted = self._predictor.predict(inputs, {**self._options, **(params or {})})
        columns = zip(predicted.schema, predicted.columns, strict=True)
        return pd.DataFrame({
            field.name: values.to_pylist() if pa.types.is_list(field.type) else values.to_numpy()
            for field, values in columns
        })  # fmt: skip


set_model(PublishedModel())
