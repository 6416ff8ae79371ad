"""Decayed sums over groups of points: they add up in any order, and what was added can be subtracted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilestream.learn.als import Floats, Longs, decayed

# Nobody's weight is zero, so that every group with users has a mean.
FAINT = 1e-100


@dataclass(frozen=True)
class Sums:
    """Of each of s groups of contributions, with w = 2^(-(now - time) / half-life).

    Args:
        users: how many, (s,); as a part of a batch, less how many went.
        weight: sum of w, (s,).
        sums: of w x, (s, d).
        scatter: of w x xT, (s, d, d).
        now: microseconds since 1970.
    """

    users: Longs
    weight: Floats
    sums: Floats
    scatter: Floats
    now: int

    @classmethod
    def zero(cls, s: int, d: int) -> "Sums":
        """Nobody."""
        return cls(np.zeros(s, np.int64), np.zeros(s), np.zeros((s, d)), np.zeros((s, d, d)), 0)

    @classmethod
    def of_bytes(cls, data: bytes, d: int) -> "Sums":
        """As `as_bytes` has written them, of points of d dimensions."""
        numbers = np.frombuffer(data, np.float64)
        table = numbers[1:].reshape(-1, 2 + d + d * d)
        return cls(
            table[:, 0].astype(np.int64), table[:, 1], table[:, 2 : 2 + d], table[:, 2 + d :].reshape(-1, d, d),
            int(numbers[0]),
        )  # fmt: skip

    def as_bytes(self) -> bytes:
        """All numbers as doubles: counts and times are whole below 2^53."""
        flat = self.scatter.reshape(len(self.users), -1)
        table = np.column_stack([self.users, self.weight, self.sums, flat]).astype(np.float64)
        return np.append(np.float64(self.now), table).tobytes()

    def aged(self, now: int, half_life_days: float | None) -> "Sums":
        """The same at a later time. Time never goes back."""
        if now <= self.now:
            return self
        share = _weights(np.array([self.now]), now, half_life_days)[0] if self.now else 1.0
        return Sums(self.users, self.weight * share, self.sums * share, self.scatter * share, now)

    def take(self, places: Any) -> "Sums":
        """Some of the groups."""
        return self.each(lambda array: array[places])

    def total(self) -> "Sums":
        """All groups as one."""
        return self.each(lambda array: array.sum(axis=0, keepdims=True))

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> "Sums":
        """All arrays changed alike."""
        return Sums(change(self.users), change(self.weight), change(self.sums), change(self.scatter), self.now)

    def plus(self, other: "Sums") -> "Sums":
        """Of the same groups at the same time, taken together."""
        return Sums(
            self.users + other.users, self.weight + other.weight, self.sums + other.sums, self.scatter + other.scatter,
            self.now,
        )  # fmt: skip

    def with_group(self, place: int, one: "Sums") -> "Sums":
        """One group replaced, or a new one at the end."""
        return Sums(
            _put(self.users, place, one.users), _put(self.weight, place, one.weight),
            _put(self.sums, place, one.sums), _put(self.scatter, place, one.scatter), self.now,
        )  # fmt: skip

    @property
    def centers(self) -> Floats:
        """Means, (s, d)."""
        return np.asarray(self.sums / self.weight[:, None])

    @property
    def spread(self) -> Floats:
        """Scatter about the mean, (s, d, d); its trace is the cost of the group."""
        return np.asarray(self.scatter - self.sums[:, :, None] * self.centers[:, None, :])

    @property
    def cost(self) -> Floats:
        """Sum of w |x - mean|^2, (s,)."""
        return np.asarray(np.trace(self.spread, axis1=1, axis2=2).clip(min=0))


def sums_of(
    points: Floats, times: Longs, places: Longs, signs: Longs, groups: int, half_life_days: float | None
) -> Sums:
    """Of contributions that are each in a group, as of the newest; those with sign -1 are subtracted."""
    d = points.shape[1]
    found = Sums.zero(groups, d)
    if not len(points):
        return found
    now = int(times.max())
    order = np.argsort(places, kind="stable")
    # With a 1 beside each point, one product of a group has its weight and its sums, too.
    x = np.hstack([points, np.ones((len(points), 1))])[order]
    weighted = x * (_weights(times, now, half_life_days) * signs)[order, None]
    begins = np.flatnonzero(np.diff(places[order], prepend=-1))
    for begin, end in pairwise([*begins, len(order)]):
        product = weighted[begin:end].T @ x[begin:end]
        place = places[order[begin]]
        found.weight[place], found.sums[place], found.scatter[place] = product[d, d], product[d, :d], product[:d, :d]
    np.add.at(found.users, places, signs)
    return replace(found, now=now)


def _weights(times: Longs, now: int, half_life_days: float | None) -> Floats:
    return np.maximum(decayed(times, now, half_life_days), FAINT)


def _put(array: NDArray[Any], place: int, one: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array[:place], one, array[place + 1 :]])
