"""Incremental k-means with all users in memory, by the same steps as the stage: for notebooks, benchmarks and tests."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilestream.learn import kmeans, split_merge
from profilestream.learn.als import Floats, Longs
from profilestream.learn.kmeans import ContributionChanges, KMeansDelta, KMeansParams, KMeansState
from profilestream.learn.split_merge import SplitMergeMove
from profilestream.learn.sums import total


@dataclass(frozen=True)
class Contributions:
    """Points of users.

    Args:
        users: of any type that can be ordered, (m,).
        points, times: (m, d) and (m,); microseconds since 1970.
    """

    users: NDArray[Any]
    points: Floats
    times: Longs

    def take(self, indices: Any) -> "Contributions":
        """The selected rows."""
        return Contributions(self.users[indices], self.points[indices], self.times[indices])

    def append(self, other: "Contributions") -> "Contributions":
        """These rows, followed by the other ones."""
        return Contributions(*(np.concatenate(pair) for pair in zip(self._arrays(), other._arrays(), strict=True)))

    def latest_per_user(self) -> "Contributions":
        """One row per user, in ascending order: the newest; the last one of those with the same time."""
        order = np.lexsort([self.times, self.users])
        is_last = np.append(self.users[order][1:] != self.users[order][:-1], True)
        return self.take(order[is_last[: len(order)]])

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.users, self.points, self.times


@dataclass(frozen=True)
class LocalKMeansState:
    """The segments and the contributions of all users.

    Args:
        segments: null before the first batch.
        contributions: one per user, in order of arrival; null before the first batch.
        order: indices that sort the contributions by user.
        segment_ids: the segment of each contribution, (m,).
        moves: of the last batch.
    """

    segments: KMeansState | None = None
    contributions: Contributions | None = None
    order: Longs = field(default_factory=lambda: np.zeros(0, np.int64))
    segment_ids: Longs = field(default_factory=lambda: np.zeros(0, np.int64))
    moves: tuple[SplitMergeMove, ...] = ()

    def find(self, users: NDArray[Any]) -> tuple[Longs, NDArray[np.bool_]]:
        """For each user, its position in `order` (or where it would be inserted), and whether it exists."""
        if self.contributions is None:
            return np.zeros(len(users), np.int64), np.zeros(len(users), bool)
        stored = self.contributions.users
        positions = np.searchsorted(stored, users, sorter=self.order)
        return positions, stored[self.order[positions.clip(max=len(self.order) - 1)]] == users

    def existing(self, users: NDArray[Any]) -> Longs:
        """Indices of the contributions of those users that exist."""
        positions, exists = self.find(users)
        return self.order[positions[exists]]

    def updated(self, segments: KMeansState, rows: Contributions, segment_ids: Longs) -> "LocalKMeansState":
        """The state with rows (one per user, ascending) in place of the contributions of these users."""
        positions, exists = self.find(rows.users)
        new, indices = rows.take(~exists), self.order[positions[exists]]
        contributions = new if self.contributions is None else self.contributions.append(new)
        contributions.points[indices], contributions.times[indices] = rows.points[exists], rows.times[exists]
        all_ids = np.append(self.segment_ids, segment_ids[~exists])
        all_ids[indices] = segment_ids[exists]
        order = np.insert(self.order, positions[~exists], len(self.order) + np.arange(len(new.users)))
        return LocalKMeansState(segments, contributions, order, all_ids)


@dataclass(frozen=True)
class LocalKMeansDelta:
    """A part of a batch: its rows, one per user, and the change of the sums once there are segments."""

    rows: Contributions | None = None
    sums: KMeansDelta | None = None


@dataclass(frozen=True)
class LocalKMeans:
    """A learner (learner.py). A score is the squared distance to the nearest center; 0 before the first batch."""

    params: KMeansParams = field(default_factory=KMeansParams)

    def empty(self) -> LocalKMeansState:
        """The state without users and segments."""
        return LocalKMeansState()

    def zero(self) -> LocalKMeansDelta:
        """The delta without rows."""
        return LocalKMeansDelta()

    def score(self, state: LocalKMeansState, rows: Contributions) -> Floats:
        """Squared distance of each point to the nearest center."""
        centers = state.segments.centers if state.segments else np.zeros((0, 0))
        return kmeans.nearest_centers(rows.points, centers)[1]

    def batch_delta(self, state: LocalKMeansState, rows: Contributions) -> LocalKMeansDelta:
        """The delta of the newest row of each user; rows older than the user's contribution are ignored."""
        rows = rows.latest_per_user()
        if state.contributions is not None:
            positions, exists = state.find(rows.users)
            is_older = exists.copy()
            is_older[exists] = state.contributions.times[state.order[positions[exists]]] > rows.times[exists]
            rows = rows.take(~is_older)
        if not len(rows.users):
            return self.zero()
        if state.segments is None:
            return LocalKMeansDelta(rows)
        return LocalKMeansDelta(rows, self._sums_delta(state, state.segments, state.segments.centers, rows))

    def merge(self, one: LocalKMeansDelta, other: LocalKMeansDelta) -> LocalKMeansDelta:
        """The delta of both parts."""
        if one.rows is None or other.rows is None:
            return other if one.rows is None else one
        sums = one.sums and other.sums and total([one.sums, other.sums], self.params.half_life_days)
        return LocalKMeansDelta(one.rows.append(other.rows), sums)

    def apply(self, state: LocalKMeansState, delta: LocalKMeansDelta, now: int) -> LocalKMeansState:
        """The state after a batch, including split/merge moves."""
        if delta.rows is None:
            return state
        rows = delta.rows.latest_per_user()
        segments, sums = state.segments, delta.sums
        if segments is None or sums is None:
            centers = kmeans.initial_centers(self._sample(rows), self.params)
            segments = KMeansState.from_centers(centers)
            sums = self._sums_delta(state, segments, centers, rows)
            passes = self.params.init_passes
        else:
            centers, passes = segments.centers, self.params.passes
        for _ in range(1, passes):
            centers = kmeans.updated_centers(segments, sums, centers, self.params)
            sums = self._sums_delta(state, segments, centers, rows)
        segment_ids = segments.ids[kmeans.nearest_centers(rows.points, centers)[0]]
        after = kmeans.apply_delta(segments, sums, self.params)
        after = replace(after, sums=after.sums.decayed_to(now, self.params.half_life_days))
        return self._with_moves(state.updated(after, rows, segment_ids), after)

    def learn(self, state: LocalKMeansState, rows: Contributions) -> LocalKMeansState:
        """The state after the rows."""
        now = int(rows.times.max(initial=0))
        return self.apply(state, self.batch_delta(state, rows), now)

    def _with_moves(self, state: LocalKMeansState, segments: KMeansState) -> LocalKMeansState:
        axes, rows = split_merge.split_axes(segments, self.params), state.contributions
        if rows is None or not len(axes.ids):
            return state
        bins = split_merge.bin_sums(axes, rows.points, rows.times, state.segment_ids, self.params)
        segments, moves = split_merge.make_moves(segments, axes, bins, self.params)
        segment_ids = split_merge.relabel(state.segment_ids, rows.points, moves)
        return replace(state, segments=segments, segment_ids=segment_ids, moves=tuple(moves))

    def _sums_delta(
        self, state: LocalKMeansState, segments: KMeansState, centers: Floats, rows: Contributions
    ) -> KMeansDelta:
        indices = state.existing(rows.users)
        old = rows.take(indices) if state.contributions is None else state.contributions.take(indices)
        changes = ContributionChanges(rows.points, rows.times, old.points, old.times, state.segment_ids[indices])
        return kmeans.batch_delta(segments, centers, changes, self.params)

    def _sample(self, rows: Contributions) -> Floats:
        """The points of `init_size` users, selected by a hash of their ids."""
        if len(rows.users) <= self.params.init_size:
            return rows.points
        hashes = [hashlib.blake2b(f"{self.params.seed} {user}".encode(), digest_size=8).digest() for user in rows.users]
        return rows.points[np.argsort(hashes)[: self.params.init_size]]
