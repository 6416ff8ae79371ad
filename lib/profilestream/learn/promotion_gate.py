"""The promotion gate: compares versions by metrics of evaluated batches, or by losses on the same rows.

Pure functions of rows and sums in the driver.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

from profilestream.base.settings import Gate
from profilestream.learn.evaluated_batches import EvaluatedBatches
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.batch_intervals import Interval, RatioOfSums, difference_interval
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.metrics import Metric
from profilestream.learn.model_registry import RegisteredVersion
from profilestream.learn.version_aliases import VersionTags

# A bootstrap over fewer batches is too narrow.
_MIN_BATCHES = 5


class Evaluated(Protocol):
    """A metric in batches, or in groups of users, that can be resampled."""

    def __len__(self) -> int: ...

    @property
    def weights(self) -> Floats: ...

    @property
    def ratio(self) -> RatioOfSums: ...


@dataclass(frozen=True)
class GroupLosses:
    """Losses of a version, sums by group of users, (groups,); each group has rows."""

    losses: Floats
    weights: Floats

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def ratio(self) -> RatioOfSums:
        """The mean by row."""
        return RatioOfSums(self.losses, self.weights)


class PairedLosses(NamedTuple):
    """Losses of the champion and of the version before on the same rows, in the same groups of users.

    Args:
        name: of the loss, such as `log loss of buy`. Lower is better.
    """

    name: str
    champion: GroupLosses
    previous: GroupLosses


@dataclass(frozen=True)
class GateMetric:
    """The metric that versions of a learner are compared by.

    Args:
        learner, model: as in `model_metrics`.
        gate: number of batches, and the required difference.
        baseline: another model; the metric is divided by the baseline's, so that it can be compared between epochs
            with different scales. Empty: no division.
        label_days: a row is evaluated this many days after its time.
        label_metric: name of the metric that is the mean label, for the detection of drift; empty: none.
    """

    learner: str
    metric: Metric
    model: str
    gate: Gate
    baseline: str = ""
    label_days: int = 0
    label_metric: str = ""

    @property
    def name(self) -> str:
        """`metric` or `metric/baseline`."""
        return f"{self.metric.name}/{self.baseline}" if self.baseline else self.metric.name

    @property
    def metrics(self) -> list[str]:
        """The metrics that `evaluated_batches.collect` reads for the gate."""
        return [self.metric.name, *([self.label_metric] if self.label_metric else [])]

    def batches(self, rows: pa.Table, epoch: str, model: str = "") -> EvaluatedBatches:
        """The evaluated batches of an epoch; by default of this model.

        Args:
            rows: from `evaluated_batches.collect`.
        """
        return EvaluatedBatches.of(rows, self.metric.name, model or self.model, epoch, self.baseline)

    def gain(self, one: Evaluated, other: Evaluated, *, is_paired: bool) -> Interval:
        """By how much the metric of `one` is better than that of `other`, in the unit of the metric."""
        better, worse = (other, one) if self.metric.is_lower_better else (one, other)
        return difference_interval(better.ratio, worse.ratio, is_paired=is_paired)

    def has_evidence(self, *sides: Evaluated, needs_interval: bool = True) -> bool:
        """Whether each side has enough weight, a finite mean, and enough batches or groups for an interval."""
        batches = min(_MIN_BATCHES, self.gate.eval_batches) if needs_interval else 1
        return all(
            len(side) >= batches and side.weights.sum() >= self.gate.min_weight and math.isfinite(side.ratio.value)
            for side in sides
        )


class Decision(NamedTuple):
    """Whether a version becomes the champion, and why."""

    passes: bool
    reason: str


def compare(
    gate_metric: GateMetric, rows: pa.Table, champion: RegisteredVersion, candidate: EvaluatedBatches, epoch: str
) -> Decision:
    """Whether a version replaces the champion.

    A champion of the same epoch is an earlier state of the same learner. The new state has learned more, so it passes
    unless its mean is worse than that of the champion when it was published, by more than `tolerance`. A champion of
    another epoch was learned with other settings, or from scratch. The new state must be better by more than `margin`
    at the lower end of the interval.

    Args:
        rows: from `evaluated_batches.collect`, with the epochs of both.
        candidate: the last evaluated batches of the version.
        epoch: of the version.
    """
    if VersionTags.of(champion).epoch == epoch:
        return _compare_with_earlier_state(gate_metric, rows, champion, candidate)
    return _compare_with_other_epoch(gate_metric, rows, champion, candidate)


def _compare_with_earlier_state(
    gate_metric: GateMetric, rows: pa.Table, champion: RegisteredVersion, candidate: EvaluatedBatches
) -> Decision:
    before, name = _at_publication(gate_metric, rows, champion), f"{gate_metric.name} of {gate_metric.model}"
    if not gate_metric.has_evidence(candidate, needs_interval=False):
        return Decision(False, f"{name} has {_evidence(candidate)} for this version{_needed(gate_metric)}")
    value = candidate.ratio.value
    if not gate_metric.has_evidence(before, needs_interval=False):
        return Decision(True, f"{name} is {value:.4f}, and version {champion.number} has {_evidence(before)}")
    sign = -1.0 if gate_metric.metric.is_lower_better else 1.0
    limit = before.ratio.value - sign * gate_metric.gate.tolerance * abs(before.ratio.value)
    bound = "at least" if sign > 0 else "at most"
    compared = f"needed {bound} {limit:.4f} (version {champion.number}: {before.ratio.value:.4f})"
    return Decision(sign * (value - limit) >= 0, f"{name} is {value:.4f}, {compared}")


def _compare_with_other_epoch(
    gate_metric: GateMetric, rows: pa.Table, champion: RegisteredVersion, candidate: EvaluatedBatches
) -> Decision:
    name, tags = f"{gate_metric.name} of {gate_metric.model}", VersionTags.of(champion)
    of_epoch = gate_metric.batches(rows, tags.epoch, tags.model)
    pairs = candidate.common(of_epoch)
    is_paired = gate_metric.has_evidence(*pairs)
    (one, other), period = pairs, f"over {len(pairs[0])} common batches"
    if not is_paired:
        one, in_period = candidate, _in_period(of_epoch, candidate)
        other = _at_publication(gate_metric, rows, champion) if in_period is None else in_period
        period = "at its publication" if in_period is None else "over the same period"
    if not gate_metric.has_evidence(one, other):
        sides = f"{_evidence(one)} for this version, and {_evidence(other)} for version {champion.number}"
        return Decision(False, f"{name} has {sides}{_needed(gate_metric)}")
    gain, limit = gate_metric.gain(one, other, is_paired=is_paired), gate_metric.gate.margin * abs(other.ratio.value)
    compared = f"version {champion.number}: {other.ratio.value:.4f} {period}"
    reason = f"{name} is {one.ratio.value:.4f} ({compared}); better by {gain}, needed more than {limit:.4f}"
    return Decision(gain.low > limit, reason)


def _at_publication(gate_metric: GateMetric, rows: pa.Table, version: RegisteredVersion) -> EvaluatedBatches:
    """The last evaluated batches of a version when it was published."""
    tags = VersionTags.of(version)
    return gate_metric.batches(rows, tags.epoch, tags.model).until(tags.batch_id).last(gate_metric.gate.eval_batches)


def _in_period(batches: EvaluatedBatches, period: EvaluatedBatches) -> EvaluatedBatches | None:
    """The batches in the period of others; null if there are none, or they end before the end of the period."""
    if not len(period) or not len(batches) or batches.state_as_of.max() < period.state_as_of.max():
        return None
    is_in_period = (batches.state_as_of >= period.state_as_of.min()) & (batches.state_as_of <= period.state_as_of.max())
    return batches.where(is_in_period) if is_in_period.any() else None


def _evidence(batches: EvaluatedBatches) -> str:
    return f"{len(batches)} evaluated batches with weight {batches.weights.sum():g}" if len(batches) else "no value"


def _needed(gate_metric: GateMetric) -> str:
    batches = min(_MIN_BATCHES, gate_metric.gate.eval_batches)
    return f"; an interval needs {batches} batches, and a comparison the weight {gate_metric.gate.min_weight:g}"


def find_deterioration(
    gate_metric: GateMetric, rows: pa.Table, champion: RegisteredVersion, previous: RegisteredVersion,
    paired: PairedLosses | None = None,
) -> str:  # fmt: skip
    """The reason why the champion is too bad since its publication; empty: it is not.

    It is too bad if it is worse than the version before by more than `tolerance`, at the better end of the interval, or
    not finite. Losses on the same rows are compared in pairs. Without them, the metric of the champion since its
    publication is compared with that of the version before when it was published. A champion that is older than the
    version before was promoted by a user, and is not compared.
    """
    if champion.number < previous.number:
        return ""
    gate = gate_metric.gate
    since: Evaluated
    before: Evaluated
    if paired is None:
        tags = VersionTags.of(champion)
        batches = gate_metric.batches(rows, tags.epoch, tags.model).since(tags.batch_id, tags.valid_from)
        since, before = batches.last(gate.eval_batches), _at_publication(gate_metric, rows, previous)
        name, period = f"{gate_metric.name} of {tags.model} since version {champion.number}", "at its publication"
    else:
        since, before = paired.champion, paired.previous
        name = f"{paired.name} in {since.weights.sum():.0f} rows after version {champion.number}"
        period = "in the same rows"
    if not len(since):
        return ""
    name = f"{name} is {since.ratio.value:.4f}"
    if not math.isfinite(since.ratio.value):
        return name
    if not gate_metric.has_evidence(since, before):
        return ""
    if paired is None:
        worse = gate_metric.gain(before, since, is_paired=False)
    else:
        worse = difference_interval(since.ratio, before.ratio, is_paired=True)
    limit = gate.tolerance * abs(before.ratio.value)
    compared = f"version {previous.number}: {before.ratio.value:.4f} {period}"
    return f"{name} ({compared}); worse by {worse}, allowed {limit:.4f}" if worse.low > limit else ""


def find_drought(gate_metric: GateMetric, evaluated: EvaluatedBatches, batch_id: int, newest_day: int | None) -> str:
    """The reason why there are no recent evaluated rows; empty: there are.

    Args:
        evaluated: all evaluated batches of the epoch.
        batch_id: the last batch of the learner.
        newest_day: day of the newest events, since 1970; null: there is no table of events.
    """
    gate = gate_metric.gate
    missed = batch_id - (int(evaluated.batch_ids[-1]) if len(evaluated) else -1)
    if missed >= gate.eval_batches:
        return f"label drought: the last {missed} batches have no evaluated rows"
    newest, limit = evaluated.newest_rows, gate.drought_days + gate_metric.label_days
    if newest is None or newest_day is None or (age := newest_day - newest // MICROS_PER_DAY) <= limit:
        return ""
    return f"label drought: the newest evaluated rows are {age} days older than the newest events, allowed {limit:g}"
