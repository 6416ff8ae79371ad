"""Descriptions and rules of segments, from a shallow decision tree over profile vectors (Breiman et al., CART, 1984).

The tree predicts the segment of a user from the dimensions in which the segments differ. The rule of a segment is the
path to the leaf with most of its users. Its description names the dimensions of that path, and whether its center is
below or above all users in them. Runs on the driver, over a bounded sample of users.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from profilestream.learn.als import Floats, Longs

# Distance of a center from the mean of all users, in standard deviations, from which a dimension may describe the
# segment; and from which it describes the segment even if it is not in the rule.
_MIN_DIFFERENCE, _LARGE_DIFFERENCE = 0.5, 1.0
_MAX_WORDS, _MAX_DEPTH = 3, 5


@dataclass(frozen=True)
class Scaling:
    """The scaling of points: point = (value - location) / scale, by dimension."""

    dimensions: tuple[str, ...]
    location: Floats
    scale: Floats

    def unscale(self, index: int, coordinate: float) -> float:
        """The value of a coordinate in the dimension's own unit."""
        return float(self.location[index] + coordinate * self.scale[index])


@dataclass(frozen=True)
class SplitCondition:
    """A condition on a path of the tree: the dimension is above the threshold (in its own unit), or not above it."""

    dimension: str
    threshold: float
    is_above: bool

    def __str__(self) -> str:
        return f"{self.dimension} {'>' if self.is_above else '<='} {self.threshold:.4g}"


TreePath = tuple[SplitCondition, ...]


@dataclass(frozen=True)
class SegmentDescription:
    """A segment in words.

    Args:
        rule: the conditions on the path to its leaf; empty if it has the most users in no leaf.
        precision: share of the users that satisfy the rule who are in the segment; null without a rule.
        recall: share of the users in the segment who satisfy the rule; null without a rule.
    """

    segment_id: int
    description: str
    rule: str
    precision: float | None
    recall: float | None


def fit_tree(points: Floats, segment_ids: Longs, centers: Mapping[int, Floats], scaling: Scaling) -> dict[str, Any]:
    """A decision tree that predicts the segment, as nested dicts that can be stored as JSON.

    An inner node has `dimension`, `threshold` (in the dimension's own unit), `low` and `high`. A leaf has `users`: the
    number of users of the sample by segment.

    Args:
        points: of a sample of users, (users, dimensions).
        segment_ids: of these users.
        centers: by segment, (dimensions,).
    """
    from sklearn.tree import DecisionTreeClassifier  # type: ignore[import-untyped]

    differs = np.abs(np.array(list(centers.values()))).max(axis=0) >= _MIN_DIFFERENCE
    if len(points) == 0 or len(set(segment_ids.tolist())) < 2 or not differs.any():
        return _leaf(segment_ids)
    columns = np.flatnonzero(differs)
    depth = min(_MAX_DEPTH, int(np.ceil(np.log2(len(centers)))) + 1)
    classifier = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=max(5, len(points) // 200), random_state=0)
    classifier.fit(points[:, columns], segment_ids)
    tree, leaf_of = classifier.tree_, classifier.apply(points[:, columns])

    def node(number: int) -> dict[str, Any]:
        if tree.children_left[number] < 0:
            return _leaf(segment_ids[leaf_of == number])
        index = int(columns[tree.feature[number]])
        return {
            "dimension": scaling.dimensions[index],
            "threshold": scaling.unscale(index, tree.threshold[number]),
            "low": node(tree.children_left[number]),
            "high": node(tree.children_right[number]),
        }

    return node(0)


def _leaf(segment_ids: Longs) -> dict[str, Any]:
    ids, counts = np.unique(segment_ids, return_counts=True)
    return {"users": {str(segment): int(count) for segment, count in zip(ids, counts, strict=True)}}


def leaf_paths(tree: dict[str, Any], path: TreePath = ()) -> Iterator[tuple[TreePath, dict[int, int]]]:
    """For every leaf: the path to it, and the number of users of the sample by segment."""
    if "users" in tree:
        yield path, {int(segment): count for segment, count in tree["users"].items()}
        return
    for branch, is_above in (("low", False), ("high", True)):
        yield from leaf_paths(tree[branch], (*path, SplitCondition(tree["dimension"], tree["threshold"], is_above)))


def decision_path(tree: dict[str, Any], values: Mapping[str, float]) -> TreePath:
    """The conditions that a user satisfies on the path to its leaf.

    Args:
        values: by dimension, in its own unit; a missing value counts as 0.
    """
    path: TreePath = ()
    while "users" not in tree:
        is_above = values.get(tree["dimension"], 0.0) > tree["threshold"]
        path = (*path, SplitCondition(tree["dimension"], tree["threshold"], is_above))
        tree = tree["high" if is_above else "low"]
    return path


def simplify_path(path: TreePath) -> list[SplitCondition]:
    """The path without conditions that a later one on the same dimension and side implies."""
    last = {(condition.dimension, condition.is_above): condition for condition in path}
    return list(last.values())


def describe(
    tree: dict[str, Any], centers: Mapping[int, Floats], scaling: Scaling, words: Mapping[str, Sequence[str]]
) -> list[SegmentDescription]:
    """Description and rule of every segment, in order of their ids; the id is appended to equal descriptions.

    Args:
        words: by dimension, the words for a segment below and above the mean of all users; `low` or `high` and the name
            of the dimension if there are none.
    """
    descriptions = [_describe(segment, tree, center, scaling, words) for segment, center in sorted(centers.items())]
    texts = [one.description for one in descriptions]
    return [
        one if texts.count(one.description) == 1 else replace(one, description=f"{one.description} ({one.segment_id})")
        for one in descriptions
    ]


def _describe(
    segment: int, tree: dict[str, Any], center: Floats, scaling: Scaling, words: Mapping[str, Sequence[str]]
) -> SegmentDescription:
    leaves = list(leaf_paths(tree))
    own_leaves = [
        (users.get(segment, 0), path, sum(users.values()))
        for path, users in leaves
        if path and users and max(users, key=lambda one: (users[one], -one)) == segment
    ]
    segment_users = sum(users.get(segment, 0) for _, users in leaves)
    members, path, leaf_users = max(own_leaves, key=lambda leaf: leaf[0], default=(0, (), 0))
    in_rule = list(dict.fromkeys(scaling.dimensions.index(condition.dimension) for condition in path))
    others = [int(n) for n in np.argsort(-np.abs(center), kind="stable") if n not in in_rule]
    shown = [n for n in in_rule if abs(center[n]) >= _MIN_DIFFERENCE]
    shown += [n for n in others if abs(center[n]) >= _LARGE_DIFFERENCE]
    shown = shown or [n for n in others if abs(center[n]) >= _MIN_DIFFERENCE]
    texts = [_word(scaling.dimensions[n], bool(center[n] > 0), words) for n in shown[:_MAX_WORDS]]
    return SegmentDescription(
        segment,
        ", ".join(texts) or "near the average of all users",
        " and ".join(map(str, simplify_path(path))),
        members / leaf_users if leaf_users else None,
        members / segment_users if leaf_users else None,
    )


def _word(dimension: str, is_high: bool, words: Mapping[str, Sequence[str]]) -> str:
    return words[dimension][is_high] if dimension in words else f"{'high' if is_high else 'low'} {dimension}"
