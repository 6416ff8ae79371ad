"""Partial sums are added in any order, and decayed to one time."""

from dataclasses import fields, replace
from itertools import permutations
from typing import Any

import numpy as np
from profilestream.learn.factors.kernels.als import GlobalSums
from profilestream.learn.kernels import sums
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.ranking_metrics import RankingSums
from profilestream.learn.kernels.sums import MICROS_PER_DAY, MIN_WEIGHT, Sums
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums
from profilestream.learn.segments.kernels.kmeans import KMeansDelta

DAY = MICROS_PER_DAY
CLUSTERS = ClusterSums(np.array([2, 0]), np.array([1.5, 0.0]), np.eye(2), np.arange(8.0).reshape(2, 2, 2), as_of=DAY)


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, with equal types."""
    assert type(one) is type(other)
    if isinstance(one, Sums):
        for each in fields(one):
            assert_same(getattr(one, each.name), getattr(other, each.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def test_each_field_is_combined_by_its_rule_and_null_is_neutral() -> None:
    one = RankingSums(np.array([True, False, False]), users=1.0, recall_10=0.5)
    other = RankingSums(np.array([True, True, False]), users=2.0, recall_10=1.0)
    assert_same(one + other, RankingSums(np.array([True, True, False]), users=3.0, recall_10=1.5))
    assert EvaluationTimes(5, 6, 1) + EvaluationTimes(3, 4, 1) == EvaluationTimes(3, 6, 2)
    assert EvaluationTimes(late_rows=1) + EvaluationTimes(3, 4, 0) == EvaluationTimes(3, 4, 1)
    zero = GlobalSums.zero(1)
    mean_ratings = [
        (replace(zero, mean_rating=a) + replace(zero, mean_rating=b)).mean_rating
        for a, b in ((None, 2.0), (2.0, None), (None, None), (0.0, 2.0))
    ]
    assert mean_ratings == [2.0, 2.0, None, 0.0]


def test_a_total_decays_each_part_to_the_latest_time_in_any_order() -> None:
    parts = [
        GlobalSums(np.eye(1), np.eye(1), np.eye(1), item_count=1.0, user_count=weight, as_of=day * DAY)
        for weight, day in ((8.0, 1), (4.0, 3), (1.0, 2))
    ]
    for order in permutations(parts):
        result = sums.total(order, half_life_days=1.0)
        assert (result.as_of, result.item_count, result.user_count) == (3 * DAY, 3.0, 8 / 4 + 4 + 1 / 2)
    assert sums.total(parts, half_life_days=None).user_count == 13.0


def test_sums_without_rows_have_no_time_and_old_weights_do_not_vanish() -> None:
    assert_same(sums.total([ClusterSums.zero(2, 2), CLUSTERS], 10.0), CLUSTERS)
    assert CLUSTERS.decayed_to(DAY - 1, 10.0) is CLUSTERS
    old = CLUSTERS.decayed_to(10_000 * DAY, 1.0)
    assert old.weight.tolist() == [1.5 * MIN_WEIGHT, 0.0] and old.users.tolist() == [2, 0]


def test_the_sums_within_sums_are_decayed() -> None:
    delta = KMeansDelta(CLUSTERS, 4, 5.5, 6.5, EvaluationTimes(1, 2, 3))
    later = KMeansDelta(ClusterSums.zero(2, 2).decayed_to(3 * DAY, 1.0), 1, 1.0, 1.0, EvaluationTimes(0, 1, 0))
    result = sums.total([delta, later], half_life_days=1.0)
    assert result.as_of == 3 * DAY and result.sums.weight.tolist() == [1.5 / 4, 0.0]
    assert (result.evaluated_points, result.cost, result.times) == (5, 6.5, EvaluationTimes(0, 2, 3))
