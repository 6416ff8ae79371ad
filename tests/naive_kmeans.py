"""Reference implementation of `learn_segments`: loops over single users, and sums counted again from all users."""

from dataclasses import replace

import numpy as np
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums
from profilestream.learn.segments.kernels.kmeans import KMeansParams
from profilestream.learn.segments.kernels.split_merge import SplitMergeMove

DAY = MICROS_PER_DAY
# Point, time and segment of a user.
Contribution = tuple[Floats, int, int]


def count_sums(contributions: list[Contribution], ids: list[int], as_of: int, params: KMeansParams) -> ClusterSums:
    """The sums over the contributions by segment."""
    d = len(contributions[0][0])
    result = ClusterSums.zero(len(ids), d)
    for point, at, segment in contributions:
        index = ids.index(segment)
        weight = 1.0 if params.half_life_days is None else 2.0 ** (-(as_of - at) / DAY / params.half_life_days)
        result.users[index] += 1
        result.weight[index] += weight
        result.sums[index] += weight * point
        result.scatter[index] += weight * np.outer(point, point)
    return replace(result, as_of=as_of)


def nearest_segment(point: Floats, centers: dict[int, Floats]) -> int:
    """The segment with the nearest center; the lowest id of those at the same distance."""
    return min(
        centers, key=lambda segment: (sum((a - b) ** 2 for a, b in zip(point, centers[segment], strict=True)), segment)
    )


def assign(
    users: dict[str, Contribution], rows: dict[str, tuple[Floats, int]], centers: dict[int, Floats]
) -> dict[str, Contribution]:
    """The users after one pass over the rows of a batch, before split/merge moves."""
    return users | {user: (point, at, nearest_segment(point, centers)) for user, (point, at) in rows.items()}


def apply_moves(users: dict[str, Contribution], moves: tuple[SplitMergeMove, ...]) -> dict[str, Contribution]:
    """The users after the moves."""
    result = dict(users)
    for move in moves:
        for user, (point, at, segment) in result.items():
            if segment == move.parent:
                is_above = sum(a * b for a, b in zip(point, move.normal, strict=True)) >= move.threshold
                segment = move.child if is_above == move.is_child_above else segment
            if segment == move.absorbed and move.absorbed_by is not None:
                segment = move.absorbed_by
            result[user] = (point, at, segment)
    return result


def cost(points: Floats) -> float:
    """Sum of squared distances to the mean."""
    return float(((points - points.mean(axis=0)) ** 2).sum())
