"""Segments in words: a shallow decision tree over the dimensions that set them apart (Breiman et al., CART, 1984).

The tree learns to tell the segment of a user from its profile vector. The way to the leaf that holds most users of a
segment is the segment's rule; the dimensions on that way, and on which side of the population its center lies in them,
are its description. On the driver, from a bounded sample of points.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from profilestream.learn.als import Floats, Longs

# In standard deviations of the population: less does not set a segment apart, so much is told even if no rule asks it.
_APART, _STRIKING = 0.5, 1.0
_MOST_WORDS, _MOST_DEPTH = 3, 5


@dataclass(frozen=True)
class Space:
    """What a point's numbers mean: the dimensions, and the location and scale that they are told in."""

    names: tuple[str, ...]
    location: Floats
    scale: Floats

    def raw(self, dimension: int, value: float) -> float:
        """A number of a point, in the dimension's own unit."""
        return float(self.location[dimension] + value * self.scale[dimension])


@dataclass(frozen=True)
class Step:
    """One question on the way: is the dimension above the threshold (in its own unit), and is it."""

    dimension: str
    threshold: float
    is_above: bool

    def __str__(self) -> str:
        return f"{self.dimension} {'>' if self.is_above else '<='} {self.threshold:.4g}"


@dataclass(frozen=True)
class Description:
    """A segment in words.

    Args:
        rule: the way to its leaf; empty when no leaf of the tree is mostly its own.
        precision: share of the users on that way who are in it; null without a rule.
        recall: share of its users who are on that way; null without a rule.
    """

    segment_id: int
    description: str
    rule: str
    precision: float | None
    recall: float | None


def grown(points: Floats, labels: Longs, centers: Mapping[int, Floats], space: Space) -> dict[str, Any]:
    """A tree that tells segments apart, as nested plain values.

    An inner node has `dimension`, `threshold` (in the dimension's own unit), `low` and `high`; a leaf has `users` of
    the sample by segment.

    Args:
        points: of a sample of users, (users, dimensions).
        labels: their segments.
        centers: by segment, (dimensions,).
    """
    from sklearn.tree import DecisionTreeClassifier  # type: ignore[import-untyped]

    apart = np.abs(np.array(list(centers.values()))).max(axis=0) >= _APART
    if len(points) == 0 or len(set(labels.tolist())) < 2 or not apart.any():
        return _leaf(labels)
    chosen = np.flatnonzero(apart)
    depth = min(_MOST_DEPTH, int(np.ceil(np.log2(len(centers)))) + 1)
    tree = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=max(5, len(points) // 200), random_state=0)
    tree.fit(points[:, chosen], labels)
    inner, leaf_of = tree.tree_, tree.apply(points[:, chosen])

    def node(number: int) -> dict[str, Any]:
        if inner.children_left[number] < 0:
            return _leaf(labels[leaf_of == number])
        dimension = int(chosen[inner.feature[number]])
        return {
            "dimension": space.names[dimension],
            "threshold": space.raw(dimension, inner.threshold[number]),
            "low": node(inner.children_left[number]),
            "high": node(inner.children_right[number]),
        }

    return node(0)


def _leaf(labels: Longs) -> dict[str, Any]:
    ids, counts = np.unique(labels, return_counts=True)
    return {"users": {str(segment): int(count) for segment, count in zip(ids, counts, strict=True)}}


def leaves(tree: dict[str, Any], way: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], dict[int, int]]]:
    """Every leaf: the way to it, and users of the sample by segment."""
    if "users" in tree:
        yield way, {int(segment): count for segment, count in tree["users"].items()}
        return
    for side, is_above in (("low", False), ("high", True)):
        yield from leaves(tree[side], (*way, Step(tree["dimension"], tree["threshold"], is_above)))


def way_of(tree: dict[str, Any], values: Mapping[str, float]) -> list[Step]:
    """The questions that a user meets, with its answers.

    Args:
        values: by dimension, in its own unit; 0 where one is missing.
    """
    steps: list[Step] = []
    while "users" not in tree:
        is_above = values.get(tree["dimension"], 0.0) > tree["threshold"]
        steps.append(Step(tree["dimension"], tree["threshold"], is_above))
        tree = tree["high" if is_above else "low"]
    return steps


def told(
    tree: dict[str, Any], centers: Mapping[int, Floats], space: Space, words: Mapping[str, Sequence[str]]
) -> list[Description]:
    """Every segment in words; a description that another one has too says which of them it is.

    Args:
        words: by dimension, what is said of a segment below and above the population in it.
    """
    found = [_told(segment, tree, center, space, words) for segment, center in sorted(centers.items())]
    texts = [one.description for one in found]
    return [
        one
        if texts.count(one.description) == 1
        else Description(one.segment_id, f"{one.description} ({one.segment_id})", one.rule, one.precision, one.recall)
        for one in found
    ]


def _told(
    segment: int, tree: dict[str, Any], center: Floats, space: Space, words: Mapping[str, Sequence[str]]
) -> Description:
    own = [
        (users.get(segment, 0), way, sum(users.values()))
        for way, users in leaves(tree)
        if way and users and max(users, key=lambda one: (users[one], -one)) == segment
    ]
    everybody = sum(users.get(segment, 0) for _, users in leaves(tree))
    inside, way, there = max(own, key=lambda one: one[0], default=(0, (), 0))
    asked = list(dict.fromkeys(space.names.index(step.dimension) for step in way))
    others = [int(n) for n in np.argsort(-np.abs(center), kind="stable") if n not in asked]
    wanted = [n for n in asked if abs(center[n]) >= _APART] + [n for n in others if abs(center[n]) >= _STRIKING]
    wanted = wanted or [n for n in others if abs(center[n]) >= _APART]
    said = [_word(space.names[n], bool(center[n] > 0), words) for n in wanted[:_MOST_WORDS]]
    return Description(
        segment,
        ", ".join(said) or "like most",
        " and ".join(map(str, shortened(way))),
        inside / there if there else None,
        inside / everybody if there else None,
    )


def _word(name: str, is_high: bool, words: Mapping[str, Sequence[str]]) -> str:
    return words[name][is_high] if name in words else f"{'high' if is_high else 'low'} {name}"


def shortened(way: Sequence[Step]) -> list[Step]:
    """The way without questions that a later one of the same dimension and side makes needless."""
    last = {(step.dimension, step.is_above): step for step in way}
    return list(last.values())
