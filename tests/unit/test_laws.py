"""Every learner satisfies every law, and finds the answer on data with a known answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from profilestream.learn import als_rows
from profilestream.learn.als import AlsParams
from profilestream.learn.cluster_sums import ClusterSums
from profilestream.learn.kmeans import KMeansParams
from profilestream.learn.local_als import AlsModel, LocalAls
from profilestream.learn.local_kmeans import Contributions, LocalKMeans, LocalKMeansState

from tests import laws
from tests.laws import LearnerCase, Numbers
from tests.naive_als import DAY, Event

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


def event_rows(batch: list[Event]) -> pa.Table:
    rows = [
        {
            "kind": als_rows.NEW, "key": event.user, "other_key": event.item, "weight": event.weight,
            "rating": event.rating, "time_micros": event.time, "category": event.category,
        }
        for event in batch
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, als_rows.SCHEMA)


def event_logs(weights: list[float]) -> st.SearchStrategy[list[Event]]:
    """Events of 60 days in any order, so that many are late; few users and items, so that they occur often."""
    events = st.builds(
        Event,
        user=st.sampled_from([f"u{n}" for n in range(8)]),
        item=st.sampled_from([f"i{n}" for n in range(6)]),
        weight=st.sampled_from(weights),
        time=st.integers(1, 60 * DAY),
        rating=st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]),
        category=st.sampled_from(["a", "b", None]),
    )
    return st.lists(events, min_size=3, max_size=25)


def als_numbers(state: AlsModel) -> Numbers:
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


def als_weights(state: AlsModel) -> Numbers:
    return {"decayed weights": state.item_index.decayed_weights, "popularity": state.item_index.popularity}


def als_case(params: AlsParams, weights: list[float]) -> LearnerCase:
    return LearnerCase(
        learner=LocalAls(params), logs=event_logs(weights), table=event_rows, key=lambda event: str(event.user),
        at=lambda event: int(event.time), numbers=als_numbers, decayed_weights=als_weights,
        logs_without_returns=event_logs([weight for weight in weights if weight > 0]),
    )  # fmt: skip


def contributions(batch: list[tuple[str, tuple[float, float], int]]) -> Contributions:
    return Contributions(
        np.array([user for user, _, _ in batch], str), np.array([point for _, point, _ in batch]).reshape(-1, 2),
        np.array([at for _, _, at in batch], np.int64),
    )  # fmt: skip


def contribution_logs() -> st.SearchStrategy[list[tuple[str, tuple[float, float], int]]]:
    """Contributions of 60 days in any order; many coordinates are integers, so that distances are equal."""
    coordinates = st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3))
    users = st.sampled_from([f"u{n}" for n in range(8)])
    rows = st.tuples(users, st.tuples(coordinates, coordinates), st.integers(1, 60 * DAY))
    return st.lists(rows, min_size=5, max_size=40)


def kmeans_numbers(state: LocalKMeansState) -> Numbers:
    if state.segments is None or state.contributions is None:
        return {}
    sums, rows = state.segments.sums, state.contributions.take(state.order)
    return {
        "ids": state.segments.ids, "next id and time": np.array([state.segments.next_id, sums.as_of]),
        "users": sums.users, "weight": sums.weight, "sums": sums.sums, "scatter": sums.scatter,
        "points": rows.points, "times": rows.times, "segment ids": state.segment_ids[state.order],
    }  # fmt: skip


def kmeans_weights(state: LocalKMeansState) -> Numbers:
    """Number and total weight of all users."""
    sums = state.segments.sums if state.segments else ClusterSums.zero(0, 2)
    return {"users": sums.users.sum(keepdims=True), "weight": sums.weight.sum(keepdims=True)}


CASES = {
    "segments": LearnerCase(
        learner=LocalKMeans(KMeansParams(k=3, half_life_days=20.0, passes=2)),
        logs=contribution_logs(),
        table=contributions,
        key=lambda row: str(row[0]),
        at=lambda row: int(row[2]),
        numbers=kmeans_numbers,
        decayed_weights=kmeans_weights,
    ),
    "factors, implicit": als_case(IMPLICIT, [1.0, 3.0, 5.0, -1.0]),
    "factors, explicit": als_case(EXPLICIT, [1.0]),
}


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", CASES)
def test_every_learner_satisfies_every_law(name: str, law: Callable[[LearnerCase], Any]) -> None:
    law(CASES[name])


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
    learner = LocalAls(AlsParams(k=2, unobserved_weight=6.0))
    state = learner.empty()
    for start in range(0, len(log), 40):
        state, _ = learner.learn(state, event_rows(log[start : start + 40]))
    states = [state, *(learner.fit_full_passes(state, event_rows(log), passes) for passes in (1, 2))]
    # Batches solve some users before the vectors of their items are known; full passes correct that. Chance is 0.5, and
    # one pair of user and item is 0.0025.
    assert [_share_of_own_group(learner, one) for one in states] == pytest.approx([0.87, 0.97, 0.9875], abs=0.006)


def _share_of_own_group(learner: LocalAls, state: AlsModel) -> float:
    """Share of the first ten items of each of the 40 users that have the parity of the user."""
    users, items = ([f"{side}{n:02}" for n in range(count)] for side, count in (("u", 40), ("i", 20)))
    pairs = event_rows([Event(user, item, 1.0, 0) for user in users for item in items])
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
    learner = LocalAls(replace(IMPLICIT, half_life_days=None))
    state = learner.empty()
    for batch in batches:
        state, _ = learner.learn(state, event_rows([Event("u0", "i0", one, DAY) for one in batch]))
    assert state.item_index.decayed_weights == pytest.approx([weight], rel=1e-12)


@pytest.mark.parametrize("params", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
def test_a_full_pass_equals_one_batch_of_the_whole_log_and_uses_truncated_events(params: AlsParams) -> None:
    log = [Event(f"u{n % 3}", f"i{n % 7}", 1.0, n * DAY, float(1 + n % 5)) for n in range(1, 60)]
    learner = LocalAls(params)
    whole, _ = learner.learn(learner.empty(), event_rows(log))
    one_pass = learner.fit_full_passes(learner.empty(), event_rows(log), 1)
    laws.assert_equal(_numbers_without_pass_events(one_pass), _numbers_without_pass_events(whole))
    in_batches = learner.empty()
    for start in range(0, len(log), 10):
        in_batches, _ = learner.learn(in_batches, event_rows(log[start : start + 10]))
    three_passes = learner.fit_full_passes(one_pass, event_rows(log), 2)
    assert three_passes.items["vector"] != one_pass.items["vector"]  # the result was not discarded
    sums = three_passes.global_sums
    assert sums.full_pass_events == sums.event_count == len(log)
    assert (sums.item_count, sums.user_count) == pytest.approx((7, whole.global_sums.user_count))
    laws.assert_close(als_weights(three_passes), als_weights(in_batches), 1e-6)
    q = three_passes.item_index.vectors.astype(float)
    np.testing.assert_allclose(sums.item_gram, q.T @ q, rtol=1e-9)


def test_a_full_pass_that_shrinks_the_vectors_is_discarded() -> None:
    log = [Event(f"u{n % 3}", f"i{n % 7}", 1.0, n * DAY) for n in range(1, 60)]
    state, _ = LocalAls(IMPLICIT).learn(LocalAls(IMPLICIT).empty(), event_rows(log))
    strong = LocalAls(replace(IMPLICIT, regularization=1e6))
    after = strong.fit_full_passes(state, event_rows(log), 2)
    laws.assert_equal(_numbers_without_pass_events(after), _numbers_without_pass_events(state))
    assert after.global_sums.full_pass_events == after.global_sums.event_count


def _numbers_without_pass_events(state: AlsModel) -> Numbers:
    return als_numbers(replace(state, global_sums=replace(state.global_sums, full_pass_events=0.0)))
