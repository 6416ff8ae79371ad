"""The predictor of published outcomes: features of users -> scores by outcome."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from profilestream.learn.outcomes import batch_versions, model_versions
from profilestream.learn.outcomes.kernels.outcome_scores import LinearModel
from profilestream.learn.outcomes.kernels.outcome_tasks import feature_values
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.predictor import Options, PublishedRows

_TYPES: dict[str, pa.DataType] = {"outcomes": pa.list_(pa.string()), "predictions": pa.list_(pa.float64())}
_OUTPUTS = pa.schema([pa.field(name, type_) for name, type_ in _TYPES.items()])


class OutcomePredictor:
    """`features` -> `outcomes` and `predictions`: lists with the names of the outcomes whose models have started.

    `features` are lists of numbers in the order of the declaration; null is unknown. A prediction is a probability, or
    the amount of an outcome with Poisson loss. They equal those of `serve_outcomes` with the same version: of its batch
    models, and of the linear models of other outcomes.
    """

    outputs: ClassVar[pa.Schema] = _OUTPUTS

    def __init__(self, rows: PublishedRows, params: Mapping[str, Any], options: Options) -> None:
        self._declared = DeclaredOutcomes.model_validate(params)
        stored = rows.read().drop_columns(["model_version"])
        models = model_versions.models_of(stored, self._declared)
        batch = {one.outcome: one.loaded for one in batch_versions.published_versions(stored, self._declared)}
        self._models = {
            name: batch.get(name) or LinearModel(self._declared.rules[name], model.last)
            for name, model in models.items()
            if model.last.is_started
        }

    def predict(self, inputs: pa.Table, options: Options) -> pa.Table:
        """One row per row of the inputs."""
        values = feature_values(inputs, len(self._declared.features))
        x = self._declared.inputs.matrix(values)
        predictions = [
            model.predictions(model.etas(values, x)) * self._declared.outcomes[name].extrapolation
            for name, model in self._models.items()
        ]
        columns: list[Any] = [[list(self._models)] * len(inputs), np.array(predictions).T.tolist()]
        return pa.table(columns, schema=self.outputs)
