"""Reference implementations of outcome models, by loops over rows; each at most ten lines."""

import math

import numpy as np
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY

DAY = MICROS_PER_DAY
# x with the intercept, label, time in microseconds.
Row = tuple[Floats, float, int]


def newton_sums(rows: list[Row], beta: Floats, now: int, half_life_days: float, loss: str) -> tuple[Floats, Floats]:
    """A and b of the rows as of `now`."""
    matrix, right = np.zeros((len(beta), len(beta))), np.zeros(len(beta))
    for x, y, time in rows:
        eta = min(max(float(x @ beta), -8.0), 5.0 if loss == "poisson" else 8.0)
        mean = math.exp(eta) if loss == "poisson" else 1 / (1 + math.exp(-eta))
        w = mean if loss == "poisson" else max(mean * (1 - mean), 0.02)
        decay = 2.0 ** (-(now - time) / DAY / half_life_days)
        matrix += decay * w * np.outer(x, x)
        right += decay * w * x * (eta + (y - mean) / w)
    return matrix, right


def solve_newton(matrix: Floats, right: Floats, rows: list[Row], now: int, half_life: float, ridge: float) -> Floats:
    """The coefficients, with a penalty on all but the intercept."""
    weights = np.array([2.0 ** (-(now - time) / DAY / half_life) for _, _, time in rows])
    x = np.array([x for x, _, _ in rows])
    mean_square = weights @ x**2 / weights.sum()
    variances = np.maximum(mean_square - (weights @ x / weights.sum()) ** 2, 0.1 * mean_square)
    penalty = 0.25 * ridge * variances * (np.arange(len(right)) > 0)
    return np.asarray(np.linalg.solve(matrix + np.diag(penalty), right), np.float64)


def gradient(rows: list[Row], w: Floats, kind: str, loss: str, rate: float) -> Floats:
    """The mean over rows of the gradient of the loss, or of minus the steps of Passive-Aggressive."""
    total = np.zeros(len(w))
    for z, y, _ in rows:
        eta, sign = float(z @ w), 2 * y - 1
        hinge = max(0.0, 1 - sign * eta)
        tau = {"pa1": min(rate, hinge / float(z @ z)), "pa2": hinge / (float(z @ z) + 1 / (2 * rate))}
        slope = {"logistic": 1 / (1 + math.exp(-eta)) - y, "squared": eta - y, "hinge": -sign if hinge > 0 else 0.0}
        total += (-sign * tau[kind] if kind in tau else slope[loss]) * z
    return total / len(rows)


def auc(scores: Floats, labels: Floats) -> float:
    """Share of pairs of a positive and a negative row in which the positive one has the higher score; ties: half."""
    pairs = [(one > other) + 0.5 * (one == other) for one in scores[labels == 1] for other in scores[labels == 0]]
    return float(np.mean(pairs))


def calibration_error(probabilities: Floats, labels: Floats, groups: int = 20) -> float:
    """Mean |mean label - mean probability| over groups of equal size in order of probability."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), groups)
    return float(sum(abs(labels[one].sum() - probabilities[one].sum()) for one in parts) / len(labels))
