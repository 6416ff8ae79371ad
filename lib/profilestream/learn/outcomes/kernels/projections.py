"""Projections to few dimensions from mergeable sums: principal components and linear discriminants."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np

from profilestream.learn.kernels import newton_steps
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import DECAYS, DecayedSums, decay_factors

_JITTER = 1e-12
# Added to the variances of standardized inputs, since some inputs can be sums of others.
_INPUT_JITTER = 1e-9


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
    return Projection(sums.mean, *_principal_axes(sums.scatter / (sums.weight - 1), k))


def _principal_axes(covariance: Floats, k: int) -> tuple[Floats, Floats]:
    """The k axes with the largest variance, (k, d), and the variance along each."""
    values, vectors = np.linalg.eigh(covariance)
    return _with_positive_maximum(vectors[:, ::-1].T[:k]), values[::-1][:k].clip(min=0)


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
    return Projection(everything.mean, *_discriminant_axes(within, between, min(k, len(classes) - 1)))


def _discriminant_axes(within: Floats, between: Floats, k: int) -> tuple[Floats, Floats]:
    """The k axes with the largest ratio of variance between classes to that within classes, and this ratio."""
    within = within + np.eye(len(within)) * max(_JITTER * float(np.trace(within)) / len(within), np.finfo(float).tiny)
    inverse = np.linalg.inv(np.linalg.cholesky(within))
    values, vectors = np.linalg.eigh(inverse @ between @ inverse.T)
    return _with_positive_maximum((inverse.T @ vectors[:, ::-1]).T[:k]), values[::-1][:k]


def _with_positive_maximum(axes: Floats) -> Floats:
    largest = np.abs(axes).argmax(axis=1)
    return np.asarray(axes * np.sign(axes[np.arange(len(axes)), largest])[:, None])


@dataclass(frozen=True)
class InputProjection:
    """A linear model of few components of its standardized inputs. Its coefficients are those of the inputs.

    Args:
        kind: `pca`: principal components of the rows, each with its weight w in the sums A = sum w x xT (Marx and
            Smith, Principal component estimation for generalized linear regression, 1990). `lda`: the discriminant of
            labels 0 and 1, from sums of squared loss, where w = 1 and b = sum y x.
        components: at most this many.
    """

    kind: Literal["pca", "lda"]
    components: int

    def solve(self, equations: Floats, scales: Floats, penalty: float) -> Floats:
        """The coefficients of the inputs, (c,), that minimize the penalized loss and use the components only.

        NaN if the equations have no solution.

        Args:
            equations: [A | b], (c, c + 1); the first input is 1.
            scales: standard deviations of the inputs, (c,); inputs with 0 are not used.
            penalty: of the square of each coefficient of a component; the intercept has none.
        """
        try:
            basis = self._basis(equations, scales)
        except np.linalg.LinAlgError:
            return np.full(len(scales), np.nan)
        projected = np.column_stack([basis.T @ equations[:, :-1] @ basis, basis.T @ equations[:, -1]])
        penalties = np.full(len(projected), penalty)
        penalties[0] = 0.0
        return basis @ newton_steps.solve(projected, penalties, np.arange(len(projected)))

    def _basis(self, equations: Floats, scales: Floats) -> Floats:
        """The intercept and the components as coefficients of the inputs, (c, 1 + components)."""
        used, weight = np.flatnonzero(scales), equations[0, 0]
        basis = np.zeros((len(scales), 1))
        basis[0] = 1.0
        if not len(used):
            return basis
        mean = equations[0, used] / weight
        covariance = equations[np.ix_(used, used)] / weight - np.outer(mean, mean)
        covariance /= np.outer(scales[used], scales[used])
        if self.kind == "pca":
            axes, values = _principal_axes(covariance, self.components)
            axes = axes[values > _JITTER * values[0]]
        else:
            # The share of label 1; the covariance of inputs and label is share (1 - share) x difference of the means.
            share = equations[0, -1] / weight
            with_label = (equations[used, -1] / weight - share * mean) / scales[used]
            jitter = _INPUT_JITTER * np.eye(len(used))
            between = np.outer(with_label, with_label) / max(share * (1 - share), _JITTER)
            axes, _ = _discriminant_axes(covariance - between + jitter, between, 1)
        components = np.zeros((len(scales), len(axes)))
        components[used] = (axes / scales[used]).T
        return np.hstack([basis, components])
