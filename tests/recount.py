"""The sums of every segment against a recount of `user_segments`."""

from typing import Any

import numpy as np
from profilestream.base.settings import Settings
from profilestream.learn.segments.segments_spec import SegmentsSpec
from pyspark.sql import Row, SparkSession

DAY_MICROS = 86_400_000_000


def user_rows(spark: SparkSession, settings: Settings) -> dict[str, Row]:
    rows = SegmentsSpec(settings).users_table.read(spark, settings.paths).collect()
    by_user = {row["user_id"]: row for row in rows}
    assert len(by_user) == len(rows), "a user has two rows"
    return by_user


def last_segments(spark: SparkSession, settings: Settings) -> dict[int, Row]:
    rows = SegmentsSpec(settings).table.read(spark, settings.paths).collect()
    last = max(row["batch_id"] for row in rows)
    return {row["segment_id"]: row for row in rows if row["batch_id"] == last}


def micros(time: Any) -> int:
    return int(time.timestamp()) * 1_000_000 + int(time.microsecond)


def assert_sums_equal_recount(spark: SparkSession, settings: Settings) -> None:
    """The sums of the segments equal the sums over the rows of user_segments."""
    users, stored = user_rows(spark, settings), last_segments(spark, settings)
    names = list(SegmentsSpec(settings).profile.vector.dimensions)
    assert {row["segment_id"] for row in users.values()} == stored.keys()
    for segment, row in stored.items():
        members = [user for user in users.values() if user["segment_id"] == segment]
        points = np.array([user["point"] for user in members])
        ages = np.array([micros(row["as_of"]) - micros(user["as_of"]) for user in members])
        weights = np.exp2(-ages / DAY_MICROS / settings.learn.segments.half_life_days)
        center = weights @ points / weights.sum()
        assert row["users"] == len(members)
        np.testing.assert_allclose(row["weight"], weights.sum(), rtol=1e-9)
        np.testing.assert_allclose(row["sums"], weights @ points, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(row["scatter"], (points.T * weights @ points).ravel(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose([row["center"][name] for name in names], center, rtol=1e-9, atol=1e-9)
        written = [user for user in members if user["batch_id"] == row["batch_id"]]
        distances = [user["distance"] for user in written]
        expected = [np.linalg.norm(user["point"] - center) for user in written]
        np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-9)
