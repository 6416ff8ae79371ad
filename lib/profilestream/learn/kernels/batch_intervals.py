"""Intervals of means over batches: a percentile bootstrap over the batches (Efron and Tibshirani, 1993)."""

from dataclasses import dataclass

import numpy as np

from profilestream.learn.kernels.arrays import Floats, Longs

_RESAMPLES, _LOW, _HIGH = 1000, 5.0, 95.0


@dataclass(frozen=True)
class Interval:
    """A mean over batches, and the bounds of its 90 % interval; equal to the mean with one batch."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True)
class RatioOfSums:
    """A mean over batches as a ratio of two sums, such as weight x value and weight; each (batches,)."""

    numerators: Floats
    denominators: Floats

    @property
    def value(self) -> float:
        """The mean; NaN if the denominators add up to 0."""
        return float(self.resampled(np.arange(len(self.numerators))))

    def resampled(self, batches: Longs) -> Floats:
        """The means of samples of batches, (..., batches) -> (...)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.numerators[batches].sum(axis=-1) / self.denominators[batches].sum(axis=-1)
        return np.asarray(means)


def mean_interval(values: Floats, weights: Floats) -> Interval:
    """The mean by weight.

    Args:
        values, weights: one per batch, (batches,); the sum of the weights is positive. Batches without weight do not
            count.
    """
    has_weight = weights > 0
    ratio = RatioOfSums(values[has_weight] * weights[has_weight], weights[has_weight])
    return _interval(ratio.value, ratio.resampled(_samples(len(ratio.numerators), 0)))


def difference_interval(one: RatioOfSums, other: RatioOfSums, *, is_paired: bool) -> Interval:
    """The difference of two means.

    Args:
        is_paired: both have the same batches in the same order, which are resampled together.
    """
    samples = _samples(len(one.numerators), 0)
    other_samples = samples if is_paired else _samples(len(other.numerators), 1)
    return _interval(one.value - other.value, one.resampled(samples) - other.resampled(other_samples))


def _samples(batches: int, seed: int) -> Longs:
    return np.random.default_rng(seed).integers(0, batches, (_RESAMPLES, batches))


def _interval(mean: float, sampled: Floats) -> Interval:
    low, high = np.percentile(sampled, [_LOW, _HIGH])
    return Interval(mean, float(low), float(high))
