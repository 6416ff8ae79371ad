"""Segments of a few users in memory: the rows of batches, and the contributions of a state."""

from typing import Any

import numpy as np
import pyarrow as pa
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.segments.kernels import kmeans, kmeans_tasks
from profilestream.learn.segments.kernels.kmeans import KMeansParams
from profilestream.learn.segments.segments_batch import SegmentsState

from tests.naive_kmeans import Contribution

# User, point, time in microseconds.
Row = tuple[str, tuple[float, ...], int]


def learn(state: SegmentsState, rows: list[Row], params: KMeansParams) -> SegmentsState:
    """The state after the newest row of each user; rows older than the contribution of the user are left out."""
    before = users_of(state)
    latest = {user: (user, point, at) for user, point, at in sorted(rows, key=lambda row: row[2])}
    used = [row for user, row in latest.items() if user not in before or row[2] >= before[user][1]]
    users, times = [user for user, _, _ in used], np.array([at for _, _, at in used], np.int64)
    return state.learn(kmeans_tasks.contributions(users, _points(state, used), times), params)


def users_of(state: SegmentsState) -> dict[str, Contribution]:
    """Point, time and segment by user, in order of the id."""
    rows = state.users.sort_by("user_id")
    times, ids = rows["as_of"].cast(pa.int64()).to_pylist(), rows["segment_id"].to_pylist()
    users: list[Any] = rows["user_id"].to_pylist()
    columns: Any = zip(users, map(np.array, rows["point"].to_pylist()), times, ids, strict=True)
    return {user: (point, at, segment) for user, point, at, segment in columns}


def squared_distances(state: SegmentsState, rows: list[Row]) -> Floats:
    """Squared distance of each point to the nearest center; 0 before the first batch."""
    return kmeans.nearest_centers(_points(state, rows), state.segments.centers)[1]


def _points(state: SegmentsState, rows: list[Row]) -> Floats:
    return np.array([point for _, point, _ in rows], float).reshape(-1, state.segments.sums.sums.shape[1])
