"""Incremental k-means by mergeable sums, in numpy: the arithmetic of `learn_segments`, without Spark.

A contribution is what a user last said: a point, its time and the segment that it was put into. A segment is the
decayed sums over the contributions of its users, always: what is replaced or erased is subtracted as it was added, and
a move takes all contributions of a segment along. A batch takes these passes over rows; the driver sees sums only:

    once      centers = first_centers(sample, params); state = State.founded(centers)
    1 pass    delta = batch_delta(state, centers, batch, params) of each part; merge(one, other, params); nearest(...)
              says which segment a point goes to. Further passes, if any, take
              new_centers(state, delta, centers, params) and start from the same state.
    driver    state = apply(state, delta, params); axes = promising(state, params), often none: then that was all
    1 pass    bins = binned(axes, points, times, ids, params) of each part, over all contributions (kept ones that
              were not replaced, and new ones) of the segments axes.ids; merge_sums(one, other, params)
    driver    state, moves = moved(state, axes, bins, params)
    writing   relabeled(ids, points, moves) of new contributions, and of kept ones of the segments that moves name

A segment is split by a plane across its longest axis: principal direction divisive partitioning (Boley 1998), with the
best of the planes between the bins. The largest eigenvalue of a segment's scatter is the most that any split can save.

Shapes: s segments, d dimensions, m points. Ties go to the lower id, and numbers that differ by rounding alone are ties,
so that no choice depends on how rows were parted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from profilestream.learn.als import Floats, Longs
from profilestream.learn.cluster_sums import FAINT, Sums, sums_of

BINS = 32
# Edges of bins in standard deviations along the axis; a bit off the middle, where points of tidy data lie.
_EDGES = np.linspace(-4, 4, BINS - 1) + 0.0123
_TIE = 1e-9
# Of a weight: what is left of it when so much was taken away is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Params:
    """As settings.Segments."""

    k: int = 8
    half_life_days: float | None = 90.0
    first_passes: int = 10
    passes: int = 1
    max_split_merges: int = 2
    min_gain: float = 1.1
    sample: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class State:
    """The segments. There are at most k, and each has users: one that loses its last user is gone.

    Args:
        ids: ascending, (s,).
        sums: over the contributions of each one's users, as of the newest event time.
        next_id: greater than any id that ever was.
    """

    ids: Longs
    sums: Sums
    next_id: int

    @classmethod
    def founded(cls, centers: Floats) -> "State":
        """Before the first batch: ids for its first centers, and nobody there."""
        return cls(np.arange(len(centers)), Sums.zero(*centers.shape), len(centers))

    @property
    def centers(self) -> Floats:
        """Means of the segments, (s, d)."""
        return self.sums.centers


@dataclass(frozen=True)
class Batch:
    """Users of a part of a batch: what they say now, and what those of them who are known said last.

    Args:
        points, times: (m, d), (m,).
        old_points, old_times, old_ids: as they were kept; a user who is erased has these alone.
    """

    points: Floats
    times: Longs
    old_points: Floats
    old_times: Longs
    old_ids: Longs


@dataclass(frozen=True)
class Delta:
    """What a part of a batch has to say.

    Args:
        sums: by segment, in the order of the state's ids: what came less what went.
        points: how many came.
        cost: sum of |x - c|^2 to the nearest of the centers that were asked, not weighted.
        cost_of_mean: the same to the mean of all users, before the batch.
    """

    sums: Sums
    points: int = 0
    cost: float = 0.0
    cost_of_mean: float = 0.0


@dataclass(frozen=True)
class Axes:
    """What is asked of the users of segments that may be split.

    Args:
        ids: of the segments, (c,).
        normals: along the longest axis of each, length 1, (c, d).
        edges: of bins on it, (c, BINS - 1).
    """

    ids: Longs
    normals: Floats
    edges: Floats


@dataclass(frozen=True)
class Move:
    """A segment was split, and then two became one, if there were k; it may have been one of these.

    Args:
        parent: the segment that was split; its heavier half keeps the id.
        child: the new id of the others.
        normal: of the plane between the halves.
        cut: a point is above the plane when normal x >= cut.
        is_child_above: of the plane, else below.
        absorbed, into: ids of the lighter segment and the heavier one that it became part of, after the split.
    """

    parent: int
    child: int
    normal: Floats = field(repr=False)
    cut: float
    is_child_above: bool
    absorbed: int | None = None
    into: int | None = None


def first_centers(points: Floats, params: Params) -> Floats:
    """At most k points of a sample, by k-means++ (Arthur and Vassilvitskii 2007), the best of a few tries each.

    Fewer when fewer are distinct. The order of the sample is of no matter.
    """
    points = points[np.lexsort(points.T[::-1])]
    dice = np.random.Generator(np.random.PCG64(params.seed))
    tries = 2 + int(np.log(params.k))
    chosen = [int(dice.integers(len(points)))] if len(points) else []
    left = _squared(points, points[chosen[0]]) if chosen else np.zeros(0)
    while chosen and len(chosen) < params.k and left.max() > 0:
        drawn = np.searchsorted(left.cumsum(), dice.random(tries) * left.sum(), side="right")
        tried = [np.minimum(left, _squared(points, points[one])) for one in drawn.clip(max=len(points) - 1)]
        best = _first_least(np.array([one.sum() for one in tried]))
        chosen.append(int(drawn[best].clip(max=len(points) - 1)))
        left = tried[best]
    return points[chosen]


def nearest(points: Floats, centers: Floats) -> tuple[Longs, Floats]:
    """Of each point: the place of the nearest center, and the squared distance to it.

    Without centers: place 0, distance 0. A row's numbers do not depend on the rows beside it, to the bit.
    """
    place, least = np.zeros(len(points), np.int64), np.zeros(len(points))
    for number, center in enumerate(centers):
        squared = _squared(points, center)
        is_closer = squared < least * (1 - _TIE) if number else np.ones(len(points), bool)
        place[is_closer], least[is_closer] = number, squared[is_closer]
    return place, least


def batch_delta(state: State, centers: Floats, batch: Batch, params: Params) -> Delta:
    """What a part of a batch has to say, when its points go to the nearest of the centers; one for each id."""
    places, squared = nearest(batch.points, centers)
    old = np.searchsorted(state.ids, batch.old_ids)
    sums = sums_of(
        np.vstack([batch.points, batch.old_points]), np.append(batch.times, batch.old_times), np.append(places, old),
        np.repeat([1, -1], [len(places), len(old)]), len(state.ids), params.half_life_days,
    )  # fmt: skip
    if not state.sums.now:
        return Delta(sums, len(places), float(squared.sum()))
    mean = state.sums.total().centers[0]
    return Delta(sums, len(places), float(squared.sum()), float(_squared(batch.points, mean).sum()))


def merge_sums(one: Sums, other: Sums, params: Params) -> Sums:
    """Both together, as of the later time."""
    now = max(one.now, other.now)
    return one.aged(now, params.half_life_days).plus(other.aged(now, params.half_life_days))


def merge(one: Delta, other: Delta, params: Params) -> Delta:
    """Both together."""
    return Delta(
        merge_sums(one.sums, other.sums, params),
        one.points + other.points,
        one.cost + other.cost,
        one.cost_of_mean + other.cost_of_mean,
    )


def new_centers(state: State, delta: Delta, centers: Floats, params: Params) -> Floats:
    """Means after a pass, to assign the same batch to once more; where nobody is left, the center before."""
    after = _together(state, delta, params)
    is_there = after.users > 0
    found = centers.copy()
    found[is_there] = after.take(is_there).centers
    return found


def apply(state: State, delta: Delta, params: Params) -> State:
    """The state after a batch, before moves."""
    after = _together(state, delta, params)
    is_there = after.users > 0
    return State(state.ids[is_there], after.take(is_there), state.next_id)


def promising(state: State, params: Params) -> Axes:
    """The segments that may be worth a split, the longest first; none, when none can save what a merge costs.

    The merge is that of two segments as they are, or of a half with a segment that lies near the axis.
    """
    d = state.sums.sums.shape[1]
    spread = state.sums.spread
    most = np.linalg.eigvalsh(spread)[:, -1] if len(spread) else np.zeros(0)
    most[most < _ROUNDING * np.trace(state.sums.scatter, axis1=1, axis2=2)] = 0.0
    cost = _cheapest(_merge_costs(state.sums))[0] if len(most) >= params.k else 0.0
    chosen: dict[int, Floats] = {}
    while len(chosen) < params.max_split_merges and most.any():
        place = _first_least(np.negative(most))
        normal = _longest(spread[place])
        if _pays(most[place], min(cost, _cost_of_half(state, place, normal, most[place])), params):
            chosen[place] = normal
        most[place] = 0.0
    normals = np.array(list(chosen.values())).reshape(-1, d)
    spread, centers, weight = spread[list(chosen)], state.centers[list(chosen)], state.sums.weight[list(chosen)]
    deviation = np.sqrt(np.einsum("ci,cij,cj->c", normals, spread, normals) / weight)
    return Axes(state.ids[list(chosen)], normals, _along(centers, normals)[:, None] + deviation[:, None] * _EDGES)


def binned(axes: Axes, points: Floats, times: Longs, ids: Longs, params: Params) -> Sums:
    """Of contributions to segments of the axes, (c BINS) groups; others are left out."""
    places = np.full(len(points), -1)
    for number, (segment, normal, edges) in enumerate(zip(axes.ids, axes.normals, axes.edges, strict=True)):
        mine = ids == segment
        places[mine] = number * BINS + np.searchsorted(edges, _along(points[mine], normal), side="right")
    asked = places >= 0
    signs = np.ones(int(asked.sum()), np.int64)
    return sums_of(points[asked], times[asked], places[asked], signs, len(axes.ids) * BINS, params.half_life_days)


def moved(state: State, axes: Axes, bins: Sums, params: Params) -> tuple[State, list[Move]]:
    """The state after the moves that pay, the best split first; and these, in order."""
    bins = bins.aged(state.sums.now, params.half_life_days)
    cuts = [_best_cut(bins.take(slice(n * BINS, (n + 1) * BINS))) for n in range(len(axes.ids))]
    moves: list[Move] = []
    merged: set[int | None] = set()
    for n in np.argsort([-saved for saved, _ in cuts], kind="stable"):
        saved, above = cuts[n]
        parent, child = int(axes.ids[n]), state.next_id
        if parent in merged or not _pays(saved, 0.0, params):
            continue
        halves = [bins.take(slice(n * BINS + a, n * BINS + b)).total() for a, b in ((0, above), (above, BINS))]
        is_child_above = bool(halves[1].weight[0] <= halves[0].weight[0] * (1 + _TIE))
        after = _split(state, parent, *(halves if is_child_above else halves[::-1]))
        absorbed = into = None
        if len(after.ids) > params.k:
            costs = _merge_costs(after.sums)
            costs[np.searchsorted(after.ids, parent), -1] = np.inf
            cost, i, j = _cheapest(costs)
            if not _pays(saved, cost, params):
                continue
            after, absorbed, into = _merged(after, i, j)
            merged |= {absorbed, into}
        state = after
        cut = float(axes.edges[n][above - 1])
        moves.append(Move(parent, child, axes.normals[n], cut, is_child_above, absorbed, into))
    return state, moves


def relabeled(ids: Longs, points: Floats, moves: Sequence[Move]) -> Longs:
    """The segments of contributions after moves."""
    ids = ids.copy()
    for move in moves:
        mine = np.flatnonzero(ids == move.parent)
        is_above = _along(points[mine], move.normal) >= move.cut
        ids[mine[is_above == move.is_child_above]] = move.child
        if move.absorbed is not None and move.into is not None:
            ids[ids == move.absorbed] = move.into
    return ids


def _together(state: State, delta: Delta, params: Params) -> Sums:
    """The sums after a batch, those of segments that lost their users included.

    Where only rounding is left of a weight, a faint one is kept with the center and the spread before the batch.
    """
    now = max(state.sums.now, delta.sums.now)
    aged = state.sums.aged(now, params.half_life_days)
    after = aged.plus(delta.sums.aged(now, params.half_life_days))
    had = state.sums.weight
    least = np.where(had > 0, np.maximum(_ROUNDING * aged.weight, FAINT), 0.0)
    is_lost = after.weight < least
    share = least[is_lost] / had[is_lost]
    after.weight[is_lost] = least[is_lost]
    after.sums[is_lost] = state.sums.sums[is_lost] * share[:, None]
    after.scatter[is_lost] = state.sums.scatter[is_lost] * share[:, None, None]
    return after


def _squared(points: Floats, center: Floats) -> Floats:
    away = points - center
    return np.asarray(np.einsum("ij,ij->i", away, away))


def _along(points: Floats, normals: Floats) -> Floats:
    """Products by row, to the same bits whatever the rows beside it."""
    return np.asarray((np.ascontiguousarray(points) * normals).sum(axis=1))


def _first_least(values: Floats) -> int:
    """The place of the least; of those that differ by rounding, the first."""
    least = values.min()
    return int(np.flatnonzero(values <= least + _TIE * abs(least))[0])


def _pays(saved: float, cost: float, params: Params) -> bool:
    return bool(saved > params.min_gain * cost * (1 + _TIE) and saved > 0)


def _longest(spread: Floats) -> Floats:
    """The direction in which a scatter is largest, by powers of it: where there is no such one, always the same."""
    power = spread
    for _ in range(10):
        power = power / np.trace(power)
        power = power @ power
    column = power[:, _first_least(-np.diag(power))]
    return np.asarray(column / np.linalg.norm(column))


def _cost_of_half(state: State, place: int, normal: Floats, most: float) -> float:
    """About the least that it costs to make one of a half of a segment and another segment.

    Of two halves at s and -v / s along the axis, v the variance along it, the first has the share v / (v + s^2): so
    much of the mass may lie where another segment's center falls on the axis, if that is a user at least.
    """
    others = np.arange(len(state.ids)) != place
    n, weight = state.sums.weight[others], state.sums.weight[place]
    apart = state.centers[others] - state.centers[place]
    along = _along(apart, normal)
    variance = most / weight
    half = weight * variance / (variance + along**2)
    across = ((apart**2).sum(axis=1) - along**2).clip(min=0)
    is_somebody = half >= weight / state.sums.users[place]
    return float((half * n / (half + n) * across).min(where=is_somebody, initial=np.inf))


def _merge_costs(sums: Sums) -> Floats:
    """What it costs to make one of two segments, (s, s); infinite below and on the diagonal."""
    n, centers = sums.weight, sums.centers
    apart = np.array([_squared(centers, center) for center in centers]).reshape(len(n), len(n))
    costs = np.asarray(n[:, None] / (n[:, None] + n) * n * apart)
    costs[np.tril_indices(len(n))] = np.inf
    return costs


def _cheapest(costs: Floats) -> tuple[float, int, int]:
    """The least cost of a merge, and between which; infinite, where there is none."""
    i, j = np.unravel_index(_first_least(costs.ravel()), costs.shape)
    return float(costs[i, j]), int(i), int(j)


def _best_cut(bins: Sums) -> tuple[float, int]:
    """What the best cut saves, and the first bin above it; saves 0 when all are on one side of every cut."""
    below = bins.each(lambda array: array.cumsum(axis=0)[:-1])
    above = bins.each(lambda array: array[::-1].cumsum(axis=0)[::-1][1:])
    can = np.flatnonzero((below.users > 0) & (above.users > 0))
    if not len(can):
        return 0.0, 1
    below, above = below.take(can), above.take(can)
    apart = ((below.centers - above.centers) ** 2).sum(axis=1)
    saved = below.weight / (below.weight + above.weight) * above.weight * apart
    best = _first_least(-saved)
    return float(saved[best]), int(can[best]) + 1


def _merged(state: State, i: int, j: int) -> tuple[State, int, int]:
    """The lighter of two segments becomes part of the heavier: the state, the id that goes, and the one that stays."""
    weight = state.sums.weight
    heavy, light = (i, j) if weight[i] * (1 + _TIE) >= weight[j] else (j, i)
    both = state.sums.take([i, j]).total()
    stay = np.arange(len(state.ids)) != light
    sums = state.sums.with_group(heavy, both).take(stay)
    return State(state.ids[stay], sums, state.next_id), int(state.ids[light]), int(state.ids[heavy])


def _split(state: State, parent: int, stays: Sums, goes: Sums) -> State:
    place = int(np.searchsorted(state.ids, parent))
    sums = state.sums.with_group(place, stays).with_group(len(state.ids), goes)
    return State(np.append(state.ids, state.next_id), sums, state.next_id + 1)
