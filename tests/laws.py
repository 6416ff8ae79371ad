"""Laws that every learner must satisfy. A new learner needs one more LearnerCase."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

Numbers = dict[str, NDArray[Any]]
EXAMPLES = 50
law_settings = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class LearnerCase:
    """A learner, and how the laws access its states.

    Args:
        empty: -> the state before the first row.
        learn_parts: state, rows of a batch, number of parts, order in which the parts are computed -> the state after
            the batch. All rows of a key are in one part, and a number after the last part is a part without rows.
        score: state, rows -> a number per row.
        logs: lists of single rows with times in any order.
        numbers: state -> all its numbers, by name.
        decayed_weights: state -> numbers that depend only on the events and on the time of the state, by name.
        logs_without_returns: logs without negative weights, if `logs` have some. A return removes at most the weight
            that the user has of the item when it arrives, so the result depends on the split into batches.
    """

    empty: Callable[[], Any]
    learn_parts: Callable[[Any, list[Any], int, Sequence[int]], Any]
    score: Callable[[Any, list[Any]], NDArray[np.float64]]
    logs: SearchStrategy[list[Any]]
    numbers: Callable[[Any], Numbers]
    decayed_weights: Callable[[Any], Numbers]
    logs_without_returns: SearchStrategy[list[Any]] | None = None

    def learn(self, state: Any, batch: list[Any], parts: int = 1, order: Sequence[int] | None = None) -> Any:
        """The state after a batch that is split into parts, with all rows of a key in one part."""
        return self.learn_parts(state, batch, parts, order or range(parts))


def parts_in_any_order_give_the_same_result(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state = case.learn(case.empty(), past)
        expected = case.numbers(case.learn(state, batch, 3))
        for order in ((2, 1, 0), (4, 1, 3, 0, 2)):  # 3 and 4 are parts without rows
            assert_close(case.numbers(case.learn(state, batch, 3, order)), expected, 1e-5)

    check()


def splitting_a_batch_does_not_change_the_result(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs, st.sampled_from([3, 8]))
    def check(past: list[Any], batch: list[Any], parts: int) -> None:
        state = case.learn(case.empty(), past)
        whole, split = case.learn(state, batch), case.learn(state, batch, parts)
        expected, scores = (case.score(after, past + batch) for after in (whole, split))
        assert_close({"score": scores}, {"score": expected}, 1e-5)

    check()


def an_empty_batch_changes_nothing(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs)
    def check(past: list[Any]) -> None:
        state = case.learn(case.empty(), past)
        for parts in (1, 3):
            assert_equal(case.numbers(case.learn(state, [], parts)), case.numbers(state))

    check()


def learning_is_deterministic_and_does_not_change_its_inputs(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state = case.learn(case.empty(), past)
        before = pickle.dumps(case.numbers(state))
        first = case.numbers(case.learn(state, batch, 3))
        assert pickle.dumps(case.numbers(state)) == before
        assert_equal(case.numbers(case.learn(reload(state), batch, 3)), first)

    check()


def scores_depend_on_the_state_only(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        state = case.learn(case.empty(), past)
        copy = reload(state)
        before = case.score(state, batch)
        assert len(before) == len(batch) and np.isfinite(before).all()
        case.learn(state, batch)
        np.testing.assert_array_equal(case.score(state, batch), before)
        np.testing.assert_array_equal(case.score(copy, batch), before)

    check()


def weights_decay_in_event_time_for_any_split_into_batches(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs if case.logs_without_returns is None else case.logs_without_returns, st.integers(1, 7))
    def check(log: list[Any], size: int) -> None:
        state = case.empty()
        for start in range(0, len(log), size):
            state = case.learn(state, log[start : start + size])
        whole = case.learn(case.empty(), log)
        assert_close(case.decayed_weights(state), case.decayed_weights(whole), 1e-6)

    check()


LAWS = (
    parts_in_any_order_give_the_same_result,
    splitting_a_batch_does_not_change_the_result,
    an_empty_batch_changes_nothing,
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
