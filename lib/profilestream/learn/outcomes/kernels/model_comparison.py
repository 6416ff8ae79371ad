"""Comparison of batch models with linear models on the same rows: metrics, and losses by group of users."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import Sums
from profilestream.learn.outcomes.kernels import outcome_scores, outcome_tasks
from profilestream.learn.outcomes.kernels.batch_model import BatchModel
from profilestream.learn.outcomes.kernels.model_inputs import ModelInputs
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums, log_losses
from profilestream.learn.outcomes.kernels.outcome_model import Loss, Rules, States
from profilestream.learn.outcomes.kernels.outcome_tasks import Cell

USER_GROUPS = 200
# Outcome and kind.
ModelKey = tuple[str, str]


@dataclass(frozen=True)
class Comparison(Sums):
    """Sums over rows that both models have scored.

    Args:
        scores, linear_scores: of the batch model and of the linear model.
        losses, linear_losses: sums by group of users, (USER_GROUPS,).
    """

    scores: ScoreSums
    linear_scores: ScoreSums
    losses: Floats
    linear_losses: Floats


def row_losses(loss: Loss, labels: Floats, predictions: Floats) -> Floats:
    """Log loss of binary labels, or the Poisson deviance of amounts, (m,); a negative amount is 0."""
    if loss != "poisson":
        return log_losses(labels, predictions)
    amounts = np.maximum(labels, 0.0)
    means = np.maximum(predictions, np.finfo(float).tiny)
    logs = np.log(np.where(amounts > 0, amounts / means, 1.0))
    return np.asarray(2 * (amounts * logs - amounts + means))


def compare_examples(
    examples: pa.Table, *, cell: Cell, model_inputs: ModelInputs, rules: Rules, linear: States,
    batch: Mapping[ModelKey, BatchModel],
) -> dict[str, Any]:  # fmt: skip
    """`comparisons`: a Comparison over the rows of a cell by outcome and kind.

    Args:
        linear: the linear model of each outcome of `batch`.
    """
    examples = outcome_tasks.rows_of_cell(examples, cell)
    values = outcome_tasks.feature_values(examples, len(model_inputs.features))
    x = model_inputs.matrix(values)
    groups = outcome_tasks.user_hashes(examples) % USER_GROUPS
    comparisons = {}
    for (outcome, kind), model in batch.items():
        labels, rule, state = outcome_tasks.labels_of(examples, outcome), rules[outcome], linear[outcome]
        eta, linear_eta = model.etas(values, x), outcome_scores.etas(rule, state, x)
        predictions = model.predictions(eta)
        linear_predictions = outcome_scores.predictions(rule, state, linear_eta)
        comparisons[outcome, kind] = Comparison(
            scores=ScoreSums.of(eta, labels, predictions, cell.at),
            linear_scores=ScoreSums.of(linear_eta, labels, linear_predictions, cell.at),
            losses=_group_losses(rule.loss, labels, predictions, groups),
            linear_losses=_group_losses(rule.loss, labels, linear_predictions, groups),
        )
    return {"comparisons": comparisons}


def _group_losses(loss: Loss, labels: Floats, predictions: Floats, groups: Longs) -> Floats:
    """Sum of the losses of each group of users, (USER_GROUPS,); rows without a label have none."""
    losses = np.where(np.isfinite(labels), row_losses(loss, np.nan_to_num(labels), predictions), 0.0)
    return np.asarray(np.bincount(groups, losses, USER_GROUPS), float)
