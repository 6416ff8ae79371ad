"""Comparison of two models of an outcome on the same rows: metrics, and losses by group of users."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import Sums
from profilestream.learn.outcomes.kernels import outcome_tasks
from profilestream.learn.outcomes.kernels.batch_model import BatchModel
from profilestream.learn.outcomes.kernels.model_inputs import ModelInputs
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums, log_losses
from profilestream.learn.outcomes.kernels.outcome_model import Loss
from profilestream.learn.outcomes.kernels.outcome_scores import LinearModel
from profilestream.learn.outcomes.kernels.outcome_tasks import Cell

USER_GROUPS = 200
# Outcome and kind.
ModelKey = tuple[str, str]
Model = BatchModel | LinearModel
# A model, and the one that it is compared with.
ModelPair = tuple[Model, Model]


@dataclass(frozen=True)
class ModelScores(Sums):
    """Sums over rows that a model has scored.

    Args:
        scores: of all rows.
        losses: by group of users, (USER_GROUPS,).
    """

    scores: ScoreSums
    losses: Floats


@dataclass(frozen=True)
class Comparison(Sums):
    """Sums over rows that two models have scored.

    Args:
        rows: number of rows by group of users, (USER_GROUPS,).
        model, other: their scores of these rows.
    """

    rows: Floats
    model: ModelScores
    other: ModelScores


def row_losses(loss: Loss, labels: Floats, predictions: Floats) -> Floats:
    """Log loss of binary labels, or the Poisson deviance of amounts, (m,); a negative amount is 0."""
    if loss != "poisson":
        return log_losses(labels, predictions)
    amounts = np.maximum(labels, 0.0)
    means = np.maximum(predictions, np.finfo(float).tiny)
    logs = np.log(np.where(amounts > 0, amounts / means, 1.0))
    return np.asarray(2 * (amounts * logs - amounts + means))


def compare_examples(
    examples: pa.Table, *, cell: Cell, model_inputs: ModelInputs, pairs: Mapping[ModelKey, ModelPair]
) -> dict[str, Any]:
    """`comparisons`: a Comparison over the rows of a cell by outcome and kind."""
    examples = outcome_tasks.rows_of_cell(examples, cell)
    values = outcome_tasks.feature_values(examples, len(model_inputs.features))
    x = model_inputs.matrix(values)
    groups = outcome_tasks.user_hashes(examples) % USER_GROUPS
    comparisons = {}
    for (outcome, kind), (model, other) in pairs.items():
        labels = outcome_tasks.labels_of(examples, outcome)
        has_label = np.isfinite(labels)
        rows = values[has_label], x[has_label], labels[has_label], groups[has_label]
        comparisons[outcome, kind] = Comparison(
            rows=_by_group(np.ones(len(rows[0])), rows[-1]),
            model=_model_scores(model, *rows, cell.at),
            other=_model_scores(other, *rows, cell.at),
        )
    return {"comparisons": comparisons}


def _model_scores(model: Model, values: Floats, x: Floats, labels: Floats, groups: Longs, at: int) -> ModelScores:
    eta = model.etas(values, x)
    predictions = model.predictions(eta)
    losses = row_losses(model.loss, labels, predictions)
    return ModelScores(ScoreSums.of(eta, labels, predictions, at), _by_group(losses, groups))


def _by_group(values: Floats, groups: Longs) -> Floats:
    """Sums by group of users, (USER_GROUPS,)."""
    return np.asarray(np.bincount(groups, values, USER_GROUPS), float)
