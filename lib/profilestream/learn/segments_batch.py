"""A batch of `learn_segments` over frames: who came and who went, their segments, and whom a move takes along.

Passes over rows are crowd.py, the arithmetic kmeans.py. Rows stay with the executors, but for the first centers.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.queries import Batch
from profilestream.base.session import broadcast_if_small
from profilestream.derive.table_declaration import Derived
from profilestream.learn import kmeans, kmeans_tasks
from profilestream.learn.als import Floats
from profilestream.learn.kmeans import Delta, Move, Params, State
from profilestream.learn.segment_rules import Space

GONE = "_gone"


@dataclass(frozen=True)
class Learned:
    """What a batch gives.

    Args:
        users: rows of `user_segments` that it changes, and `GONE`, true of those that go.
        state: after it.
        moves: that it made.
    """

    users: DataFrame
    state: State
    moves: list[Move]


def said(changes: DataFrame, derived: Derived) -> DataFrame:
    """Rows of the change feed of the profiles -> the newest word on each user: `mean`, null when it is gone, and `at`.

    `mean` is the mean of what the user did, by dimension, in its own unit.
    """
    assert derived.population is not None
    is_there = F.col("_change_type") != "delete"
    mean = F.when(is_there, derived.vector.means(F.col(derived.population.of)))
    word = F.struct(mean.alias("mean"), F.unix_micros("as_of").alias("at"))
    newest = F.max_by(word, F.struct("_commit_version", is_there))
    said = changes.where("_change_type != 'update_preimage'").groupBy("user_id").agg(newest.alias("word"))
    return said.select("user_id", "word.mean", "word.at")


def space_of(said: DataFrame, weights: dict[str, float]) -> Space:
    """Mean of the users, and a standard deviation over the dimension's weight; where they do not differ, 1 over it."""
    parts = [part for n in range(len(weights)) for part in (F.avg(F.col("mean")[n]), F.stddev_pop(F.col("mean")[n]))]
    (row,) = said.agg(*parts).collect()
    location = np.array([value or 0.0 for value in row[0::2]])
    deviation = np.array([value or 1.0 for value in row[1::2]])
    weight = np.array(list(weights.values()))
    scale = np.divide(deviation, weight, out=np.zeros(len(weight)), where=weight != 0)
    return Space(tuple(weights), location, scale)


def point(mean: Column, space: Space) -> Column:
    """Means by dimension (an array) -> the point: how many times the scale they lie from the location; null of null.

    0 in a dimension without scale, whose weight is 0.
    """
    cells = [
        (mean[n] - F.lit(float(location))) / F.lit(float(scale)) if scale else F.lit(0.0)
        for n, (location, scale) in enumerate(zip(space.location, space.scale, strict=True))
    ]
    return F.when(mean.isNotNull(), F.array(*cells))


def drawn(rows: DataFrame, made: Params) -> DataFrame:
    """The rows of `made.sample` users, drawn by a hash."""
    return rows.orderBy(F.xxhash64("user_id", F.lit(made.seed)), "user_id").limit(made.sample)


def changed_users(said: DataFrame, count: int, kept: DataFrame, space: Space) -> DataFrame:
    """Users of the batch: what they say now (`point`, `at`), and what was kept of them (`old_*`); null what is not."""
    before = kept.join(broadcast_if_small(said.select("user_id"), count), "user_id", "left_semi").select(
        "user_id",
        F.col("segment_id").alias("old_id"),
        F.col("point").alias("old_point"),
        F.unix_micros("as_of").alias("old_at"),
        F.unix_micros("since").alias("old_since"),
    )
    now = said.select("user_id", point(F.col("mean"), space).alias("point"), "at")
    return now.join(before, "user_id", "left").where("point IS NOT NULL OR old_id IS NOT NULL")


@dataclass(frozen=True)
class Assigned:
    """Contributions with their segments, before moves.

    Args:
        new: of the batch; each goes to the nearest of the centers, which belong to the segments of `state`.
        others: kept ones of other users, which stay where they are.
        delta: what the batch adds and takes away.
        judged: what its points cost by the state before; null when there was none.
    """

    new: DataFrame
    others: DataFrame
    state: State
    centers: Floats
    delta: Delta
    judged: Delta | None


def assigned(changed: DataFrame, others: DataFrame, before: State, batch: Batch, made: Params) -> Assigned:
    """Judge the batch by the state before it, then find centers for it.

    Args:
        changed: users of the batch, as `changed_users` gives them.
        others: rows of `user_segments` of all others, before the batch.
    """
    is_first = not len(before.ids)
    with batch.phase("assign"):
        centers = _first_centers(changed, before, made) if is_first else before.centers
        state = State.founded(centers) if is_first else before
        judged = delta = _delta(changed, state, centers, made)
        for _ in range(1, made.first_passes if is_first else made.passes):
            centers = kmeans.new_centers(state, delta, centers, made)
            delta = _delta(changed, state, centers, made)
        new = changed.where("point IS NOT NULL").withColumn("segment_id", F.lit(None).cast("bigint"))
    return Assigned(new, others, state, centers, delta, None if is_first else judged)


def learned(changed: DataFrame, found: Assigned, batch: Batch, made: Params) -> Learned:
    """Learn from the batch, and make the moves that pay."""
    with batch.phase("move"):
        after, moves = _moved(kmeans.apply(found.state, found.delta, made), found, made)
    return Learned(_placed(changed, found, moves, after), after, moves)


def _first_centers(changed: DataFrame, nobody: State, made: Params) -> Floats:
    """Chosen by one task, among users that a hash draws."""
    d = nobody.sums.sums.shape[1]
    sample = drawn(changed.where("point IS NOT NULL"), made).select("point").coalesce(1)
    found = sample.mapInArrow(partial(kmeans_tasks.chosen, d=d, params=made), "point array<double>").collect()
    return np.array([row["point"] for row in found]).reshape(-1, d)


def _delta(changed: DataFrame, state: State, centers: Floats, made: Params) -> Delta:
    rows = changed.select("point", "at", "old_point", "old_at", "old_id")
    step = partial(kmeans_tasks.deltas, state=state, centers=centers, params=made)
    return kmeans_tasks.together(
        [tuple(row) for row in rows.mapInArrow(step, kmeans_tasks.TOLD).collect()], state, made
    )


def _moved(after: State, found: Assigned, made: Params) -> tuple[State, list[Move]]:
    """The state with the moves that pay, for which all users of the segments that may be split are asked."""
    axes = kmeans.promising(after, made)
    if not len(axes.ids):
        return after, []
    asked = found.others.where(F.col("segment_id").isin(axes.ids.tolist()))
    asked = asked.select("point", F.unix_micros("as_of").alias("at"), "segment_id")
    rows = asked.unionByName(found.new.select("point", "at", "segment_id"))
    step = partial(kmeans_tasks.bins, axes=axes, ids=found.state.ids, centers=found.centers, params=made)
    told = [row["sums"] for row in rows.mapInArrow(step, "sums binary").collect()]
    return kmeans.moved(after, axes, kmeans_tasks.binned(told, axes, made), made)


def _placed(changed: DataFrame, found: Assigned, moves: list[Move], after: State) -> DataFrame:
    """Rows of `user_segments` that change: users of the batch, users whom a move took along, and those who are gone."""
    left = [segment for move in moves for segment in (move.parent, move.absorbed) if segment is not None]
    told = found.others.where(F.col("segment_id").isin(left)).select(
        "user_id", "point", F.unix_micros("as_of").alias("at"), "segment_id",
        F.col("segment_id").alias("old_id"), F.unix_micros("since").alias("old_since"), F.lit(False).alias("is_new"),
    )  # fmt: skip
    new = found.new.withColumn("is_new", F.lit(True)).select(*told.columns)
    step = partial(kmeans_tasks.placed, ids=found.state.ids, centers=found.centers, moves=moves, after=after)
    rows = new.unionByName(told).mapInArrow(step, kmeans_tasks.PLACED)
    came = F.when(F.col("is_new"), F.col("at")).otherwise(F.lit(after.sums.now))
    since = F.when(F.col("segment_id") == F.col("old_id"), F.col("old_since")).otherwise(came)
    there = rows.where("is_new OR segment_id != old_id").select(
        "user_id", "segment_id", "distance", "point", F.timestamp_micros("at").alias("as_of"),
        F.timestamp_micros(since).alias("since"), F.lit(False).alias(GONE),
    )  # fmt: skip
    gone = changed.where("point IS NULL").select(
        "user_id", F.col("old_id").alias("segment_id"), F.lit(0.0).alias("distance"), F.col("old_point").alias("point"),
        F.timestamp_micros("old_at").alias("as_of"), F.timestamp_micros("old_since").alias("since"),
        F.lit(True).alias(GONE),
    )  # fmt: skip
    return there.unionByName(gone)
