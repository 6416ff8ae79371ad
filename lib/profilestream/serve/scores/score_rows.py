"""Scores of users by models of outcomes, with reasons in words. Arrow tables in and out.

Runs on executors, so it imports numpy and pyarrow only, besides the kernels of outcomes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.lists import flatten, lists_by_row
from profilestream.learn.outcomes.kernels import outcome_scores
from profilestream.learn.outcomes.kernels.batch_model import BatchModel
from profilestream.learn.outcomes.kernels.model_inputs import ModelInputs
from profilestream.learn.outcomes.kernels.outcome_model import OutcomeRule, OutcomeState
from profilestream.learn.outcomes.kernels.outcome_scores import LinearModel
from profilestream.learn.outcomes.kernels.outcome_tasks import feature_values

# `features` as in outcome_tasks.EXAMPLE; `populations`: whether the user is in that of each declared outcome.
USER = pa.schema([
    pa.field("user_id", pa.string()), pa.field("features", pa.list_(pa.float64())),
    pa.field("populations", pa.list_(pa.bool_())),
])  # fmt: skip
_REASON_FIELDS: dict[str, pa.DataType] = {
    "feature": pa.string(), "value": pa.float64(), "contribution": pa.float64(), "text": pa.string(),
}  # fmt: skip
_REASON = pa.struct([pa.field(name, type_) for name, type_ in _REASON_FIELDS.items()])
_TYPES: dict[str, pa.DataType] = {
    "user_id": pa.string(), "outcome": pa.string(), "score": pa.float64(), "probability": pa.float64(),
    "reasons": pa.list_(_REASON), "valid_from": pa.int64(), "kind": pa.string(),
}  # fmt: skip
SCORE = pa.schema([pa.field(name, type_) for name, type_ in _TYPES.items()])


@dataclass(frozen=True)
class ScoringModel:
    """A version of a linear model with coefficients, and the batch model that scores instead of it.

    Args:
        valid_from: of the model that scores, microseconds.
        extrapolation: the predicted amount is multiplied by it.
        kind: of the model that scores.
        batch: null: the linear model scores.
    """

    rule: OutcomeRule
    state: OutcomeState
    valid_from: int
    extrapolation: float = 1.0
    kind: str = "linear"
    batch: BatchModel | None = None

    def scores(self, x: Floats, values: Floats) -> tuple[Floats, Floats]:
        """eta and predictions of rows with these inputs and features, each (m,)."""
        model = self.batch or LinearModel(self.rule, self.state)
        eta = model.etas(values, x)
        return eta, model.predictions(eta)


@dataclass(frozen=True)
class FeatureWords:
    """What a feature means, for readers: a question or a name, its period such as `90d` or empty, and the unit."""

    question: str
    period: str = ""
    unit: str = ""

    def text(self, value: float) -> str:
        """The meaning with a value; NaN is unknown."""
        period, unit = (f" ({part})" if part else "" for part in (self.period, self.unit))
        if np.isnan(value):
            return f"{self.question}{period} unknown"
        return f"{self.question}{period} {value:,.{0 if value == round(value) else 2}f}{unit}"


def score_users(
    users: pa.Table, *, model_inputs: ModelInputs, outcomes: Sequence[str], models: Mapping[str, ScoringModel],
    words: Sequence[FeatureWords], max_reasons: int,
) -> dict[str, pa.Table]:  # fmt: skip
    """`scores`: one row per model and user in its population.

    `score` is eta (a logit or margin), or the predicted amount of a Poisson model. `probability` is null for amounts
    and for margins of hinge loss. `reasons` are the features with the largest absolute contribution to eta, which is
    not clipped in them. Contributions of all features add up to eta minus the eta of a row with the means of all
    inputs. Features without a contribution are no reasons. A batch model scores with the reasons of the linear model.

    Args:
        users: rows with USER.
        outcomes: all declared outcomes, in the order of `populations`.
        words: by feature of `model_inputs`.
        max_reasons: per row; 0: all lists are empty.
    """
    values = feature_values(users, len(model_inputs.features))
    x = model_inputs.matrix(values)
    is_in = flatten(users, "populations")[1].to_numpy(zero_copy_only=False).reshape(len(users), len(outcomes))
    parts = [SCORE.empty_table()]
    for outcome, model in models.items():
        members = np.flatnonzero(is_in[:, outcomes.index(outcome)])
        reasons = pa.array([[]] * len(members), SCORE.field("reasons").type)
        if max_reasons:
            contributions = outcome_scores.contributions(model.rule, model.state, x[members])
            reasons = _reasons(contributions, values[members], model_inputs, words, max_reasons)
        parts.append(_scores(users["user_id"].take(members), outcome, model, x[members], values[members], reasons))
    return {"scores": pa.concat_tables(parts)}


def _scores(user_ids: Any, outcome: str, model: ScoringModel, x: Floats, values: Floats, reasons: Any) -> pa.Table:
    """Rows with SCORE by one model."""
    eta, predictions = model.scores(x, values)
    has_probability = model.rule.loss in ("logistic", "squared")
    columns = {
        "user_id": user_ids,
        "outcome": pa.array([outcome] * len(x), pa.string()),
        "score": predictions * model.extrapolation if model.rule.loss == "poisson" else eta,
        "probability": predictions if has_probability else pa.nulls(len(x), pa.float64()),
        "reasons": reasons,
        "valid_from": np.full(len(x), model.valid_from),
        "kind": pa.array([model.kind] * len(x), pa.string()),
    }
    return pa.table(columns, schema=SCORE)


def _reasons(
    contributions: Floats, values: Floats, model_inputs: ModelInputs, words: Sequence[FeatureWords], count: int
) -> Any:
    """The reasons of each row, an array of lists."""
    features, sizes = outcome_scores.top_reasons(contributions, model_inputs.sources, count)
    rows, positions = np.nonzero(sizes)
    features, sizes, shown = features[rows, positions], sizes[rows, positions], values[rows, features[rows, positions]]
    # The value of a category is the number of its bucket, which means nothing to a reader.
    is_category = np.array([one.buckets > 0 for one in model_inputs.features])[features]
    shown[is_category] = np.nan
    texts = [
        f"{words[n].question if is_category_ else words[n].text(value)}; {'raises' if size > 0 else 'lowers'} the score"
        for n, value, size, is_category_ in zip(features, shown.tolist(), sizes, is_category, strict=True)
    ]
    columns: list[Any] = [
        pa.array([model_inputs.features[n].name for n in features], pa.string()),
        pa.array(shown, pa.float64(), from_pandas=True),
        pa.array(sizes, pa.float64()),
        pa.array(texts, pa.string()),
    ]
    return lists_by_row(rows, len(contributions), pa.StructArray.from_arrays(columns, fields=list(_REASON)))
