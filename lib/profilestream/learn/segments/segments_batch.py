"""One batch of `learn_segments`: changed users, their segments, and split/merge moves.

Rows are frames that Spark processes, or Arrow tables in memory, for notebooks, benchmarks and tests (base/runner.py).
Rows of frames stay on the executors; the driver collects sums, and the sample for the initial centers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.base import runner
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.learn.kernels.arrays import IS_DELETED, Floats
from profilestream.learn.kernels.sums import total
from profilestream.learn.segments.kernels import kmeans, kmeans_tasks, split_merge
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums
from profilestream.learn.segments.kernels.kmeans import KMeansDelta, KMeansParams, KMeansState
from profilestream.learn.segments.kernels.kmeans_tasks import (
    CHANGE,
    NEW_POINT,
    POINT,
    POINT_CHANGE,
    UPDATE,
    USER,
)
from profilestream.learn.segments.kernels.split_merge import SplitMergeMove

SUM_CHANGES = Pass(
    kmeans_tasks.sum_changes,
    inputs={"changes": POINT_CHANGE},
    results=("delta",),
)
SUM_BINS = Pass(
    kmeans_tasks.sum_bins,
    inputs={"changes": NEW_POINT, "others": POINT},
    results=("bins",),
)
RELABEL_USERS = Pass(kmeans_tasks.relabel_users, inputs={"changes": CHANGE, "others": USER}, outputs={"users": UPDATE})


@dataclass(frozen=True)
class Assignment(Generic[Rows]):
    """The contributions of all users before split/merge moves.

    Args:
        changes: users of the batch; each new point is assigned to the nearest of `centers`.
        others: returns the rows of `user_segments` in some segments, without the users of the batch.
        state: before the batch.
        centers: one per segment of `state`.
        delta: change of the sums by the batch.
        evaluation: the first pass, with the cost of the batch by the state before it; null for the first batch.
    """

    changes: Rows
    others: Callable[[Sequence[int]], Rows]
    state: KMeansState
    centers: Floats
    delta: KMeansDelta
    evaluation: KMeansDelta | None


@dataclass(frozen=True)
class SegmentsUpdate(Generic[Rows]):
    """The result of a batch.

    Args:
        users: rows of `user_segments` to merge, with `IS_DELETED`: true for users whose row is deleted.
        state: after the batch.
        moves: made by the batch.
    """

    users: Rows
    state: KMeansState
    moves: list[SplitMergeMove]


def changed_users(contributions: Rows, stored: Rows) -> Rows:
    """The users of a batch with their stored contribution (`old_*`, null if none).

    Args:
        contributions: rows with kmeans_tasks.CONTRIBUTION, one per user.
        stored: rows of `user_segments` of these users before the batch.
    """
    names = {"user_id": "user_id"} | {name: f"old_{name}" for name in USER.names if name != "user_id"}
    return runner.held(runner.left_join(contributions, runner.renamed(stored, names), "user_id"))


def assign_batch(
    before: KMeansState, changes: Rows, others: Callable[[Sequence[int]], Rows], params: KMeansParams
) -> Assignment[Rows]:
    """Evaluate the batch with the state before it, then assign its users, in one or more passes.

    Args:
        changes: from `changed_users`.
        others: as in Assignment.
    """
    is_first = not len(before.ids)
    centers = _initial_centers(changes, before, params) if is_first else before.centers
    state = KMeansState.from_centers(centers) if is_first else before
    first_delta = delta = _delta(changes, state, centers, params)
    for _ in range(1, params.init_passes if is_first else params.passes):
        centers = kmeans.updated_centers(state, delta, centers, params)
        delta = _delta(changes, state, centers, params)
    return Assignment(changes, others, state, centers, delta, None if is_first else first_delta)


def update_segments(assignment: Assignment[Rows], params: KMeansParams) -> SegmentsUpdate[Rows]:
    """Apply the batch to the state, and make the split/merge moves that pay."""
    after, moves = _make_moves(kmeans.apply_delta(assignment.state, assignment.delta, params), assignment, params)
    moved_ids = [segment for move in moves for segment in (move.parent, move.absorbed) if segment is not None]
    inputs = {"changes": assignment.changes, "others": assignment.others(moved_ids)}
    ids, centers = assignment.state.ids, assignment.centers
    users, _ = run_pass(RELABEL_USERS, inputs, ids=ids, centers=centers, moves=moves, after=after)
    return SegmentsUpdate(users["users"], after, moves)


def _initial_centers(changes: Rows, empty_state: KMeansState, params: KMeansParams) -> Floats:
    """Initial centers, chosen by the driver from a sample of the users."""
    order = ("sample_hash", "user_id")
    sample = runner.first_rows(runner.without_nulls(changes, "point"), order, params.init_size)
    return kmeans.initial_centers(kmeans_tasks.points_of(sample, "point", empty_state.sums.sums.shape[1]), params)


def _delta(changes: Rows, state: KMeansState, centers: Floats, params: KMeansParams) -> KMeansDelta:
    _, results = run_pass(SUM_CHANGES, {"changes": changes}, state=state, centers=centers, params=params)
    zero = KMeansDelta(ClusterSums.zero(*centers.shape))
    deltas: list[KMeansDelta] = results["delta"]
    return total([zero] + deltas, params.half_life_days)


def _make_moves(
    after: KMeansState, assignment: Assignment[Rows], params: KMeansParams
) -> tuple[KMeansState, list[SplitMergeMove]]:
    """The state after the moves that pay; reads all contributions of the segments that may be split."""
    axes = split_merge.split_axes(after, params)
    if not len(axes.ids):
        return after, []
    ids, centers = assignment.state.ids, assignment.centers
    inputs = {"changes": assignment.changes, "others": assignment.others(axes.ids.tolist())}
    _, results = run_pass(SUM_BINS, inputs, axes=axes, ids=ids, centers=centers, params=params)
    zero = ClusterSums.zero(len(axes.ids) * split_merge.BINS, axes.normals.shape[1])
    bins = total([zero] + results["bins"], params.half_life_days)
    return split_merge.make_moves(after, axes, bins, params)


@dataclass(frozen=True)
class SegmentsState:
    """All segments and users in memory.

    Args:
        users: rows with kmeans_tasks.USER.
        moves: of the last batch.
    """

    segments: KMeansState
    users: pa.Table
    moves: tuple[SplitMergeMove, ...] = ()

    @classmethod
    def empty(cls, dimensions: int) -> "SegmentsState":
        """The state before the first batch."""
        return cls(KMeansState.from_centers(np.zeros((0, dimensions))), USER.empty_table())

    def learn(self, contributions: pa.Table, params: KMeansParams) -> "SegmentsState":
        """The state after a batch of rows with kmeans_tasks.CONTRIBUTION, one per user."""
        if not contributions.num_rows:
            return self
        stored, others = runner.split_by_keys(self.users, "user_id", contributions, "user_id")
        changes = changed_users(contributions, stored)
        in_segments = partial(runner.with_values, others, "segment_id")
        update = update_segments(assign_batch(self.segments, changes, in_segments, params), params)
        remaining = update.users.filter(pc.invert(update.users[IS_DELETED]))
        new = remaining.select(USER.names)
        # Without a move, no row of another user is updated.
        users = runner.with_updates(others, new, "user_id") if update.moves else runner.concat(others, new)
        return SegmentsState(update.state, users, tuple(update.moves))
