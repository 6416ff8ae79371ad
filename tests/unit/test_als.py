"""The factorization against the same formulas in plain loops, and what must not depend on cuts and partitions."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn import als, steps
from profilestream.learn.als import Globals, Params

from tests.naive_als import DAY, Event, Plain

SMALL = Params(k=4, history=5, refresh=2, alpha=6.0, regularization=0.02, half_life_days=20.0)


def events(count: int, seed: int) -> list[Event]:
    """User, item, weight, microseconds; some come late, some take back."""
    dice = np.random.default_rng(seed)
    return [
        (f"u{dice.integers(8)}", f"i{dice.integers(6)}", float(dice.choice([1, 1, 3, 5, -1])), int(n * DAY // 4))
        for n in dice.permutation(count)
    ]


class Stepped:
    """The steps as Spark runs them, in so many partitions."""

    def __init__(self, params: Params, partitions: int) -> None:
        self.params, self.partitions = params, partitions
        self.rows: dict[str, dict[str, Any]] = {"user": {}, "item": {}}
        self.known = Globals.zero(params.k)
        self.judged: list[dict[str, Any]] = []

    def learn(self, batch: list[Event]) -> None:
        new = [{"kind": steps.NEW, "key": u, "other": i, "weight": w, "at": t} for u, i, w, t in batch]
        known = [{**row, "kind": steps.STATE} for row in self.rows["item"].values()]
        whole = pa.RecordBatch.from_pylist(known, steps.SCHEMA)
        packed = [row for out in steps.pack_items(iter([whole]), self.known, self.params) for row in out.to_pylist()]
        out = self._stepped("user", new, packed, lambda part: steps.users(part, self.known, self.params))
        gone, came = (_sum(out, kind, self.params.k) for kind in (steps.GONE, steps.CAME))
        moved = (self.known + gone).aged(max(self.known.now, came.now), self.params.half_life_days) + came
        told = [{**row, "kind": steps.NEW} for row in out if row["kind"] == steps.CONTRIBUTION]
        self.judged = [row for row in out if row["kind"] == steps.JUDGED]
        items = self._stepped("item", told, [], lambda part: steps.items(part, moved, self.params))
        self.known = moved + _sum(items, steps.CAME, self.params.k)
        for side, rows in (("user", out), ("item", items)):
            for row in rows:
                if row["kind"] == steps.ROW:
                    self.rows[side][row["key"]] = {**row, "at": self.known.now}

    def _stepped(self, side: str, new: list[Any], packed: list[Any], step: Any) -> list[dict[str, Any]]:
        touched = {row["key"] for row in new}
        state = [{**row, "kind": steps.STATE} for key, row in self.rows[side].items() if key in touched]
        done: list[dict[str, Any]] = []
        for part in range(self.partitions):
            mine = [row for row in [*state, *new] if sum(row["key"].encode()) % self.partitions == part]
            rows = pa.RecordBatch.from_pylist([*packed, *mine], steps.SCHEMA)
            done += [row for out in step(iter([rows])) for row in out.to_pylist()]
        return done

    def vectors(self, side: str) -> dict[str, Any]:
        return {key: np.frombuffer(row["vector"], np.float32) for key, row in self.rows[side].items()}


def _sum(rows: list[dict[str, Any]], kind: int, k: int) -> Globals:
    return sum((steps.globals_of(row["equations"], k) for row in rows if row["kind"] == kind), Globals.zero(k))


@pytest.mark.parametrize("partitions", [1, 3])
def test_every_batch_is_what_plain_loops_give(partitions: int) -> None:
    log = events(90, seed=5)
    plain, stepped = Plain(SMALL), Stepped(SMALL, partitions)
    for begin in range(0, 90, 15):
        plain.learn(log[begin : begin + 15])
        stepped.learn(log[begin : begin + 15])
        for side, rows, name in (("user", plain.users, "p"), ("item", plain.items, "q")):
            got = stepped.vectors(side)
            assert got.keys() == rows.keys()
            for key, row in rows.items():
                np.testing.assert_allclose(got[key], row[name], rtol=1e-3, atol=1e-5, err_msg=f"{key} from {begin}")
    for key, row in plain.items.items():
        assert stepped.rows["item"][key]["counted"] == pytest.approx(row["n"], rel=1e-6, abs=1e-9)
        assert stepped.rows["item"][key]["popular"] == pytest.approx(row["c"], rel=1e-6, abs=1e-9)
    for key, row in plain.users.items():
        assert stepped.rows["user"][key]["tail"] == pytest.approx(row["tail"])
        assert stepped.rows["user"][key]["others"] == [item for _, item, _ in row["kept"]]


def test_a_batch_is_judged_by_the_vectors_before_it_and_over_what_is_new_to_its_users() -> None:
    log = events(120, seed=5)
    plain, stepped = Plain(SMALL), Stepped(SMALL, 1)
    for one in (plain, stepped):
        one.learn(log[:60])
    batch = log[60:70]
    hits, users = 0.0, 0
    for user in sorted({event[0] for event in batch}):
        seen = {item for _, item, _ in plain.users[user]["kept"]} if user in plain.users else set()
        targets = {item for who, item, weight, _ in batch if who == user and weight > 0}
        if targets := {item for item in targets if item in plain.items and item not in seen}:
            p = plain.users[user]["p"] if user in plain.users else np.zeros(SMALL.k)
            ranked = sorted(set(plain.items) - seen, key=lambda item: (-plain.items[item]["q"] @ p, item))
            hits += 1 / min(1 + ranked.index(item) for item in targets)
            users += 1
    stepped.learn(batch)
    got = {row["key"]: np.frombuffer(row["weights"]) for row in stepped.judged}
    assert got.keys() == {"blend", "factors", "popularity"}
    assert users > 1
    assert got["factors"][0] == users
    assert got["factors"][4] == pytest.approx(hits)


def test_globals_are_what_a_sum_over_all_rows_gives() -> None:
    stepped = Stepped(SMALL, 2)
    log = events(80, seed=9)
    for begin in range(0, 80, 20):
        stepped.learn(log[begin : begin + 20])
    q = np.array(list(stepped.vectors("item").values()), float)
    np.testing.assert_allclose(stepped.known.gram_items, q.T @ q, rtol=1e-6, atol=1e-9)
    assert stepped.known.items == len(q)


def test_an_empty_batch_changes_nothing() -> None:
    stepped = Stepped(SMALL, 2)
    stepped.learn(events(30, seed=2))
    before, known = stepped.vectors("user"), stepped.known
    stepped.learn([])
    np.testing.assert_array_equal(stepped.known.gram_users, known.gram_users)
    assert stepped.vectors("user").keys() == before.keys() and stepped.known.now == known.now


def test_a_start_vector_depends_on_its_id_only_and_any_id_has_one() -> None:
    for name in ("a", 'ключ 🛒 "x"', "x" * 10_000):
        assert (als.start_vector(name, 8) == als.start_vector(name, 8)).all()
    assert (als.start_vector("a", 8) != als.start_vector("b", 8)).any()


def test_packing_a_symmetric_matrix_loses_nothing() -> None:
    a = np.arange(9.0).reshape(1, 3, 3)
    a = a + a.transpose(0, 2, 1)
    np.testing.assert_array_equal(als.unpacked(als.packed(a), 3), a)


def test_the_globals_survive_as_bytes() -> None:
    state = Globals(np.eye(2), 2 * np.eye(2), 3 * np.eye(2), 4.5, 6.0, 7.25, 1_767_225_600_123_456)
    again = steps.globals_of(steps.globals_as_bytes(state), 2)
    assert again.now == state.now and again.users == state.users
    np.testing.assert_array_equal(again.tail, state.tail)


def test_a_hot_user_keeps_its_newest_events_and_tells_an_item_once() -> None:
    made = Params(k=4)
    log = [("hot", f"i{n % 50}", 1.0, n * 1_000_000) for n in range(200_000)]
    new = pa.RecordBatch.from_pylist(
        [{"kind": steps.NEW, "key": u, "other": i, "weight": w, "at": t} for u, i, w, t in log], steps.SCHEMA
    )
    out = [row for batch in steps.users(iter([new]), Globals.zero(4), made) for row in batch.to_pylist()]
    (row,) = [row for row in out if row["kind"] == steps.ROW]
    assert len(row["others"]) == made.history and row["tail"] == 200_000 - made.history
    told = [row for row in out if row["kind"] == steps.CONTRIBUTION]
    assert len(told) == 50
    assert sum(row["counted"] for row in told) == pytest.approx(200_000, rel=0.05)  # 2.3 days of 45
