"""Incremental k-means: equal to a reference implementation over single users, and right on data with a known answer."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import total
from profilestream.learn.segments.kernels import kmeans, kmeans_tasks, split_merge
from profilestream.learn.segments.kernels.cluster_sums import ClusterSums
from profilestream.learn.segments.kernels.kmeans import ContributionChanges, KMeansParams, KMeansState
from profilestream.learn.segments.kernels.split_merge import SplitAxes
from profilestream.learn.segments.segments_batch import SegmentsState

from tests import laws, memory_segments, naive_kmeans
from tests.memory_segments import Row, users_of
from tests.naive_kmeans import DAY
from tests.partitions import split_into

FOUR = KMeansParams(k=4, half_life_days=5.0, passes=1)
fuzz = settings(max_examples=100, derandomize=True, database=None)
# Integers, so that many points and distances are equal; and others.
NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3))
ROWS = st.tuples(st.sampled_from("abcdefghij"), st.tuples(NUMBERS, NUMBERS), st.integers(1, 400 * DAY))
BATCHES = st.lists(st.lists(ROWS, max_size=12), min_size=1, max_size=6)


EMPTY = SegmentsState.empty(2)


def learn(state: SegmentsState, rows: list[Row], params: KMeansParams = FOUR) -> SegmentsState:
    return memory_segments.learn(state, rows, params)


def blobs(centers: list[tuple[float, float]], size: int, seed: int, day: int = 1) -> list[Row]:
    """`size` new users around each center, within one day; their ids start with their center."""
    rng = np.random.default_rng(seed)
    points = np.repeat(np.array(centers), size, axis=0)
    users = [f"{int(x)},{int(y)} of {day} {n % size}" for n, (x, y) in enumerate(points)]
    times = rng.integers(day * DAY, (day + 1) * DAY, len(points))
    return list(zip(users, map(tuple, points + rng.normal(0, 1, points.shape)), times.tolist(), strict=True))


def points_of(rows: list[Row]) -> Floats:
    return np.array([point for _, point, _ in rows])


def segments_by_blob(state: SegmentsState) -> dict[str, set[int]]:
    """The segments of the users of each center."""
    segments: dict[str, set[int]] = {}
    for user, (_, _, segment) in users_of(state).items():
        segments.setdefault(user.split()[0], set()).add(segment)
    return segments


def numbers(sums: ClusterSums) -> laws.Numbers:
    return {"users": sums.users, "weight": sums.weight, "sums": sums.sums, "scatter": sums.scatter}


@pytest.mark.parametrize("half_life_days", [5.0, None])
@fuzz
@given(BATCHES)
def test_sums_equal_a_recount_of_all_users_after_any_batches(
    half_life_days: float | None, batches: list[list[Row]]
) -> None:
    params, state = replace(FOUR, half_life_days=half_life_days), EMPTY
    for batch in batches:
        state = learn(state, batch, params)
        if not len(state.segments.ids):
            continue
        sums, ids = state.segments.sums, state.segments.ids
        assert sorted(ids) == ids.tolist() and len(ids) <= FOUR.k and state.segments.next_id > ids.max()
        expected = naive_kmeans.count_sums(list(users_of(state).values()), ids.tolist(), sums.as_of, params)
        laws.assert_close(numbers(sums), numbers(expected), 1e-9)
        np.testing.assert_array_equal(sums.users, expected.users)
        assert np.isfinite(sums.centers).all()


@fuzz
@given(BATCHES)
def test_a_batch_assigns_users_like_the_reference_implementation(batches: list[list[Row]]) -> None:
    state = learn(EMPTY, [("a", (0.0, 0.0), 1), ("b", (3.1, 0.2), 2), ("c", (1.3, -2.7), 3)])
    for batch in batches:
        before = users_of(state)
        rows = {user: (np.array(point), at) for user, point, at in sorted(batch, key=lambda row: row[2])}
        rows = {user: row for user, row in rows.items() if user not in before or row[1] >= before[user][1]}
        centers = dict(zip(state.segments.ids.tolist(), state.segments.centers, strict=True))
        after = learn(state, batch)
        moves = after.moves if rows else ()
        expected = naive_kmeans.apply_moves(naive_kmeans.assign(before, rows, centers), moves)
        assert {user: one[1:] for user, one in users_of(after).items()} == {u: one[1:] for u, one in expected.items()}
        state = after


@fuzz
@given(st.lists(st.tuples(st.tuples(NUMBERS, NUMBERS), st.booleans()), min_size=2, max_size=12))
def test_the_largest_eigenvalue_bounds_the_saving_of_any_split(rows: list[tuple[tuple[float, float], bool]]) -> None:
    points, is_first = np.array([point for point, _ in rows]), np.array([first for _, first in rows])
    sums = naive_kmeans.count_sums([(point, 1, 0) for point in points], [0], 1, FOUR)
    bound = np.linalg.eigvalsh(sums.centered_scatter)[0, -1]
    halves = [points[is_first], points[~is_first]]
    saving = naive_kmeans.cost(points) - sum(naive_kmeans.cost(half) for half in halves if len(half))
    assert saving <= bound + 1e-9


def test_the_best_cut_between_bins_costs_at_most_2_percent_more_than_the_best_cut_of_all_along_the_axis() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        centers = rng.normal(0, 2, (3, 3))
        points = centers[rng.integers(0, 3, 200)] + rng.normal(0, 1, (200, 3))
        state, axes, bins = one_segment(points)
        after, (move,) = split_merge.make_moves(state, axes, bins, FOUR)
        order = np.argsort(points @ axes.normals[0])
        best = min(naive_kmeans.cost(points[order[:n]]) + naive_kmeans.cost(points[order[n:]]) for n in range(1, 200))
        assert best * (1 - 1e-9) <= after.sums.cost.sum() <= best * 1.02
        ids = split_merge.relabel(np.zeros(200, int), points, [move])
        assert after.sums.cost.sum() == pytest.approx(sum(naive_kmeans.cost(points[ids == n]) for n in (0, 1)))


def one_segment(points: Floats) -> tuple[KMeansState, SplitAxes, ClusterSums]:
    """All points in one segment at one time, its axis, and the sums by bin."""
    n, d = points.shape
    empty = KMeansState.from_centers(points.mean(axis=0, keepdims=True))
    times, none = np.full(n, DAY), np.zeros(0, np.int64)
    changes = ContributionChanges(points, times, np.zeros((0, d)), none, none)
    state = kmeans.apply_delta(empty, kmeans.batch_delta(empty, points[:1], changes, FOUR), FOUR)
    axes = split_merge.split_axes(state, FOUR)
    return state, axes, split_merge.bin_sums(axes, points, times, np.zeros(n, int), FOUR)


def test_distant_blobs_become_segments_from_any_initial_centers() -> None:
    centers = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (100.0, 100.0)]
    for seed in range(10):
        state = EMPTY
        for day in range(1, 4):
            state = learn(state, blobs(centers, 25, seed, day), replace(FOUR, seed=seed, init_passes=1))
        assert sorted(map(len, segments_by_blob(state).values())) == [1, 1, 1, 1]
        assert len(set.union(*segments_by_blob(state).values())) == 4


def test_a_new_blob_gets_a_new_id_and_the_other_segments_keep_theirs() -> None:
    old = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (0.0, 110.0)]
    state = EMPTY
    for day in range(1, 4):
        state = learn(state, blobs(old, 25, day, day))
    before = segments_by_blob(state)
    assert state.segments.next_id == 4 and not state.moves
    state = learn(state, blobs([*old, (200.0, 200.0)], 25, 5, 4))
    (move,) = state.moves
    after = segments_by_blob(state)
    assert after["200,200"] == {4} == {move.child}
    assert after["0,0"] == before["0,0"] and after["100,0"] == before["100,0"]
    # The two nearest segments were merged.
    assert {move.absorbed, move.absorbed_by} == before["0,100"] | before["0,110"]
    assert after["0,100"] == after["0,110"] == {move.absorbed_by}
    state = learn(state, blobs([*old, (200.0, 200.0)], 25, 6, 5))
    assert segments_by_blob(state) == after and not state.moves


def test_no_segment_is_a_candidate_for_a_split_when_no_move_can_pay() -> None:
    centers = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (100.0, 100.0)]
    state = learn(EMPTY, blobs(centers, 50, 1)).segments
    assert len(split_merge.split_axes(state, FOUR).ids) == 0
    assert len(split_merge.split_axes(state, replace(FOUR, k=5)).ids) == 2
    assert len(split_merge.split_axes(state, replace(FOUR, k=5, max_split_merges=0)).ids) == 0


def test_few_distinct_points_make_few_segments_and_later_batches_add_more() -> None:
    state = learn(EMPTY, [(user, (1.0, 2.0), 1) for user in "abcdefgh"])
    assert state.segments.ids.tolist() == [0] and not state.moves
    state = learn(state, [])
    assert state.segments.ids.tolist() == [0]
    state = learn(state, [("c", (5.0, 5.0), 2), ("d", (-4.0, 9.0), 2)])
    state = learn(state, [("e", (1.0, 2.0), 3)])
    users = users_of(state)
    assert users["c"][2] != users["d"][2] != users["a"][2] == users["e"][2] == 0
    np.testing.assert_allclose(state.segments.sums.cost, 0, atol=1e-12)


def test_a_segment_that_loses_its_last_user_is_removed_and_its_id_is_never_used_again() -> None:
    params = replace(FOUR, k=2, max_split_merges=0)
    state = learn(EMPTY, [("a", (0.0, 0.0), 1), ("b", (9.0, 9.0), 1), ("c", (0.0, 0.1), 1)], params)
    removed_id = users_of(state)["b"][2]
    state = learn(state, [("b", (0.0, 0.2), 2)], params)
    assert state.segments.ids.tolist() == [1 - removed_id]
    state = learn(state, [("b", (9.0, 9.0), 3)], replace(params, max_split_merges=1))
    assert users_of(state)["b"][2] == 2


def test_an_erased_user_is_subtracted_exactly() -> None:
    state = learn(EMPTY, blobs([(0.0, 0.0), (50.0, 0.0), (0.0, 50.0), (50.0, 50.0)], 20, 1))
    state = learn(state, blobs([(0.0, 0.0), (50.0, 0.0)], 20, 2, 3))
    before = users_of(state)
    erased = list(before)[::3]
    rows = [{"user_id": user, "point": None, "as_of": 4 * DAY, "sample_hash": 0} for user in [*erased, "unknown"]]
    after = state.learn(pa.Table.from_pylist(rows, kmeans_tasks.CONTRIBUTION), replace(FOUR, max_split_merges=0))
    remaining = {user: one for user, one in before.items() if user not in erased}
    assert users_of(after).keys() == remaining.keys()
    sums, ids = after.segments.sums, after.segments.ids.tolist()
    expected = naive_kmeans.count_sums(list(remaining.values()), ids, state.segments.sums.as_of, FOUR)
    laws.assert_close(numbers(sums), numbers(expected), 1e-9)


def test_a_center_stays_when_the_remaining_weight_of_its_segment_is_rounding() -> None:
    """Users a and c share a segment; then c leaves, more than 60 half-lives after the contribution of a."""
    params = replace(FOUR, k=2, max_split_merges=0)
    state = learn(EMPTY, [("a", (0.0, 0.0), 1), ("b", (9.0, 9.0), 1)], params)
    for day, x in ((400, 1.0), (401, 8.0), (20_000, 8.0)):
        state = learn(state, [("c", (x, x), day * DAY)], params)
    users, segments = users_of(state), state.segments
    assert (segments.sums.weight > 0).all()
    assert {int(id): int(n) for id, n in zip(segments.ids, segments.sums.users, strict=True)} == {
        users["a"][2]: 1, users["c"][2]: 2
    }  # fmt: skip
    nearest = kmeans.nearest_centers(np.array([[0.0, 0.0], [8.0, 8.0]]), segments.centers)[0]
    assert nearest.tolist() == [users["a"][2], users["c"][2]]
    assert segments.centers[nearest[0]] == pytest.approx([1.0, 1.0])


def test_initial_centers_depend_on_the_seed_and_not_on_the_order_of_the_sample() -> None:
    points = points_of(blobs([(0.0, 0.0), (4.0, 0.0)], 50, 1))
    centers = kmeans.initial_centers(points, FOUR)
    np.testing.assert_array_equal(kmeans.initial_centers(points[::-1], FOUR), centers)
    assert (kmeans.initial_centers(points, replace(FOUR, seed=1)) != centers).any()
    assert kmeans.initial_centers(points[:0], FOUR).shape == (0, 2)


def test_a_second_pass_starts_from_the_state_before_the_batch() -> None:
    first, second = blobs([(0.0, 0.0), (6.0, 0.0)], 30, 1), blobs([(3.0, 0.0), (9.0, 0.0)], 30, 2, 2)
    params = replace(FOUR, k=2, max_split_merges=0)
    state = learn(EMPTY, first, params)
    once = learn(state, second, params).segments
    twice = learn(state, second, replace(params, passes=2)).segments
    ids = kmeans.nearest_centers(points_of(second), once.centers)[0]
    expected = naive_kmeans.count_sums(
        [*users_of(state).values(), *zip(points_of(second), [at for _, _, at in second], ids.tolist(), strict=True)],
        [0, 1], twice.sums.as_of, params,
    )  # fmt: skip
    laws.assert_close(numbers(twice.sums), numbers(expected), 1e-9)
    assert (once.sums.users != twice.sums.users).any()


def test_points_that_are_not_newer_than_the_state_are_learned_but_not_evaluated() -> None:
    params = replace(FOUR, k=2, half_life_days=None, max_split_merges=0)
    segments = learn(EMPTY, [("a", (0.0, 0.0), 5), ("b", (8.0, 0.0), 5)], params).segments
    none = np.zeros(0, np.int64)
    times = np.array([4, 5, 6, 9])
    points = np.array([(0.0, 0.0), (0.0, 0.0), (1.0, 0.0), (8.0, 3.0)])
    changes = ContributionChanges(points, times, np.zeros((0, 2)), none, none)
    delta = kmeans.batch_delta(segments, segments.centers, changes, params)
    assert delta.sums.users.sum() == 4 and delta.evaluated_points == 2
    assert delta.times is not None
    assert (delta.times.rows_from, delta.times.rows_to, delta.times.late_rows) == (6, 9, 2)
    assert delta.cost == 1.0 + 9.0
    assert delta.cost_of_mean == 3.0**2 + 4.0**2 + 3.0**2  # the mean is (4, 0)
    first, second = (
        kmeans.batch_delta(segments, segments.centers, replace(changes, points=points[n], times=times[n]), params)
        for n in (slice(0, 3), slice(3, 4))
    )
    merged = total([first, second], params.half_life_days)
    assert (merged.evaluated_points, merged.cost, merged.cost_of_mean) == (2, delta.cost, delta.cost_of_mean)
    assert merged.times == delta.times


def test_the_parts_of_a_batch_can_be_computed_in_any_order() -> None:
    first, second = blobs([(0.0, 0.0)], 20, 1), blobs([(5.0, 0.0), (9.0, 9.0)], 20, 2, 2)
    whole = learn(learn(EMPTY, first), second)
    with split_into(3, (2, 0, 1)):
        state = learn(learn(EMPTY, first), second)
    for one in (state, whole):
        assert one.segments.sums.users.sum() == len(users_of(one)) == 60
    assert {user: row[2] for user, row in users_of(state).items()} == {u: row[2] for u, row in users_of(whole).items()}
    repeated = learn(state, [(user, point, at + 3 * DAY) for user, point, at in first])
    assert len(users_of(repeated)) == 60
