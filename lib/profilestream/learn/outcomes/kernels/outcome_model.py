"""Linear models of outcomes: eta = coefficients x inputs, and the sums that update them; other modules have the rules.

The steps of a batch, for all outcomes with the same inputs x. The driver handles sums only; passes over rows run on the
executors:

    score     outcome_scores.etas and predictions, with the state before the batch
    start     for models without coefficients: a pass for the moments, and `start`
    passes    sum_rows(...) per partition, combined by sums.total; rule.apply once per pass, always to the same state

Shapes: m rows, c columns. The first column of x is 1, and all its values are finite (model_inputs.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np

from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.sums import decay_factors, total
from profilestream.learn.outcomes.kernels.outcome_sums import LABEL_BINS, OutcomeSums, count_labels

Loss = Literal["logistic", "squared", "hinge", "poisson"]
MAX_ETA = 8.0
_MIN_POSITIVE_LABELS = 10


class LabeledRows(NamedTuple):
    """Rows of one outcome: x (m, c), labels, times in microseconds, and numbers of virtual shards, each (m,).

    A label that is not finite: the row is not in the population of the outcome.
    """

    x: Floats
    labels: Floats
    times: Longs
    shards: Longs

    def take(self, rows: Bools) -> "LabeledRows":
        """Some of the rows."""
        return LabeledRows(self.x[rows], self.labels[rows], self.times[rows], self.shards[rows])


class Linearization(NamedTuple):
    """What the sums of a batch depend on besides its rows; see OutcomeState."""

    coefficients: Floats
    means: Floats
    scales: Floats
    label_unit: float
    label_cap: float


@dataclass(frozen=True)
class OutcomeState:
    """A model and the sums that it was computed from.

    Args:
        names: of the columns of x; the first one is the intercept.
        coefficients: of the inputs, (c,); zeros before the start.
        sums: over all learned rows.
        memory: accumulators of a first-order rule, (2, c).
        means, scales: of x, (c,), as of the last apply.
        applies: number of applies; 0 before the first batch.
        label_unit: Poisson: the decayed mean of the capped labels, in which labels are measured.
        label_cap: Poisson: labels of the next batch are at most this.
        learned_at: with which the sums of the last batch were computed; for removals.
        problem: why the last apply has not changed the coefficients; empty if it has.
        curve: Calibration.curve; null without one.
        uses_curve: whether probabilities are those of the curve.
    """

    names: tuple[str, ...]
    coefficients: Floats
    sums: OutcomeSums
    memory: Floats
    means: Floats
    scales: Floats
    applies: int = 0
    is_started: bool = False
    label_unit: float = 1.0
    label_cap: float = float("inf")
    learned_at: Linearization | None = None
    problem: str = ""
    curve: Floats | None = None
    uses_curve: bool = False

    @property
    def linearization(self) -> Linearization:
        """What the sums of the next batch depend on."""
        return Linearization(self.coefficients, self.means, self.scales, self.label_unit, self.label_cap)

    @classmethod
    def empty(cls, rule: "OutcomeRule", names: Sequence[str]) -> "OutcomeState":
        """The state before the first batch."""
        c, label_counts = len(names), np.zeros(LABEL_BINS if rule.loss == "poisson" else 0)
        sums = OutcomeSums(0.0, 0.0, label_counts, np.zeros(c), np.zeros(c), np.zeros((rule.equations(c), c + 1)))
        return cls(tuple(names), np.zeros(c), sums, np.zeros((2, c)), np.zeros(c), np.zeros(c))


class OutcomeRule(Protocol):
    """How a model is learned; all parameters are in the rule."""

    @property
    def loss(self) -> Loss: ...
    @property
    def half_life_days(self) -> float | None: ...
    @property
    def min_rows(self) -> tuple[float, ...]: ...

    def equations(self, columns: int) -> int:
        """Number of rows of the sums of the rule that are stored."""
        ...

    def passes(self, state: OutcomeState) -> int:
        """Number of passes over the next batch."""
        ...

    def inputs(self, state: OutcomeState, x: Floats) -> Floats:
        """What the coefficients are multiplied with, of the shape of x."""
        ...

    def sums(self, state: OutcomeState, rows: LabeledRows, weights: Floats) -> Floats:
        """The sums of the rule over rows with finite labels."""
        ...

    def apply(self, base: OutcomeState, current: OutcomeState, sums: OutcomeSums) -> OutcomeState:
        """The state `base`, in which the rows are not, after rows whose sums were computed with `current`."""
        ...


Rules = Mapping[str, OutcomeRule]
States = Mapping[str, OutcomeState]


def sum_rows(rule: OutcomeRule, state: OutcomeState, rows: LabeledRows) -> OutcomeSums:
    """Sums over the rows with a label, as of the newest of their times, with the coefficients of the state."""
    has_label = np.isfinite(rows.labels)
    rows = rows if has_label.all() else rows.take(has_label)
    as_of = int(rows.times.max(initial=0))
    weights = decay_factors(rows.times, as_of, rule.half_life_days)
    return OutcomeSums(
        rows=float(weights.sum()),
        label_total=float(weights @ rows.labels),
        label_counts=count_labels(rows.labels, weights) if rule.loss == "poisson" else np.zeros(0),
        inputs_total=weights @ rows.x,
        inputs_squares=weights @ rows.x**2,
        rule=rule.sums(state, rows, weights) if state.is_started else np.zeros_like(state.sums.rule),
        as_of=as_of,
    )


def learn(rules: Rules, states: States, sum_batch: Callable[[States], Mapping[str, OutcomeSums]]) -> States:
    """The states after a batch. Outcomes without enough rows do not start: a Poisson model needs 10 positive labels.

    Args:
        sum_batch: a pass over the batch: states -> total of `sum_rows` by outcome.
    """
    fresh = {name: state for name, state in states.items() if not state.is_started}
    moments = sum_batch(fresh) if fresh else {}
    base = {**states, **{name: start(rules[name], state, moments[name]) for name, state in fresh.items()}}
    current, number = dict(base), 0
    while active := {n: s for n, s in current.items() if s.is_started and number < rules[n].passes(base[n])}:
        sums = sum_batch(active)
        current |= {name: rules[name].apply(base[name], state, sums[name]) for name, state in active.items()}
        number += 1
    return current


def start(rule: OutcomeRule, state: OutcomeState, sums: OutcomeSums) -> OutcomeState:
    """The state before a batch, with the intercept of the mean label of all rows until its end.

    Without enough rows, the state with the moments of the batch, without coefficients: it starts with a later batch.
    """
    if not sums.rows:
        return state
    if not sums.is_finite:
        return replace(state, problem="sums are not finite")
    merged = total([state.sums, sums], rule.half_life_days)
    if rule.loss == "poisson" and merged.positive_labels < _MIN_POSITIVE_LABELS:
        return replace(state, sums=merged, problem=f"fewer than {_MIN_POSITIVE_LABELS} positive labels")
    mean = merged.label_total / merged.rows
    coefficients = np.zeros(len(state.names))
    if rule.loss == "logistic":
        odds = np.log(max(mean, 1e-9)) - np.log(max(1 - mean, 1e-9))
        coefficients[0] = np.clip(odds, -MAX_ETA, MAX_ETA)
    elif rule.loss == "squared":
        coefficients[0] = mean
    return replace(
        state,
        coefficients=coefficients,
        means=merged.means,
        scales=merged.scales(rule.min_rows),
        is_started=True,
        label_unit=merged.label_unit,
        label_cap=merged.label_cap,
        problem="",
    )


def with_rows(rule: OutcomeRule, base: OutcomeState, current: OutcomeState, sums: OutcomeSums) -> OutcomeState:
    """The state `base` with the sums of a batch; the coefficients are those of `current`."""
    merged = total([base.sums, sums], rule.half_life_days)
    return replace(
        current,
        sums=merged,
        means=merged.means,
        scales=merged.scales(rule.min_rows),
        applies=base.applies + 1,
        label_cap=merged.label_cap,
        learned_at=current.linearization,
        problem="",
    )


def with_columns(state: OutcomeState, names: Sequence[str]) -> OutcomeState:
    """The state with columns added, removed or in another order. A new column was 0 in all learned rows."""
    if state.names == tuple(names):
        return state
    old = {name: number for number, name in enumerate(state.names)}
    columns = np.array([old.get(name, len(old)) for name in names])

    def taken(array: Floats, axis: int, columns: Longs = columns) -> Floats:
        zeros = np.zeros_like(array.take([0], axis)) if array.size else array
        return np.concatenate([array, zeros], axis).take(columns, axis) if array.size else array

    sums, learned_at = state.sums, state.learned_at
    if learned_at is not None:
        learned_at = learned_at._replace(
            coefficients=taken(learned_at.coefficients, 0),
            means=taken(learned_at.means, 0),
            scales=taken(learned_at.scales, 0),
        )
    square = taken(sums.rule, 0)
    # The last column of the sums of Newton is the right side of its equations.
    rule = np.hstack([taken(square[:, :-1], 1), square[:, -1:]]) if square.size else square
    return replace(
        state,
        names=tuple(names),
        coefficients=taken(state.coefficients, 0),
        sums=replace(
            sums, inputs_total=taken(sums.inputs_total, 0), inputs_squares=taken(sums.inputs_squares, 0), rule=rule
        ),
        memory=taken(state.memory, 1),
        means=taken(state.means, 0),
        scales=taken(state.scales, 0),
        learned_at=learned_at,
    )
