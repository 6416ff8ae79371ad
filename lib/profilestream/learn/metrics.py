"""The metrics of `model_metrics`, each declared once, and the rows that a learner writes for a batch.

Evaluation is prequential: a batch is scored with the state before it, and then learned (Dawid, 1984; Gama, Sebastiao
and Rodrigues, 2013). `EvaluationTimes` holds the event times that prove it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.commits import Txn
from profilestream.base.session import frame_of_dicts
from profilestream.learn.kernels.evaluation_times import EvaluationTimes

# `model` of a metric about the batch and not about one ranker or model.
ALL_MODELS = "all"
LATE_ROWS = "late_rows"


@dataclass(frozen=True)
class MetricDefinition:
    """A metric of `model_metrics`.

    Args:
        learner: whose models have it; empty: those of every learner.
        weighted_by: what a value is the mean of: users, ratings, profile vectors, or the batch.
        is_lower_better: else higher is better.
        can_gate: whether a version can be promoted by it: the choices of settings.Publish.metric.
        definition: one sentence.
    """

    name: str
    unit: str
    learner: str
    weighted_by: str
    definition: str
    is_lower_better: bool = False
    can_gate: bool = False


METRICS = {
    metric.name: metric
    for metric in (
        MetricDefinition(
            "recall_10", "share, 0 to 1", "factors", "users",
            "Share of a user's new items in the batch that are among the first 10 of the ranking.",
            can_gate=True,
        ),
        MetricDefinition(
            "recall_20", "share, 0 to 1", "factors", "users",
            "Share of a user's new items in the batch that are among the first 20 of the ranking.",
            can_gate=True,
        ),
        MetricDefinition(
            "ndcg_10", "share, 0 to 1", "factors", "users",
            "Discounted gain of the first 10 of the ranking, divided by that of the best order "
            "(Jarvelin and Kekalainen, 2002).",
            can_gate=True,
        ),
        MetricDefinition(
            "mrr_20", "share, 0 to 1", "factors", "users",
            "1 / rank of the first new item among the first 20 of the ranking, 0 when there is none.",
            can_gate=True,
        ),
        MetricDefinition(
            "coverage", "share, 0 to 1", "factors", "users",
            "Share of all items that are among the first 10 of the ranking of at least one evaluated user.",
        ),
        MetricDefinition(
            "novelty", "bits", "factors", "users",
            "Mean of -log2(share of the item in all popularity) over the first 10 of the ranking "
            "(Vargas and Castells, 2011).",
        ),
        MetricDefinition(
            "rmse", "rating units", "factors", "ratings",
            "Root of the mean squared error of the predicted ratings; mode explicit only.",
            is_lower_better=True, can_gate=True,
        ),
        MetricDefinition(
            "cost", "squared standard deviations", "segments", "profile vectors",
            "Mean squared distance of a profile vector to the nearest segment center (kmeans), or to the mean of all "
            "users (mean).",
            is_lower_better=True,
        ),
        MetricDefinition(
            LATE_ROWS, "rows", "", "batch",
            "Rows of the batch that are not newer than the state; they are learned but not scored.",
            is_lower_better=True,
        ),
    )
}  # fmt: skip


def metric_rows(
    spark: SparkSession,
    learner: str,
    values: Mapping[str, Mapping[str, tuple[float, float]]],
    state_as_of: int,
    times: EvaluationTimes | None,
    txn: Txn,
) -> DataFrame:
    """Rows of `model_metrics` for one batch: one per model and metric, and one that counts the late rows.

    Args:
        values: value and weight by model and metric; a metric without a value is left out.
        state_as_of: newest event time of the state that scored, microseconds since 1970.
        times: of the batch; null when there was no state to score with: then there are no rows.

    Raises:
        KeyError: a metric is not declared in METRICS.
    """
    if times is None:
        by_model, times = {}, EvaluationTimes()
    else:
        by_model = {**values, ALL_MODELS: {LATE_ROWS: (float(times.late_rows), 1.0)}}
    rows = [
        {"model": model, "metric": METRICS[name].name, "value": value, "weight": weight}
        for model, metrics in sorted(by_model.items())
        for name, (value, weight) in metrics.items()
    ]
    constants = {
        "learner": F.lit(learner),
        "state_as_of": _timestamp(state_as_of),
        "rows_from": _timestamp(times.rows_from),
        "rows_to": _timestamp(times.rows_to),
    }
    frame = frame_of_dicts(spark, rows, tables.MODEL_METRICS.schema).withColumns(constants)
    return commits.with_batch_columns(frame, tables.MODEL_METRICS, txn)


def _timestamp(micros: int | None) -> Column:
    return F.timestamp_micros(F.lit(micros).cast("bigint"))
