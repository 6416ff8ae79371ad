"""Scores of outcome models, and the reasons for them. Shapes: m rows, c columns."""

from dataclasses import dataclass

import numpy as np

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.outcomes.kernels.outcome_model import MAX_ETA, Loss, OutcomeRule, OutcomeState

_MAX_LOG_MEAN = 5.0


def etas(rule: OutcomeRule, state: OutcomeState, x: Floats) -> Floats:
    """Scores of the rows, (m,): logits, margins or logarithms of means."""
    return etas_of_inputs(rule, state, rule.inputs(state, x))


def etas_of_inputs(rule: OutcomeRule, state: OutcomeState, inputs: Floats) -> Floats:
    """inputs x coefficients, clipped; a mean is at most the label cap."""
    highest = min(_MAX_LOG_MEAN, np.log(state.label_cap / state.label_unit)) if rule.loss == "poisson" else MAX_ETA
    return np.asarray(np.clip(inputs @ state.coefficients, -MAX_ETA, highest))


def predictions(rule: OutcomeRule, state: OutcomeState, eta: Floats) -> Floats:
    """Probabilities, calibrated if `state.uses_curve`, or means of a Poisson label in its own unit."""
    return on_curve(state.curve, eta) if state.uses_curve and state.curve is not None else raw(rule, state, eta)


def on_curve(curve: Floats, eta: Floats) -> Floats:
    """Probabilities by linear interpolation between the points of `Calibration.curve`."""
    return np.asarray(np.interp(eta, *curve))


def raw(rule: OutcomeRule, state: OutcomeState, eta: Floats) -> Floats:
    """Predictions without a calibration. Those of hinge loss are no probabilities."""
    if rule.loss == "poisson":
        return np.asarray(np.exp(eta) * state.label_unit)
    return np.asarray(np.clip(eta, 0, 1) if rule.loss == "squared" else 1 / (1 + np.exp(-eta)))


@dataclass(frozen=True)
class LinearModel:
    """A state that scores rows; with the methods of a BatchModel."""

    rule: OutcomeRule
    state: OutcomeState

    @property
    def loss(self) -> Loss:
        """Of the outcome."""
        return self.rule.loss

    def etas(self, values: Floats, x: Floats) -> Floats:
        """As the function `etas`; the features are not read."""
        return etas(self.rule, self.state, x)

    def predictions(self, eta: Floats) -> Floats:
        """As the function `predictions`."""
        return predictions(self.rule, self.state, eta)


def contributions(rule: OutcomeRule, state: OutcomeState, x: Floats) -> Floats:
    """How much each input moves eta away from that of a row with the mean of all inputs, (m, c)."""
    mean_inputs = rule.inputs(state, state.means[None, :])
    return np.asarray((rule.inputs(state, x) - mean_inputs) * state.coefficients)


def top_reasons(contributions: Floats, sources: Longs, count: int = 3) -> tuple[Longs, Floats]:
    """The features that move eta most: numbers and contributions, (m, count), largest absolute value first.

    Args:
        contributions: (m, c); those of columns with the same source are added.
        sources: the number of the feature of each column, (c,); -1: none, such as the intercept.
    """
    is_feature = sources >= 0
    by_feature = contributions[:, is_feature] @ np.eye(sources.max(initial=0) + 1)[sources[is_feature]]
    order = np.argsort(-np.abs(by_feature), axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(by_feature, order, axis=1)
