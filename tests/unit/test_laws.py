"""Every learner keeps every law; and on data with a known answer it finds it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from profilestream.learn import als_tasks, kmeans
from profilestream.learn.als import Params
from profilestream.learn.cluster_sums import Sums
from profilestream.learn.local_als import Factors, Model
from profilestream.learn.local_kmeans import KMeans, Rows, Segmented

from tests import laws
from tests.laws import Case, Numbers
from tests.naive_als import DAY, Event

SMALL = Params(
    k=4,
    max_events_per_user=5,
    reweighted_events=2,
    unobserved_weight=6.0,
    half_life_days=20.0,
    neighbors=3,
    neighbor_history=2,
)
RATED = replace(SMALL, mode="explicit", regularization=1.0, half_life_days=None)


def _table(batch: list[Event]) -> pa.Table:
    names = {"user": "key", "item": "other"}
    rows = [{"kind": als_tasks.NEW} | {names.get(n, n): value for n, value in vars(event).items()} for event in batch]
    return pa.Table.from_pylist(rows, als_tasks.SCHEMA)


def _logs(weights: list[float]) -> st.SearchStrategy[list[Event]]:
    """Days 0 to 60, in any order, so that many come late; few users and items, so that they meet again."""
    events = st.builds(
        Event,
        user=st.sampled_from([f"u{n}" for n in range(8)]),
        item=st.sampled_from([f"i{n}" for n in range(6)]),
        weight=st.sampled_from(weights),
        at=st.integers(1, 60 * DAY),
        rating=st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]),
        category=st.sampled_from(["a", "b", None]),
    )
    return st.lists(events, min_size=5, max_size=40)


def _numbers(state: Model) -> Numbers:
    """Both sides, and the globals."""
    mean = 0.0 if state.known.mean is None else state.known.mean
    found: Numbers = {"globals": np.frombuffer(als_tasks.globals_as_bytes(replace(state.known, mean=mean)))}
    for side, rows in (("user", state.users), ("item", state.items)):
        for row in rows.to_pylist():
            for name, value in row.items():
                if isinstance(value, bytes):
                    kind = np.int64 if name == "times" else np.float32
                    found[f"{side} {row['key']} {name}"] = np.frombuffer(value, kind)
                elif isinstance(value, (int, float)):
                    found[f"{side} {row['key']} {name}"] = np.array([value])
    return found


def _weights(state: Model) -> Numbers:
    return {"counted": state.catalogue.counted, "popular": state.catalogue.popular}


def _factors(params: Params, weights: list[float]) -> Case:
    return Case(
        learner=Factors(params), logs=_logs(weights), table=_table, key=lambda event: str(event.user),
        at=lambda event: int(event.at), numbers=_numbers, weights=_weights,
    )  # fmt: skip


def _said(batch: list[tuple[str, tuple[float, float], int]]) -> Rows:
    return Rows(
        np.array([user for user, _, _ in batch], str), np.array([p for _, p, _ in batch]).reshape(-1, 2),
        np.array([at for _, _, at in batch], np.int64),
    )  # fmt: skip


def _contributions() -> st.SearchStrategy[list[tuple[str, tuple[float, float], int]]]:
    """As `_logs`; many points are whole numbers, so that distances are equal."""
    number = st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3))
    users = st.sampled_from([f"u{n}" for n in range(8)])
    return st.lists(st.tuples(users, st.tuples(number, number), st.integers(1, 60 * DAY)), min_size=5, max_size=40)


def _segmented(state: Segmented) -> Numbers:
    if state.segments is None or state.kept is None:
        return {}
    sums, kept = state.segments.sums, state.kept.take(state.order)
    return {
        "ids": state.segments.ids, "next": np.array([state.segments.next_id, sums.now]), "users": sums.users,
        "weight": sums.weight, "sums": sums.sums, "scatter": sums.scatter, "kept": kept.points, "times": kept.times,
        "of": state.ids[state.order],
    }  # fmt: skip


def _masses(state: Segmented) -> Numbers:
    """How many users there are, and what all of them weigh."""
    sums = state.segments.sums if state.segments else Sums.zero(0, 2)
    return {"users": sums.users.sum(keepdims=True), "weight": sums.weight.sum(keepdims=True)}


CASES = {
    "segments": Case(
        learner=KMeans(kmeans.Params(k=3, half_life_days=20.0, passes=2)),
        logs=_contributions(),
        table=_said,
        key=lambda row: str(row[0]),
        at=lambda row: int(row[2]),
        numbers=_segmented,
        weights=_masses,
    ),
    "factors, implicit": _factors(SMALL, [1.0, 3.0, 5.0, -1.0]),
    "factors, explicit": _factors(RATED, [1.0]),
}


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", CASES)
def test_every_learner_keeps_every_law(name: str, law: Callable[[Case], Any]) -> None:
    law(CASES[name])


def test_of_two_groups_of_users_each_is_shown_its_own_items_first() -> None:
    """As on a checkerboard: even users have even items, odd users odd ones, each half of them."""
    dice = np.random.default_rng(4)
    log = [
        Event(f"u{user:02}", f"i{item:02}", 1.0, int(dice.integers(1, 10 * DAY)))
        for user in range(40)
        for item in range(20)
        if user % 2 == item % 2 and dice.random() < 0.5
    ]
    log.sort(key=lambda event: event.at)
    learner = Factors(Params(k=2, unobserved_weight=6.0))
    state = learner.empty()
    for begin in range(0, len(log), 40):
        state, _ = learner.learn(state, _table(log[begin : begin + 40]))
    # In one pass some users are solved before their items are known; a sweep over the log mends that.
    assert _share_of_own_group(learner, state) > 0.9
    assert _share_of_own_group(learner, learner.swept(state, _table(log), 5)) == 1.0


def _share_of_own_group(learner: Factors, state: Model) -> float:
    """Of the ten items that each of the 40 users is shown first."""
    users, items = ([f"{side}{n:02}" for n in range(count)] for side, count in (("u", 40), ("i", 20)))
    asked = _table([Event(user, item, 1.0, 0) for user in users for item in items])
    best = (-learner.score(state, asked).reshape(40, 20)).argsort(axis=1)[:, :10]
    return float((best % 2 == np.arange(40)[:, None] % 2).mean())


@pytest.mark.parametrize("params", [SMALL, RATED], ids=["implicit", "explicit"])
def test_a_sweep_over_the_log_is_one_batch_of_it_and_gives_back_what_history_dropped(params: Params) -> None:
    log = [Event(f"u{n % 3}", f"i{n % 7}", 1.0, n * DAY, float(1 + n % 5)) for n in range(1, 60)]
    learner = Factors(params)
    whole, _ = learner.learn(learner.empty(), _table(log))
    once = learner.swept(learner.empty(), _table(log), 1)
    laws.assert_equal(_but_swept(once), _but_swept(whole))
    parts = learner.empty()
    for begin in range(0, len(log), 10):
        parts, _ = learner.learn(parts, _table(log[begin : begin + 10]))
    swept = learner.swept(once, _table(log), 2)
    assert swept.items["vector"] != once.items["vector"]  # it was not thrown away
    assert swept.known.swept == swept.known.events == len(log)
    assert (swept.known.items, swept.known.users) == pytest.approx((7, whole.known.users))
    laws.assert_close(_weights(swept), _weights(parts), 1e-6)
    q = swept.catalogue.vectors.astype(float)
    np.testing.assert_allclose(swept.known.gram_items, q.T @ q, rtol=1e-9)


def test_a_sweep_that_makes_the_items_shrink_is_thrown_away() -> None:
    log = [Event(f"u{n % 3}", f"i{n % 7}", 1.0, n * DAY) for n in range(1, 60)]
    learner = Factors(SMALL)
    state, _ = learner.learn(learner.empty(), _table(log))
    again = Factors(replace(SMALL, regularization=1e6)).swept(state, _table(log), 2)
    laws.assert_equal(_but_swept(again), _but_swept(state))
    assert again.known.swept == again.known.events


def _but_swept(state: Model) -> Numbers:
    return _numbers(replace(state, known=replace(state.known, swept=0.0)))
