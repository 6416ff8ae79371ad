"""Segments with their users in memory, by the same steps as the stage: for notebooks, benchmarks and tests."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilestream.learn import kmeans
from profilestream.learn.als import Floats, Longs
from profilestream.learn.kmeans import Batch, Delta, Move, Params, State


@dataclass(frozen=True)
class Rows:
    """What users say.

    Args:
        users: anything that has an order, (m,).
        points, times: (m, d), (m,); microseconds since 1970.
    """

    users: NDArray[Any]
    points: Floats
    times: Longs

    def take(self, places: Any) -> "Rows":
        """Some of them."""
        return Rows(self.users[places], self.points[places], self.times[places])

    def beside(self, other: "Rows") -> "Rows":
        """And more of them."""
        return Rows(*(np.concatenate(pair) for pair in zip(self._arrays(), other._arrays(), strict=True)))

    def newest(self) -> "Rows":
        """One row a user, ascending: its newest; of one time, the last."""
        order = np.lexsort([self.times, self.users])
        is_last = np.append(self.users[order][1:] != self.users[order][:-1], True)
        return self.take(order[is_last[: len(order)]])

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.users, self.points, self.times


@dataclass(frozen=True)
class Segmented:
    """The segments and everybody in them.

    Args:
        segments: null before the first batch.
        kept: the last contribution of each user, users in order of arrival.
        order: their places by user, ascending.
        ids: the segment of each, (m,).
        moves: of the last batch.
    """

    segments: State | None = None
    kept: Rows | None = None
    order: Longs = field(default_factory=lambda: np.zeros(0, np.int64))
    ids: Longs = field(default_factory=lambda: np.zeros(0, np.int64))
    moves: tuple[Move, ...] = ()

    def found(self, users: NDArray[Any]) -> tuple[Longs, NDArray[np.bool_]]:
        """Where in the order users are, or would be; and whether they are."""
        if self.kept is None:
            return np.zeros(len(users), np.int64), np.zeros(len(users), bool)
        at = np.searchsorted(self.kept.users, users, sorter=self.order)
        return at, self.kept.users[self.order[at.clip(max=len(self.order) - 1)]] == users

    def known(self, users: NDArray[Any]) -> Longs:
        """The places of users, of those that are known."""
        at, is_known = self.found(users)
        return self.order[at[is_known]]

    def with_rows(self, segments: State, rows: Rows, ids: Longs) -> "Segmented":
        """The contributions of rows, one a user and ascending, in the place of these users' last ones."""
        at, is_known = self.found(rows.users)
        new, known = rows.take(~is_known), self.order[at[is_known]]
        kept = new if self.kept is None else self.kept.beside(new)
        kept.points[known], kept.times[known] = rows.points[is_known], rows.times[is_known]
        all_ids = np.append(self.ids, ids[~is_known])
        all_ids[known] = ids[is_known]
        order = np.insert(self.order, at[~is_known], len(self.order) + np.arange(len(new.users)))
        return Segmented(segments, kept, order, all_ids)


@dataclass(frozen=True)
class Told:
    """What a part of a batch has to say: its rows, one a user; and their sums, once there are segments."""

    rows: Rows | None = None
    delta: Delta | None = None


@dataclass(frozen=True)
class KMeans:
    """A learner (learner.py). A score is the squared distance to the nearest center; 0 before the first batch."""

    params: Params = field(default_factory=Params)

    def empty(self) -> Segmented:
        """Nobody, and no segment."""
        return Segmented()

    def zero(self) -> Told:
        """No row."""
        return Told()

    def score(self, state: Segmented, rows: Rows) -> Floats:
        """How far each point is from where it belongs."""
        centers = state.segments.centers if state.segments else np.zeros((0, 0))
        return kmeans.nearest(rows.points, centers)[1]

    def batch_delta(self, state: Segmented, rows: Rows) -> Told:
        """What the newest row of each user has to say, if none that is kept is newer."""
        rows = rows.newest()
        if state.kept is not None:
            at, is_known = state.found(rows.users)
            is_late = is_known.copy()
            is_late[is_known] = state.kept.times[state.order[at[is_known]]] > rows.times[is_known]
            rows = rows.take(~is_late)
        if not len(rows.users):
            return self.zero()
        if state.segments is None:
            return Told(rows)
        return Told(rows, self._delta(state, state.segments, state.segments.centers, rows))

    def merge(self, one: Told, other: Told) -> Told:
        """All rows of both."""
        if one.rows is None or other.rows is None:
            return other if one.rows is None else one
        delta = one.delta and other.delta and kmeans.merge(one.delta, other.delta, self.params)
        return Told(one.rows.beside(other.rows), delta)

    def apply(self, state: Segmented, delta: Told, now: int) -> Segmented:
        """Take the batch in, and move segments where that pays."""
        if delta.rows is None:
            return state
        rows = delta.rows.newest()
        segments, centers, told = state.segments, np.zeros((0, 0)), delta.delta
        if segments is None or told is None:
            centers = kmeans.first_centers(self._sample(rows), self.params)
            segments = State.founded(centers)
            told = self._delta(state, segments, centers, rows)
            further = self.params.first_passes - 1
        else:
            centers, further = segments.centers, self.params.passes - 1
        for _ in range(further):
            centers = kmeans.new_centers(segments, told, centers, self.params)
            told = self._delta(state, segments, centers, rows)
        ids = segments.ids[kmeans.nearest(rows.points, centers)[0]]
        after = kmeans.apply(segments, told, self.params)
        after = replace(after, sums=after.sums.aged(now, self.params.half_life_days))
        return self._moved(state.with_rows(after, rows, ids), after)

    def learn(self, state: Segmented, rows: Rows) -> Segmented:
        """The state after the rows."""
        now = int(rows.times.max(initial=0))
        return self.apply(state, self.batch_delta(state, rows), now)

    def _moved(self, state: Segmented, segments: State) -> Segmented:
        axes = kmeans.promising(segments, self.params)
        if state.kept is None or not len(axes.ids):
            return state
        bins = kmeans.binned(axes, state.kept.points, state.kept.times, state.ids, self.params)
        segments, moves = kmeans.moved(segments, axes, bins, self.params)
        ids = kmeans.relabeled(state.ids, state.kept.points, moves)
        return replace(state, segments=segments, ids=ids, moves=tuple(moves))

    def _delta(self, state: Segmented, segments: State, centers: Floats, rows: Rows) -> Delta:
        places = state.known(rows.users)
        old = rows.take(places) if state.kept is None else state.kept.take(places)
        batch = Batch(rows.points, rows.times, old.points, old.times, state.ids[places])
        return kmeans.batch_delta(segments, centers, batch, self.params)

    def _sample(self, rows: Rows) -> Floats:
        """The points of so many users, by a hash of their ids."""
        if len(rows.users) <= self.params.sample:
            return rows.points
        hashes = [hashlib.blake2b(f"{self.params.seed} {user}".encode(), digest_size=8).digest() for user in rows.users]
        return rows.points[np.argsort(hashes)[: self.params.sample]]
