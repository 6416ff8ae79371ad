"""Decayed sums over groups of points. Sums can be added in any order, and a point that was added can be subtracted."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import DECAYS, MIN_WEIGHT, DecayedSums, decay_factors


@dataclass(frozen=True)
class ClusterSums(DecayedSums):
    """Sums over the points x of each of s groups, in d dimensions, with weights w = 2^(-(as_of - time) / half-life).

    Args:
        users: number of users, (s,); in the sums of a batch, users added minus users removed.
        weight: sum of w, (s,).
        sums: sum of w x, (s, d).
        scatter: sum of w x xT, (s, d, d).
    """

    users: Longs
    weight: Floats = field(metadata=DECAYS)
    sums: Floats = field(metadata=DECAYS)
    scatter: Floats = field(metadata=DECAYS)

    @classmethod
    def zero(cls, groups: int, dimensions: int) -> "ClusterSums":
        """Groups without points."""
        return cls(
            np.zeros(groups, np.int64), np.zeros(groups), np.zeros((groups, dimensions)),
            np.zeros((groups, dimensions, dimensions)),
        )  # fmt: skip

    def take(self, indices: Any) -> "ClusterSums":
        """The selected groups; `indices` is any index of a numpy axis."""
        return self.map_arrays(lambda array: array[indices])

    def total(self) -> "ClusterSums":
        """The sums over all groups, as one group."""
        return self.map_arrays(lambda array: array.sum(axis=0, keepdims=True))

    def map_arrays(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> "ClusterSums":
        """Apply a function to each of the four arrays; the first axis of each is the group."""
        arrays = [function(array) for array in (self.users, self.weight, self.sums, self.scatter)]
        return ClusterSums(*arrays, as_of=self.as_of)

    def with_group(self, index: int, group: "ClusterSums") -> "ClusterSums":
        """Replace the group at `index`, or append it when `index` is the number of groups."""
        return ClusterSums(
            _with_row(self.users, index, group.users), _with_row(self.weight, index, group.weight),
            _with_row(self.sums, index, group.sums), _with_row(self.scatter, index, group.scatter), as_of=self.as_of,
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
    weights = np.maximum(decay_factors(times, as_of, half_life_days), MIN_WEIGHT)
    weighted = x * (weights * signs)[order, None]
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    for start, end in pairwise([*starts, len(order)]):
        product = weighted[start:end].T @ x[start:end]
        group = groups[order[start]]
        result.weight[group], result.sums[group] = product[d, d], product[d, :d]
        result.scatter[group] = product[:d, :d]
    np.add.at(result.users, groups, signs)
    return replace(result, as_of=as_of)


def _with_row(array: NDArray[Any], index: int, row: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array[:index], row, array[index + 1 :]])
