"""The passes of `learn_segments` over the users of one partition: Arrow in and out, by the arithmetic of kmeans.py.

Runs on executors, so it imports numpy and pyarrow only, beside the arithmetic.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn import kmeans
from profilestream.learn.als import Floats, Longs
from profilestream.learn.cluster_sums import Sums
from profilestream.learn.kmeans import Axes, Batch, Delta, Move, Params, State

# What a pass says, one row a partition; `Delta` and `Sums` as bytes.
TOLD = "sums binary, points bigint, cost double, cost_of_mean double"
PLACED = (
    "user_id string, segment_id bigint, distance double, point array<double>, at bigint, old_id bigint, "
    "old_since bigint, is_new boolean"
)


def deltas(
    batches: Iterator[pa.RecordBatch], state: State, centers: Floats, params: Params
) -> Iterator[pa.RecordBatch]:
    """Rows of a batch (`point`, `at`, `old_point`, `old_at`, `old_id`; what a user has not is null) -> its delta."""
    d = centers.shape[1]
    for table in _tables(batches):
        came, went = table.filter(pc.is_valid(table["point"])), table.filter(pc.is_valid(table["old_id"]))
        batch = Batch(
            _points(came["point"], d), _longs(came["at"]),
            _points(went["old_point"], d), _longs(went["old_at"]), _longs(went["old_id"]),
        )  # fmt: skip
        delta = kmeans.batch_delta(state, centers, batch, params)
        yield pa.RecordBatch.from_pydict({
            "sums": [delta.sums.as_bytes()], "points": [delta.points], "cost": [delta.cost],
            "cost_of_mean": [delta.cost_of_mean],
        })  # fmt: skip


def together(told: Sequence[tuple[bytes, int, float, float]], state: State, params: Params) -> Delta:
    """What all partitions have said."""
    s, d = len(state.ids), state.sums.sums.shape[1]
    found = Delta(Sums.zero(s, d))
    for sums, points, cost, cost_of_mean in told:
        found = kmeans.merge(found, Delta(Sums.of_bytes(sums, d), points, cost, cost_of_mean), params)
    return found


def bins(
    batches: Iterator[pa.RecordBatch], axes: Axes, ids: Longs, centers: Floats, params: Params
) -> Iterator[pa.RecordBatch]:
    """Contributions (`point`, `at`, `segment_id`, which is null of a new one) -> their sums by bin of the axes.

    Args:
        ids, centers: of the segments among which a new one goes to the nearest.
    """
    for table in _tables(batches):
        points = _points(table["point"], centers.shape[1])
        segments = _labels(table["segment_id"], points, ids, centers)
        found = kmeans.binned(axes, points, _longs(table["at"]), segments, params)
        yield pa.RecordBatch.from_pydict({"sums": [found.as_bytes()]})


def binned(told: Sequence[bytes], axes: Axes, params: Params) -> Sums:
    """What all partitions have said."""
    d = axes.normals.shape[1]
    found = Sums.zero(len(axes.ids) * kmeans.BINS, d)
    for data in told:
        found = kmeans.merge_sums(found, Sums.of_bytes(data, d), params)
    return found


def chosen(batches: Iterator[pa.RecordBatch], d: int, params: Params) -> Iterator[pa.RecordBatch]:
    """A sample (`point`), all of it here -> the first centers."""
    for table in _tables(batches):
        centers = kmeans.first_centers(_points(table["point"], d), params)
        yield pa.RecordBatch.from_arrays([_lists(centers)], ["point"])


def placed(
    batches: Iterator[pa.RecordBatch],
    ids: Longs,
    centers: Floats,
    moves: Sequence[Move],
    after: State,
) -> Iterator[pa.RecordBatch]:
    """Contributions -> the same with the segment they are in after the batch, and the distance to its center.

    Args:
        ids, centers: of the segments among which a new one, whose `segment_id` is null, goes to the nearest.
        moves: that were made after that.
        after: the state after the batch.
    """
    for table in _tables(batches):
        points = _points(table["point"], after.sums.sums.shape[1])
        segments = kmeans.relabeled(_labels(table["segment_id"], points, ids, centers), points, moves)
        away = points - after.centers[np.searchsorted(after.ids, segments)]
        distance = np.sqrt((away**2).sum(axis=1))
        yield pa.RecordBatch.from_pydict({
            "user_id": table["user_id"].combine_chunks(), "segment_id": segments, "distance": distance,
            "point": table["point"].combine_chunks(), "at": table["at"].combine_chunks(),
            "old_id": table["old_id"].combine_chunks(), "old_since": table["old_since"].combine_chunks(),
            "is_new": table["is_new"].combine_chunks(),
        })  # fmt: skip


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """All rows of a partition at once; nothing when it has none."""
    found = [batch for batch in batches if batch.num_rows]
    if found:
        yield pa.Table.from_batches(found)


def _points(column: "pa.ChunkedArray[Any]", d: int) -> Floats:
    return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.float64).reshape(-1, d)


def _longs(column: "pa.ChunkedArray[Any]") -> Longs:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _lists(points: Floats) -> "pa.Array[Any]":
    offsets = pa.array(np.arange(len(points) + 1) * points.shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(points.ravel()))


def _labels(column: "pa.ChunkedArray[Any]", points: Floats, ids: Longs, centers: Floats) -> Longs:
    is_new = np.asarray(column.is_null().to_numpy())
    known = np.where(is_new, -1, column.to_numpy()).astype(np.int64)
    known[is_new] = ids[kmeans.nearest(points[is_new], centers)[0]]
    return known
