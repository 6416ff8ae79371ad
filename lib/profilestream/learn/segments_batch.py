"""One batch of `learn_segments` over data frames: changed users, their segments, and split/merge moves.

The passes over rows are in kmeans_tasks.py, the arithmetic in kmeans.py and split_merge.py. Rows stay on the executors;
the driver collects sums and the initial centers only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.queries import Batch
from profilestream.base.session import broadcast_if_small
from profilestream.derive import population
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn import kmeans, kmeans_tasks, split_merge, sums
from profilestream.learn.als import Floats
from profilestream.learn.cluster_sums import ClusterSums
from profilestream.learn.kmeans import KMeansDelta, KMeansParams, KMeansState
from profilestream.learn.segment_rules import Scaling
from profilestream.learn.split_merge import SplitMergeMove
from profilestream.learn.sums import SumsT

IS_DELETED = "_is_deleted"


@dataclass(frozen=True)
class SegmentsUpdate:
    """The result of a batch.

    Args:
        users: rows of `user_segments` to merge, with `IS_DELETED`: true for users whose row is deleted.
        state: after the batch.
        moves: made by the batch.
    """

    users: DataFrame
    state: KMeansState
    moves: list[SplitMergeMove]


def latest_profiles(changes: DataFrame, derived: DerivedTable) -> DataFrame:
    """Rows of the change feed of the profiles -> one row per user: `user_id`, `mean`, `at`, as of the last commit.

    `mean` is the mean vector of the user's events (an array by dimension, in the dimensions' own units), null if the
    profile was deleted. `at` is the `as_of` time of the profile in microseconds.
    """
    exists = F.col("_change_type") != "delete"
    mean = F.when(exists, population.means_of(F.col(derived.vector_state)))
    profile = F.struct(mean.alias("mean"), F.unix_micros("as_of").alias("at"))
    latest = F.max_by(profile, F.struct("_commit_version", exists))
    profiles = changes.where("_change_type != 'update_preimage'").groupBy("user_id").agg(latest.alias("profile"))
    return profiles.select("user_id", "profile.mean", "profile.at")


def fit_scaling(profiles: DataFrame, weights: dict[str, float]) -> Scaling:
    """The scaling of points: mean of the users, and standard deviation / weight of the dimension.

    A standard deviation of 0 counts as 1. The scale of a dimension with weight 0 is 0.
    """
    moments = [
        moment for n in range(len(weights)) for moment in (F.avg(F.col("mean")[n]), F.stddev_pop(F.col("mean")[n]))
    ]
    (row,) = profiles.agg(*moments).collect()
    location = np.array([value or 0.0 for value in row[0::2]])
    deviation = np.array([value or 1.0 for value in row[1::2]])
    weight = np.array(list(weights.values()))
    scale = np.divide(deviation, weight, out=np.zeros(len(weight)), where=weight != 0)
    return Scaling(tuple(weights), location, scale)


def scaled_point(mean: Column, scaling: Scaling) -> Column:
    """(mean - location) / scale by dimension, as array; null if `mean` is null.

    0 in a dimension whose scale is 0.
    """
    coordinates = [
        (mean[n] - F.lit(float(location))) / F.lit(float(scale)) if scale else F.lit(0.0)
        for n, (location, scale) in enumerate(zip(scaling.location, scaling.scale, strict=True))
    ]
    return F.when(mean.isNotNull(), F.array(*coordinates))


def sample_users(rows: DataFrame, params: KMeansParams) -> DataFrame:
    """The rows of `params.init_size` users, selected by a hash of the user id and the seed."""
    return rows.orderBy(F.xxhash64("user_id", F.lit(params.seed)), "user_id").limit(params.init_size)


def changed_contributions(profiles: DataFrame, count: int, stored: DataFrame, scaling: Scaling) -> DataFrame:
    """Users of the batch with their new contribution (`point`, `at`) and their stored one (`old_*`); null if none.

    Args:
        profiles: from `latest_profiles`, `count` rows.
        stored: `user_segments` before the batch.
    """
    old = stored.join(broadcast_if_small(profiles.select("user_id"), count), "user_id", "left_semi").select(
        "user_id",
        F.col("segment_id").alias("old_id"),
        F.col("point").alias("old_point"),
        F.unix_micros("as_of").alias("old_at"),
        F.unix_micros("valid_from").alias("old_valid_from"),
    )
    new = profiles.select("user_id", scaled_point(F.col("mean"), scaling).alias("point"), "at")
    return new.join(old, "user_id", "left").where("point IS NOT NULL OR old_id IS NOT NULL")


@dataclass(frozen=True)
class Assignment:
    """The contributions of all users before split/merge moves.

    Args:
        new: contributions of the batch; each is assigned to the nearest of `centers`.
        others: stored contributions of users that are not in the batch.
        state: before the batch.
        centers: one per segment of `state`.
        delta: change of the sums by the batch.
        evaluation: the first pass, with the cost of the batch by the state before it; null for the first batch.
    """

    new: DataFrame
    others: DataFrame
    state: KMeansState
    centers: Floats
    delta: KMeansDelta
    evaluation: KMeansDelta | None


def assign_batch(
    changed: DataFrame, others: DataFrame, before: KMeansState, batch: Batch, params: KMeansParams
) -> Assignment:
    """Evaluate the batch with the state before it, then assign its users, in one or more passes.

    Args:
        changed: from `changed_contributions`.
        others: rows of `user_segments` of all other users, before the batch.
    """
    is_first = not len(before.ids)
    with batch.phase("assign"):
        centers = _initial_centers(changed, before, params) if is_first else before.centers
        state = KMeansState.from_centers(centers) if is_first else before
        first_delta = delta = _compute_delta(changed, state, centers, params)
        for _ in range(1, params.init_passes if is_first else params.passes):
            centers = kmeans.updated_centers(state, delta, centers, params)
            delta = _compute_delta(changed, state, centers, params)
        new = changed.where("point IS NOT NULL").withColumn("segment_id", F.lit(None).cast("bigint"))
    return Assignment(new, others, state, centers, delta, None if is_first else first_delta)


def update_segments(changed: DataFrame, assignment: Assignment, batch: Batch, params: KMeansParams) -> SegmentsUpdate:
    """Apply the batch to the state, and make the split/merge moves that pay."""
    with batch.phase("move"):
        after = kmeans.apply_delta(assignment.state, assignment.delta, params)
        after, moves = _make_moves(after, assignment, params)
    return SegmentsUpdate(_changed_rows(changed, assignment, moves, after), after, moves)


def _initial_centers(changed: DataFrame, empty_state: KMeansState, params: KMeansParams) -> Floats:
    """Initial centers, chosen in one task from a sample of the users."""
    d = empty_state.sums.sums.shape[1]
    sample = sample_users(changed.where("point IS NOT NULL"), params).select("point").coalesce(1)
    task = partial(kmeans_tasks.choose_initial_centers, d=d, params=params)
    rows = sample.mapInArrow(task, "point array<double>").collect()
    return np.array([row["point"] for row in rows]).reshape(-1, d)


def _compute_delta(changed: DataFrame, state: KMeansState, centers: Floats, params: KMeansParams) -> KMeansDelta:
    rows = changed.select("point", "at", "old_point", "old_at", "old_id")
    task = partial(kmeans_tasks.partition_delta, state=state, centers=centers, params=params)
    return _total(KMeansDelta(ClusterSums.zero(*centers.shape)), rows, task, params)


def _total(zero: SumsT, rows: DataFrame, task: Callable[..., Any], params: KMeansParams) -> SumsT:
    """The sum of the results of a task over all partitions."""
    partials = [type(zero).from_cell(row["sums"]) for row in rows.mapInArrow(task, sums.COLUMNS).collect()]
    return sums.total([zero, *partials], params.half_life_days)


def _make_moves(
    after: KMeansState, assignment: Assignment, params: KMeansParams
) -> tuple[KMeansState, list[SplitMergeMove]]:
    """The state after the moves that pay; reads all contributions of the segments that may be split."""
    axes = split_merge.split_axes(after, params)
    if not len(axes.ids):
        return after, []
    stored = assignment.others.where(F.col("segment_id").isin(axes.ids.tolist()))
    stored = stored.select("point", F.unix_micros("as_of").alias("at"), "segment_id")
    rows = stored.unionByName(assignment.new.select("point", "at", "segment_id"))
    ids, centers = assignment.state.ids, assignment.centers
    task = partial(kmeans_tasks.partition_bins, axes=axes, ids=ids, centers=centers, params=params)
    bins = _total(ClusterSums.zero(len(axes.ids) * split_merge.BINS, axes.normals.shape[1]), rows, task, params)
    return split_merge.make_moves(after, axes, bins, params)


def _changed_rows(
    changed: DataFrame, assignment: Assignment, moves: list[SplitMergeMove], after: KMeansState
) -> DataFrame:
    """Rows of `user_segments` that change: users of the batch, users of moved segments, and deleted users."""
    moved_ids = [segment for move in moves for segment in (move.parent, move.absorbed) if segment is not None]
    stored = assignment.others.where(F.col("segment_id").isin(moved_ids)).select(
        "user_id", "point", F.unix_micros("as_of").alias("at"), "segment_id", F.col("segment_id").alias("old_id"),
        F.unix_micros("valid_from").alias("old_valid_from"), F.lit(False).alias("is_new"),
    )  # fmt: skip
    new = assignment.new.withColumn("is_new", F.lit(True)).select(*stored.columns)
    ids, centers = assignment.state.ids, assignment.centers
    task = partial(kmeans_tasks.assign_segments, ids=ids, centers=centers, moves=moves, after=after)
    rows = new.unionByName(stored).mapInArrow(task, kmeans_tasks.ASSIGNED_SCHEMA)
    changed_at = F.when(F.col("is_new"), F.col("at")).otherwise(F.lit(after.sums.as_of))
    valid_from = F.when(F.col("segment_id") == F.col("old_id"), F.col("old_valid_from")).otherwise(changed_at)
    updated = rows.where("is_new OR segment_id != old_id").select(
        "user_id", "segment_id", "distance", "point", F.timestamp_micros("at").alias("as_of"),
        F.timestamp_micros(valid_from).alias("valid_from"), F.lit(False).alias(IS_DELETED),
    )  # fmt: skip
    deleted = changed.where("point IS NULL").select(
        "user_id", F.col("old_id").alias("segment_id"), F.lit(0.0).alias("distance"), F.col("old_point").alias("point"),
        F.timestamp_micros("old_at").alias("as_of"), F.timestamp_micros("old_valid_from").alias("valid_from"),
        F.lit(True).alias(IS_DELETED),
    )  # fmt: skip
    return updated.unionByName(deleted)
