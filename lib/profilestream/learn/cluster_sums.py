"""Decayed sums over groups of points. Sums can be added in any order, and a point that was added can be subtracted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilestream.learn.als import Floats, Longs, decay_factors

# Weights are at least this, so that the mean of every group with users is defined.
MIN_WEIGHT = 1e-100


@dataclass(frozen=True)
class ClusterSums:
    """Sums over the points x of each of s groups, in d dimensions, with weights w = 2^(-(as_of - time) / half-life).

    Args:
        users: number of users, (s,); in the sums of a batch, users added minus users removed.
        weight: sum of w, (s,).
        sums: sum of w x, (s, d).
        scatter: sum of w x xT, (s, d, d).
        as_of: time at which the weights are valid, microseconds since 1970; 0: no point was added yet.
    """

    users: Longs
    weight: Floats
    sums: Floats
    scatter: Floats
    as_of: int

    @classmethod
    def zero(cls, groups: int, dimensions: int) -> "ClusterSums":
        """Groups without points."""
        return cls(
            np.zeros(groups, np.int64), np.zeros(groups), np.zeros((groups, dimensions)),
            np.zeros((groups, dimensions, dimensions)), 0,
        )  # fmt: skip

    @classmethod
    def of_bytes(cls, data: bytes, dimensions: int) -> "ClusterSums":
        """The reverse of `as_bytes`."""
        d, numbers = dimensions, np.frombuffer(data, np.float64)
        table = numbers[1:].reshape(-1, 2 + d + d * d)
        return cls(
            table[:, 0].astype(np.int64), table[:, 1], table[:, 2 : 2 + d], table[:, 2 + d :].reshape(-1, d, d),
            int(numbers[0]),
        )  # fmt: skip

    def as_bytes(self) -> bytes:
        """All numbers as float64, which is exact for integers (counts and times) below 2^53."""
        flat = self.scatter.reshape(len(self.users), -1)
        table = np.column_stack([self.users, self.weight, self.sums, flat]).astype(np.float64)
        return np.append(np.float64(self.as_of), table).tobytes()

    def decayed_to(self, as_of: int, half_life_days: float | None) -> "ClusterSums":
        """The sums as of a later time; unchanged if that time is not later. `half_life_days` null: no decay."""
        if as_of <= self.as_of:
            return self
        factor = _weights(np.array([self.as_of]), as_of, half_life_days)[0] if self.as_of else 1.0
        return ClusterSums(self.users, self.weight * factor, self.sums * factor, self.scatter * factor, as_of)

    def take(self, indices: Any) -> "ClusterSums":
        """The selected groups; `indices` is any index of a numpy axis."""
        return self.map_arrays(lambda array: array[indices])

    def total(self) -> "ClusterSums":
        """The sums over all groups, as one group."""
        return self.map_arrays(lambda array: array.sum(axis=0, keepdims=True))

    def map_arrays(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> "ClusterSums":
        """Apply a function to each of the four arrays; the first axis of each is the group."""
        return ClusterSums(
            function(self.users), function(self.weight), function(self.sums), function(self.scatter), self.as_of
        )

    def __add__(self, other: "ClusterSums") -> "ClusterSums":
        """Sums of the same groups as of the same time."""
        return ClusterSums(
            self.users + other.users, self.weight + other.weight, self.sums + other.sums, self.scatter + other.scatter,
            self.as_of,
        )  # fmt: skip

    def with_group(self, index: int, group: "ClusterSums") -> "ClusterSums":
        """Replace the group at `index`, or append it when `index` is the number of groups."""
        return ClusterSums(
            _with_row(self.users, index, group.users), _with_row(self.weight, index, group.weight),
            _with_row(self.sums, index, group.sums), _with_row(self.scatter, index, group.scatter), self.as_of,
        )  # fmt: skip

    @property
    def centers(self) -> Floats:
        """Weighted means of the points, (s, d)."""
        return np.asarray(self.sums / self.weight[:, None])

    @property
    def centered_scatter(self) -> Floats:
        """Sum of w (x - mean) (x - mean)T, (s, d, d); its trace is the cost of the group."""
        return np.asarray(self.scatter - self.sums[:, :, None] * self.centers[:, None, :])

    @property
    def cost(self) -> Floats:
        """Sum of w |x - mean|^2, (s,)."""
        return np.asarray(np.trace(self.centered_scatter, axis1=1, axis2=2).clip(min=0))


def sum_contributions(
    points: Floats, times: Longs, groups: Longs, signs: Longs, group_count: int, half_life_days: float | None
) -> ClusterSums:
    """Sums of points by group, as of the newest of their times.

    Args:
        points, times: (m, d) and (m,), microseconds.
        groups: index of the group of each point, (m,).
        signs: 1 adds the point, -1 subtracts it, (m,).
    """
    d = points.shape[1]
    result = ClusterSums.zero(group_count, d)
    if not len(points):
        return result
    as_of = int(times.max())
    order = np.argsort(groups, kind="stable")
    # With a column of ones, one matrix product per group has its weight and its sums, too.
    x = np.hstack([points, np.ones((len(points), 1))])[order]
    weighted = x * (_weights(times, as_of, half_life_days) * signs)[order, None]
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    for start, end in pairwise([*starts, len(order)]):
        product = weighted[start:end].T @ x[start:end]
        group = groups[order[start]]
        result.weight[group], result.sums[group] = product[d, d], product[d, :d]
        result.scatter[group] = product[:d, :d]
    np.add.at(result.users, groups, signs)
    return replace(result, as_of=as_of)


def _weights(times: Longs, as_of: int, half_life_days: float | None) -> Floats:
    return np.maximum(decay_factors(times, as_of, half_life_days), MIN_WEIGHT)


def _with_row(array: NDArray[Any], index: int, row: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array[:index], row, array[index + 1 :]])
