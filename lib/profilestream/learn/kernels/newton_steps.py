"""One step of Newton's method: the solution of stored sums, and a limited change of coefficients toward it.

Runs on executors, so it imports numpy only.
"""

import numpy as np

from profilestream.learn.kernels.arrays import Floats, Longs

# Largest effect of one step, for a change of an input by one standard deviation: longer steps overshoot when
# predictions are bad.
MAX_STEP = 1.5
_JITTER = 1e-9


def solve(equations: Floats, penalty: Floats, used: Longs) -> Floats:
    """The coefficients x with (A + diag(penalty)) x = b, 0 where they are not used; NaN if A is not positive definite.

    Args:
        equations: [A | b], (c, c + 1).
        penalty: (c,).
        used: positions of the used coefficients, ascending.
    """
    coefficients = np.zeros(len(equations))
    matrix = equations[np.ix_(used, used)] + np.diag(penalty[used])
    matrix[np.diag_indices_from(matrix)] *= 1 + _JITTER
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return np.full(len(coefficients), np.nan)
    coefficients[used] = np.linalg.solve(lower.T, np.linalg.solve(lower, equations[used, -1]))
    return coefficients


def limit_step(change: Floats, effects: Floats) -> Floats:
    """The change of coefficients, made shorter so that the largest of its effects is at most MAX_STEP."""
    return change * (MAX_STEP / max(float(np.abs(effects).max(initial=0.0)), MAX_STEP))
