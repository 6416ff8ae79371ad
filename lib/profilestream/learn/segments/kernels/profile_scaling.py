"""The scaling of profile vectors to points. Runs on executors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import Sums
from profilestream.learn.segments.kernels import kmeans_tasks

# Latest profiles of users: `mean` is the mean vector of the user's events, in the dimensions' own units; null if the
# profile was deleted. Users are sampled in order of `sample_hash`.
PROFILE = pa.schema([
    ("user_id", pa.string()), ("mean", pa.list_(pa.float64())), ("as_of", pa.timestamp("us", "UTC")),
    ("sample_hash", pa.int64()),
])  # fmt: skip


@dataclass(frozen=True)
class Scaling:
    """The scaling of points: point = (value - location) / scale, by dimension; 0 in a dimension whose scale is 0."""

    dimensions: tuple[str, ...]
    location: Floats
    scale: Floats

    def unscale(self, index: int, coordinate: float) -> float:
        """The value of a coordinate in the dimension's own unit."""
        return float(self.location[index] + coordinate * self.scale[index])

    def points(self, means: Floats) -> Floats:
        """Scaled vectors, (users, dimensions)."""
        points: Floats = np.divide(means - self.location, self.scale, out=np.zeros_like(means), where=self.scale > 0)
        return points


@dataclass(frozen=True)
class VectorMoments(Sums):
    """Sums over vectors about a point `center`, all by dimension: number of values, sum, sum of squares.

    The variance is computed about the center, which is near the values, so it is exact also for values far from 0.
    """

    count: Longs
    total: Floats
    squares: Floats


def sum_moments(profiles: pa.Table, *, center: Floats) -> dict[str, Any]:
    """`moments`: the VectorMoments of the vectors about a center."""
    means = vectors_of(profiles, len(center))
    if not len(means):
        return {}
    difference, has_value = np.nan_to_num(means - center), ~np.isnan(means)
    return {"moments": VectorMoments(has_value.sum(axis=0), difference.sum(axis=0), (difference**2).sum(axis=0))}


def fit(center: Floats, moments: Iterable[VectorMoments], weights: Mapping[str, float]) -> Scaling:
    """The mean of the users, and standard deviation / weight of the dimension.

    A standard deviation of 0 counts as 1. The scale of a dimension with weight 0 is 0.
    """
    zero = np.zeros(len(weights))
    total = sum(moments, VectorMoments(zero.astype(np.int64), zero, zero))
    count = np.maximum(total.count, 1)
    mean = total.total / count
    deviation = np.sqrt(np.maximum(total.squares / count - mean**2, 0.0))
    deviation[deviation == 0] = 1.0
    weight = np.array(list(weights.values()))
    scale = np.divide(deviation, weight, out=np.zeros(len(weight)), where=weight != 0)
    return Scaling(tuple(weights), center + mean, scale)


def scale_profiles(profiles: pa.Table, *, scaling: Scaling) -> dict[str, pa.Table]:
    """`contributions`: rows with kmeans_tasks.CONTRIBUTION; the point is null if the profile was deleted."""
    points = kmeans_tasks.lists_of(scaling.points(vectors_of(profiles, len(scaling.dimensions))))
    present = np.flatnonzero(profiles["mean"].is_valid())
    position = np.full(len(profiles), -1)
    position[present] = np.arange(len(present))
    columns: list[Any] = [profiles["user_id"], points.take(pa.array(position, mask=position < 0)), profiles["as_of"]]
    return {"contributions": pa.table([*columns, profiles["sample_hash"]], schema=kmeans_tasks.CONTRIBUTION)}


def vectors_of(profiles: pa.Table, d: int) -> Floats:
    """The mean vectors of the profiles that have one, (profiles, d)."""
    return kmeans_tasks.points_of(profiles.filter(profiles["mean"].is_valid()), "mean", d)
