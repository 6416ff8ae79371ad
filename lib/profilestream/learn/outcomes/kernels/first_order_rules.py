"""First-order rules of outcomes: options for very wide inputs. They need a tuned rate.

The gradients of a batch are computed at the stored coefficients, and added by virtual shard, which depends on the user
only. So the result does not depend on partitions. An apply makes one step per shard that has rows, in their order.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, OutcomeState, with_rows
from profilestream.learn.outcomes.kernels.outcome_scores import etas_of_inputs
from profilestream.learn.outcomes.kernels.outcome_sums import OutcomeSums

_MAX_Z = 5.0
_EPSILON = 1e-8
_BETA_1, _BETA_2 = 0.9, 0.999


@dataclass(frozen=True)
class FirstOrder:
    """Steps along mean gradients of inputs in standard deviations from the mean, clipped to 5.

    Args:
        kind: sgd: rate / sqrt(1 + applies / rate_decay); adagrad (Duchi, Hazan and Singer, 2011); adam (Kingma and Ba,
            2015) with decoupled decay of weights (Loshchilov and Hutter, 2019); ftrl: FTRL-Proximal (McMahan et al.,
            2013); pa1, pa2: Passive-Aggressive I and II, with hinge loss (Crammer et al., 2006).
        rate: of a step; alpha of FTRL-Proximal; the aggressiveness C of Passive-Aggressive.
        rate_decay: applies, of sgd; infinite: a constant rate.
        l1, l2: penalties on the scale of a mean gradient; not of the intercept.
        shards: steps of a batch.
    """

    kind: Literal["sgd", "adagrad", "adam", "ftrl", "pa1", "pa2"]
    rate: float
    loss: Literal["logistic", "hinge", "squared"] = "logistic"
    half_life_days: float | None = 182.0
    min_rows: tuple[float, ...] = ()
    rate_decay: float = 20.0
    l1: float = 0.0
    l2: float = 0.0
    shards: int = 1

    def equations(self, columns: int) -> int:
        """None: gradients are not stored."""
        return 0

    def passes(self, state: OutcomeState) -> int:
        """One over each batch."""
        return 1

    def inputs(self, state: OutcomeState, x: Floats) -> Floats:
        """Standardized and clipped values; 0 in constant columns, 1 for the intercept."""
        z = np.divide(x - state.means, state.scales, out=np.zeros(x.shape), where=state.scales > 0)
        z[:, 0] = 1.0
        return np.asarray(z.clip(-_MAX_Z, _MAX_Z))

    def sums(self, state: OutcomeState, rows: LabeledRows, weights: Floats) -> Floats:
        """Sum of gradients, and number of rows, by shard, (shards, c + 1)."""
        z = self.inputs(state, rows.x)
        slopes = weights * self._slopes(z, etas_of_inputs(self, state, z), rows.labels)
        is_in_shard = np.arange(self.shards)[:, None] == rows.shards % self.shards
        return np.column_stack([(is_in_shard * slopes) @ z, is_in_shard @ weights])

    def apply(self, base: OutcomeState, current: OutcomeState, sums: OutcomeSums) -> OutcomeState:
        """One step per shard with rows. With sums that are not finite, the state `base`."""
        if not sums.rows:
            return base
        if not sums.is_finite:
            return replace(base, problem="sums are not finite")
        coefficients, memory = current.coefficients, current.memory
        if base.applies == 0 and self.kind == "ftrl":
            memory = self.initial_memory(coefficients)
        for gradient in (row[:-1] / row[-1] for row in sums.rule if row[-1] > 0):
            coefficients, memory = self.step(coefficients, memory, gradient, base.applies)
        if not np.isfinite(coefficients).all():
            return replace(base, problem="coefficients are not finite")
        learned = with_rows(self, base, current, replace(sums, rule=base.sums.rule))
        return replace(learned, coefficients=coefficients, memory=memory)

    def initial_memory(self, coefficients: Floats) -> Floats:
        """Accumulators (z, n) of FTRL-Proximal whose coefficients are these, if they are an intercept only."""
        return np.vstack([-coefficients / self.rate, np.zeros(len(coefficients))])

    def step(self, w: Floats, memory: Floats, gradient: Floats, applies: int) -> tuple[Floats, Floats]:
        """Coefficients and memory after a mean gradient of the loss; the first coefficient is the intercept."""
        first, second = memory
        is_penalized = np.arange(len(w)) > 0
        l1, l2 = self.l1 * is_penalized, self.l2 * is_penalized
        if self.kind == "ftrl":
            sigma = (np.sqrt(second + gradient**2) - np.sqrt(second)) / self.rate
            first, second = first + gradient - sigma * w, second + gradient**2
            shrunk = first - np.sign(first) * l1
            w = np.where(np.abs(first) <= l1, 0.0, -shrunk / ((1.0 + np.sqrt(second)) / self.rate + l2))
            return w, np.vstack([first, second])
        if self.kind in ("pa1", "pa2"):
            return w - gradient, memory
        if self.kind == "adam":
            first = _BETA_1 * first + (1 - _BETA_1) * gradient
            second = _BETA_2 * second + (1 - _BETA_2) * gradient**2
            rate = self.rate * np.sqrt(1 - _BETA_2 ** (applies + 1)) / (1 - _BETA_1 ** (applies + 1))
            rates, direction, w = rate / (np.sqrt(second) + _EPSILON), first, w - self.rate * l2 * w
        else:
            direction = gradient + l2 * w
            if self.kind == "adagrad":
                second = second + direction**2
                rates = self.rate / np.sqrt(second + _EPSILON)
            else:
                rates = np.full(len(w), self.rate / np.sqrt(1 + applies / self.rate_decay))
        w = w - rates * direction
        # The proximal step of the L1 penalty.
        return np.sign(w) * np.maximum(np.abs(w) - rates * l1, 0.0), np.vstack([first, second])

    def _slopes(self, z: Floats, eta: Floats, labels: Floats) -> Floats:
        """Derivative of the loss of each row by eta, (m,); of Passive-Aggressive: minus the step along z."""
        if self.kind in ("pa1", "pa2") or self.loss == "hinge":
            sign = 2 * labels - 1
            losses = np.maximum(1 - sign * eta, 0.0)
            if self.kind == "pa1":
                return np.asarray(-sign * np.minimum(self.rate, losses / (z**2).sum(axis=1)))
            if self.kind == "pa2":
                return np.asarray(-sign * losses / ((z**2).sum(axis=1) + 0.5 / self.rate))
            return np.asarray(-sign * (losses > 0))
        return np.asarray((eta if self.loss == "squared" else 1 / (1 + np.exp(-eta))) - labels)
