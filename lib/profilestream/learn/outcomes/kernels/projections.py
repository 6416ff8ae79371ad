"""Projections to few dimensions from mergeable sums: principal components and linear discriminants."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import DECAYS, DecayedSums, decay_factors

_JITTER = 1e-12


@dataclass(frozen=True)
class ScatterSums(DecayedSums):
    """Decayed weight, mean and centered scatter of vectors; (), (d,) and (d, d). Without vectors, zeros.

    Pairs are combined about their common mean (Chan, Golub and LeVeque, 1983), so values far from 0 lose no precision.
    """

    weight: float = field(metadata=DECAYS)
    mean: Floats
    scatter: Floats = field(metadata=DECAYS)

    @classmethod
    def zero(cls, d: int) -> "ScatterSums":
        """No vectors."""
        return cls(0.0, np.zeros(d), np.zeros((d, d)))

    @classmethod
    def of(cls, vectors: Floats, times: Longs, half_life_days: float | None) -> "ScatterSums":
        """From finite vectors, (m, d), and their times in microseconds, (m,)."""
        if not len(vectors):
            return cls.zero(vectors.shape[1])
        weights = decay_factors(times, int(times.max()), half_life_days)
        mean = weights @ vectors / weights.sum()
        centered = vectors - mean
        return cls(float(weights.sum()), mean, centered.T @ (weights[:, None] * centered), as_of=int(times.max()))

    def __add__(self, other: Self) -> Self:
        weight = self.weight + other.weight
        share = other.weight / weight if weight else 0.0
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(shift, shift) * self.weight * share
        as_of = max(self.as_of, other.as_of)
        return replace(self, weight=weight, mean=self.mean + share * shift, scatter=scatter, as_of=as_of)


@dataclass(frozen=True)
class Projection:
    """Coordinates = axes x (vector - mean); axes (k, d), with the variance along each or its ratio between classes."""

    mean: Floats
    axes: Floats
    values: Floats

    def coordinates(self, vectors: Floats) -> Floats:
        """Of vectors (m, d): (m, k)."""
        return np.asarray((vectors - self.mean) @ self.axes.T)


def principal_components(sums: ScatterSums, k: int) -> Projection:
    """The k orthogonal axes with the largest variance; the largest entry of each is positive, as in scikit-learn.

    Raises:
        ValueError: there are fewer than two vectors.
    """
    if sums.weight <= 1:
        raise ValueError(f"principal components need at least two vectors, not {sums.weight:g}")
    values, vectors = np.linalg.eigh(sums.scatter / (sums.weight - 1))
    return Projection(sums.mean, _with_positive_maximum(vectors[:, ::-1].T[:k]), values[::-1][:k].clip(min=0))


def linear_discriminants(classes: Sequence[ScatterSums], k: int) -> Projection:
    """The k axes with the largest ratio of variance between classes to that within classes, which is 1 along each.

    At most the number of classes with vectors minus 1 (Fisher's discriminants; Rao, 1948).

    Raises:
        ValueError: fewer than two classes have vectors.
    """
    classes = [one for one in classes if one.weight > 0]
    if len(classes) < 2:
        raise ValueError("linear discriminants need vectors of at least two classes")
    everything = sum(classes[1:], classes[0])
    within = sum((one.scatter for one in classes[1:]), classes[0].scatter) / everything.weight
    between = everything.scatter / everything.weight - within
    within = within + np.eye(len(within)) * max(_JITTER * float(np.trace(within)) / len(within), np.finfo(float).tiny)
    inverse = np.linalg.inv(np.linalg.cholesky(within))
    values, vectors = np.linalg.eigh(inverse @ between @ inverse.T)
    k = min(k, len(classes) - 1)
    axes = (inverse.T @ vectors[:, ::-1]).T[:k]
    return Projection(everything.mean, _with_positive_maximum(axes), values[::-1][:k])


def _with_positive_maximum(axes: Floats) -> Floats:
    largest = np.abs(axes).argmax(axis=1)
    return np.asarray(axes * np.sign(axes[np.arange(len(axes)), largest])[:, None])
