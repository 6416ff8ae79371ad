"""Calibration of probabilities: isotonic bins of matured scores, used only while they lower the log loss.

The bins are the 20 groups of ScoreSums, with decayed sums. The curve through their means is ascending (pool adjacent
violators: Ayer, Brunk, Ewing, Reid and Silverman, 1955; for probabilities: Zadrozny and Elkan, 2002).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY, Sums, total
from profilestream.learn.outcomes.kernels.outcome_metrics import MIN_PROBABILITY, ScoreSums

HALF_LIFE_DAYS = WINDOW_DAYS = 56.0


@dataclass(frozen=True)
class ComparedScores(Sums):
    """Scores of the same rows without and with a curve; the second is null if there was none."""

    raw: ScoreSums
    calibrated: ScoreSums | None = None

    def served(self, uses_curve: bool) -> ScoreSums:
        """The scores that the model used."""
        return self.calibrated if uses_curve and self.calibrated is not None else self.raw


@dataclass(frozen=True)
class Calibration:
    """Sums of matured scores, and a gate: calibrated scores are used if their recent log loss was lower.

    Args:
        sums: of all scores, decayed.
        losses: by time of the rows in the window of the gate: time in microseconds, and sums of the log loss of scores
            and of calibrated scores, (n, 3).
    """

    sums: ScoreSums = field(default_factory=ScoreSums)
    losses: Floats = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def is_used(self) -> bool:
        """Whether the calibrated scores had the lower log loss in the window."""
        _, raw, calibrated = self.losses.sum(axis=0)
        return bool(calibrated < raw)

    @property
    def curve(self) -> Floats | None:
        """Logits and probabilities of the bins, (2, GROUPS); null before the first rows."""
        if not self.sums.rows:
            return None
        counts, labels, _, etas = self.sums.groups()
        probabilities = isotonic(labels / counts, counts).clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return np.stack([etas / counts, probabilities])

    def updated(self, scores: ComparedScores) -> "Calibration":
        """After rows that were scored before they were added, with the curve of the time of the rows."""
        raw, calibrated, losses = scores.raw, scores.calibrated, self.losses
        if not raw.rows:
            return self
        if calibrated is not None:
            losses = np.vstack([losses, [raw.as_of, raw.log_loss, calibrated.log_loss]])
        is_recent = losses[:, 0] > raw.as_of - WINDOW_DAYS * MICROS_PER_DAY
        return Calibration(total([self.sums, raw], HALF_LIFE_DAYS), losses[is_recent])

    def without(self, removed: Iterable[ScoreSums]) -> "Calibration":
        """Without the scores of removed rows; the losses, which have no rows of users, remain."""
        sums = self.sums
        for part in removed:
            part = part.decayed_to(sums.as_of, HALF_LIFE_DAYS)
            names = ("counts", "labels", "predictions")
            left = {name: (getattr(sums, name) - getattr(part, name)).clip(0) for name in names}
            sums = replace(sums, **left)
        return replace(self, sums=sums)


def isotonic(values: Floats, weights: Floats) -> Floats:
    """The nearest ascending values by weighted squares, (n,): pool adjacent violators."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        size = 1
        while blocks and blocks[-1][0] >= value:
            other, other_weight, other_size = blocks.pop()
            value = (value * weight + other * other_weight) / (weight + other_weight)
            weight, size = weight + other_weight, size + other_size
        blocks.append((value, weight, size))
    return np.repeat([value for value, _, _ in blocks], [size for _, _, size in blocks])
