"""The kernels of `learn_segments`: Arrow tables in and out, arithmetic in kmeans.py.

Runs on executors, so it imports only numpy, pyarrow and the arithmetic.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profilestream.learn.kernels.arrays import IS_DELETED, Floats, Longs
from profilestream.learn.segments.kernels import kmeans, split_merge
from profilestream.learn.segments.kernels.kmeans import ContributionChanges, KMeansParams, KMeansState
from profilestream.learn.segments.kernels.split_merge import SplitAxes, SplitMergeMove

_TIME = pa.timestamp("us", "UTC")
_TYPES: dict[str, pa.DataType] = {
    "user_id": pa.string(), "segment_id": pa.int64(), "distance": pa.float64(), "point": pa.list_(pa.float64()),
    "as_of": _TIME, "valid_from": _TIME, "sample_hash": pa.int64(), "old_segment_id": pa.int64(),
    "old_point": pa.list_(pa.float64()), "old_as_of": _TIME, "old_valid_from": _TIME, "_is_deleted": pa.bool_(),
}  # fmt: skip


def _schema(names: str) -> pa.Schema:
    return pa.schema([pa.field(name, _TYPES[name]) for name in names.split()])


# Users of a batch: the point is null if the profile was deleted; users are sampled in order of the hash.
CONTRIBUTION = _schema("user_id point as_of sample_hash")
# With the columns of `user_segments`, null for new users.
CHANGE = _schema("user_id point as_of old_segment_id old_point old_as_of old_valid_from")
POINT_CHANGE = _schema("point as_of old_segment_id old_point old_as_of")
NEW_POINT = _schema("point as_of")
# Rows of `user_segments`.
USER = _schema("user_id segment_id point as_of valid_from")
POINT = _schema("segment_id point as_of")
# Rows of `user_segments` that a batch updates or deletes.
UPDATE = _schema(f"user_id segment_id distance point as_of valid_from {IS_DELETED}")


def contributions(user_ids: Sequence[str], points: Floats, times: Longs) -> pa.Table:
    """Rows with CONTRIBUTION; the sample is of users with small ids."""
    arrays: list[Any] = [user_ids, lists_of(points), times, np.zeros(len(points), np.int64)]
    return pa.table(arrays, schema=CONTRIBUTION)


def sum_changes(changes: pa.Table, *, state: KMeansState, centers: Floats, params: KMeansParams) -> dict[str, Any]:
    """`delta`: the KMeansDelta of the users of a batch, whose points are assigned to the nearest of the centers."""
    d = centers.shape[1]
    new, old = _with_value(changes, "point"), _with_value(changes, "old_segment_id")
    if not new.num_rows and not old.num_rows:
        return {}
    contributions = ContributionChanges(
        points_of(new, "point", d), micros(new, "as_of"),
        points_of(old, "old_point", d), micros(old, "old_as_of"), _longs(old["old_segment_id"]),
    )  # fmt: skip
    return {"delta": kmeans.batch_delta(state, centers, contributions, params)}


def sum_bins(
    changes: pa.Table, others: pa.Table, *, axes: SplitAxes, ids: Longs, centers: Floats, params: KMeansParams
) -> dict[str, Any]:
    """`bins`: sums of points by bin of the axes.

    Args:
        changes: users of the batch; each is assigned to the nearest of `centers`, which have these ids.
        others: stored rows of other users.
    """
    new = _with_value(changes, "point")
    points, segment_ids = _assigned(new, others, ids, centers)
    times = np.append(micros(new, "as_of"), micros(others, "as_of"))
    return {"bins": split_merge.bin_sums(axes, points, times, segment_ids, params)}


def relabel_users(
    changes: pa.Table,
    others: pa.Table,
    *,
    ids: Longs,
    centers: Floats,
    moves: Sequence[SplitMergeMove],
    after: KMeansState,
) -> dict[str, pa.Table]:
    """`users`: all users of the batch, and the others whose segment changes.

    Args:
        changes: users of the batch; each is assigned to the nearest of `centers`, which have these ids.
        others: stored rows of other users in the segments of the moves.
        moves: made after that assignment.
        after: the state after the batch.
    """
    new = _with_value(changes, "point")
    points, assigned = _assigned(new, others, ids, centers)
    segment_ids = split_merge.relabel(assigned, points, moves)
    difference = points - after.centers[np.searchsorted(after.ids, segment_ids)]
    stored = pa.concat_tables([new.select(_OLD).rename_columns(_STORED), others.select(_STORED)])
    is_same = segment_ids == _longs(stored["segment_id"])
    is_new = np.arange(len(points)) < new.num_rows
    times = np.append(micros(new, "as_of"), micros(others, "as_of"))
    changed_at = np.where(is_new, times, after.sums.as_of)
    valid_from = np.where(is_same, micros(stored, "valid_from"), changed_at)
    updated: dict[str, Any] = {
        "user_id": pa.concat_tables([new.select(["user_id"]), others.select(["user_id"])])["user_id"],
        "segment_id": segment_ids, "distance": np.sqrt((difference**2).sum(axis=1)), "point": lists_of(points),
        "as_of": pa.array(times).cast(_TIME), "valid_from": pa.array(valid_from).cast(_TIME),
        IS_DELETED: np.zeros(len(points), bool),
    }  # fmt: skip
    deleted = changes.filter(pc.and_(changes["point"].is_null(), changes["old_segment_id"].is_valid()))
    n = deleted.num_rows
    removed: dict[str, Any] = {
        "user_id": deleted["user_id"], "segment_id": deleted["old_segment_id"], "distance": np.zeros(n),
        "point": deleted["old_point"], "as_of": deleted["old_as_of"], "valid_from": deleted["old_valid_from"],
        IS_DELETED: np.ones(n, bool),
    }  # fmt: skip
    changed = pa.table(updated, UPDATE).filter(pa.array(is_new | ~is_same))
    return {"users": pa.concat_tables([changed, pa.table(removed, UPDATE)])}


_OLD, _STORED = ["old_segment_id", "old_valid_from"], ["segment_id", "valid_from"]


def points_of(rows: pa.Table, name: str, d: int) -> Floats:
    """A column of points without nulls, (rows, d)."""
    return np.asarray(pc.list_flatten(rows[name]).to_numpy(), dtype=np.float64).reshape(-1, d)


def micros(rows: pa.Table, name: str) -> Longs:
    """A column of times in microseconds; nulls are -1."""
    return _longs(rows[name].cast(pa.int64()))


def _longs(column: Any) -> Longs:
    """A column of integers; nulls are -1."""
    return np.asarray(column.fill_null(-1).to_numpy(), dtype=np.int64)


def _with_value(rows: pa.Table, name: str) -> pa.Table:
    """The rows with a value in a column."""
    return rows if not rows[name].null_count else rows.filter(rows[name].is_valid())


def _assigned(new: pa.Table, others: pa.Table, ids: Longs, centers: Floats) -> tuple[Floats, Longs]:
    """Points and segment ids of new contributions and of other users."""
    new_points, points = (points_of(rows, "point", centers.shape[1]) for rows in (new, others))
    segment_ids = np.append(ids[kmeans.nearest_centers(new_points, centers)[0]], _longs(others["segment_id"]))
    return np.vstack([new_points, points]), segment_ids


def lists_of(points: Floats) -> "pa.Array[Any]":
    """Points as a column of lists."""
    offsets: NDArray[np.int32] = np.arange(len(points) + 1, dtype=np.int32) * points.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(points.ravel()))
