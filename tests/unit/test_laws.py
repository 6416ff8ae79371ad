"""Every learner satisfies every law, and finds the answer on data with a known answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.factors_batch import FactorsState
from profilestream.learn.factors.kernels import als_rows
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.learners import LEARNERS
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.segments.segments_spec import SegmentsSpec

from tests import laws, learner_cases
from tests.laws import LearnerCase, Numbers
from tests.learner_cases import event_rows
from tests.naive_als import DAY, Event

CASES = learner_cases.cases_of(tuple(learner_cases.CASES))
IMPLICIT = AlsParams(
    k=4,
    max_events_per_user=5,
    reweighted_events=2,
    unobserved_weight=6.0,
    half_life_days=20.0,
    max_neighbors=3,
    neighbor_history=2,
)
EXPLICIT = replace(IMPLICIT, mode="explicit", regularization=1.0, half_life_days=None)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> LearnerCase:
    return CASES[request.param](tmp_path)


def test_every_learner_has_a_case() -> None:
    assert set(learner_cases.cases_of(LEARNERS)) == set(CASES)


def test_a_learner_without_a_case_is_an_error_that_names_it_and_what_to_add() -> None:
    class NewSpec(SegmentsSpec):
        name = "new"

    with pytest.raises(KeyError, match=r"NewSpec.* in LEARNERS: add a LearnerCase to CASES in tests/learner_cases.py"):
        learner_cases.cases_of((*LEARNERS, NewSpec))


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", CASES, indirect=True)
def test_every_learner_satisfies_every_law(case: LearnerCase, law: Callable[[LearnerCase], Any]) -> None:
    law(case)


# Outcomes score a row by the version of its time, so learning it first changes nothing (test_outcomes_spec.py).
@pytest.mark.parametrize("case", [name for name in CASES if name != "outcomes"], indirect=True)
def test_a_learner_that_learns_a_batch_before_it_scores_it_violates_a_law(case: LearnerCase) -> None:
    names = "|".join(metric.name for metric in case.spec.metrics)
    with pytest.raises(AssertionError, match=rf"\n\w+ ({names})\n"):
        laws.a_batch_is_scored_with_the_state_before_it(laws.peeking(case))


def als_numbers(state: FactorsState[pa.Table]) -> Numbers:
    """All rows of users and items, and the global sums."""
    sums = replace(state.global_sums, mean_rating=state.global_sums.mean_rating or 0.0)
    numbers: Numbers = {"global sums": np.frombuffer(als_rows.global_sums_to_bytes(sums))}
    for side, rows in (("user", state.users), ("item", state.items)):
        for row in rows.to_pylist():
            for name, value in row.items():
                if isinstance(value, bytes):
                    dtype = np.int64 if name == "event_times" else np.float32
                    numbers[f"{side} {row['key']} {name}"] = np.frombuffer(value, dtype)
                elif isinstance(value, (int, float)):
                    numbers[f"{side} {row['key']} {name}"] = np.array([value])
    return numbers


def als_weights(state: FactorsState[pa.Table], params: AlsParams = IMPLICIT) -> Numbers:
    index = factors_batch.index_of(state, params)
    return {"decayed weights": index.decayed_weights, "popularity": index.popularity}


@dataclass(frozen=True)
class Als:
    """The factorization in memory."""

    params: AlsParams

    def empty(self) -> FactorsState[pa.Table]:
        return factors_batch.empty_state(self.params)

    def learn(self, state: FactorsState[pa.Table], batch: list[Event]) -> FactorsState[pa.Table]:
        change, _ = factors_batch.learn(state, state.global_sums, event_rows(batch), self.params)
        return state.updated(change)

    def score(self, state: FactorsState[pa.Table], batch: list[Event]) -> Floats:
        return factors_batch.predictions(state, event_rows(batch), self.params)

    def fit_full_passes(self, state: FactorsState[pa.Table], log: list[Event], passes: int) -> FactorsState[pa.Table]:
        sums = state.global_sums
        rebuilt = factors_batch.fit_full_passes(state, sums, event_rows(log), passes, self.params)
        return rebuilt or replace(state, global_sums=replace(sums, full_pass_events=sums.event_count))


def test_profiles_of_distant_groups_get_a_segment_per_group(tmp_path: Path) -> None:
    """Groups of 25 users, 100 standard deviations of a group apart, and one change of the group of a user."""
    spec = learner_cases.segments_spec(tmp_path, learner_cases.SEGMENTS.replace("k = 3", "k = 4"))
    groups, tables = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (100.0, 100.0)], MemoryTables()
    rng = np.random.default_rng(1)
    for day in range(1, 4):
        batch = [
            (f"{group} {day} {n}", (x + rng.normal(), y + rng.normal()), day * DAY)
            for group, (x, y) in enumerate(groups)
            for n in range(25)
        ]
        moved = [("0 1 0", groups[3], 3 * DAY)] if day == 3 else []
        rows = learner_cases.profile_rows(spec, tables, batch + moved)
        tables = tables.with_learned(spec, spec.learn(LearnerBatch(rows, len(rows), tables)))
    users = tables.all_rows(spec.users_table).to_pylist()
    segments = {(row["user_id"].split()[0], row["segment_id"]) for row in users if row["user_id"] != "0 1 0"}
    assert len(segments) == 4 and len({segment for _, segment in segments}) == 4
    segment_of = {row["user_id"]: row["segment_id"] for row in users}
    assert segment_of["0 1 0"] == segment_of["3 1 0"]


def test_users_of_two_groups_are_recommended_the_items_of_their_group() -> None:
    """A checkerboard: each user has a third of the items with the same parity, and no others."""
    rng = np.random.default_rng(4)
    log = [
        Event(f"u{user:02}", f"i{item:02}", 1.0, int(rng.integers(1, 10 * DAY)))
        for user in range(40)
        for item in range(20)
        if user % 2 == item % 2 and rng.random() < 0.35
    ]
    log.sort(key=lambda event: event.time)
    learner = Als(AlsParams(k=2, unobserved_weight=6.0))
    state = learner.empty()
    for start in range(0, len(log), 40):
        state = learner.learn(state, log[start : start + 40])
    states = [state, *(learner.fit_full_passes(state, log, passes) for passes in (1, 2))]
    # Batches solve some users before the vectors of their items are known; full passes correct that. Chance is 0.5, and
    # one pair of user and item is 0.0025.
    assert [_share_of_own_group(learner, one) for one in states] == pytest.approx([0.87, 0.97, 0.9875], abs=0.006)


def _share_of_own_group(learner: Als, state: FactorsState[pa.Table]) -> float:
    """Share of the first ten items of each of the 40 users that have the parity of the user."""
    users, items = ([f"{side}{n:02}" for n in range(count)] for side, count in (("u", 40), ("i", 20)))
    pairs = [Event(user, item, 1.0, 0) for user in users for item in items]
    best = (-learner.score(state, pairs).reshape(40, 20)).argsort(axis=1)[:, :10]
    return float((best % 2 == np.arange(40)[:, None] % 2).mean())


@pytest.mark.parametrize(
    ("batches", "weight"),
    [
        ([[5.0, -1.0]], 4.0),
        ([[5.0], [-1.0]], 4.0),
        ([[-1.0], [5.0]], 5.0),  # the return arrives first, when there is nothing to return
        ([[1.0], [-5.0], [1.0]], 1.0),
    ],
)
def test_a_return_removes_at_most_the_weight_that_the_user_has_of_the_item(
    batches: list[list[float]], weight: float
) -> None:
    learner = Als(replace(IMPLICIT, half_life_days=None))
    state = learner.empty()
    for batch in batches:
        state = learner.learn(state, [Event("u0", "i0", one, DAY) for one in batch])
    assert als_weights(state, learner.params)["decayed weights"] == pytest.approx([weight], rel=1e-12)


@pytest.mark.parametrize("params", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
def test_a_full_pass_equals_one_batch_of_the_whole_log_and_uses_truncated_events(params: AlsParams) -> None:
    log = [Event(f"u{n % 3}", f"i{n % 7}", 1.0, n * DAY, float(1 + n % 5)) for n in range(1, 60)]
    learner = Als(params)
    whole = learner.learn(learner.empty(), log)
    one_pass = learner.fit_full_passes(learner.empty(), log, 1)
    laws.assert_equal(_numbers_without_pass_events(one_pass), _numbers_without_pass_events(whole))
    in_batches = learner.empty()
    for start in range(0, len(log), 10):
        in_batches = learner.learn(in_batches, log[start : start + 10])
    three_passes = learner.fit_full_passes(one_pass, log, 2)
    assert three_passes.items["vector"] != one_pass.items["vector"]  # the result was not discarded
    sums = three_passes.global_sums
    assert sums.full_pass_events == sums.event_count == len(log)
    assert (sums.item_count, sums.user_count) == pytest.approx((7, whole.global_sums.user_count))
    laws.assert_close(als_weights(three_passes, params), als_weights(in_batches, params), 1e-6)
    q = factors_batch.index_of(three_passes, params).vectors.astype(float)
    np.testing.assert_allclose(sums.item_gram, q.T @ q, rtol=1e-9)


def test_a_full_pass_that_shrinks_the_vectors_is_discarded() -> None:
    log = [Event(f"u{n % 3}", f"i{n % 7}", 1.0, n * DAY) for n in range(1, 60)]
    state = Als(IMPLICIT).learn(Als(IMPLICIT).empty(), log)
    strong = Als(replace(IMPLICIT, regularization=1e6))
    after = strong.fit_full_passes(state, log, 2)
    laws.assert_equal(_numbers_without_pass_events(after), _numbers_without_pass_events(state))
    assert after.global_sums.full_pass_events == after.global_sums.event_count


def _numbers_without_pass_events(state: FactorsState[pa.Table]) -> Numbers:
    return als_numbers(replace(state, global_sums=replace(state.global_sums, full_pass_events=0.0)))
