"""Metrics of outcome scores from mergeable sums.

Rows are counted in bins of eta that are .01 wide, so AUC, ECE and lift do not depend on partitions. Rows of one bin are
ties: AUC of 1,000 to 4,000 rows differs by at most .0003 from that of the exact scores (measured).
"""

from dataclasses import dataclass, field

import numpy as np

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import DECAYS, DecayedSums
from profilestream.learn.outcomes.kernels.outcome_model import MAX_ETA

SCORE_BINS = 1600
GROUPS = 20
MIN_PROBABILITY = 1 / (1 + np.exp(MAX_ETA))
_CENTERS = (np.arange(SCORE_BINS) + 0.5) * 2 * MAX_ETA / SCORE_BINS - MAX_ETA


@dataclass(frozen=True)
class ScoreSums(DecayedSums):
    """Sums over scored rows whose labels have matured.

    Args:
        counts, labels, predictions: by bin of eta, (SCORE_BINS,).
        log_loss: of binary labels, sum over rows.
        absolute_error: sum of |label - prediction|.
    """

    counts: Floats = field(default_factory=lambda: np.zeros(SCORE_BINS), metadata=DECAYS)
    labels: Floats = field(default_factory=lambda: np.zeros(SCORE_BINS), metadata=DECAYS)
    predictions: Floats = field(default_factory=lambda: np.zeros(SCORE_BINS), metadata=DECAYS)
    log_loss: float = field(default=0.0, metadata=DECAYS)
    absolute_error: float = field(default=0.0, metadata=DECAYS)

    @classmethod
    def of(cls, eta: Floats, labels: Floats, predictions: Floats, as_of: int) -> "ScoreSums":
        """From rows, (m,); those whose label is not finite are left out."""
        has_label = np.isfinite(labels)
        eta, labels, predictions = eta[has_label], labels[has_label], predictions[has_label]
        bins = ((eta + MAX_ETA) / (2 * MAX_ETA) * SCORE_BINS).clip(0, SCORE_BINS - 1).astype(np.int64)
        counts, by_label, by_prediction = (
            np.asarray(np.bincount(bins, values, SCORE_BINS), float)
            for values in (np.ones(len(eta)), labels, predictions)
        )
        log_loss = float(log_losses(labels, predictions).sum())
        return cls(counts, by_label, by_prediction, log_loss, float(np.abs(labels - predictions).sum()), as_of=as_of)

    @property
    def rows(self) -> float:
        """Number of rows."""
        return float(self.counts.sum())

    def binary_metrics(self) -> dict[str, float]:
        """Metrics of labels 0 and 1; without rows none, with one class no `auc` and no `lift_10`."""
        if not self.rows:
            return {}
        positives, negatives = float(self.labels.sum()), self.rows - float(self.labels.sum())
        metrics = {"log_loss": self.log_loss / self.rows, "ece": self.ece, "base_rate": positives / self.rows}
        if positives and negatives:
            below = np.cumsum(self.counts - self.labels) - (self.counts - self.labels) / 2
            metrics |= {"auc": float(self.labels @ below / positives / negatives), "lift_10": 10 * self.top_share(0.1)}
        return metrics

    def amount_metrics(self) -> dict[str, float]:
        """Metrics of labels of any size; none if all are 0."""
        amount = float(self.labels.sum())
        if not amount:
            return {}
        return {
            "bias": float(self.predictions.sum()) / amount,
            "relative_mae": self.absolute_error / amount,
            "top_10_share": self.top_share(0.1),
        }

    @property
    def ece(self) -> float:
        """Expected calibration error: mean |mean label - mean prediction| over GROUPS groups of equal size."""
        _, labels, predictions, _ = self.groups()
        return float(np.abs(labels - predictions).sum() / self.rows)

    def top_share(self, share: float) -> float:
        """Share of the sum of labels in the rows with the highest scores; rows of a bin are divided in proportion."""
        counts = np.concatenate([[0.0], np.cumsum(self.counts[::-1])])
        labels = np.concatenate([[0.0], np.cumsum(self.labels[::-1])])
        return float(np.interp(share * counts[-1], counts, labels) / labels[-1])

    def groups(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Sums over GROUPS groups with equal numbers of rows: counts, labels, predictions, eta; each (GROUPS,)."""
        is_used = self.counts > 0
        counts = np.concatenate([[0.0], np.cumsum(self.counts[is_used])])
        edges = counts[-1] * np.arange(GROUPS + 1) / GROUPS
        values = self.counts, self.labels, self.predictions, self.counts * _CENTERS
        counts_, labels, predictions, eta = (
            np.diff(np.interp(edges, counts, np.concatenate([[0.0], np.cumsum(one[is_used])]))) for one in values
        )
        return counts_, labels, predictions, eta


def log_losses(labels: Floats, predictions: Floats) -> Floats:
    """-log(probability of the label), (m,); labels above 0 are positive, and probabilities are limited."""
    p = predictions.clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return np.asarray(-np.log(np.where(labels > 0, p, 1 - p)))
