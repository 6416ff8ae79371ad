"""Segments are what their users are: the sums of every segment, against a recount of `user_segments`."""

from typing import Any

import numpy as np
from profilestream.base.settings import Settings
from profilestream.learn import segments
from pyspark.sql import Row, SparkSession

DAY_MICROS = 86_400_000_000


def users_of(spark: SparkSession, settings: Settings) -> dict[str, Row]:
    rows = segments.users_table(settings).read(spark, settings.paths).collect()
    found = {row["user_id"]: row for row in rows}
    assert len(found) == len(rows), "a user counts twice"
    return found


def newest_of(spark: SparkSession, settings: Settings) -> dict[int, Row]:
    rows = segments.table(settings).read(spark, settings.paths).collect()
    last = max(row["batch_id"] for row in rows)
    return {row["segment_id"]: row for row in rows if row["batch_id"] == last}


def micros(time: Any) -> int:
    return int(time.timestamp()) * 1_000_000 + int(time.microsecond)


def assert_recounted(spark: SparkSession, settings: Settings) -> None:
    """The sums of the segments are those of what user_segments keeps."""
    people, found = users_of(spark, settings), newest_of(spark, settings)
    names = list(segments.profile(settings).vector.dimensions)
    assert {row["segment_id"] for row in people.values()} == found.keys()
    for segment, row in found.items():
        mine = [one for one in people.values() if one["segment_id"] == segment]
        points = np.array([one["point"] for one in mine])
        ages = np.array([micros(row["as_of"]) - micros(one["as_of"]) for one in mine])
        weights = np.exp2(-ages / DAY_MICROS / settings.learn.segments.half_life_days)
        center = weights @ points / weights.sum()
        assert row["users"] == len(mine)
        np.testing.assert_allclose(row["weight"], weights.sum(), rtol=1e-9)
        np.testing.assert_allclose(row["sums"], weights @ points, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(row["scatter"], (points.T * weights @ points).ravel(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose([row["center"][name] for name in names], center, rtol=1e-9, atol=1e-9)
        moved = [one["distance"] for one in mine if one["batch_id"] == row["batch_id"]]
        expected = [np.linalg.norm(one["point"] - center) for one in mine if one["batch_id"] == row["batch_id"]]
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-9)
