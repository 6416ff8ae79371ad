"""Segments against recounts of their users, and on data with a known answer."""

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.learn import kmeans
from profilestream.learn.als import Floats, Longs
from profilestream.learn.cluster_sums import Sums
from profilestream.learn.kmeans import Axes, Batch, Params, State
from profilestream.learn.local_kmeans import KMeans, Rows, Segmented

from tests import laws, naive_kmeans
from tests.naive_kmeans import DAY, Kept

Said = tuple[str, tuple[float, float], int]
FOUR = Params(k=4, half_life_days=5.0, passes=1)
drawn = settings(max_examples=15, deadline=None, derandomize=True, database=None)
# Whole numbers, so that many points and distances are equal; and others.
NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3))
SAID = st.tuples(st.sampled_from("abcdefghij"), st.tuples(NUMBERS, NUMBERS), st.integers(1, 400 * DAY))
BATCHES = st.lists(st.lists(SAID, max_size=12), min_size=1, max_size=6)


def rows(said: list[Said]) -> Rows:
    users, points, times = zip(*said, strict=True) if said else ((), (), ())
    return Rows(np.array(users, str), np.array(points, float).reshape(-1, 2), np.array(times, np.int64))


def people(state: Segmented) -> dict[str, Kept]:
    assert state.kept is not None
    every = zip(state.kept.users, state.kept.points, state.kept.times, state.ids, strict=True)
    return {str(user): (point, int(at), int(segment)) for user, point, at, segment in every}


def blobs(centers: list[tuple[float, float]], each: int, seed: int, day: int = 1) -> Rows:
    """So many new users about each center, within a day; they are named by their center."""
    dice = np.random.default_rng(seed)
    points = np.repeat(np.array(centers), each, axis=0)
    users = [f"{int(x)},{int(y)} of {day} {n % each}" for n, (x, y) in enumerate(points)]
    times = dice.integers(day * DAY, (day + 1) * DAY, len(points))
    return Rows(np.array(users), points + dice.normal(0, 1, points.shape), times)


def homes(state: Segmented) -> dict[str, set[int]]:
    """By the center that users are named by, the segments that they are in."""
    found: dict[str, set[int]] = {}
    for user, (_, _, segment) in people(state).items():
        found.setdefault(user.split()[0], set()).add(segment)
    return found


@pytest.mark.parametrize("half_life_days", [5.0, None])
@drawn
@given(BATCHES)
def test_sums_are_a_recount_of_all_users_whatever_happened(
    half_life_days: float | None, batches: list[list[Said]]
) -> None:
    learner = KMeans(replace(FOUR, half_life_days=half_life_days))
    state = learner.empty()
    for batch in batches:
        state = learner.learn(state, rows(batch))
        if state.segments is None:
            continue
        sums, ids = state.segments.sums, state.segments.ids
        assert sorted(ids) == ids.tolist() and len(ids) <= FOUR.k and state.segments.next_id > ids.max()
        recounted = naive_kmeans.recount(list(people(state).values()), ids.tolist(), sums.now, learner.params)
        laws.assert_close(numbers(sums), numbers(recounted), 1e-9)
        np.testing.assert_array_equal(sums.users, recounted.users)
        assert np.isfinite(sums.centers).all()


def numbers(sums: Sums) -> laws.Numbers:
    return {"users": sums.users, "weight": sums.weight, "sums": sums.sums, "scatter": sums.scatter}


@drawn
@given(BATCHES)
def test_a_batch_does_what_plain_loops_over_its_users_do(
    batches: list[list[Said]],
) -> None:
    learner = KMeans(FOUR)
    state = learner.learn(learner.empty(), rows([("a", (0.0, 0.0), 1), ("b", (3.1, 0.2), 2), ("c", (1.3, -2.7), 3)]))
    for batch in batches:
        assert state.segments is not None
        told = rows(batch).newest()
        before = people(state)
        said = {
            str(user): (point, int(at)) for user, point, at in zip(told.users, told.points, told.times, strict=True)
        }
        news = {user: one for user, one in said.items() if user not in before or one[1] >= before[user][1]}
        centers = dict(zip(state.segments.ids.tolist(), state.segments.centers, strict=True))
        after = learner.learn(state, rows(batch))
        moves = after.moves if news else ()
        expected = naive_kmeans.moved(naive_kmeans.learned(before, news, centers), moves)
        assert {user: kept[1:] for user, kept in people(after).items()} == {u: kept[1:] for u, kept in expected.items()}
        state = after


@drawn
@given(st.lists(st.tuples(st.tuples(NUMBERS, NUMBERS), st.booleans()), min_size=2, max_size=12))
def test_no_split_saves_more_than_the_longest_axis_has(said: list[tuple[tuple[float, float], bool]]) -> None:
    points, is_here = np.array([point for point, _ in said]), np.array([here for _, here in said])
    sums = naive_kmeans.recount([(point, 1, 0) for point in points], [0], 1, FOUR)
    most = np.linalg.eigvalsh(sums.spread)[0, -1]
    halves = [points[is_here], points[~is_here]]
    saved = naive_kmeans.cost(points) - sum(naive_kmeans.cost(half) for half in halves if len(half))
    assert saved <= most + 1e-9


def test_the_best_cut_between_bins_saves_nearly_what_the_best_of_all_along_the_axis_does() -> None:
    dice = np.random.default_rng(3)
    for _ in range(20):
        centers = dice.normal(0, 2, (3, 3))
        points = centers[dice.integers(0, 3, 200)] + dice.normal(0, 1, (200, 3))
        state, axes, bins = asked(points)
        after, (move,) = kmeans.moved(state, axes, bins, FOUR)
        along = np.argsort(points @ axes.normals[0])
        best = min(naive_kmeans.cost(points[along[:n]]) + naive_kmeans.cost(points[along[n:]]) for n in range(1, 200))
        assert after.sums.cost.sum() <= best * 1.02
        assert after.sums.cost.sum() == pytest.approx(
            sum(naive_kmeans.cost(points[kmeans.relabeled(np.zeros(200, int), points, [move]) == n]) for n in (0, 1))
        )


def asked(points: Floats) -> tuple[State, Axes, Sums]:
    """All points in one segment, at one time; and what is asked of them before it is split."""
    n, d = points.shape
    founded = State.founded(points.mean(axis=0, keepdims=True))
    times, none = np.full(n, DAY), np.zeros(0, np.int64)
    batch = Batch(points, times, np.zeros((0, d)), none, none)
    state = kmeans.apply(founded, kmeans.batch_delta(founded, points[:1], batch, FOUR), FOUR)
    axes = kmeans.promising(state, FOUR)
    return state, axes, kmeans.binned(axes, points, times, np.zeros(n, int), FOUR)


def test_far_blobs_are_found_whatever_the_first_centers_were() -> None:
    centers = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (100.0, 100.0)]
    for seed in range(10):
        learner = KMeans(replace(FOUR, seed=seed, first_passes=1))
        state = learner.empty()
        for day in range(1, 4):
            state = learner.learn(state, blobs(centers, 25, seed, day))
        assert sorted(map(len, homes(state).values())) == [1, 1, 1, 1]
        assert len(set.union(*homes(state).values())) == 4


def test_what_is_born_gets_an_id_of_its_own_and_the_others_keep_theirs() -> None:
    old = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (0.0, 110.0)]
    learner = KMeans(FOUR)
    state = learner.empty()
    for day in range(1, 4):
        state = learner.learn(state, blobs(old, 25, day, day))
    before = homes(state)
    assert state.segments is not None and state.segments.next_id == 4 and not state.moves
    state = learner.learn(state, blobs([*old, (200.0, 200.0)], 25, 5, 4))
    (move,) = state.moves
    after = homes(state)
    assert after["200,200"] == {4} == {move.child}
    assert after["0,0"] == before["0,0"] and after["100,0"] == before["100,0"]
    # The two that are nearly one became one.
    assert {move.absorbed, move.into} == before["0,100"] | before["0,110"]
    assert after["0,100"] == after["0,110"] == {move.into}
    state = learner.learn(state, blobs([*old, (200.0, 200.0)], 25, 6, 5))
    assert homes(state) == after and not state.moves


def test_where_no_move_can_pay_nobody_is_asked() -> None:
    centers = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (100.0, 100.0)]
    learner = KMeans(FOUR)
    state = learner.learn(learner.empty(), blobs(centers, 50, 1))
    assert state.segments is not None
    assert len(kmeans.promising(state.segments, FOUR).ids) == 0
    assert len(kmeans.promising(state.segments, replace(FOUR, k=5)).ids) == 2
    assert len(kmeans.promising(state.segments, replace(FOUR, k=5, max_split_merges=0)).ids) == 0


def test_of_few_distinct_points_there_are_few_segments_and_room_is_filled_later() -> None:
    learner = KMeans(FOUR)
    state = learner.learn(learner.empty(), rows([(user, (1.0, 2.0), 1) for user in "abcdefgh"]))
    assert state.segments is not None and state.segments.ids.tolist() == [0] and not state.moves
    state = learner.learn(state, rows([]))
    assert state.segments is not None and state.segments.ids.tolist() == [0]
    state = learner.learn(state, rows([("c", (5.0, 5.0), 2), ("d", (-4.0, 9.0), 2)]))
    state = learner.learn(state, rows([("e", (1.0, 2.0), 3)]))
    assert state.segments is not None
    assert people(state)["c"][2] != people(state)["d"][2] != people(state)["a"][2] == people(state)["e"][2] == 0
    np.testing.assert_allclose(state.segments.sums.cost, 0, atol=1e-12)


def test_a_segment_whose_last_user_leaves_is_gone_and_its_id_is_never_used_again() -> None:
    learner = KMeans(replace(FOUR, k=2, max_split_merges=0))
    state = learner.learn(learner.empty(), rows([("a", (0.0, 0.0), 1), ("b", (9.0, 9.0), 1), ("c", (0.0, 0.1), 1)]))
    alone = people(state)["b"][2]
    state = learner.learn(state, rows([("b", (0.0, 0.2), 2)]))
    assert state.segments is not None and state.segments.ids.tolist() == [1 - alone]
    state = replace(learner, params=replace(learner.params, max_split_merges=1)).learn(
        state, rows([("b", (9.0, 9.0), 3)])
    )
    assert people(state)["b"][2] == 2


def test_who_is_erased_is_subtracted_exactly() -> None:
    learner = KMeans(FOUR)
    state = learner.learn(learner.empty(), blobs([(0.0, 0.0), (50.0, 0.0), (0.0, 50.0), (50.0, 50.0)], 20, 1))
    state = learner.learn(state, blobs([(0.0, 0.0), (50.0, 0.0)], 20, 2, 3))
    assert state.kept is not None and state.segments is not None
    gone = np.arange(len(state.ids)) % 3 == 0
    batch = Batch(np.zeros((0, 2)), np.zeros(0, int), state.kept.points[gone], state.kept.times[gone], state.ids[gone])
    left = kmeans.apply(state.segments, kmeans.batch_delta(state.segments, state.segments.centers, batch, FOUR), FOUR)
    stay = [kept for n, kept in enumerate(people(state).values()) if not gone[n]]
    recounted = naive_kmeans.recount(stay, left.ids.tolist(), state.segments.sums.now, FOUR)
    laws.assert_close(numbers(left.sums), numbers(recounted), 1e-9)


def test_where_only_rounding_is_left_of_the_weight_the_center_stays() -> None:
    """Far older than sixty half-lives, beside somebody who comes, and goes."""
    learner = KMeans(replace(FOUR, k=2, max_split_merges=0))
    state = learner.learn(learner.empty(), rows([("a", (0.0, 0.0), 1), ("b", (9.0, 9.0), 1)]))
    for day, x in ((400, 1.0), (401, 8.0), (20_000, 8.0)):
        state = learner.learn(state, rows([("c", (x, x), day * DAY)]))
    assert state.segments is not None
    assert (state.segments.sums.weight > 0).all()
    assert (state.segments.sums.users == [1, 2]).all() or (state.segments.sums.users == [2, 1]).all()
    found: Longs = kmeans.nearest(np.array([[0.0, 0.0], [8.0, 8.0]]), state.segments.centers)[0]
    assert found.tolist() == [people(state)["a"][2], people(state)["c"][2]]
    assert state.segments.centers[found[0]] == pytest.approx([1.0, 1.0])


def test_first_centers_do_not_depend_on_the_order_of_the_sample_but_on_the_seed() -> None:
    points = blobs([(0.0, 0.0), (4.0, 0.0)], 50, 1).points
    chosen = kmeans.first_centers(points, FOUR)
    np.testing.assert_array_equal(kmeans.first_centers(points[::-1], FOUR), chosen)
    assert (kmeans.first_centers(points, replace(FOUR, seed=1)) != chosen).any()
    assert kmeans.first_centers(points[:0], FOUR).shape == (0, 2)


def test_further_passes_start_from_the_state_before_the_batch() -> None:
    points, later = blobs([(0.0, 0.0), (6.0, 0.0)], 30, 1), blobs([(3.0, 0.0), (9.0, 0.0)], 30, 2, 2)
    two = replace(FOUR, k=2, max_split_merges=0)
    learner = KMeans(two)
    state = learner.learn(learner.empty(), points)
    once, twice = learner.learn(state, later), KMeans(replace(two, passes=2)).learn(state, later)
    assert once.segments is not None and twice.segments is not None
    again = kmeans.nearest(later.points, once.segments.centers)[0]
    expected = naive_kmeans.recount(
        [*people(state).values(), *zip(later.points, later.times.tolist(), again.tolist(), strict=True)],
        [0, 1], twice.segments.sums.now, two,
    )  # fmt: skip
    laws.assert_close(numbers(twice.segments.sums), numbers(expected), 1e-9)
    assert (once.segments.sums.users != twice.segments.sums.users).any()


def test_sums_come_back_from_bytes_as_they_were() -> None:
    _, _, bins = asked(blobs([(0.0, 0.0), (4.0, 0.0)], 50, 1).points)
    again = Sums.of_bytes(bins.as_bytes(), 2)
    assert again.now == bins.now and again.users.dtype == np.int64
    laws.assert_equal(numbers(again), numbers(bins))


def test_the_parts_of_a_batch_may_come_in_any_order() -> None:
    learner = KMeans(FOUR)
    first, second = blobs([(0.0, 0.0)], 20, 1), blobs([(5.0, 0.0), (9.0, 9.0)], 20, 2, 2)
    parts = [first.take(slice(n, None, 3)) for n in (2, 0, 1)]
    told = reduce(learner.merge, [learner.batch_delta(learner.empty(), part) for part in parts])
    state = learner.learn(learner.apply(learner.empty(), told, 2 * DAY), second)
    whole = learner.learn(learner.learn(learner.empty(), first), second)
    for one in (state, whole):
        assert one.kept is not None and one.segments is not None
        assert (one.kept.users[one.order] == np.sort(one.kept.users)).all()
        assert one.segments.sums.users.sum() == 60
    again = learner.learn(state, replace(first, times=first.times + 3 * DAY))
    assert again.kept is not None and len(again.kept.users) == 60
