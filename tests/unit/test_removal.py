"""Removed users: the state is that of a learner that never had them, exactly in sums and in part in vectors."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels import als, als_rows
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import decay_factors
from profilestream.learn.learner_spec import LearnerBatch, LearnerSpec
from profilestream.learn.memory_tables import MemoryTables

from tests import laws, learner_cases
from tests.learner_cases import FACTORS, Profile, event_rows, factors_state
from tests.naive_als import DAY, Event

IMPLICIT = FACTORS.replace("k = 4", "k = 8").replace("max_events_per_user = 5", "max_events_per_user = 100")
IMPLICIT = IMPLICIT.replace("unobserved_weight = 6", "unobserved_weight = 20")
IMPLICIT = IMPLICIT.replace("reweighted_events = 2", "reweighted_events = 10")
MODES = {"implicit": IMPLICIT, "explicit": f'{IMPLICIT}mode = "explicit"\n'}


def learn(spec: LearnerSpec, tables: MemoryTables, rows: pa.Table) -> MemoryTables:
    return tables.with_learned(spec, spec.learn(LearnerBatch(rows, len(rows), tables)))


def remove(spec: LearnerSpec, tables: MemoryTables, users: list[str], events: pa.Table) -> MemoryTables:
    return tables.with_learned(spec, spec.remove(tables, pa.table({"user_id": pa.array(users, pa.string())}), events))


@pytest.fixture(params=["implicit", "explicit"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> FactorsSpec:
    return learner_cases.factors_spec(tmp_path, MODES[request.param])


def shop_log(seed: int) -> list[Event]:
    """600 events of 60 users and 40 items in 60 days; users prefer items with similar vectors, and popular items."""
    rng = np.random.default_rng(seed)
    tastes, styles, appeal = rng.normal(size=(60, 3)), rng.normal(size=(40, 3)), 0.7 * rng.normal(size=40)
    activity = rng.gamma(2.0, size=60)
    log = []
    for n in range(600):
        user = rng.choice(60, p=activity / activity.sum())
        score = 1.2 * styles @ tastes[user] + appeal
        item = rng.choice(40, p=np.exp(score) / np.exp(score).sum())
        rating, weight = float(np.clip(round(3 + score[item]), 1, 5)), float(rng.choice([1, 1, 1, 5]))
        log.append(Event(f"u{user}", f"i{item}", weight, 1000 * DAY + n * DAY // 10, rating, "a"))
    return log


@dataclass(frozen=True)
class Removal:
    """A log in five batches of 100 events, one more batch, and a user who is removed between them."""

    spec: FactorsSpec
    log: list[Event]
    user: str

    def ratios(self) -> tuple[float, float]:
        """Mean absolute difference of the scores of 1,000 pairs of other users and items from those of a state that
        never had the user, divided by the same difference without removal: after removal, and after one more batch.
        """
        others = [event for event in self.log if event.user != self.user]
        tables, never = self._learned(self.log), self._learned(others)
        own = event_rows([event for event in self.log[:500] if event.user == self.user])
        states = [remove(self.spec, tables, [self.user], own), tables, never]
        last = event_rows([event for event in self.log[500:] if event.user != self.user])
        return self._ratio(states), self._ratio([learn(self.spec, state, last) for state in states])

    def _learned(self, log: list[Event]) -> MemoryTables:
        tables = MemoryTables()
        for first in range(0, 500, 100):
            start, end = self.log[first].time, self.log[first + 99].time
            rows = event_rows([event for event in log if start <= event.time <= end])
            tables = learn(self.spec, tables, rows)
        return tables

    def _ratio(self, states: list[MemoryTables]) -> float:
        removed, not_removed, never = (self._scores(state) for state in states)
        return float(np.abs(removed - never).mean() / np.abs(not_removed - never).mean())

    def _scores(self, tables: MemoryTables) -> Floats:
        rng = np.random.default_rng(0)
        others = [event for event in self.log[:500] if event.user != self.user]
        users, items = (sorted({getattr(event, side) for event in others}) for side in ("user", "item"))
        pairs = [Event(str(rng.choice(users)), str(rng.choice(items)), 1.0, 0) for _ in range(1000)]
        return factors_batch.predictions(factors_state(self.spec, tables), event_rows(pairs), self.spec.params)


def test_a_user_who_was_in_the_last_batch_only_leaves_no_trace_in_scores(spec: FactorsSpec) -> None:
    for seed in (1, 2, 3):
        log = [
            replace(event, user="new") if 400 <= n < 500 and n % 9 == 0 else event
            for n, event in enumerate(shop_log(seed))
        ]
        assert max(Removal(spec, log, "new").ratios()) < 0.001


def test_a_removed_user_of_earlier_batches_remains_in_the_vectors_of_other_users(spec: FactorsSpec) -> None:
    """The vectors of other users were solved with items that the user changed (docs/learners.md)."""
    ratios = []
    for seed in (1, 2, 3):
        log = shop_log(seed)
        users = [event.user for event in log[:500]]
        by_events = sorted(set(users), key=lambda user: (users.count(user), user))
        ratios += [Removal(spec, log, by_events[n]).ratios() for n in (-1, -10, 30, 15)]
    means = np.mean(ratios, axis=0)
    assert means == pytest.approx([0.82, 0.74] if not spec.params.is_explicit else [0.67, 0.47], abs=0.03)


def test_an_item_that_only_removed_users_had_is_deleted_with_its_pairs(tmp_path: Path) -> None:
    spec = learner_cases.factors_spec(tmp_path, FACTORS.replace("max_neighbors = 3", "max_neighbors = 50"))
    # One event per batch, so that pairs are counted in the order of the events.
    log = [
        Event(user, item, 1.0, (10 + n) * DAY)
        for n, (user, item) in enumerate([*zip("ababab", "iijkkl", strict=True), ("b", "j"), ("c", "m"), ("c", "i")])
    ]
    tables = never = MemoryTables()
    for event in log:
        tables = learn(spec, tables, event_rows([event]))
        never = learn(spec, never, event_rows([event] if event.user != "a" else []))
    removed = remove(spec, tables, ["a"], event_rows([event for event in log if event.user == "a"]))
    items, expected = (_rows_by_key(factors_state(spec, one).items) for one in (removed, never))
    assert items.keys() == expected.keys()
    for key, row in expected.items():
        pairs, expected_pairs = (
            dict(zip(one["item_ids"], np.frombuffer(one["item_weights"], np.float32), strict=True))
            for one in (items[key], row)
        )
        age = (items[key]["as_of"] - row["as_of"]).total_seconds() * 1_000_000
        factor = decay_factors(np.array([0]), int(age), spec.params.half_life_days)[0]
        assert pairs == pytest.approx({name: count * factor for name, count in expected_pairs.items()}, rel=1e-5)
    sums = factors_state(spec, removed).global_sums
    q = np.array([np.frombuffer(row["vector"], np.float32) for row in items.values()], float)
    np.testing.assert_allclose(sums.item_gram, q.T @ q, rtol=1e-6, atol=1e-9)
    assert (sums.item_count, sums.event_count) == (len(expected), len(log) - 3)


def _rows_by_key(rows: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in rows.to_pylist()}


def test_normal_equations_stay_semidefinite_if_terms_were_added_with_other_vectors(tmp_path: Path) -> None:
    spec = learner_cases.factors_spec(tmp_path, IMPLICIT.replace("reweighted_events = 10", "reweighted_events = 0"))
    log = shop_log(2)
    users = [event.user for event in log]
    user = max(users, key=users.count)
    tables = MemoryTables()
    for first in range(0, 600, 50):
        tables = learn(spec, tables, event_rows(log[first : first + 50]))
    removed = remove(spec, tables, [user], event_rows([event for event in log if event.user == user]))
    items = factors_state(spec, removed).items
    equations = als_rows.binary_matrix(items, "normal_equations", np.float32)[:, spec.params.width :]
    values = np.linalg.eigvalsh(als.unpack_symmetric(equations, spec.params.width))
    assert values.min() > -1e-5 * values.max()


def test_all_users_can_be_removed(spec: FactorsSpec) -> None:
    log = shop_log(1)[:50]
    tables = learn(spec, learn(spec, MemoryTables(), event_rows(log[:30])), event_rows(log[30:]))
    removed = factors_state(spec, remove(spec, tables, sorted({event.user for event in log}), event_rows(log)))
    sums = removed.global_sums
    assert not len(removed.users) and not len(removed.items)
    counts = np.array([sums.item_count, sums.user_count, sums.event_count, sums.item_weight])
    np.testing.assert_allclose(counts, 0, atol=1e-9)
    for matrix in (sums.item_gram, sums.user_gram, sums.weighted_item_gram):
        np.testing.assert_allclose(matrix, 0, atol=1e-9)


def test_sums_of_segments_without_a_removed_user_are_those_of_a_state_that_never_had_the_user(tmp_path: Path) -> None:
    """Over all segments, and by segment where the other users have the same segments. The user is not in the first
    batch, whose users are the scaling.
    """
    spec = learner_cases.segments_spec(tmp_path)
    compared = 0

    @laws.law_settings
    @given(learner_cases.profile_logs(), learner_cases.profile_logs(), st.integers(0, 100))
    def check(past: list[Profile], batch: list[Profile], number: int) -> None:
        nonlocal compared
        user = batch[number % len(batch)][0]
        others = [row for row in past if row[0] != user]
        assume(others)
        # The last profile is of another user, so both states have the same time.
        batches = [others, past, [*batch, (others[0][0], others[0][1], 61 * DAY)]]
        tables = never = MemoryTables()
        for one in batches:
            tables = learn(spec, tables, learner_cases.profile_rows(spec, tables, one))
            rows = learner_cases.profile_rows(spec, never, [row for row in one if row[0] != user])
            never = learn(spec, never, rows)
        events = learner_cases.profile_rows(spec, MemoryTables(), [row for row in sum(batches, []) if row[0] == user])
        removed = remove(spec, tables, [user], events)
        sums, expected = (learner_cases.segment_sums(spec, one) for one in (removed, never))
        totals, expected_totals = ({name: one.sum(axis=0) for name, one in each.items()} for each in (sums, expected))
        laws.assert_close(totals, expected_totals, 1e-9)
        segments, expected_segments = (
            {row["user_id"]: row["segment_id"] for row in one.all_rows(spec.users_table).to_pylist()}
            for one in (removed, never)
        )
        assert segments.keys() == expected_segments.keys()
        if segments == expected_segments:
            laws.assert_close(sums, expected, 1e-9)
            compared += 1

    check()
    assert compared > 10
