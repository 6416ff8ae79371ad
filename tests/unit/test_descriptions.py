"""Segments in words: a tree that is grown on planted groups names what sets them apart."""

import numpy as np
import pytest
from profilestream.learn import choose_k, segment_rules
from profilestream.learn.segment_rules import Space

SPACE = Space(("weekend", "value", "hour"), np.array([0.3, 10.0, 12.0]), np.array([0.2, 5.0, 3.0]))
WORDS = {"weekend": ("on weekdays", "at weekends")}
CENTRES = {3: np.array([2.0, 0.0, 0.1]), 5: np.array([-1.0, 1.5, 0.0]), 8: np.array([-1.0, -1.5, 0.0])}


def _people(each: int) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(7)
    points = [center + dice.normal(0, 0.2, (each, 3)) for center in CENTRES.values()]
    return np.vstack(points), np.repeat(list(CENTRES), each)


def test_each_segment_is_called_by_what_sets_it_apart_and_its_rule_holds_its_users() -> None:
    points, labels = _people(40)
    tree = segment_rules.grown(points, labels, CENTRES, SPACE)
    told = {one.segment_id: one for one in segment_rules.told(tree, CENTRES, SPACE, WORDS)}
    assert {segment: one.description for segment, one in told.items()} == {
        3: "at weekends", 5: "high value, on weekdays", 8: "low value, on weekdays"
    }  # fmt: skip
    assert {(one.precision, one.recall) for one in told.values()} == {(1.0, 1.0)}
    raw = SPACE.location + points * SPACE.scale
    for segment, one in told.items():
        for clause in one.rule.split(" and "):
            name, sign, threshold = clause.split()
            mine = raw[labels == segment][:, SPACE.names.index(name)]
            assert ((mine > float(threshold)) == (sign == ">")).all(), (segment, clause)
    way = segment_rules.way_of(tree, dict(zip(SPACE.names, raw[0], strict=True)))
    assert " and ".join(map(str, segment_rules.shortened(way))) == told[3].rule


def test_alike_segments_are_told_apart_by_their_number_and_those_without_a_leaf_by_their_center() -> None:
    points, labels = _people(40)
    tree = segment_rules.grown(points, labels, CENTRES, SPACE)
    more = {**CENTRES, 9: CENTRES[3] + 0.01, 11: np.zeros(3)}
    told = {one.segment_id: one for one in segment_rules.told(tree, more, SPACE, WORDS)}
    assert told[3].description == "at weekends (3)" and told[9].description == "at weekends (9)"
    assert (told[9].rule, told[9].precision, told[9].recall) == ("", None, None)
    assert told[11].description == "like most"


def test_one_segment_or_nobody_needs_no_tree() -> None:
    points, labels = _people(40)
    assert segment_rules.grown(points[:0], labels[:0], CENTRES, SPACE) == {"users": {}}
    one = {3: CENTRES[3]}
    assert segment_rules.grown(points[:40], labels[:40], one, SPACE) == {"users": {"3": 40}}
    assert [d.description for d in segment_rules.told({"users": {}}, one, SPACE, {})] == ["high weekend"]


def test_the_number_of_planted_groups_has_the_best_silhouette_and_the_elbow() -> None:
    points, _ = _people(60)
    tried = list(choose_k.tried(points, range(1, 6), seed=1))
    assert [one.k for one in tried] == [2, 3, 4, 5]
    assert max(tried, key=lambda one: one.silhouette).k == 3
    costs = {one.k: one.cost for one in tried}
    assert costs[2] > 5 * costs[3] and costs[3] < 2 * costs[4]
    within = sum(
        ((points[n * 60 : n * 60 + 60] - points[n * 60 : n * 60 + 60].mean(axis=0)) ** 2).sum() for n in range(3)
    )
    assert costs[3] == pytest.approx(within / ((points - points.mean(axis=0)) ** 2).sum())
    assert list(choose_k.tried(points[:2].repeat(3, axis=0), range(2, 4), seed=1)) == []
