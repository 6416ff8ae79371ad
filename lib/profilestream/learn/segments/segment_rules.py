"""Descriptions and rules of segments, from a shallow decision tree over profile vectors (Breiman et al., CART, 1984).

The tree predicts the segment of a user from the dimensions in which the segments differ. The rule of a segment is the
path to the leaf with most of its users. Its description names the dimensions of that path, and whether its center is
below or above all users in them, in the declared order of the dimensions. Runs on the driver, over a bounded sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from profilestream.base.language import message, translate
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.segments.kernels.profile_scaling import Scaling

# Distance of a center from the mean of all users, in standard deviations, from which a dimension may describe the
# segment; and from which it describes the segment even if it is not in the rule.
_MIN_DIFFERENCE, _LARGE_DIFFERENCE = 0.5, 1.0
_MAX_WORDS, _MAX_DEPTH = 3, 5
# Smallest difference of two centers that separates two segments with equal words.
_MIN_SEPARATION = 0.1
AND = " and "
# Shown in place of an empty rule.
AVERAGE = message("near the average of all users")
NO_RULE = message("no rule: the segment is the largest in no leaf of the tree")


@dataclass(frozen=True)
class SplitCondition:
    """A condition on a path of the tree: the dimension is above the threshold (in its own unit), or not above it."""

    dimension: str
    threshold: float
    is_above: bool

    def __str__(self) -> str:
        return f"{self.dimension} {'>' if self.is_above else '<='} {self.threshold:.4g}"

    @classmethod
    def parse(cls, text: str) -> "SplitCondition":
        """The condition of its text."""
        dimension, sign, threshold = text.split(" ")
        return cls(dimension, float(threshold), sign == ">")


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
    """Description and rule of every segment, in order of their ids.

    Where segments have equal words, one more word separates them, from the dimension in which they differ most. The id
    is appended to those that are still equal.

    Args:
        words: by dimension, the words for a segment below and above the mean of all users; `low` or `high` and the name
            of the dimension if there are none.
    """
    rules = {segment: _rule(segment, tree) for segment in sorted(centers)}
    shown = {segment: _shown_dimensions(centers[segment], path, scaling) for segment, (path, *_) in rules.items()}
    short = {segment: _text(dimensions, centers[segment], scaling, words) for segment, dimensions in shown.items()}
    texts = {}
    for segment, text in short.items():
        alike = np.array([centers[one] for one in short if short[one] == text])
        more = _separating_dimensions(centers[segment], alike, shown[segment]) if len(alike) > 1 else []
        texts[segment] = _text(shown[segment], centers[segment], scaling, words, more)
    all_texts = list(texts.values())
    return [
        SegmentDescription(
            segment,
            text if all_texts.count(text) == 1 else f"{text} ({segment})",
            AND.join(map(str, simplify_path(rules[segment][0]))),
            *rules[segment][1:],
        )
        for segment, text in texts.items()
    ]


def _separating_dimensions(center: Floats, alike: Floats, shown: Sequence[int]) -> list[int]:
    """The dimension outside of `shown` in which segments differ most, if its word fits this segment better than others.

    Dimensions in which some centers are below and some above all users precede the others. In another dimension, the
    word fits the segments whose center is in the outer half.

    Args:
        center: of the segment, (dimensions,).
        alike: centers of all segments with the same words, (segments, dimensions).
    """
    low, high = alike.min(axis=0), alike.max(axis=0)
    is_candidate = high - low >= _MIN_SEPARATION
    is_candidate[list(shown)] = False
    if not is_candidate.any():
        return []
    has_both_sides = (low < 0) & (high > 0)
    best = int(np.lexsort((low - high, ~has_both_sides, ~is_candidate))[0])
    is_outer = abs(center[best]) > abs(low[best] + high[best]) / 2
    return [best] if has_both_sides[best] or is_outer else []


def _rule(segment: int, tree: dict[str, Any]) -> tuple[TreePath, float | None, float | None]:
    """Path to the leaf with most users of a segment, its precision and recall; empty and null if there is none."""
    leaves = list(leaf_paths(tree))
    own_leaves = [
        (users.get(segment, 0), path, sum(users.values()))
        for path, users in leaves
        if path and users and max(users, key=lambda one: (users[one], -one)) == segment
    ]
    segment_users = sum(users.get(segment, 0) for _, users in leaves)
    members, path, leaf_users = max(own_leaves, key=lambda leaf: leaf[0], default=(0, (), 0))
    return (path, members / leaf_users, members / segment_users) if leaf_users else ((), None, None)


def _shown_dimensions(center: Floats, path: TreePath, scaling: Scaling) -> list[int]:
    """The dimensions that describe a segment, at most three, in their declared order."""
    in_rule = list(dict.fromkeys(scaling.dimensions.index(condition.dimension) for condition in path))
    others = [int(n) for n in np.argsort(-np.abs(center), kind="stable") if n not in in_rule]
    shown = [n for n in in_rule if abs(center[n]) >= _MIN_DIFFERENCE]
    shown += [n for n in others if abs(center[n]) >= _LARGE_DIFFERENCE]
    shown = shown or [n for n in others if abs(center[n]) >= _MIN_DIFFERENCE]
    return sorted(shown[:_MAX_WORDS])


def _text(
    shown: Sequence[int],
    center: Floats,
    scaling: Scaling,
    words: Mapping[str, Sequence[str]],
    more: Sequence[int] = (),
) -> str:
    texts = [] if shown else [AVERAGE]
    return ", ".join(texts + [word(scaling.dimensions[n], bool(center[n] > 0), words) for n in sorted([*shown, *more])])


def word(dimension: str, is_high: bool, words: Mapping[str, Sequence[str]]) -> str:
    """The word for values of a dimension that are above or below those of all users; words: as `describe`."""
    if dimension in words:
        return words[dimension][is_high]
    text = message("high {dimension}") if is_high else message("low {dimension}")
    return translate(text, dimension=dimension)
