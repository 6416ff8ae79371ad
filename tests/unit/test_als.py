"""The factorization against the same formulas in plain loops, and what must not depend on cuts and partitions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn import als, als_tasks, local_als
from profilestream.learn.als import Globals, Params
from profilestream.learn.item_index import RANKERS
from profilestream.learn.local_als import Factors
from profilestream.learn.ranking_metrics import Sums

from tests.naive_als import DAY, Event, Plain

SMALL = Params(
    k=4,
    max_events_per_user=5,
    reweighted_events=2,
    unobserved_weight=6.0,
    regularization=0.02,
    half_life_days=20.0,
    neighbors=3,
    neighbor_history=2,
)
MEAN = 2.75
RATED = replace(SMALL, mode="explicit", regularization=1.0, half_life_days=None)


def events(count: int, seed: int) -> list[Event]:
    """Some come late, some take back."""
    dice = np.random.default_rng(seed)
    return [
        Event(
            f"u{dice.integers(8)}", f"i{dice.integers(6)}", float(dice.choice([1, 1, 3, 5, -1])), int(n * DAY // 4),
            float(dice.integers(1, 6)), ("a", "b", None)[dice.integers(3)],
        )
        for n in dice.permutation(count)
    ]  # fmt: skip


def rows(batch: list[Event], params: Params) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "kind": als_tasks.NEW, "key": e.user, "other": e.item, "at": e.at, "category": e.category,
                **({"weight": 1.0, "rating": e.rating} if params.is_explicit else {"weight": e.weight}),
            }
            for e in batch
        ],
        als_tasks.SCHEMA,
    )  # fmt: skip


class Stepped:
    """The learner, fed in so many parts, each with the events of some users."""

    def __init__(self, params: Params, partitions: int) -> None:
        self.learner, self.partitions = Factors(params), partitions
        self.model = self.learner.empty(mean=MEAN if params.is_explicit else None)
        self.judged: dict[str, Sums] = {}

    def learn(self, batch: list[Event]) -> None:
        delta = self.learner.zero()
        for part in range(self.partitions):
            mine = [event for event in batch if sum(event.user.encode()) % self.partitions == part]
            delta = self.learner.merge(self.learner.batch_delta(self.model, rows(mine, self.learner.params)), delta)
        self.judged = local_als.judged(delta)
        self.model = self.learner.apply(self.model, delta, max([event.at for event in batch], default=0))

    def rows(self, side: str) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in (self.model.users if side == "user" else self.model.items).to_pylist()}

    def vectors(self, side: str) -> dict[str, Any]:
        return {key: np.frombuffer(row["vector"], np.float32) for key, row in self.rows(side).items()}


@pytest.mark.parametrize("params", [SMALL, RATED], ids=["implicit", "explicit"])
@pytest.mark.parametrize("partitions", [1, 3])
def test_every_batch_is_what_plain_loops_give(partitions: int, params: Params) -> None:
    log = events(90, seed=5)
    if params.is_explicit:
        log = [replace(event, weight=1.0) for event in log]
    plain, stepped = Plain(params, MEAN), Stepped(params, partitions)
    for begin in range(0, 90, 15):
        plain.learn(log[begin : begin + 15])
        stepped.learn(log[begin : begin + 15])
        for side, known, name in (("user", plain.users, "p"), ("item", plain.items, "q")):
            got = stepped.vectors(side)
            assert got.keys() == known.keys()
            for key, row in known.items():
                np.testing.assert_allclose(got[key], row[name], rtol=1e-3, atol=1e-5, err_msg=f"{key} from {begin}")
    items, users = stepped.rows("item"), stepped.rows("user")
    for key, row in plain.items.items():
        assert items[key]["counted"] == pytest.approx(row["n"], rel=1e-6, abs=1e-9)
        assert items[key]["popular"] == pytest.approx(row["c"], rel=1e-6, abs=1e-9)
        near = dict(zip(items[key]["others"], np.frombuffer(items[key]["weights"], np.float32), strict=True))
        assert near == pytest.approx(row["near"], rel=1e-5), key
    assert any(len(row["near"]) == 3 for row in plain.items.values())
    for key, row in plain.users.items():
        assert users[key]["tail"] == pytest.approx(row["tail"])
        assert users[key]["others"] == [item for _, item, _, _ in row["kept"]]


def test_an_item_has_the_category_that_its_events_named_last() -> None:
    stepped = Stepped(SMALL, 1)
    for n, category in enumerate(["a", None, "b", None]):
        stepped.learn([Event("u", "i", 1.0, n * DAY, category=category)])
    assert stepped.rows("item")["i"]["category"] == "b"


def test_a_batch_is_judged_by_the_vectors_before_it_and_over_what_is_new_to_its_users() -> None:
    log = events(120, seed=5)
    plain, stepped = Plain(SMALL), Stepped(SMALL, 1)
    for one in (plain, stepped):
        one.learn(log[:60])
    batch = log[60:70]
    hits, users = 0.0, 0
    for user in sorted({event.user for event in batch}):
        seen = {i for _, i, w, _ in plain.users[user]["kept"] if w > 0} if user in plain.users else set()
        targets = {event.item for event in batch if event.user == user and event.weight > 0}
        if targets := {item for item in targets if item in plain.items and item not in seen}:
            p = plain.users[user]["p"] if user in plain.users else np.zeros(SMALL.k)
            ranked = sorted(set(plain.items) - seen, key=lambda item: (-plain.items[item]["q"] @ p, item))
            hits += 1 / min(1 + ranked.index(item) for item in targets)
            users += 1
    stepped.learn(batch)
    got = stepped.judged
    assert got.keys() == set(RANKERS)
    assert users > 1
    assert got["factors"].users == users
    assert got["factors"].reciprocal_rank == pytest.approx(hits)


def test_globals_are_what_a_sum_over_all_rows_gives() -> None:
    stepped = Stepped(SMALL, 2)
    log = events(80, seed=9)
    for begin in range(0, 80, 20):
        stepped.learn(log[begin : begin + 20])
    q = np.array(list(stepped.vectors("item").values()), float)
    np.testing.assert_allclose(stepped.model.known.gram_items, q.T @ q, rtol=1e-6, atol=1e-9)
    assert stepped.model.known.items == len(q)


def test_an_empty_batch_changes_nothing() -> None:
    stepped = Stepped(SMALL, 2)
    stepped.learn(events(30, seed=2))
    before, known = stepped.vectors("user"), stepped.model.known
    stepped.learn([])
    np.testing.assert_array_equal(stepped.model.known.gram_users, known.gram_users)
    assert stepped.vectors("user").keys() == before.keys() and stepped.model.known.now == known.now


def test_a_start_vector_depends_on_its_id_only_and_any_id_has_one() -> None:
    for name in ("a", 'ключ 🛒 "x"', "x" * 10_000):
        assert (als.start_vector(name, Params(k=8)) == als.start_vector(name, Params(k=8))).all()
    assert (als.start_vector("a", Params(k=8)) != als.start_vector("b", Params(k=8))).any()


def test_an_item_is_pulled_to_zero_at_least_as_much_as_a_user() -> None:
    made = Params(k=1, unobserved_weight=50.0, regularization=0.1)
    nothing = np.zeros((1, 1, 1)), np.ones((1, 1)), np.zeros(1)
    few, even, many = (
        float(als.solve_items(*nothing, replace(Globals.zero(1), items=100.0, users=users), made)[0, 0])
        for users in (1.0, 100.0, 200.0)
    )
    assert few == even == pytest.approx(1 / (0.1 * 50))
    assert many == pytest.approx(1 / (0.1 * 100))


def test_packing_a_symmetric_matrix_loses_nothing() -> None:
    a = np.arange(9.0).reshape(1, 3, 3)
    a = a + a.transpose(0, 2, 1)
    np.testing.assert_array_equal(als.unpacked(als.packed(a), 3), a)


def test_the_globals_survive_as_bytes() -> None:
    state = Globals(np.eye(2), 2 * np.eye(2), 3 * np.eye(2), 4.5, 6.0, 7.25, 1_767_225_600_123_456, None, 9.0, 5.0)
    again = als_tasks.globals_of(als_tasks.globals_as_bytes(state), 2)
    assert (again.now, again.users, again.mean) == (state.now, state.users, None)
    assert (again.events, again.swept) == (9.0, 5.0)
    np.testing.assert_array_equal(again.tail, state.tail)


def test_a_hot_user_keeps_its_newest_events_and_tells_an_item_once() -> None:
    made = Params(k=4)
    log = [Event("hot", f"i{n % 50}", 1.0, n * 1_000_000) for n in range(200_000)]
    new = rows(log, made).combine_chunks().to_batches()[0]
    out = [row for batch in als_tasks.users(iter([new]), Globals.zero(4), made) for row in batch.to_pylist()]
    (row,) = [row for row in out if row["kind"] == als_tasks.ROW]
    assert len(row["others"]) == made.max_events_per_user and row["tail"] == 200_000 - made.max_events_per_user
    told = [row for row in out if row["kind"] == als_tasks.CONTRIBUTION]
    assert len(told) == 50
    assert sum(row["counted"] for row in told) == pytest.approx(200_000, rel=0.05)  # 2.3 days of 45


def test_a_damaged_vector_is_named_and_a_sweep_passes_over_it() -> None:
    stepped = Stepped(SMALL, 1)
    stepped.learn(events(30, seed=2))
    whole = stepped.model.items
    for bad in (b"", np.full(4, np.nan, np.float32).tobytes(), None):
        good = zip(whole["key"].to_pylist(), whole["vector"].to_pylist(), strict=True)
        stored = [bad if key == "i3" else data for key, data in good]
        broken = whole.set_column(whole.schema.get_field_index("vector"), "vector", pa.array(stored, pa.binary()))
        with pytest.raises(ValueError, match=r"damaged vectors in factors: \['i3'\]; mend them: .*--full-pass"):
            list(als_tasks.pack_items(iter(broken.to_batches()), stepped.model.known, SMALL))
        packed = list(als_tasks.pack_items(iter(broken.to_batches()), stepped.model.known, SMALL, mend=True))
        names = als_tasks.unpacked_items([row["equations"] for row in packed[0].to_pylist()], SMALL).names
        assert set(names) == set(whole["key"].to_pylist()) - {"i3"}
