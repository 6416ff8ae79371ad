"""Decayed Newton sums: the default rule of outcomes, without a learning rate.

Each batch is approximated by its weighted least squares problem at the stored coefficients (iteratively reweighted
least squares: McCullagh and Nelder, Generalized Linear Models, 1989). The sums of these problems are added and decayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import total
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, Loss, OutcomeState, etas, with_rows
from profilestream.learn.outcomes.kernels.outcome_sums import NO_ROWS, OutcomeSums

_MIN_WEIGHT = 0.02
_JITTER = 1e-9
# Largest coefficient times standard deviation of its input; eta is clipped to 8.
_MAX_EFFECT = 50.0


@dataclass(frozen=True)
class Newton:
    """With w the weight of a row in Newton's method: A = sum w x xT and b = sum w x z, z = eta + (y - mean) / w.

    The coefficients solve (A + ridge / 4 diag(variances)) beta = b; the intercept has no penalty. Columns that are
    constant or not admitted have the coefficient 0.

    Args:
        loss: logistic, Poisson with logarithmic link, or squared.
        ridge: in rows, that is relative to decayed sums; it is not decayed.
        min_rows: see OutcomeSums.scales.
        first_passes: over each of the first two batches; later ones have one pass.
    """

    loss: Loss = "logistic"
    half_life_days: float | None = 182.0
    ridge: float = 300.0
    min_rows: tuple[float, ...] = ()
    first_passes: int = 3

    def equations(self, columns: int) -> int:
        """Number of equations."""
        return columns

    def passes(self, state: OutcomeState) -> int:
        """Number of passes over the next batch."""
        return self.first_passes if state.applies < 2 else 1

    def inputs(self, state: OutcomeState, x: Floats) -> Floats:
        """The values of x, so that a drift of means and scales does not change stored sums."""
        return x

    def sums(self, state: OutcomeState, rows: LabeledRows, weights: Floats) -> Floats:
        """[A | b], (c, c + 1)."""
        eta = etas(self, state, rows.x)
        if self.loss == "poisson":
            labels = np.minimum(rows.labels, state.label_cap) / state.label_unit
            curvature = mean = np.exp(eta)
        else:
            labels, mean = rows.labels, 1 / (1 + np.exp(-eta)) if self.loss == "logistic" else eta
            curvature = np.maximum(mean * (1 - mean), _MIN_WEIGHT) if self.loss == "logistic" else np.ones(len(eta))
        right = weights * (curvature * eta + labels - mean)
        matrix = rows.x.T @ ((weights * curvature)[:, None] * rows.x)
        return np.column_stack([matrix, rows.x.T @ right])

    def apply(self, base: OutcomeState, current: OutcomeState, sums: OutcomeSums) -> OutcomeState:
        """Add the sums and solve. Without rows, or with sums that are not finite, the state `base`."""
        if not sums.rows:
            return base
        if not sums.is_finite:
            return replace(base, problem="sums are not finite")
        return self.solved(with_rows(self, base, current, sums))

    def remove(self, state: OutcomeState, sums: Sequence[OutcomeSums]) -> OutcomeState:
        """The state without rows, from their sums with the `learned_at`, label cap and unit of their batches."""
        left = total([state.sums, *(one.negative for one in sums)], self.half_life_days)
        return self.solved(replace(state, sums=left, means=left.means, scales=left.scales(self.min_rows)))

    def solved(self, state: OutcomeState) -> OutcomeState:
        """The state with the coefficients of its sums; the earlier ones, and a problem, if there are none."""
        coefficients, problem = self._solve(state)
        return replace(state, coefficients=state.coefficients if problem else coefficients, problem=problem)

    def _solve(self, state: OutcomeState) -> tuple[Floats, str]:
        coefficients, sums = np.zeros(len(state.names)), state.sums
        if sums.rows <= NO_ROWS:
            return coefficients, "no rows with a label"
        used = np.flatnonzero(state.scales > 0)
        used = np.concatenate([[0], used[used > 0]])
        penalty = 0.25 * self.ridge * state.scales[used] ** 2
        matrix = sums.rule[np.ix_(used, used)] + np.diag(np.where(used > 0, penalty, 0.0))
        matrix[np.diag_indices_from(matrix)] *= 1 + _JITTER
        try:
            lower = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return coefficients, "the equations are singular"
        coefficients[used] = np.linalg.solve(lower.T, np.linalg.solve(lower, sums.rule[used, -1]))
        largest = np.abs(coefficients[1:] * state.scales[1:]).max(initial=0.0)
        return coefficients, "" if largest <= _MAX_EFFECT else f"a coefficient is {largest:.0f} standard deviations"
