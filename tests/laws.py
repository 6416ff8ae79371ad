"""Laws that every learner (profilestream/learn/learner.py) must satisfy. A new learner needs one more LearnerCase."""

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
EXAMPLES = 50
law_settings = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class LearnerCase:
    """A learner, and how the laws access its rows and states.

    Args:
        logs: lists of single rows with times in any order.
        table: single rows -> the rows argument of the learner.
        key: the key of a row; rows with the same key must be in one call.
        at: time of a row, microseconds.
        numbers: state -> all its numbers, by name.
        decayed_weights: state -> numbers that depend only on the events and on the time of the state, by name.
        logs_without_returns: logs without negative weights, if `logs` have some. A return removes at most the weight
            that the user has of the item when it arrives, so the result depends on the split into batches.
    """

    learner: Learner[Any, Any, Any]
    logs: SearchStrategy[list[Any]]
    table: Callable[[list[Any]], Any]
    key: Callable[[Any], str]
    at: Callable[[Any], int]
    numbers: Callable[[Any], Numbers]
    decayed_weights: Callable[[Any], Numbers]
    logs_without_returns: SearchStrategy[list[Any]] | None = None

    def learn(self, state: Any, batch: list[Any], parts: int = 1) -> Any:
        """The state after a batch that is split into parts."""
        deltas = [self.learner.batch_delta(state, self.table(part)) for part in self.split(batch, parts)]
        return self.apply(state, reduce(self.learner.merge, deltas, self.learner.zero()), batch)

    def apply(self, state: Any, delta: Any, batch: list[Any]) -> Any:
        """The state after a delta, as of the newest time of the batch."""
        return self.learner.apply(state, delta, max(map(self.at, batch), default=0))

    def split(self, batch: list[Any], parts: int) -> list[list[Any]]:
        """The batch in parts, with all rows of a key in one part; parts may be empty."""
        return [[row for row in batch if sum(self.key(row).encode()) % parts == part] for part in range(parts)]


def merge_is_commutative_and_associative_and_has_a_zero(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state = case.learn(case.learner.empty(), past)
        merge, zero = case.learner.merge, case.learner.zero()
        a, b, c = (case.learner.batch_delta(state, case.table(part)) for part in case.split(batch, 3))
        expected = case.numbers(case.apply(state, merge(merge(a, b), c), batch))
        for other in (merge(c, merge(b, a)), merge(a, merge(b, c)), merge(merge(merge(zero, a), merge(b, zero)), c)):
            assert_close(case.numbers(case.apply(state, other, batch)), expected, 1e-5)

    check()


def splitting_a_batch_does_not_change_the_result(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs, st.sampled_from([3, 8]))
    def check(past: list[Any], batch: list[Any], parts: int) -> None:
        state = case.learn(case.learner.empty(), past)
        whole, split = case.learn(state, batch), case.learn(state, batch, parts)
        rows = case.table(past + batch)
        expected, scores = (case.learner.score(after, rows) for after in (whole, split))
        assert_close({"score": scores}, {"score": expected}, 1e-5)

    check()


def an_empty_delta_changes_nothing(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs)
    def check(past: list[Any]) -> None:
        state = case.learn(case.learner.empty(), past)
        empty = case.learner.batch_delta(state, case.table([]))
        for delta in (empty, case.learner.zero(), case.learner.merge(empty, case.learner.zero())):
            assert_equal(case.numbers(case.apply(state, delta, past)), case.numbers(state))

    check()


def learning_is_deterministic_and_does_not_change_its_inputs(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state = case.learn(case.learner.empty(), past)
        before = pickle.dumps(case.numbers(state))
        first = case.numbers(case.learn(state, batch, 3))
        assert pickle.dumps(case.numbers(state)) == before
        assert_equal(case.numbers(case.learn(reload(state), batch, 3)), first)

    check()


def scores_depend_on_the_state_only(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state, rows = case.learn(case.learner.empty(), past), case.table(batch)
        copy = reload(state)
        before = case.learner.score(state, rows)
        assert len(before) == len(batch) and np.isfinite(before).all()
        case.learn(state, batch)
        np.testing.assert_array_equal(case.learner.score(state, rows), before)
        np.testing.assert_array_equal(case.learner.score(copy, rows), before)

    check()


def weights_decay_in_event_time_for_any_split_into_batches(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs if case.logs_without_returns is None else case.logs_without_returns, st.integers(1, 7))
    def check(log: list[Any], size: int) -> None:
        state = case.learner.empty()
        for start in range(0, len(log), size):
            state = case.learn(state, log[start : start + size])
        whole = case.learn(case.learner.empty(), log)
        assert_close(case.decayed_weights(state), case.decayed_weights(whole), 1e-6)

    check()


LAWS = (
    merge_is_commutative_and_associative_and_has_a_zero,
    splitting_a_batch_does_not_change_the_result,
    an_empty_delta_changes_nothing,
    learning_is_deterministic_and_does_not_change_its_inputs,
    scores_depend_on_the_state_only,
    weights_decay_in_event_time_for_any_split_into_batches,
)


def reload(state: Any) -> Any:
    """The state as another process reads it: without cached properties."""
    return pickle.loads(pickle.dumps(replace(state)))


def assert_equal(actual: Numbers, expected: Numbers) -> None:
    """Equal to the bit."""
    assert actual.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_array_equal(actual[name], numbers, err_msg=name)


def assert_close(actual: Numbers, expected: Numbers, tolerance: float) -> None:
    """Equal within `tolerance`, relative to the largest number of the same name, but at least to 1."""
    assert actual.keys() == expected.keys()
    for name, numbers in expected.items():
        largest = max(1.0, float(np.abs(numbers).max(initial=0.0)))
        np.testing.assert_allclose(actual[name], numbers, rtol=0, atol=tolerance * largest, err_msg=name)
