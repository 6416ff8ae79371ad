"""The factorization equals plain loops, and does not depend on batches and partitions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.kernels import als, als_rows, als_tasks, item_index
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums
from profilestream.learn.factors.kernels.item_index import RANKERS
from profilestream.learn.kernels.ranking_metrics import RankingSums

from tests.naive_als import DAY, Event, NaiveAls
from tests.partitions import split_into

IMPLICIT = AlsParams(
    k=4,
    max_events_per_user=5,
    reweighted_events=2,
    unobserved_weight=6.0,
    regularization=0.02,
    half_life_days=20.0,
    max_neighbors=3,
    neighbor_history=2,
)
MEAN_RATING = 2.75
EXPLICIT = replace(IMPLICIT, mode="explicit", regularization=1.0, half_life_days=None)


def random_events(count: int, seed: int) -> list[Event]:
    """Events in random order of time; some are returns."""
    rng = np.random.default_rng(seed)
    return [
        Event(
            f"u{rng.integers(8)}", f"i{rng.integers(6)}", float(rng.choice([1, 1, 3, 5, -1])), int(n * DAY // 4),
            float(rng.integers(1, 6)), ("a", "b", None)[rng.integers(3)],
        )
        for n in rng.permutation(count)
    ]  # fmt: skip


def event_rows(batch: list[Event], params: AlsParams) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "user_id": e.user, "item_id": e.item, "time_micros": e.time, "category": e.category,
                **({"weight": 1.0, "rating": e.rating} if params.is_explicit else {"weight": e.weight}),
            }
            for e in batch
        ],
        als_rows.EVENT,
    )  # fmt: skip


class PartitionedAls:
    """A state in memory that learns each batch in partitions."""

    def __init__(self, params: AlsParams, partitions: int) -> None:
        self.params, self.partitions = params, partitions
        self.state = factors_batch.empty_state(params)
        if params.is_explicit:
            sums = replace(self.state.global_sums, mean_rating=MEAN_RATING)
            self.state = replace(self.state, global_sums=sums)
        self.ranking_sums: dict[str, RankingSums] = {}

    def learn(self, batch: list[Event]) -> None:
        with split_into(self.partitions):
            change, evaluation = factors_batch.learn(
                self.state, self.state.global_sums, event_rows(batch, self.params), self.params
            )
        self.state, self.ranking_sums = self.state.updated(change), evaluation.by_ranker

    def rows(self, side: str) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in (self.state.users if side == "user" else self.state.items).to_pylist()}

    def vectors(self, side: str) -> dict[str, Any]:
        return {key: np.frombuffer(row["vector"], np.float32) for key, row in self.rows(side).items()}


@pytest.mark.parametrize("params", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
@pytest.mark.parametrize("partitions", [1, 3])
def test_every_batch_gives_the_state_of_plain_loops(partitions: int, params: AlsParams) -> None:
    log = random_events(90, seed=5)
    if params.is_explicit:
        log = [replace(event, weight=1.0) for event in log]
    naive, model = NaiveAls(params, MEAN_RATING), PartitionedAls(params, partitions)
    for begin in range(0, 90, 15):
        naive.learn(log[begin : begin + 15])
        model.learn(log[begin : begin + 15])
        for side, expected, name in (("user", naive.users, "p"), ("item", naive.items, "q")):
            vectors = model.vectors(side)
            assert vectors.keys() == expected.keys()
            for key, row in expected.items():
                message = f"{key} from {begin}"
                np.testing.assert_allclose(vectors[key], row[name], rtol=1e-3, atol=1e-5, err_msg=message)
    items, users = model.rows("item"), model.rows("user")
    for key, row in naive.items.items():
        assert items[key]["decayed_weight"] == pytest.approx(row["n"], rel=1e-6, abs=1e-9)
        assert items[key]["popularity"] == pytest.approx(row["c"], rel=1e-6, abs=1e-9)
        counts = np.frombuffer(items[key]["item_weights"], np.float32)
        neighbors = dict(zip(items[key]["item_ids"], counts, strict=True))
        assert neighbors == pytest.approx(row["neighbors"], rel=1e-5), key
    assert any(len(row["neighbors"]) == 3 for row in naive.items.values())
    for key, row in naive.users.items():
        assert users[key]["tail_weight"] == pytest.approx(row["tail"])
        assert users[key]["item_ids"] == [item for _, item, _, _ in row["stored"]]


def test_an_item_has_the_category_of_its_latest_event_with_a_category() -> None:
    model = PartitionedAls(IMPLICIT, 1)
    for n, category in enumerate(["a", None, "b", None]):
        model.learn([Event("u", "i", 1.0, n * DAY, category=category)])
    assert model.rows("item")["i"]["category"] == "b"


def test_an_item_without_a_category_does_not_get_the_category_of_another_item() -> None:
    model = PartitionedAls(IMPLICIT, 1)
    model.learn([Event("u", "i", 1.0, 0, category="a"), Event("u", "j", 1.0, DAY), Event("v", "j", 1.0, DAY)])
    assert {key: row["category"] for key, row in model.rows("item").items()} == {"i": "a", "j": None}


def test_a_batch_is_evaluated_with_the_vectors_before_it_on_items_that_are_new_to_its_users() -> None:
    log = random_events(120, seed=5)
    naive, model = NaiveAls(IMPLICIT), PartitionedAls(IMPLICIT, 1)
    for learner in (naive, model):
        learner.learn(log[:60])
    batch = [replace(event, time=event.time + 20 * DAY) for event in log[60:80]]
    is_late = [event.time <= naive.now for event in batch]
    assert any(is_late) and not all(is_late)
    reciprocal_ranks, users = 0.0, 0
    for user in sorted({event.user for event in batch}):
        owned = {i for _, i, w, _ in naive.users[user]["stored"] if w > 0} if user in naive.users else set()
        events = [event for event in batch if event.user == user and event.weight > 0 and event.time > naive.now]
        if targets := {event.item for event in events if event.item in naive.items and event.item not in owned}:
            p = naive.users[user]["p"] if user in naive.users else np.zeros(IMPLICIT.k)
            ranking = sorted(set(naive.items) - owned, key=lambda item: (-naive.items[item]["q"] @ p, item))
            reciprocal_ranks += 1 / min(1 + ranking.index(item) for item in targets)
            users += 1
    model.learn(batch)
    sums = model.ranking_sums
    assert sums.keys() == set(RANKERS)
    assert users > 1
    assert sums["factors"].users == users
    assert sums["factors"].reciprocal_rank == pytest.approx(reciprocal_ranks)


@pytest.mark.parametrize("params", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
def test_partitions_do_not_change_which_users_are_evaluated(params: AlsParams) -> None:
    """Some users are evaluated. Explicit: every rating has an error, also those of other users."""
    log = [event for event in random_events(160, seed=5) if event.weight > 0]
    batch = [replace(event, time=event.time + 40 * DAY) for event in log[20:50]]
    results = []
    for partitions in (1, 3, 8):
        model = PartitionedAls(replace(params, eval_users=4), partitions)
        model.learn(log[:20])
        model.learn(batch)
        results.append({ranker: sums.metrics() for ranker, sums in model.ranking_sums.items()})
    expected, *others = results
    users = expected["factors"]["recall_10"][1]
    assert 0 < users < len({event.user for event in batch})
    if params.is_explicit:
        assert expected["factors"]["rmse"][1] > users
    for other in others:
        assert other.keys() == expected.keys()
        for ranker, metrics in expected.items():
            assert other[ranker] == {name: pytest.approx(value, rel=1e-5) for name, value in metrics.items()}


def test_the_global_sums_equal_sums_over_all_rows() -> None:
    model = PartitionedAls(IMPLICIT, 2)
    log = random_events(80, seed=9)
    for begin in range(0, 80, 20):
        model.learn(log[begin : begin + 20])
    q = np.array(list(model.vectors("item").values()), float)
    np.testing.assert_allclose(model.state.global_sums.item_gram, q.T @ q, rtol=1e-6, atol=1e-9)
    assert model.state.global_sums.item_count == len(q)


def test_an_empty_batch_changes_nothing() -> None:
    model = PartitionedAls(IMPLICIT, 2)
    model.learn(random_events(30, seed=2))
    vectors, before = model.vectors("user"), model.state.global_sums
    model.learn([])
    after = model.state.global_sums
    np.testing.assert_array_equal(after.user_gram, before.user_gram)
    assert model.vectors("user").keys() == vectors.keys() and after.as_of == before.as_of


def test_an_initial_vector_depends_only_on_the_id_and_exists_for_any_id() -> None:
    params = AlsParams(k=8)
    for item_id in ("a", 'ключ 🛒 "x"', "x" * 10_000):
        assert (als.initial_vector(item_id, params) == als.initial_vector(item_id, params)).all()
    assert (als.initial_vector("a", params) != als.initial_vector("b", params)).any()


def test_an_item_is_regularized_at_least_as_strongly_as_a_user() -> None:
    params = AlsParams(k=1, unobserved_weight=50.0, regularization=0.1)
    equations = np.zeros((1, 1, 1)), np.ones((1, 1)), np.zeros(1)
    few_users, as_many_users, more_users = (
        float(
            als.solve_items(*equations, replace(GlobalSums.zero(1), item_count=100.0, user_count=users), params)[0, 0]
        )
        for users in (1.0, 100.0, 200.0)
    )
    assert few_users == as_many_users == pytest.approx(1 / (0.1 * 50))
    assert more_users == pytest.approx(1 / (0.1 * 100))


def test_a_symmetric_matrix_is_unpacked_without_loss() -> None:
    a = np.arange(9.0).reshape(1, 3, 3)
    a = a + a.transpose(0, 2, 1)
    np.testing.assert_array_equal(als.unpack_symmetric(als.pack_symmetric(a), 3), a)


def test_global_sums_are_restored_from_bytes() -> None:
    sums = GlobalSums(
        np.eye(2), 2 * np.eye(2), 3 * np.eye(2), 4.5, 6.0, 7.25, None, 9.0, 5.0, as_of=1_767_225_600_123_456
    )  # fmt: skip
    restored = als_rows.global_sums_from_bytes(als_rows.global_sums_to_bytes(sums), 2)
    assert (restored.as_of, restored.user_count, restored.mean_rating) == (sums.as_of, sums.user_count, None)
    assert (restored.event_count, restored.full_pass_events) == (9.0, 5.0)
    np.testing.assert_array_equal(restored.weighted_item_gram, sums.weighted_item_gram)


def test_a_hot_user_stores_its_latest_events_and_contributes_once_per_item() -> None:
    params = AlsParams(k=4)
    log = [Event("hot", f"i{n % 50}", 1.0, n * 1_000_000) for n in range(200_000)]
    stored, items = als_rows.USER.empty_table(), item_index.SCHEMA.empty_table()
    rows = event_rows(log, params)
    output = als_tasks.update_users(rows, stored, items, global_sums=GlobalSums.zero(4), params=params)
    (user,) = output["users"].to_pylist()
    assert len(user["item_ids"]) == params.max_events_per_user
    assert user["tail_weight"] == 200_000 - params.max_events_per_user
    contributions = output["contributions"].to_pylist()
    assert len(contributions) == 50
    total = sum(row["decayed_weight"] for row in contributions)
    assert total == pytest.approx(200_000, rel=0.05)  # the log has 2.3 days, the half-life is 45 days


def test_a_damaged_vector_is_reported_by_key_and_skipped_by_a_full_pass() -> None:
    model = PartitionedAls(IMPLICIT, 1)
    model.learn(random_events(30, seed=2))
    items, global_sums = model.state.items, model.state.global_sums
    for damaged in (b"", np.full(4, np.nan, np.float32).tobytes(), None):
        stored = zip(items["key"].to_pylist(), items["vector"].to_pylist(), strict=True)
        cells = [damaged if key == "i3" else cell for key, cell in stored]
        broken = items.set_column(items.schema.get_field_index("vector"), "vector", pa.array(cells, pa.binary()))
        with pytest.raises(ValueError, match=r"damaged vectors in factors: \['i3'\]; .*learn_factors.py --full-pass"):
            als_tasks.pack_items(broken, global_sums=global_sums, params=IMPLICIT)
        packed = als_tasks.pack_items(broken, global_sums=global_sums, params=IMPLICIT, skip_damaged=True)["items"]
        assert set(packed["item_id"].to_pylist()) == set(items["key"].to_pylist()) - {"i3"}
