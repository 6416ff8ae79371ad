"""Incremental k-means with mergeable sums, in numpy: the arithmetic of `learn_segments`, without Spark.

The contribution of a user is one point, its time, and the segment that it is assigned to. A segment is always equal to
the decayed sums over the contributions of its users. When a contribution is replaced or erased, the old one is
subtracted exactly as it was added. When a segment is split or merged, all its contributions get the new segment id.

The steps of a batch. The driver handles sums only; each pass over rows runs on the executors:

    first batch  centers = initial_centers(sample, params); state = KMeansState.from_centers(centers)
    pass 1       batch_delta(state, centers, changes, params) per partition, combined by sums.total. Further passes
                 use centers = updated_centers(state, delta, centers, params), with the same state
    driver       state = apply_delta(state, delta, params); axes = split_merge.split_axes(state, params).
                 Without axes no move can lower the cost, and the batch is done
    pass 2       split_merge.bin_sums(...) per partition, over all contributions of the segments in `axes`
    driver       state, moves = split_merge.make_moves(state, axes, bins, params)
    write        split_merge.relabel(ids, points, moves), for new contributions and for stored ones of moved segments

Shapes: s segments, d dimensions, m points. A tie is won by the lower id. Numbers that differ by rounding only are ties,
so the result does not depend on how the rows are partitioned.
"""

from dataclasses import dataclass

import numpy as np

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.evaluation_times import EvaluationTimes, is_late
from profilestream.learn.kernels.sums import MIN_WEIGHT, Sums, total
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums, sum_contributions

# Relative difference up to which two numbers are equal.
TIE = 1e-9
# Share of a weight: a smaller rest after a subtraction is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class KMeansParams:
    """The settings of the algorithm; see settings.Segments."""

    k: int = 8
    half_life_days: float | None = 90.0
    init_passes: int = 10
    passes: int = 1
    max_split_merges: int = 2
    min_gain: float = 1.1
    init_size: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class KMeansState:
    """The segments: at most k. Each has at least one user; a segment that loses its last user is removed.

    Args:
        ids: ascending, (s,).
        sums: over the contributions of the users of each segment, as of the newest event time.
        next_id: the id of the next new segment, greater than all ids so far.
    """

    ids: Longs
    sums: ClusterSums
    next_id: int

    @classmethod
    def from_centers(cls, centers: Floats) -> "KMeansState":
        """The state before the first batch: one id per initial center, no users."""
        return cls(np.arange(len(centers)), ClusterSums.zero(*centers.shape), len(centers))

    @property
    def centers(self) -> Floats:
        """Means of the segments, (s, d)."""
        return self.sums.centers


@dataclass(frozen=True)
class ContributionChanges:
    """Contributions that a batch (or a partition of it) adds and removes.

    Args:
        points, times: new contributions, (m, d) and (m,).
        old_points, old_times, old_ids: stored contributions of these users, with their segments. A user whose profile
            was erased has only an old contribution.
    """

    points: Floats
    times: Longs
    old_points: Floats
    old_times: Longs
    old_ids: Longs


@dataclass(frozen=True)
class KMeansDelta(Sums):
    """Change of the sums by a batch (or a partition of it).

    Args:
        sums: contributions added minus contributions removed, by segment in the order of the state's ids.
        evaluated_points: number of added points that are newer than the state.
        cost: sum of |x - c|^2 over the evaluated points, c the nearest of the centers of this pass; not decayed.
        cost_of_mean: the same with c the mean of all users before the batch; 0 before the first batch.
        times: of the evaluated points; null if no rows were evaluated, and before the first batch.
    """

    sums: ClusterSums
    evaluated_points: int = 0
    cost: float = 0.0
    cost_of_mean: float = 0.0
    times: EvaluationTimes | None = None


def initial_centers(points: Floats, params: KMeansParams) -> Floats:
    """At most k points of a sample by greedy k-means++ (Arthur and Vassilvitskii 2007), independent of their order.

    Each step draws 2 + log(k) candidates and takes the one that lowers the cost most. Fewer than k centers when fewer
    points are distinct.
    """
    points = points[np.lexsort(points.T[::-1])]
    rng = np.random.Generator(np.random.PCG64(params.seed))
    trials = 2 + int(np.log(params.k))
    centers = [int(rng.integers(len(points)))] if len(points) else []
    distances = squared_distances(points, points[centers[0]]) if centers else np.zeros(0)
    while centers and len(centers) < params.k and distances.max() > 0:
        draws = np.searchsorted(distances.cumsum(), rng.random(trials) * distances.sum(), side="right")
        candidates = draws.clip(max=len(points) - 1)
        reduced = [np.minimum(distances, squared_distances(points, points[one])) for one in candidates]
        best = first_minimum(np.array([one.sum() for one in reduced]))
        centers.append(int(candidates[best]))
        distances = reduced[best]
    return points[centers]


def nearest_centers(points: Floats, centers: Floats) -> tuple[Longs, Floats]:
    """For each point, the index of the nearest center and the squared distance to it; 0 and 0 without centers.

    The result for a point does not depend on the other points, to the bit.
    """
    nearest, least = np.zeros(len(points), np.int64), np.zeros(len(points))
    for index, center in enumerate(centers):
        squared = squared_distances(points, center)
        is_closer = squared < least * (1 - TIE) if index else np.ones(len(points), bool)
        nearest[is_closer], least[is_closer] = index, squared[is_closer]
    return nearest, least


def batch_delta(state: KMeansState, centers: Floats, changes: ContributionChanges, params: KMeansParams) -> KMeansDelta:
    """Change of the sums when each new point is assigned to the nearest of `centers`, one center per segment id."""
    nearest, squared = nearest_centers(changes.points, centers)
    old = np.searchsorted(state.ids, changes.old_ids)
    sums = sum_contributions(
        np.vstack([changes.points, changes.old_points]), np.append(changes.times, changes.old_times),
        np.append(nearest, old), np.repeat([1, -1], [len(nearest), len(old)]), len(state.ids), params.half_life_days,
    )  # fmt: skip
    if not state.sums.as_of:
        return KMeansDelta(sums)
    is_evaluated = ~is_late(changes.times, state.sums.as_of)
    mean = state.sums.total().centers[0]
    return KMeansDelta(
        sums, int(is_evaluated.sum()), float(squared[is_evaluated].sum()),
        float(squared_distances(changes.points[is_evaluated], mean).sum()),
        EvaluationTimes.of(changes.times[is_evaluated], int((~is_evaluated).sum())),
    )  # fmt: skip


def updated_centers(state: KMeansState, delta: KMeansDelta, centers: Floats, params: KMeansParams) -> Floats:
    """The means after a pass, for the next pass over the same batch; a segment without users keeps its center."""
    after = _sums_after(state, delta, params)
    has_users = after.users > 0
    updated = centers.copy()
    updated[has_users] = after.take(has_users).centers
    return updated


def apply_delta(state: KMeansState, delta: KMeansDelta, params: KMeansParams) -> KMeansState:
    """The state after a batch, before split/merge moves."""
    after = _sums_after(state, delta, params)
    has_users = after.users > 0
    return KMeansState(state.ids[has_users], after.take(has_users), state.next_id)


def _sums_after(state: KMeansState, delta: KMeansDelta, params: KMeansParams) -> ClusterSums:
    """The sums after a batch, including segments that lost all their users.

    Where the remaining weight is rounding, a minimal weight replaces it, with the center and scatter from before.
    """
    before = state.sums.decayed_to(delta.as_of, params.half_life_days)
    after = total([before, delta.sums], params.half_life_days)
    weight = state.sums.weight
    least = np.where(weight > 0, np.maximum(ROUNDING * before.weight, MIN_WEIGHT), 0.0)
    is_rounding = after.weight < least
    factor = least[is_rounding] / weight[is_rounding]
    after.weight[is_rounding] = least[is_rounding]
    after.sums[is_rounding] = state.sums.sums[is_rounding] * factor[:, None]
    after.scatter[is_rounding] = state.sums.scatter[is_rounding] * factor[:, None, None]
    return after


def squared_distances(points: Floats, center: Floats) -> Floats:
    """Squared distance of each point to the center, (m,)."""
    difference = points - center
    return np.asarray(np.einsum("ij,ij->i", difference, difference))


def first_minimum(values: Floats) -> int:
    """Index of the minimum; the first of those that differ by rounding only."""
    least = values.min()
    return int(np.flatnonzero(values <= least + TIE * abs(least))[0])
