"""Decayed Newton sums: the default rule of outcomes, without a learning rate.

Each batch is approximated by its weighted least squares problem at the stored coefficients (iteratively reweighted
least squares: McCullagh and Nelder, Generalized Linear Models, 1989). The sums of these problems are added and decayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from profilestream.learn.kernels import newton_steps
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import total
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, Loss, OutcomeState, with_rows
from profilestream.learn.outcomes.kernels.outcome_scores import etas_of_inputs
from profilestream.learn.outcomes.kernels.outcome_sums import NO_ROWS, OutcomeSums
from profilestream.learn.outcomes.kernels.projections import InputProjection

_MIN_WEIGHT = 0.02
# Largest coefficient times standard deviation of its input; eta is clipped to 8.
_MAX_EFFECT = 50.0
# Inputs are at most this many scales away from their mean; those of a Poisson model at most the second number.
_MAX_SCALES, _MAX_POISSON_SCALES = 5.0, 3.0


@dataclass(frozen=True)
class Newton:
    """With w the weight of a row in Newton's method: A = sum w x xT and b = sum w x z, z = eta + (y - mean) / w.

    The coefficients solve (A + ridge / 4 diag(variances)) beta = b; the intercept has no penalty. Columns that are
    constant or not admitted have the coefficient 0.

    Args:
        loss: logistic, Poisson with logarithmic link, or squared. Negative labels of a Poisson model count as 0.
        ridge: in rows, that is relative to decayed sums; it is not decayed.
        min_rows: see OutcomeSums.scales.
        first_passes: over each of the first two batches; later ones have one pass.
        signs: of the coefficients by column: 1: at least 0, -1: at most 0, 0: any, null: always 0. Not of the
            intercept. Empty: all are 0.
        projection: the coefficients are those of a model of components of the inputs; then there are no signs.
    """

    loss: Loss = "logistic"
    half_life_days: float | None = 182.0
    ridge: float = 300.0
    min_rows: tuple[float, ...] = ()
    first_passes: int = 3
    signs: tuple[int | None, ...] = ()
    projection: InputProjection | None = None

    def equations(self, columns: int) -> int:
        """Number of equations."""
        return columns

    def passes(self, state: OutcomeState) -> int:
        """Number of passes over the next batch."""
        return self.first_passes if state.applies < 2 else 1

    def inputs(self, state: OutcomeState, x: Floats) -> Floats:
        """x without outliers. It is not standardized, so a drift of means and scales does not change stored sums.

        An example of an outlier: a ratio of two windows, when the log becomes longer than the shorter one. Flags from 0
        to 1 are not clipped. A Poisson model has a lower limit, also for flags, because its prediction is the
        exponential of a sum of inputs: with the other limit, predictions of spend were up to 5 times the labels.
        """
        is_poisson = self.loss == "poisson"
        limits = _MAX_POISSON_SCALES * state.scales if is_poisson else np.maximum(_MAX_SCALES * state.scales, 1.0)
        lower, upper = state.means - limits, state.means + limits
        has_outliers = (x.min(axis=0, initial=np.inf) < lower) | (x.max(axis=0, initial=-np.inf) > upper)
        if not has_outliers.any():
            return x
        clipped = x.copy()
        clipped[:, has_outliers] = x[:, has_outliers].clip(lower[has_outliers], upper[has_outliers])
        return clipped

    def sums(self, state: OutcomeState, rows: LabeledRows, weights: Floats) -> Floats:
        """[A | b], (c, c + 1)."""
        x = self.inputs(state, rows.x)
        eta = etas_of_inputs(self, state, x)
        if self.loss == "poisson":
            labels = rows.labels.clip(0.0, state.label_cap) / state.label_unit
            curvature = mean = np.exp(eta)
        else:
            labels, mean = rows.labels, 1 / (1 + np.exp(-eta)) if self.loss == "logistic" else eta
            curvature = np.maximum(mean * (1 - mean), _MIN_WEIGHT) if self.loss == "logistic" else np.ones(len(eta))
        right = weights * (curvature * eta + labels - mean)
        matrix = x.T @ ((weights * curvature)[:, None] * x)
        return np.column_stack([matrix, x.T @ right])

    def apply(self, base: OutcomeState, current: OutcomeState, sums: OutcomeSums) -> OutcomeState:
        """Add the sums and solve. Without rows, or with sums that are not finite, the state `base`."""
        if not sums.rows:
            return base
        if not sums.is_finite:
            return replace(base, problem="sums are not finite")
        learned = with_rows(self, self.in_unit(base, current.label_unit), current, sums)
        if self.loss == "poisson":
            # The coefficients stay, so their predictions follow the mean label at once.
            in_unit = self.in_unit(learned, learned.sums.label_unit)
            learned = replace(in_unit, coefficients=learned.coefficients)
        return self.solved(learned)

    def remove(self, state: OutcomeState, removed: Sequence[tuple[OutcomeSums, float]]) -> OutcomeState:
        """The state without rows: their sums with the `learned_at` of each of their batches, and its label unit."""
        negative = [replace(one, rule=change_unit(one.rule, state.label_unit / unit)).negative for one, unit in removed]
        left = total([state.sums, *negative], self.half_life_days)
        return self.solved(replace(state, sums=left, means=left.means, scales=left.scales(self.min_rows)))

    def in_unit(self, state: OutcomeState, unit: float) -> OutcomeState:
        """The state with labels measured in another unit; its predictions are the same."""
        factor = unit / state.label_unit
        shift = np.log(factor) * (np.arange(len(state.names)) == 0)
        sums = replace(state.sums, rule=change_unit(state.sums.rule, factor))
        return replace(state, coefficients=state.coefficients - shift, sums=sums, label_unit=unit)

    def solved(self, state: OutcomeState) -> OutcomeState:
        """The state with coefficients that are nearer to the solution of its sums.

        The step is limited by its effects on eta: of a standard deviation of each input, and at the mean of all inputs.
        Without decayed rows, or with equations that are not positive definite, they stay as they are.
        """
        change = self._solution(state) - state.coefficients
        if not np.isfinite(change).all():
            return replace(state, problem="the equations have no solution")
        effects = np.append(change[1:] * state.scales[1:], change @ state.means)
        coefficients = state.coefficients + newton_steps.limit_step(change, effects)
        largest = np.abs(coefficients[1:] * state.scales[1:]).max(initial=0.0)
        if largest > _MAX_EFFECT:
            return replace(state, problem=f"a coefficient is {largest / _MAX_EFFECT:.1f} times the limit")
        return replace(state, coefficients=coefficients, problem="")

    def _solution(self, state: OutcomeState) -> Floats:
        """The coefficients of the sums, (c,); NaN if there are none.

        While coefficients have a wrong sign, they are 0 and the others are solved again.
        """
        if state.sums.rows <= NO_ROWS:
            return np.full(len(state.names), np.nan)
        if self.projection is not None:
            return self.projection.solve(state.sums.rule, state.scales, 0.25 * self.ridge)
        is_used = state.scales > 0
        if self.signs:
            is_used &= np.array([sign is not None for sign in self.signs])
        is_used[0] = True
        signs = np.array([sign or 0 for sign in self.signs[1:]] or [0] * (len(is_used) - 1))
        # The scale of the intercept is 0.
        penalties = 0.25 * self.ridge * state.scales**2
        while True:
            coefficients = newton_steps.solve(state.sums.rule, penalties, np.flatnonzero(is_used))
            has_wrong_sign = coefficients[1:] * signs < 0
            if not has_wrong_sign.any():
                return coefficients
            is_used[1:] &= ~has_wrong_sign


def change_unit(rule: Floats, factor: float) -> Floats:
    """[A | b] of a Poisson model when its labels are measured in a unit that is `factor` times the old one."""
    right = rule[:, -1] - np.log(factor) * rule[:, 0]
    return np.column_stack([rule[:, :-1], right]) / factor
