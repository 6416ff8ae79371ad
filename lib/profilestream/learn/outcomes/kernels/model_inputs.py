"""Inputs of outcome models from the features of training examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from zlib import crc32

import numpy as np

from profilestream.learn.kernels.arrays import Floats, Longs

# Larger absolute values are clipped, and smaller ones are 0, so that sums of squares are neither infinite nor lost.
_MAX_VALUE, _MIN_VALUE = 1e12, 1e-9
INTERCEPT = "intercept"


@dataclass(frozen=True)
class InputFeature:
    """How a feature becomes columns. A value that is null or not finite is 0 in all of them.

    Args:
        is_log: log(1 + |value|) with the sign of the value; for counts and amounts.
        lower, upper: the value is clipped to them first.
        knots: ascending; each adds a column max(0, value - knot), after the logarithm.
        buckets: of a category, whose value is a hash from 0 to buckets - 1: one column per bucket and no other.
        min_rows: decayed rows of a bucket until which its column has no effect.
    """

    name: str
    is_log: bool = False
    lower: float = -_MAX_VALUE
    upper: float = _MAX_VALUE
    knots: tuple[float, ...] = ()
    buckets: int = 0
    min_rows: float = 0.0

    @property
    def column(self) -> str:
        """Name of its column, with all parameters of the value: a changed declaration is a new column."""
        name = f"log({self.name})" if self.is_log else self.name
        is_clipped = self.lower > -_MAX_VALUE or self.upper < _MAX_VALUE
        return f"{name}[{self.lower:g},{self.upper:g}]" if is_clipped else name


@dataclass(frozen=True)
class ModelInputs:
    """Columns of x: 1, features, their pieces, buckets of categories, and squares and products of some features.

    Args:
        crossed: names of features without buckets; each pair of them, and each with itself, adds a column.
    """

    features: tuple[InputFeature, ...]
    crossed: tuple[str, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the columns, the intercept first."""
        return (
            INTERCEPT,
            *(self.features[n].column for n in self._numbers),
            *(f"{self.features[n].column}>{knot:g}" for n, knot in self._pieces),
            *(f"{self.features[n].name}={bucket}/{self.features[n].buckets}" for n, bucket in self._buckets),
            *(f"{self.features[one].column}*{self.features[other].column}" for one, other in self._pairs),
        )

    @cached_property
    def sources(self) -> Longs:
        """The number of the feature of each column, of a product the first one; -1 for the intercept."""
        pairs = (*self._pieces, *self._buckets, *self._pairs)
        return np.array([-1, *self._numbers, *(n for n, _ in pairs)])

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Of each column, as `sources`; of the intercept, its own name."""
        return tuple(INTERCEPT if n < 0 else self.features[n].name for n in self.sources)

    @cached_property
    def min_rows(self) -> tuple[float, ...]:
        """Of each column; see OutcomeSums.scales."""
        return tuple(0.0 if n < 0 else self.features[n].min_rows for n in self.sources)

    def matrix(self, values: Floats) -> Floats:
        """x, (m, columns), from values of the features, (m, features), of which NaN is null."""
        is_value = np.isfinite(values)
        scaled = values.clip(-_MAX_VALUE, _MAX_VALUE)
        for n, one in enumerate(self.features):
            if one.lower > -_MAX_VALUE or one.upper < _MAX_VALUE:
                scaled[:, n] = scaled[:, n].clip(one.lower, one.upper)
            if one.is_log:
                scaled[:, n] = np.sign(scaled[:, n]) * np.log1p(np.abs(scaled[:, n]))
        scaled[~is_value | (np.abs(scaled) < _MIN_VALUE)] = 0.0
        x = np.ones((len(values), len(self.names)))
        x[:, 1 : 1 + len(self._numbers)] = scaled[:, self._numbers] if self._buckets else scaled
        pieces = [np.where(is_value[:, n], np.maximum(scaled[:, n] - knot, 0.0), 0.0) for n, knot in self._pieces]
        buckets = [(values[:, n] == bucket).astype(float) for n, bucket in self._buckets]
        products = [scaled[:, one] * scaled[:, other] for one, other in self._pairs]
        for number, column in enumerate([*pieces, *buckets, *products], 1 + len(self._numbers)):
            x[:, number] = column
        return x

    @cached_property
    def _numbers(self) -> list[int]:
        return [n for n, one in enumerate(self.features) if not one.buckets]

    @cached_property
    def _pieces(self) -> list[tuple[int, float]]:
        return [(n, knot) for n in self._numbers for knot in self.features[n].knots]

    @cached_property
    def _buckets(self) -> list[tuple[int, int]]:
        return [(n, bucket) for n, one in enumerate(self.features) for bucket in range(one.buckets)]

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        order = [one.name for one in self.features]
        return list(combinations_with_replacement([order.index(name) for name in self.crossed], 2))


def quantile_knots(values: Floats, pieces: int) -> tuple[float, ...]:
    """Knots for pieces with equal numbers of rows, from a sample (m,); equal quantiles are one knot, NaN is null."""
    values = values[np.isfinite(values)]
    if not len(values):
        return ()
    knots = np.unique(np.quantile(values, np.arange(1, pieces) / pieces))
    return tuple(knots[(knots > values.min()) & (knots < values.max())].tolist())


def hashed(values: Sequence[str | None], buckets: int) -> Floats:
    """Buckets of categories as values of a feature, (m,), equal to Spark's crc32(value) % buckets; null is NaN."""
    return np.array([np.nan if one is None else crc32(one.encode()) % buckets for one in values])
