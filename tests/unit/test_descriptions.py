"""Descriptions and rules of segments with known differences, and scores of known numbers of segments."""

from itertools import combinations

import numpy as np
import pytest
from profilestream.learn.segments import choose_k, rule_words, segment_rules
from profilestream.learn.segments.kernels.profile_scaling import Scaling
from profilestream.learn.segments.segment_rules import SplitCondition

from tests import naive_kmeans

SCALING = Scaling(("weekend", "value", "hour"), np.array([0.3, 10.0, 12.0]), np.array([0.2, 5.0, 3.0]))
WORDS = {"weekend": ("on weekdays", "at weekends")}
CENTERS = {3: np.array([2.0, 0.0, 0.1]), 5: np.array([-1.0, 1.5, 0.0]), 8: np.array([-1.0, -1.5, 0.0])}


def points_around_centers(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    points = [center + rng.normal(0, 0.2, (size, 3)) for center in CENTERS.values()]
    return np.vstack(points), np.repeat(list(CENTERS), size)


def test_a_description_names_the_different_dimensions_and_the_rule_selects_the_users_of_the_segment() -> None:
    points, segment_ids = points_around_centers(40)
    tree = segment_rules.fit_tree(points, segment_ids, CENTERS, SCALING)
    descriptions = {one.segment_id: one for one in segment_rules.describe(tree, CENTERS, SCALING, WORDS)}
    assert {segment: one.description for segment, one in descriptions.items()} == {
        3: "at weekends", 5: "on weekdays, high value", 8: "on weekdays, low value"
    }  # fmt: skip
    assert {(one.precision, one.recall) for one in descriptions.values()} == {(1.0, 1.0)}
    values = SCALING.location + points * SCALING.scale
    for segment, one in descriptions.items():
        satisfies = np.ones(len(values), bool)
        for condition in one.rule.split(" and "):
            name, sign, threshold = condition.split()
            column = values[:, SCALING.dimensions.index(name)]
            satisfies &= (column > float(threshold)) == (sign == ">")
        assert (satisfies == (segment_ids == segment)).all(), one.rule
    path = segment_rules.decision_path(tree, dict(zip(SCALING.dimensions, values[0], strict=True)))
    assert " and ".join(map(str, segment_rules.simplify_path(path))) == descriptions[3].rule


# Centers by (weekend, value, hour) of segments that have the same words without one more.
ALIKE = [
    (
        {1: [2.0, 1.5, 0.3], 2: [1.5, 2.0, -0.3]},
        ["at weekends, high value, high hour", "at weekends, high value, low hour"],
    ),
    ({1: [2.0, 1.5, 0.4], 2: [1.5, 2.0, 0.1]}, ["at weekends, high value, high hour", "at weekends, high value"]),
    ({1: [2.0, 1.5, -0.1], 2: [1.5, 2.0, -0.4]}, ["at weekends, high value", "at weekends, high value, low hour"]),
    ({1: [2.0, 1.5, 0.3], 2: [1.5, 2.0, 0.3]}, ["at weekends, high value (1)", "at weekends, high value (2)"]),
    (
        {1: [0.1, 0.2, 0.3], 2: [0.1, -0.2, 0.3]},
        ["near the average of all users, high value", "near the average of all users, low value"],
    ),
    (
        {1: [2.0, 0.0, 0.4], 2: [2.0, 0.0, -0.4], 3: [2.0, 0.0, -0.45]},
        ["at weekends, high hour", "at weekends, low hour (2)", "at weekends, low hour (3)"],
    ),
    ({1: [2.0, 1.5, 0.0], 2: [1.5, -2.0, 0.0]}, ["at weekends, high value", "at weekends, low value"]),
]  # fmt: skip


@pytest.mark.parametrize(("centers", "expected"), ALIKE)
def test_segments_with_the_same_words_get_one_more_and_words_have_a_fixed_order(
    centers: dict[int, list[float]], expected: list[str]
) -> None:
    arrays = {segment: np.array(center) for segment, center in centers.items()}
    descriptions = segment_rules.describe({"users": {}}, arrays, SCALING, WORDS)
    assert [one.description for one in descriptions] == expected
    assert [(one.rule, one.precision) for one in descriptions] == [("", None)] * len(centers)


def test_equal_descriptions_get_the_segment_id_and_segments_without_a_leaf_are_described_by_their_center() -> None:
    points, segment_ids = points_around_centers(40)
    tree = segment_rules.fit_tree(points, segment_ids, CENTERS, SCALING)
    centers = {**CENTERS, 9: CENTERS[3] + 0.01, 11: np.zeros(3)}
    descriptions = {one.segment_id: one for one in segment_rules.describe(tree, centers, SCALING, WORDS)}
    assert descriptions[3].description == "at weekends (3)" and descriptions[9].description == "at weekends (9)"
    assert (descriptions[9].rule, descriptions[9].precision, descriptions[9].recall) == ("", None, None)
    assert descriptions[11].description == "near the average of all users"


def test_without_users_or_with_one_segment_the_tree_is_one_leaf() -> None:
    points, segment_ids = points_around_centers(40)
    assert segment_rules.fit_tree(points[:0], segment_ids[:0], CENTERS, SCALING) == {"users": {}}
    one = {3: CENTERS[3]}
    assert segment_rules.fit_tree(points[:40], segment_ids[:40], one, SCALING) == {"users": {"3": 40}}
    descriptions = segment_rules.describe({"users": {}}, one, SCALING, {})
    assert [one.description for one in descriptions] == ["high weekend"]


def test_a_rule_contains_only_the_last_condition_per_dimension_and_side() -> None:
    path = (SplitCondition("value", 2.0, True), SplitCondition("value", 9.0, False), SplitCondition("value", 5.0, True))
    assert list(map(str, segment_rules.simplify_path(path))) == ["value > 5", "value <= 9"]


def test_the_true_number_of_groups_has_the_best_silhouette_and_the_cost_of_the_groups() -> None:
    points, _ = points_around_centers(60)
    scores = {score.k: score for score in choose_k.score_each_k(points, range(1, 6), seed=1)}
    assert list(scores) == [2, 3, 4, 5]
    assert max(scores.values(), key=lambda score: score.silhouette).k == 3
    total, groups = naive_kmeans.cost(points), np.split(points, 3)
    assert scores[3].cost == pytest.approx(sum(map(naive_kmeans.cost, groups)) / total)
    # With two segments the two nearest groups share one; with four, one group is halved.
    merged = min(
        naive_kmeans.cost(np.vstack(pair)) - sum(map(naive_kmeans.cost, pair)) for pair in combinations(groups, 2)
    )
    assert scores[2].cost == pytest.approx(scores[3].cost + merged / total)
    assert scores[5].cost < scores[4].cost < scores[3].cost


def test_values_of_k_that_are_not_below_the_number_of_distinct_points_are_skipped() -> None:
    points, _ = points_around_centers(60)
    assert list(choose_k.score_each_k(points[:2].repeat(3, axis=0), range(2, 4), seed=1)) == []


def test_a_rule_is_shown_in_words_and_natural_units() -> None:
    words = {"weekend": ["on weekdays", "at weekends"], "log_price": ["cheap items", "expensive items"]}
    dimensions = {"weekend": "int(weekday(event_time) >= 5)", "log_price": "ln(1 + price)", "hour_sin": "sin(hour)"}
    rules = {
        "weekend <= 0.46 and log_price > 1.371": "on weekdays (weekend at most 46%), expensive items (price over 2.94)",
        "weekend > 0.2 and hour_sin <= -0.34 and weekend <= 0.4": (
            "between on weekdays and at weekends (weekend 20% to 40%), low hour_sin"
        ),
        "": segment_rules.NO_RULE,
    }
    assert {rule: rule_words.rule_in_words(rule, words, dimensions) for rule in rules} == rules


def test_the_text_of_a_condition_can_be_parsed() -> None:
    for condition in (SplitCondition("weekend", 0.25, True), SplitCondition("log_price", -1e-5, False)):
        assert SplitCondition.parse(str(condition)) == condition
