"""What every learner (profilestream/learn/learner.py) is held to. A learner comes under them by one more Case."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray
from profilestream.learn.learner import Learner

Numbers = dict[str, NDArray[Any]]
drawn = settings(max_examples=5, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Case:
    """A learner, and what the laws need to know of its rows and states.

    Args:
        logs: single rows, in any order of time; some of them late.
        table: single rows as the learner takes them.
        key: what tells rows that must be in one call from others.
        at: when a single row happened, microseconds.
        numbers: all that a state says, by name.
        weights: by name, what of a state depends on the events and on now only, as of now.
    """

    learner: Learner[Any, Any, Any]
    logs: SearchStrategy[list[Any]]
    table: Callable[[list[Any]], Any]
    key: Callable[[Any], str]
    at: Callable[[Any], int]
    numbers: Callable[[Any], Numbers]
    weights: Callable[[Any], Numbers]

    def learned(self, state: Any, batch: list[Any], parts: int = 1) -> Any:
        """The state after a batch that came in so many parts."""
        deltas = [self.learner.batch_delta(state, self.table(part)) for part in self.split(batch, parts)]
        return self.applied(state, reduce(self.learner.merge, deltas, self.learner.zero()), batch)

    def applied(self, state: Any, delta: Any, batch: list[Any]) -> Any:
        """The state after a delta, at the newest of the batch's times."""
        return self.learner.apply(state, delta, max(map(self.at, batch), default=0))

    def split(self, batch: list[Any], parts: int) -> list[list[Any]]:
        """All rows of a key in one part; some parts may be empty."""
        return [[row for row in batch if sum(self.key(row).encode()) % parts == part] for part in range(parts)]


def merging_is_commutative_and_associative_and_has_a_zero(case: Case) -> None:
    @drawn
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state = case.learned(case.learner.empty(), past)
        merge, zero = case.learner.merge, case.learner.zero()
        a, b, c = (case.learner.batch_delta(state, case.table(part)) for part in case.split(batch, 3))
        expected = case.numbers(case.applied(state, merge(merge(a, b), c), batch))
        for other in (merge(c, merge(b, a)), merge(a, merge(b, c)), merge(merge(merge(zero, a), merge(b, zero)), c)):
            assert_close(case.numbers(case.applied(state, other, batch)), expected, 1e-5)

    check()


def parts_of_a_batch_give_what_the_whole_gives(case: Case) -> None:
    @drawn
    @given(case.logs, case.logs, st.sampled_from([3, 8]))
    def check(past: list[Any], batch: list[Any], parts: int) -> None:
        state = case.learned(case.learner.empty(), past)
        whole, parted = case.learned(state, batch), case.learned(state, batch, parts)
        asked = case.table(past + batch)
        expected, got = (case.learner.score(after, asked) for after in (whole, parted))
        assert_close({"score": got}, {"score": expected}, 1e-5)

    check()


def an_empty_delta_changes_nothing(case: Case) -> None:
    @drawn
    @given(case.logs)
    def check(past: list[Any]) -> None:
        state = case.learned(case.learner.empty(), past)
        nothing = case.learner.batch_delta(state, case.table([]))
        for delta in (nothing, case.learner.zero(), case.learner.merge(nothing, case.learner.zero())):
            assert_equal(case.numbers(case.applied(state, delta, past)), case.numbers(state))

    check()


def learning_again_gives_the_same_bits_and_leaves_its_inputs_alone(case: Case) -> None:
    @drawn
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state = case.learned(case.learner.empty(), past)
        before = pickle.dumps(case.numbers(state))
        first = case.numbers(case.learned(state, batch, 3))
        assert pickle.dumps(case.numbers(state)) == before
        assert_equal(case.numbers(case.learned(reread(state), batch, 3)), first)

    check()


def a_score_reads_nothing_of_what_comes(case: Case) -> None:
    @drawn
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state, rows = case.learned(case.learner.empty(), past), case.table(batch)
        again = reread(state)
        before = case.learner.score(state, rows)
        assert len(before) == len(batch) and np.isfinite(before).all()
        case.learned(state, batch)
        np.testing.assert_array_equal(case.learner.score(state, rows), before)
        np.testing.assert_array_equal(case.learner.score(again, rows), before)

    check()


def evidence_decays_in_event_time_however_the_log_is_cut(case: Case) -> None:
    @drawn
    @given(case.logs, st.integers(1, 7))
    def check(log: list[Any], size: int) -> None:
        state = case.learner.empty()
        for begin in range(0, len(log), size):
            state = case.learned(state, log[begin : begin + size])
        assert_close(case.weights(state), case.weights(case.learned(case.learner.empty(), log)), 1e-6)

    check()


LAWS = (
    merging_is_commutative_and_associative_and_has_a_zero,
    parts_of_a_batch_give_what_the_whole_gives,
    an_empty_delta_changes_nothing,
    learning_again_gives_the_same_bits_and_leaves_its_inputs_alone,
    a_score_reads_nothing_of_what_comes,
    evidence_decays_in_event_time_however_the_log_is_cut,
)


def reread(state: Any) -> Any:
    """A state as another process would read it: without what was worked out of it on the way."""
    return pickle.loads(pickle.dumps(replace(state)))


def assert_equal(got: Numbers, expected: Numbers) -> None:
    """To the bit."""
    assert got.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_array_equal(got[name], numbers, err_msg=name)


def assert_close(got: Numbers, expected: Numbers, share: float) -> None:
    """Within a share of the largest number of that name, or of one."""
    assert got.keys() == expected.keys()
    for name, numbers in expected.items():
        largest = max(1.0, float(np.abs(numbers).max(initial=0.0)))
        np.testing.assert_allclose(got[name], numbers, rtol=0, atol=share * largest, err_msg=name)
