"""The learned blend equals loops, does not depend on partitions, ranks before it learns, and has a gate."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.learn.rankers.kernels import blend
from profilestream.learn.rankers.kernels.basket_index import BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import RankerParams
from profilestream.learn.rankers.kernels.blend import INPUTS, BlendState, BlendSums, GateSums

from tests.laws import law_settings
from tests.memory_rankers import DAY, MINUTE, START, Event, MemoryRankers, NaiveRankers
from tests.naive_blend import NaiveBlend

PARAMS = RankerParams(basket_gap_minutes=40.0, half_life_days=3.0, popularity_half_life_days=1.0)
USERS, ITEMS = [f"u{n}" for n in range(4)], [f"i{n:02}" for n in range(14)]
EVENTS: st.SearchStrategy[Event] = st.tuples(
    st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 200).map(lambda n: START + n * 20 * MINUTE)
)
few = settings(law_settings, max_examples=8, deadline=None)
# Batches of four days, one after another.
BATCHES = st.lists(st.lists(EVENTS, min_size=5, max_size=20), min_size=3, max_size=4).map(
    lambda batches: [[(u, i, t + 3 * n * DAY) for u, i, t in batch] for n, batch in enumerate(batches)]
)


def assert_close(actual: object, expected: object, tolerance: float = 1e-9) -> None:
    largest = max(1.0, float(np.abs(np.asarray(expected)).max(initial=0.0)))
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=0, atol=tolerance * largest)


def numbers(state: BlendState) -> list[float]:
    return [*state.weights, *state.row["blend_sums"][0].as_py()]


@few
@given(BATCHES)
def test_weights_sums_and_rankings_equal_loops_over_users_and_candidates(batches: list[list[Event]]) -> None:
    model, naive, expected = MemoryRankers(PARAMS), NaiveRankers(PARAMS), NaiveBlend()
    for batch in batches:
        lists = {user: expected.ranking(naive, user) for user in USERS} if naive.log else {}
        model_lists = {user: blended(model, user) for user in lists}
        assert model_lists == lists
        expected.learn(naive, batch)
        naive.learn(batch)
        model = model.learn(batch)
        sums, gate = model.blend.sums, model.blend.gate
        assert_close(sums.rule, expected.rule)
        assert_close(sums.variances, expected.variances)
        assert_close([sums.baskets, gate.baskets, gate.gain, gate.squares], [expected.baskets, *expected.gate])
        # Some equations are almost singular: columns are equal except for the ridge.
        assert_close(model.blend.weights, expected.weights, 1e-6)
        # So that the sums of the next batch differ by rounding only.
        expected.weights = model.blend.weights


def blended(model: MemoryRankers, user: str) -> list[str]:
    """All items in the order of the blend."""
    index, keys = BasketIndex(model.items, PARAMS), model.users["key"].to_pylist()
    row = model.users.take(pa.array([keys.index(user) if user in keys else None], pa.int64()))
    items, _, _ = blend.rank(index, row, model.blend.weights, len(index.ids))
    return [str(item) for item in index.ids.take(items[0]).to_pylist()]


@few
@given(BATCHES, st.sampled_from([2, 5]))
def test_partitions_of_a_batch_give_the_same_state(batches: list[list[Event]], parts: int) -> None:
    whole = split = MemoryRankers(PARAMS)
    for batch in batches:
        whole, split = whole.learn(batch), split.learn(batch, parts)
    assert_close(numbers(split.blend), numbers(whole.blend))


@few
@given(BATCHES)
def test_a_stored_state_learns_the_next_batch_as_the_state_in_memory(batches: list[list[Event]]) -> None:
    model = MemoryRankers(PARAMS)
    for batch in batches[:-1]:
        model = model.learn(batch)
    stored = replace(model, blend=BlendState.from_rows(model.blend.row))
    assert_close(numbers(stored.learn(batches[-1]).blend), numbers(model.learn(batches[-1]).blend))


def regulars(day: int, users: int = 30) -> list[Event]:
    """Each user buys what followed her latest item (i goes to i + 1), and an item that sells at random."""
    random = np.random.default_rng(day)
    bought = [(f"u{n:02}", f"i{(day + n) % 9}", START + day * DAY) for n in range(users)]
    return bought + [(f"u{n:02}", f"p{random.integers(9)}", START + day * DAY) for n in range(users)]


def test_the_blend_learns_that_users_buy_what_follows_and_not_what_they_have() -> None:
    model = MemoryRankers(RankerParams())
    for day in range(12):
        model = model.learn(regulars(day))
    assert model.sums is not None
    metrics = model.sums.metrics()
    assert metrics["blend"]["basket_ndcg_10"][0] > 1.2 * metrics["own_counts"]["basket_ndcg_10"][0]
    assert model.blend.gate.is_passed


def test_a_batch_is_ranked_by_the_weights_before_it_and_the_first_one_with_a_state_by_none() -> None:
    model = MemoryRankers(RankerParams()).learn(regulars(0))
    second = model.learn(regulars(1))
    assert second.sums is not None and "blend" not in second.sums.metrics()
    assert not second.blend.gate.baskets and second.blend.has_learned
    third = second.learn(regulars(2))
    other = replace(second, blend=replace(second.blend, weights=-second.blend.weights)).learn(regulars(2))
    assert third.sums is not None and other.sums is not None
    assert third.sums.metrics()["blend"]["basket_ndcg_10"] > other.sums.metrics()["blend"]["basket_ndcg_10"]


def test_one_apply_changes_no_standardized_weight_by_more_than_the_limit() -> None:
    c = len(INPUTS)
    rule, variances = np.column_stack([np.eye(c), np.full(c, 1000.0)]), np.full(c, 0.04)
    state = BlendState.empty().learn([BlendSums(1.0, variances, rule, as_of=START)], [])
    np.testing.assert_allclose(state.weights * 0.2, 1.5)


def test_sums_whose_equations_have_no_solution_are_not_added() -> None:
    state = MemoryRankers(RankerParams()).learn(regulars(0)).learn(regulars(1)).blend
    bad = BlendSums(1.0, state.sums.variances, np.full_like(state.sums.rule, np.nan), as_of=START)
    assert numbers(state.learn([bad], [])) == numbers(state)


def test_an_input_that_is_almost_constant_has_no_weight() -> None:
    c = len(INPUTS)
    variances = np.where(np.arange(c) == 1, 2e-9, 0.1)
    rule = np.column_stack([np.diag(variances), np.sqrt(variances)])
    weights = BlendState.empty().learn([BlendSums(1.0, variances, rule, as_of=START)], []).weights
    assert weights[1] == 0 and (np.delete(weights, 1) > 0).all()


def test_the_candidates_are_the_best_items_of_each_ranker() -> None:
    model = MemoryRankers(RankerParams()).learn([("u", f"own{n}", START + n // 2 * DAY) for n in range(6)])
    model = model.learn([(f"v{n}", f"popular{n % 3}", START + 2 * DAY) for n in range(9)])
    index = BasketIndex(model.items, RankerParams())
    user = model.users.filter(pc.field("key") == "u")
    ((_, rows),) = blend.candidates(index, user, per_ranker=2)
    assert set(index.ids.take(rows.item).to_pylist()) == {"own4", "own5", "popular0", "popular1"}


@pytest.mark.parametrize(
    ("gains", "is_passed"), [([0.2, 0.1, 0.3, 0.2], True), ([0.9, -0.5, 0.1], False), ([-0.2] * 9, False), ([], False)]
)
def test_the_gate_needs_a_gain_of_at_least_its_standard_error(gains: list[float], is_passed: bool) -> None:
    sums = GateSums.of(np.array(gains), np.full(len(gains), START))
    assert sums.is_passed == is_passed


def test_a_stored_row_with_other_inputs_is_not_used() -> None:
    state = MemoryRankers(RankerParams()).learn(regulars(0)).learn(regulars(1)).blend
    row = state.row
    shorter = row.set_column(row.schema.get_field_index("blend_weights"), "blend_weights", pa.array([[0.5]]))
    assert not BlendState.from_rows(shorter).has_learned
    assert BlendState.from_rows(row).has_learned and len(state.weights) == len(INPUTS)
