"""Metrics of `model_metrics`, and the rows that a learner writes for a batch. Each learner declares its own metrics.

Evaluation is prequential: a batch is scored with the state before it, and then learned (Dawid, 1984; Gama, Sebastiao
and Rodrigues, 2013). `EvaluationTimes` holds the event times that prove it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from profilestream.base import tables
from profilestream.base.commits import Txn
from profilestream.base.language import message
from profilestream.learn.kernels.evaluation_times import EvaluationTimes

# `model` of a metric about the batch and not about one ranker or model.
ALL_MODELS = "all"


@dataclass(frozen=True)
class Metric:
    """A metric of `model_metrics`.

    Args:
        weighted_by: what a value is the mean of: users, ratings, profile vectors, or the batch.
        definition: one sentence.
        is_lower_better: else higher is better.
        can_gate: whether a version can be promoted by it: the choices of settings.Publish.metric.
    """

    name: str
    unit: str
    weighted_by: str
    definition: str
    is_lower_better: bool = False
    can_gate: bool = False


# Units of metrics.
SHARE, RATIO = message("share, 0 to 1"), message("ratio")
LATE_ROWS = Metric(
    "late_rows", message("rows"), "batch",
    "Rows of the batch that are not newer than the state; they are learned but not scored.",
    is_lower_better=True,
)  # fmt: skip
RANKING = (
    Metric(
        "recall_10", SHARE, "users",
        "Share of a user's new items in the batch that are among the first 10 of the ranking.",
        can_gate=True,
    ),
    Metric(
        "recall_20", SHARE, "users",
        "Share of a user's new items in the batch that are among the first 20 of the ranking.",
        can_gate=True,
    ),
    Metric(
        "ndcg_10", SHARE, "users",
        "Discounted gain of the first 10 of the ranking, divided by that of the best order "
        "(Jarvelin and Kekalainen, 2002).",
        can_gate=True,
    ),
    Metric(
        "mrr_20", SHARE, "users",
        "1 / rank of the first new item among the first 20 of the ranking, 0 when there is none.",
        can_gate=True,
    ),
    Metric(
        "coverage", SHARE, "users",
        "Share of all items that are among the first 10 of the ranking of at least one evaluated user.",
    ),
    Metric(
        "novelty", message("bits"), "users",
        "Mean of -log2(share of the item in all popularity) over the first 10 of the ranking "
        "(Vargas and Castells, 2011).",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a batch by the state before it.

    Args:
        values: value and weight by model and metric; a metric without a value is left out.
        times: of the rows of the batch; null when there was no state to score with.
        state_as_of: newest event time of that state, microseconds since 1970.
    """

    values: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    times: EvaluationTimes | None = None
    state_as_of: int = 0


def metric_rows(learner: str, declared: Sequence[Metric], evaluation: Evaluation, txn: Txn) -> pa.Table:
    """Rows of `model_metrics` for one batch: one per model and metric, and one that counts the late rows.

    Raises:
        KeyError: a metric is not declared.
    """
    names = {metric.name for metric in (*declared, LATE_ROWS)}
    times, by_model = evaluation.times, dict(evaluation.values)
    if times is None:
        times, by_model = EvaluationTimes(), {}
    else:
        by_model[ALL_MODELS] = {LATE_ROWS.name: (float(times.late_rows), 1.0)}
    if unknown := {name for values in by_model.values() for name in values} - names:
        raise KeyError(f"{learner} does not declare the metrics {sorted(unknown)}")
    return tables.MODEL_METRICS.arrow_rows([
        {
            "learner": learner, "epoch": txn.epoch, "batch_id": txn.batch_id, "model": model, "metric": name,
            "value": value, "weight": weight, "state_as_of": evaluation.state_as_of, "rows_from": times.rows_from,
            "rows_to": times.rows_to,
        }
        for model, values in sorted(by_model.items())
        for name, (value, weight) in values.items()
    ])  # fmt: skip
