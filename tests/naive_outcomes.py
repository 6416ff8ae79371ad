"""Reference implementations of outcome models, by loops over rows."""

import math
from dataclasses import dataclass, field

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


def means_and_scales(rows: list[Row], now: int, half_life_days: float) -> tuple[Floats, Floats]:
    """Decayed means of x, and the standard deviations that are penalized; 0 in constant columns."""
    weights = np.array([2.0 ** (-(now - time) / DAY / half_life_days) for _, _, time in rows])
    x = np.array([x for x, _, _ in rows])
    mean, mean_square = weights @ x / weights.sum(), weights @ x**2 / weights.sum()
    variance = mean_square - mean**2
    return mean, np.sqrt(np.where(variance > 1e-12 * mean_square, np.maximum(variance, 0.1 * mean_square), 0.0))


def clipped(rows: list[Row], mean: Floats, scales: Floats) -> list[Row]:
    """The rows with inputs that are at most 5 scales, or 1, away from their mean."""
    limits = np.maximum(5 * scales, 1.0)
    return [(np.clip(x, mean - limits, mean + limits), y, time) for x, y, time in rows]


def solve_newton(matrix: Floats, right: Floats, scales: Floats, ridge: float) -> Floats:
    """The coefficients, with a penalty on all but the intercept."""
    used = [0, *(np.flatnonzero(scales[1:] > 0) + 1)]
    penalty = np.diag(0.25 * ridge * scales[used] ** 2 * (np.array(used) > 0))
    coefficients = np.zeros(len(right))
    coefficients[used] = np.linalg.solve(matrix[np.ix_(used, used)] + penalty, right[used])
    return coefficients


@dataclass
class NaiveNewton:
    """A logistic model that learns rows in order of their times: three steps for each of the first two times."""

    half_life_days: float
    ridge: float
    columns: int
    rows: list[Row] = field(default_factory=list)
    now: int = 0
    times: int = 0

    def __post_init__(self) -> None:
        self.matrix, self.right = np.zeros((self.columns, self.columns)), np.zeros(self.columns)
        self.beta, self.mean, self.scales = (np.zeros(self.columns) for _ in range(3))

    def learn(self, batch: list[Row]) -> None:
        """The rows of each time, in order."""
        for time in sorted({time for _, _, time in batch}):
            self._learn_time([row for row in batch if row[2] == time], max(self.now, time))

    def _learn_time(self, rows: list[Row], now: int) -> None:
        if not self.times:
            rate = float(np.mean([y for _, y, _ in rows]))
            self.mean, self.scales = means_and_scales(rows, now, self.half_life_days)
            self.beta[0] = np.clip(np.log(max(rate, 1e-9) / max(1 - rate, 1e-9)), -8, 8)
        self.rows, decay = self.rows + rows, 2.0 ** (-(now - self.now) / DAY / self.half_life_days)
        mean, scales = means_and_scales(self.rows, now, self.half_life_days)
        for _ in range(3 if self.times < 2 else 1):
            near = clipped(rows, self.mean, self.scales)
            matrix, right = newton_sums(near, self.beta, now, self.half_life_days, "logistic")
            matrix, right = matrix + decay * self.matrix, right + decay * self.right
            self.mean, self.scales = mean, scales
            change = solve_newton(matrix, right, scales, self.ridge) - self.beta
            largest = max(abs(change @ mean), *np.abs(change[1:] * scales[1:]))
            self.beta = self.beta + change * min(1.0, 1.5 / largest if largest else 1.0)
        self.matrix, self.right, self.now, self.times = matrix, right, now, self.times + 1


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
