"""Split/merge moves of incremental k-means: one segment is split in two, and two segments become one, if that pays.

A segment is split by a plane across its principal axis: principal direction divisive partitioning (Boley 1998), with
the best of the planes between 32 bins. The largest eigenvalue of a segment's centered scatter is an upper bound of
what any split can save. The cost of a merge of segments with weights n and m and centers c and d is
n m / (n + m) |c - d|^2.

Shapes and ties as in kmeans.py; c is the number of segments that may be split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums, sum_contributions
from profilestream.learn.segments.kernels.kmeans import (
    ROUNDING,
    TIE,
    KMeansParams,
    KMeansState,
    first_minimum,
    squared_distances,
)

BINS = 32
# Edges of bins in standard deviations along the axis; shifted from 0, where many points of regular data are.
_EDGES = np.linspace(-4, 4, BINS - 1) + 0.0123


@dataclass(frozen=True)
class SplitAxes:
    """The segments that may be split, and the bins in which their contributions are summed.

    Args:
        ids: of the segments, (c,).
        normals: unit vector along the principal axis of each segment, (c, d).
        edges: of the bins along this axis, (c, BINS - 1).
    """

    ids: Longs
    normals: Floats
    edges: Floats


@dataclass(frozen=True)
class SplitMergeMove:
    """A segment was split. If there were k segments already, two were then merged; one may be a half of the split.

    Args:
        parent: id of the segment that was split; its heavier half keeps this id.
        child: new id of the lighter half.
        normal, threshold: of the plane between the halves; a point x is above it when normal x >= threshold.
        is_child_above: whether the child is the half above the plane.
        absorbed, absorbed_by: ids of the lighter merged segment and of the heavier one; null without a merge.
    """

    parent: int
    child: int
    normal: Floats = field(repr=False)
    threshold: float
    is_child_above: bool
    absorbed: int | None = None
    absorbed_by: int | None = None


def split_axes(state: KMeansState, params: KMeansParams) -> SplitAxes:
    """The segments whose split may save more than a merge costs, longest axis first; none: no move can pay.

    The merge is that of two current segments, or of a half with a segment near the axis.
    """
    d = state.sums.sums.shape[1]
    scatter = state.sums.centered_scatter
    max_saving = np.linalg.eigvalsh(scatter)[:, -1] if len(scatter) else np.zeros(0)
    max_saving[max_saving < ROUNDING * np.trace(state.sums.scatter, axis1=1, axis2=2)] = 0.0
    cost = _cheapest_merge(_merge_costs(state.sums))[0] if len(max_saving) >= params.k else 0.0
    normal_of: dict[int, Floats] = {}
    while len(normal_of) < params.max_split_merges and max_saving.any():
        index = first_minimum(np.negative(max_saving))
        normal = _principal_axis(scatter[index])
        if _pays(max_saving[index], min(cost, _half_merge_cost(state, index, normal, max_saving[index])), params):
            normal_of[index] = normal
        max_saving[index] = 0.0
    indices, normals = list(normal_of), np.array(list(normal_of.values())).reshape(-1, d)
    scatter, centers, weight = scatter[indices], state.centers[indices], state.sums.weight[indices]
    deviation = np.sqrt(np.einsum("ci,cij,cj->c", normals, scatter, normals) / weight)
    edges = project(centers, normals)[:, None] + deviation[:, None] * _EDGES
    return SplitAxes(state.ids[indices], normals, edges)


def bin_sums(axes: SplitAxes, points: Floats, times: Longs, ids: Longs, params: KMeansParams) -> ClusterSums:
    """Sums of contributions by segment of the axes and bin, (c BINS) groups; other segments are ignored."""
    groups = np.full(len(points), -1)
    for number, (segment, normal, edges) in enumerate(zip(axes.ids, axes.normals, axes.edges, strict=True)):
        is_member = ids == segment
        bins = np.searchsorted(edges, project(points[is_member], normal), side="right")
        groups[is_member] = number * BINS + bins
    has_group = groups >= 0
    signs = np.ones(int(has_group.sum()), np.int64)
    group_count = len(axes.ids) * BINS
    return sum_contributions(
        points[has_group], times[has_group], groups[has_group], signs, group_count, params.half_life_days
    )


def make_moves(
    state: KMeansState, axes: SplitAxes, bins: ClusterSums, params: KMeansParams
) -> tuple[KMeansState, list[SplitMergeMove]]:
    """The state after the moves that pay, and these moves in order; the split that saves most is tried first."""
    bins = bins.decayed_to(state.sums.as_of, params.half_life_days)
    cuts = [_best_cut(bins.take(slice(n * BINS, (n + 1) * BINS))) for n in range(len(axes.ids))]
    moves: list[SplitMergeMove] = []
    merged: set[int | None] = set()
    for n in np.argsort([-saving for saving, _ in cuts], kind="stable"):
        saving, above = cuts[n]
        parent, child = int(axes.ids[n]), state.next_id
        if parent in merged or not _pays(saving, 0.0, params):
            continue
        halves = [bins.take(slice(n * BINS + a, n * BINS + b)).total() for a, b in ((0, above), (above, BINS))]
        is_child_above = bool(halves[1].weight[0] <= halves[0].weight[0] * (1 + TIE))
        after = _split_segment(state, parent, *(halves if is_child_above else halves[::-1]))
        absorbed = absorbed_by = None
        if len(after.ids) > params.k:
            costs = _merge_costs(after.sums)
            costs[np.searchsorted(after.ids, parent), -1] = np.inf
            cost, i, j = _cheapest_merge(costs)
            if not _pays(saving, cost, params):
                continue
            after, absorbed, absorbed_by = _merge_segments(after, i, j)
            merged |= {absorbed, absorbed_by}
        state = after
        threshold = float(axes.edges[n][above - 1])
        moves.append(SplitMergeMove(parent, child, axes.normals[n], threshold, is_child_above, absorbed, absorbed_by))
    return state, moves


def relabel(ids: Longs, points: Floats, moves: Sequence[SplitMergeMove]) -> Longs:
    """The segment ids of contributions after the moves."""
    ids = ids.copy()
    for move in moves:
        members = np.flatnonzero(ids == move.parent)
        is_above = project(points[members], move.normal) >= move.threshold
        ids[members[is_above == move.is_child_above]] = move.child
        if move.absorbed is not None and move.absorbed_by is not None:
            ids[ids == move.absorbed] = move.absorbed_by
    return ids


def project(points: Floats, normals: Floats) -> Floats:
    """Dot product by row, (m,); the result for a row does not depend on the other rows, to the bit."""
    return np.asarray((np.ascontiguousarray(points) * normals).sum(axis=1))


def _pays(saving: float, cost: float, params: KMeansParams) -> bool:
    return bool(saving > params.min_gain * cost * (1 + TIE) and saving > 0)


def _principal_axis(scatter: Floats) -> Floats:
    """The direction of the largest variance, as unit vector; computed from powers of the scatter matrix.

    If several directions have the largest variance, the result is still the same at every call.
    """
    power = scatter
    for _ in range(10):
        power = power / np.trace(power)
        power = power @ power
    column = power[:, first_minimum(-np.diag(power))]
    return np.asarray(column / np.linalg.norm(column))


def _half_merge_cost(state: KMeansState, index: int, normal: Floats, max_saving: float) -> float:
    """Estimate of the least cost of a merge of one half of a segment with another segment.

    If the halves have their means at s and -v / s along the axis, with v the variance along it, then the first half
    has the share v / (v + s^2) of the weight. The estimate takes s from the projection of the other segment's center,
    and ignores halves that would be lighter than one user.
    """
    others = np.arange(len(state.ids)) != index
    other_weight, weight = state.sums.weight[others], state.sums.weight[index]
    difference = state.centers[others] - state.centers[index]
    along = project(difference, normal)
    variance = max_saving / weight
    half = weight * variance / (variance + along**2)
    across = ((difference**2).sum(axis=1) - along**2).clip(min=0)
    has_user = half >= weight / state.sums.users[index]
    return float((half * other_weight / (half + other_weight) * across).min(where=has_user, initial=np.inf))


def _merge_costs(sums: ClusterSums) -> Floats:
    """Cost of the merge of each pair of segments, (s, s); infinite on and below the diagonal."""
    n, centers = sums.weight, sums.centers
    squared = np.array([squared_distances(centers, center) for center in centers]).reshape(len(n), len(n))
    costs = np.asarray(n[:, None] / (n[:, None] + n) * n * squared)
    costs[np.tril_indices(len(n))] = np.inf
    return costs


def _cheapest_merge(costs: Floats) -> tuple[float, int, int]:
    """The least cost, and the indices of the two segments; infinite when there is no pair."""
    i, j = np.unravel_index(first_minimum(costs.ravel()), costs.shape)
    return float(costs[i, j]), int(i), int(j)


def _best_cut(bins: ClusterSums) -> tuple[float, int]:
    """The saving of the best cut, and the first bin above it; 0 and 1 when no cut has users on both sides."""
    below = bins.map_arrays(lambda array: array.cumsum(axis=0)[:-1])
    above = bins.map_arrays(lambda array: array[::-1].cumsum(axis=0)[::-1][1:])
    cuts = np.flatnonzero((below.users > 0) & (above.users > 0))
    if not len(cuts):
        return 0.0, 1
    below, above = below.take(cuts), above.take(cuts)
    squared = ((below.centers - above.centers) ** 2).sum(axis=1)
    savings = below.weight / (below.weight + above.weight) * above.weight * squared
    best = first_minimum(-savings)
    return float(savings[best]), int(cuts[best]) + 1


def _merge_segments(state: KMeansState, i: int, j: int) -> tuple[KMeansState, int, int]:
    """Merge the lighter of two segments into the heavier: the state, the id removed, and the id that remains."""
    weight = state.sums.weight
    heavy, light = (i, j) if weight[i] * (1 + TIE) >= weight[j] else (j, i)
    both = state.sums.take([i, j]).total()
    remaining = np.arange(len(state.ids)) != light
    sums = state.sums.with_group(heavy, both).take(remaining)
    return KMeansState(state.ids[remaining], sums, state.next_id), int(state.ids[light]), int(state.ids[heavy])


def _split_segment(state: KMeansState, parent: int, parent_half: ClusterSums, child_half: ClusterSums) -> KMeansState:
    index = int(np.searchsorted(state.ids, parent))
    sums = state.sums.with_group(index, parent_half).with_group(len(state.ids), child_half)
    return KMeansState(np.append(state.ids, state.next_id), sums, state.next_id + 1)
