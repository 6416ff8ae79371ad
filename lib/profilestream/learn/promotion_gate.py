"""The promotion gate: compares the prequential metrics of a version with those of the champion."""

from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Gate, Settings
from profilestream.learn.metrics import Metric
from profilestream.learn.model_registry import RegisteredVersion
from profilestream.learn.version_aliases import VersionTags


@dataclass(frozen=True)
class GateMetric:
    """The metric that versions of a learner are compared by.

    Args:
        learner, model: as in `model_metrics`.
        gate: number of batches, and the required difference.
        baseline: another model; the metric is divided by the baseline's, so that it can be compared between epochs
            with different scales. Empty: no division.
    """

    learner: str
    metric: Metric
    model: str
    gate: Gate
    baseline: str = ""

    @property
    def name(self) -> str:
        """`metric` or `metric/baseline`."""
        return f"{self.metric.name}/{self.baseline}" if self.baseline else self.metric.name


@dataclass(frozen=True)
class GateValue:
    """The gate metric over some evaluated batches of an epoch.

    Args:
        value: mean over the batches, by weight; null without an evaluated batch.
        state_from, state_to: oldest and newest `state_as_of` of the batches, microseconds since 1970.
    """

    epoch: str
    value: float | None = None
    state_from: int = 0
    state_to: int = 0


def passes_gate(
    spark: SparkSession,
    settings: Settings,
    gate_metric: GateMetric,
    champion: RegisteredVersion,
    candidate: GateValue,
) -> tuple[bool, str]:
    """Whether a version with this value should replace the champion, and the reason as text.

    A champion of the same epoch is an earlier state of the same learner. The new state has learned more, so it passes
    unless it is worse than the champion was by more than `tolerance`. A champion of another epoch was learned with
    other settings, or from scratch. The new state must be better by more than `margin`, over the same period of event
    time if the other epoch was evaluated to the end of that period.
    """
    gate, tags = gate_metric.gate, VersionTags.of(champion)
    is_same_epoch = tags.epoch == candidate.epoch
    champion_metric = replace(gate_metric, model=tags.model)
    champion_value = gate_value(spark, settings, champion_metric, tags.epoch, up_to=tags.batch_id).value
    if not is_same_epoch and candidate.value is not None:
        in_period = _value_in_period(spark, settings, champion_metric, tags.epoch, candidate)
        champion_value = champion_value if in_period is None else in_period
    name = f"{gate_metric.name} of {gate_metric.model}"
    if candidate.value is None or champion_value is None:
        which = "this version" if candidate.value is None else f"version {champion.number}"
        return False, f"{name} has no value for {which}"
    sign = -1.0 if gate_metric.metric.is_lower_better else 1.0
    change = -gate.tolerance if is_same_epoch else gate.margin
    limit = champion_value + sign * change * abs(champion_value)
    difference = sign * (candidate.value - limit)
    passes = difference >= 0 if is_same_epoch else difference > 0
    if is_same_epoch:
        bound = "at least" if sign > 0 else "at most"
    else:
        bound = "more than" if sign > 0 else "less than"
    compared = f"needed {bound} {limit:.4f} (version {champion.number}: {champion_value:.4f})"
    return passes, f"{name} is {candidate.value:.4f}, {compared}"


def gate_value(
    spark: SparkSession, settings: Settings, gate_metric: GateMetric, epoch: str, *, up_to: int
) -> GateValue:
    """The metric over the last evaluated batches of an epoch, up to and including batch `up_to`."""
    batches = _evaluated_batches(spark, settings, gate_metric, epoch).where(F.col("batch_id") <= up_to)
    last = batches.orderBy(F.desc("batch_id")).limit(gate_metric.gate.eval_batches)
    row = last.agg(_weighted_mean(), F.min("state_as_of"), F.max("state_as_of")).first()
    return GateValue(epoch) if row is None or row[0] is None else GateValue(epoch, *row)


def _value_in_period(
    spark: SparkSession, settings: Settings, gate_metric: GateMetric, epoch: str, period: GateValue
) -> float | None:
    """The metric of an epoch in the period of another value; null if the epoch ended before the end of the period."""
    batches = _evaluated_batches(spark, settings, gate_metric, epoch).where(F.col("state_as_of") >= period.state_from)
    row = batches.agg(_weighted_mean(F.expr(f"state_as_of <= {period.state_to}")), F.max("state_as_of")).first()
    return None if row is None or row[1] is None or row[1] < period.state_to else row[0]


def _evaluated_batches(spark: SparkSession, settings: Settings, gate_metric: GateMetric, epoch: str) -> DataFrame:
    """One row per evaluated batch: `batch_id`, `state_as_of` (microseconds), `weight`, `value`, `baseline`.

    `value` and `weight` are those of the model, `baseline` is the value that it is divided by (1 without a baseline).
    """

    def of(model: str, column: str) -> Column:
        return F.max(F.when(F.col("model") == model, F.col(column)))

    rows = tables.MODEL_METRICS.read(spark, settings.paths).where(
        (F.col("learner") == gate_metric.learner)
        & (F.col("epoch") == epoch)
        & (F.col("metric") == gate_metric.metric.name)
        & F.col("model").isin(gate_metric.model, gate_metric.baseline)
    )
    batches = rows.groupBy("batch_id").agg(
        F.unix_micros(of(gate_metric.model, "state_as_of")).alias("state_as_of"),
        of(gate_metric.model, "weight").alias("weight"),
        of(gate_metric.model, "value").alias("value"),
        (of(gate_metric.baseline, "value") if gate_metric.baseline else F.lit(1.0)).alias("baseline"),
    )
    return batches.where("weight > 0")


def _weighted_mean(is_included: Column | None = None) -> Column:
    """Sum of weight * value over sum of weight * baseline; batches without one of the two are left out."""
    has_values = F.col("value").isNotNull() & F.col("baseline").isNotNull()
    counts = has_values if is_included is None else has_values & is_included
    value, baseline = (F.sum(F.when(counts, F.col(name) * F.col("weight"))) for name in ("value", "baseline"))
    return F.try_divide(value, baseline)
