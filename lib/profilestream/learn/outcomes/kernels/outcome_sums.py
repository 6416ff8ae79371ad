"""Decayed sums over the learned rows of an outcome: moments of labels and inputs, and the sums of its rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import DECAYS, DecayedSums

# Labels of a Poisson model are counted in bins of a quarter of an octave, from 2^-20 to 2^44.
LABEL_BINS, _BINS_PER_OCTAVE, _FIRST_OCTAVE = 256, 4, -20
_CAPPED_SHARE = 0.001
# Shares of the mean square: up to the first one a variance is rounding, and the other one is the least scale.
_CONSTANT, _MIN_VARIANCE = 1e-12, 0.1
# Decayed rows up to which a rest after a removal is rounding.
NO_ROWS = 1e-9


@dataclass(frozen=True)
class OutcomeSums(DecayedSums):
    """Decayed sums over rows.

    Args:
        rows, label_total: number of rows, and sum of their labels.
        label_counts: rows by bin of the label, (LABEL_BINS,), of Poisson models; else (0,).
        inputs_total, inputs_squares: sum of x and of x^2, (c,).
        rule: sums of the rule: Newton (c, c + 1), first-order (shards, c + 1), and none of them stored;
            zeros in a pass for the moments.
    """

    rows: float = field(metadata=DECAYS)
    label_total: float = field(metadata=DECAYS)
    label_counts: Floats = field(metadata=DECAYS)
    inputs_total: Floats = field(metadata=DECAYS)
    inputs_squares: Floats = field(metadata=DECAYS)
    rule: Floats = field(metadata=DECAYS)

    @property
    def means(self) -> Floats:
        """Means of the inputs, (c,)."""
        return np.asarray(self.inputs_total / max(self.rows, NO_ROWS))

    def scales(self, min_rows: Sequence[float] = ()) -> Floats:
        """Standard deviations of the inputs, (c,), at least .32 of the root mean square; 0: constant or not admitted.

        The lower limit bounds coefficients of inputs that hardly vary yet, such as a ratio of two windows that are both
        longer than the log. Without it, predictions of spend were 10 times the truth after the log was longer.

        Args:
            min_rows: by column, the sum of squares (in a one-hot column: the rows) from which it is admitted; empty: 0.
        """
        mean_square = self.inputs_squares / max(self.rows, NO_ROWS)
        variance = mean_square - self.means**2
        is_used = (variance > _CONSTANT * mean_square) & (
            self.inputs_squares >= (np.array(min_rows) if min_rows else 0)
        )
        return np.asarray(np.sqrt(np.where(is_used, np.maximum(variance, _MIN_VARIANCE * mean_square), 0.0)))

    @property
    def positive_labels(self) -> float:
        """Number of rows with a positive label, from label counts."""
        return float(self.label_counts[1:].sum())

    @property
    def label_cap(self) -> float:
        """The upper end of the bin that contains the .999 quantile of the labels; infinite without label counts."""
        above = self.rows - np.cumsum(self.label_counts)
        bins = np.flatnonzero(above <= _CAPPED_SHARE * self.rows)
        return float(2.0 ** (_FIRST_OCTAVE + (bins[0] + 1) / _BINS_PER_OCTAVE)) if len(bins) else float("inf")

    @property
    def label_unit(self) -> float:
        """The mean of the capped labels, within a ninth; 1 without label counts."""
        if not len(self.label_counts):
            return 1.0
        centers = 2.0 ** (_FIRST_OCTAVE + (np.arange(LABEL_BINS) + 0.5) / _BINS_PER_OCTAVE)
        return float(self.label_counts @ np.minimum(centers, self.label_cap) / max(self.rows, NO_ROWS))

    @property
    def is_finite(self) -> bool:
        """Whether no value of a row was too large for the sums."""
        return all(np.isfinite(getattr(self, name)).all() for name in ("label_total", "inputs_squares", "rule"))

    @property
    def negative(self) -> "OutcomeSums":
        """Sums that remove the rows when they are added."""
        names = [each.name for each in fields(self) if each.metadata.get("decays")]
        return replace(self, **{name: -getattr(self, name) for name in names})


def count_labels(labels: Floats, weights: Floats) -> Floats:
    """Sum of weights by bin of the label, (LABEL_BINS,); labels that are not positive are in the first bin."""
    octaves = np.log2(np.maximum(labels, 2.0**_FIRST_OCTAVE)) - _FIRST_OCTAVE
    bins = np.clip(octaves * _BINS_PER_OCTAVE, 0, LABEL_BINS - 1).astype(np.int64)
    return np.asarray(np.bincount(bins, weights, LABEL_BINS))
