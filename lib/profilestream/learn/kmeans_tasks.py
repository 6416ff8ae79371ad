"""The passes of `learn_segments` over the users of one partition: Arrow in and out, arithmetic in kmeans.py.

Runs on executors, so it imports only numpy, pyarrow and the arithmetic.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn import kmeans, split_merge
from profilestream.learn.als import Floats, Longs
from profilestream.learn.kmeans import ContributionChanges, KMeansParams, KMeansState
from profilestream.learn.split_merge import SplitAxes, SplitMergeMove

ASSIGNED_SCHEMA = (
    "user_id string, segment_id bigint, distance double, point array<double>, at bigint, old_id bigint, "
    "old_valid_from bigint, is_new boolean"
)


def partition_delta(
    batches: Iterator[pa.RecordBatch], state: KMeansState, centers: Floats, params: KMeansParams
) -> Iterator[pa.RecordBatch]:
    """Users of a batch -> their KMeansDelta, in one row of sums.COLUMNS.

    Input columns: `point`, `at`, null for an erased user; `old_point`, `old_at`, `old_id`, null for a new user.
    """
    d = centers.shape[1]
    for table in _tables(batches):
        new, old = table.filter(pc.is_valid(table["point"])), table.filter(pc.is_valid(table["old_id"]))
        changes = ContributionChanges(
            _points(new["point"], d), _longs(new["at"]),
            _points(old["old_point"], d), _longs(old["old_at"]), _longs(old["old_id"]),
        )  # fmt: skip
        yield kmeans.batch_delta(state, centers, changes, params).to_batch()


def partition_bins(
    batches: Iterator[pa.RecordBatch], axes: SplitAxes, ids: Longs, centers: Floats, params: KMeansParams
) -> Iterator[pa.RecordBatch]:
    """Contributions (`point`, `at`, `segment_id`) -> their sums by bin of the axes, in one row of sums.COLUMNS.

    Args:
        ids, centers: a contribution with a null `segment_id` is new; it is assigned to the nearest of these centers.
    """
    for table in _tables(batches):
        points = _points(table["point"], centers.shape[1])
        segment_ids = _segment_ids(table["segment_id"], points, ids, centers)
        yield split_merge.bin_sums(axes, points, _longs(table["at"]), segment_ids, params).to_batch()


def choose_initial_centers(batches: Iterator[pa.RecordBatch], d: int, params: KMeansParams) -> Iterator[pa.RecordBatch]:
    """A complete sample (`point`) in one partition -> the initial centers (`point`)."""
    for table in _tables(batches):
        centers = kmeans.initial_centers(_points(table["point"], d), params)
        yield pa.RecordBatch.from_arrays([_lists(centers)], ["point"])


def assign_segments(
    batches: Iterator[pa.RecordBatch],
    ids: Longs,
    centers: Floats,
    moves: Sequence[SplitMergeMove],
    after: KMeansState,
) -> Iterator[pa.RecordBatch]:
    """Contributions -> rows of ASSIGNED_SCHEMA: the segment after the batch and the distance to its center.

    Args:
        ids, centers: a contribution with a null `segment_id` is new; it is assigned to the nearest of these centers.
        moves: made after that assignment.
        after: the state after the batch.
    """
    for table in _tables(batches):
        points = _points(table["point"], after.sums.sums.shape[1])
        segment_ids = split_merge.relabel(_segment_ids(table["segment_id"], points, ids, centers), points, moves)
        difference = points - after.centers[np.searchsorted(after.ids, segment_ids)]
        distance = np.sqrt((difference**2).sum(axis=1))
        unchanged = ("point", "at", "old_id", "old_valid_from", "is_new")
        yield pa.RecordBatch.from_pydict({
            "user_id": table["user_id"].combine_chunks(), "segment_id": segment_ids, "distance": distance,
            **{name: table[name].combine_chunks() for name in unchanged},
        })  # fmt: skip


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """All rows of a partition as one table; nothing for a partition without rows."""
    with_rows = [batch for batch in batches if batch.num_rows]
    if with_rows:
        yield pa.Table.from_batches(with_rows)


def _points(column: "pa.ChunkedArray[Any]", d: int) -> Floats:
    return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.float64).reshape(-1, d)


def _longs(column: "pa.ChunkedArray[Any]") -> Longs:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _lists(points: Floats) -> "pa.Array[Any]":
    offsets = pa.array(np.arange(len(points) + 1) * points.shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(points.ravel()))


def _segment_ids(column: "pa.ChunkedArray[Any]", points: Floats, ids: Longs, centers: Floats) -> Longs:
    is_new = np.asarray(column.is_null().to_numpy())
    segment_ids = np.where(is_new, -1, column.to_numpy()).astype(np.int64)
    segment_ids[is_new] = ids[kmeans.nearest_centers(points[is_new], centers)[0]]
    return segment_ids
