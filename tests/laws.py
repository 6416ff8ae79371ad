"""Laws that every learner must satisfy, over its spec with the state in memory. Cases are in tests/learner_cases.py."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.metrics import Evaluation

from tests.partitions import split_into

Numbers = dict[str, NDArray[Any]]
EXAMPLES = 50
# Numbers of parts, and orders of their calls; 3 and 4 are parts without rows.
PARTS = [(1, None), (3, (2, 1, 0)), (3, (4, 1, 3, 0, 2)), (8, None)]
# Examples of a violation are not shrunk: that would take a minute for each.
law_settings = settings(max_examples=EXAMPLES, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])


@dataclass(frozen=True)
class LearnerCase:
    """A learner with settings, and what the laws need to know about its rows.

    Args:
        spec: the learner.
        logs: lists of single rows with times in any order.
        to_rows: state, single rows -> rows as from `spec.select`.
        score: state, rows -> a number per row.
        user_of: a single row -> the user.
        unseen: a single row -> the same row of keys that no log contains.
        later: a single row -> the same row after the end of all logs.
        decayed_weights: state -> numbers that depend only on the rows and on the time of the state, by name.
        evaluate: state before a batch, rows of the batch -> by model and metric: value and weight; computed by loops.
        compare_with_reference: batches, state before the first batch and after each -> nothing; it raises
            AssertionError if the states differ from those of a reference implementation.
        logs_without_returns: logs without negative weights, if `logs` have some. A return removes at most the weight
            that the user has of the item when it arrives, so the result depends on the split into batches.
        batch_columns: columns that describe the last batch only, and not the state.
        binary_types: of the values in binary columns; others are float32.
        stores_users: whether the state contains the users that it has learned. Otherwise `remove` cannot ignore rows
            that were never learned.
    """

    spec: LearnerSpec
    logs: SearchStrategy[list[Any]]
    to_rows: Callable[[MemoryTables, list[Any]], pa.Table]
    score: Callable[[MemoryTables, pa.Table], Floats]
    user_of: Callable[[Any], str]
    unseen: Callable[[Any], Any]
    later: Callable[[Any], Any]
    decayed_weights: Callable[[MemoryTables], Numbers]
    evaluate: Callable[[MemoryTables, pa.Table], dict[tuple[str, str], tuple[float, float]]]
    compare_with_reference: Callable[[list[list[Any]], list[MemoryTables]], None]
    logs_without_returns: SearchStrategy[list[Any]] | None = None
    batch_columns: tuple[str, ...] = ()
    binary_types: dict[str, Any] = field(default_factory=dict)
    stores_users: bool = True

    @property
    def sales(self) -> SearchStrategy[list[Any]]:
        """Logs without returns."""
        return self.logs if self.logs_without_returns is None else self.logs_without_returns

    def learn_rows(self, tables: MemoryTables, rows: pa.Table) -> Learned:
        """The result of a batch."""
        return self.spec.learn(LearnerBatch(rows, len(rows), tables))

    def learn(self, tables: MemoryTables, batch: list[Any]) -> MemoryTables:
        """The state after a batch."""
        return tables.with_learned(self.spec, self.learn_rows(tables, self.to_rows(tables, batch)))

    def remove(self, tables: MemoryTables, users: list[str], log: list[Any]) -> MemoryTables:
        """The state without some users, whose rows are in the log."""
        events = self.to_rows(MemoryTables(), [row for row in log if self.user_of(row) in users])
        removed = self.spec.remove(tables, pa.table({"user_id": pa.array(users, pa.string())}), events)
        assert not removed.evaluation.values and removed.evaluation.times is None
        return tables.with_learned(self.spec, removed)

    def numbers(self, tables: MemoryTables) -> Numbers:
        """All numbers and times of all rows, by table, key and column, and the texts of rows in the names."""
        numbers: Numbers = {}
        for table in self.spec.tables:
            rows = tables.all_rows(table).drop_columns([name for name in self.batch_columns if name in table.names])
            for row in rows.to_pylist():
                key = " ".join(str(row[name]) for name in table.key if name in row)
                for column, value in row.items():
                    texts = f" {value}" if isinstance(value, str) else ""
                    numbers[f"{table.name} {key} {column}{texts}"] = self._numbers_of(column, value)
        return numbers

    def _numbers_of(self, column: str, value: Any) -> NDArray[Any]:
        if isinstance(value, bytes):
            return np.frombuffer(value, self.binary_types.get(column, np.float32))
        if hasattr(value, "timestamp"):
            return np.array([value.timestamp()])
        values = value if isinstance(value, list) else [value]
        values = [one[-1] if isinstance(one, tuple) else one for one in values]  # the values of a map
        return np.array([one for one in values if isinstance(one, (int, float))], float)


def rows_in_any_order_and_in_any_number_of_parts_give_the_same_result(case: LearnerCase) -> None:
    @law_settings
    @given(
        case.logs,
        case.logs,
        st.sampled_from([(1, None), (3, (2, 1, 0)), (3, (4, 1, 3, 0, 2)), (8, None)]),
        st.randoms(),
    )
    def check(past: list[Any], batch: list[Any], parts: tuple[int, Sequence[int] | None], rng: random.Random) -> None:
        tables = case.learn(MemoryTables(), past)
        rows = case.to_rows(tables, batch)
        whole = case.learn_rows(tables, rows)
        with split_into(*parts):
            order = pa.array(rng.sample(range(len(rows)), len(rows)), pa.int64())
            split = case.learn_rows(tables, rows.take(order))
        expected, actual = (case.numbers(tables.with_learned(case.spec, learned)) for learned in (whole, split))
        assert_close(actual, expected, 1e-5)
        assert_close(evaluation_numbers(split.evaluation), evaluation_numbers(whole.evaluation), 1e-5)

    check()


def an_empty_batch_changes_nothing(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs)
    def check(past: list[Any]) -> None:
        tables = case.learn(MemoryTables(), past)
        for parts in (1, 3):
            with split_into(parts):
                assert_equal(case.numbers(case.learn(tables, [])), case.numbers(tables))

    check()


def learning_is_deterministic_and_does_not_change_its_inputs(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        tables = case.learn(MemoryTables(), past)
        rows, before = case.to_rows(tables, batch), case.numbers(tables)
        copy = pa.Table.from_pylist(rows.to_pylist(), rows.schema)
        first, second = case.learn_rows(tables, rows), case.learn_rows(tables, copy)
        assert rows.equals(copy)
        assert_equal(case.numbers(tables), before)
        assert_equal(evaluation_numbers(second.evaluation), evaluation_numbers(first.evaluation))
        expected, actual = (case.numbers(tables.with_learned(case.spec, learned)) for learned in (first, second))
        assert_equal(actual, expected)

    check()


def rows_of_unseen_keys_are_scored_without_error(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        tables = case.learn(MemoryTables(), past)
        rows = case.to_rows(tables, [case.unseen(row) for row in batch] + batch)
        for state in (MemoryTables(), tables):
            scores = case.score(state, rows)
            assert len(scores) == len(rows) and np.isfinite(scores).all()
            for numbers in evaluation_numbers(case.learn_rows(state, rows).evaluation).values():
                assert np.isfinite(numbers).all()

    check()


def a_state_that_is_read_from_parquet_gives_the_same_next_batch(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs)
    def check(past: list[Any], batch: list[Any]) -> None:
        tables = case.learn(MemoryTables(), past)
        restored = MemoryTables({name: _through_parquet(rows) for name, rows in tables.by_name.items()})
        assert_equal(case.numbers(case.learn(restored, batch)), case.numbers(case.learn(tables, batch)))

    check()


def a_batch_is_scored_with_the_state_before_it(case: LearnerCase) -> None:
    """So the metrics of a batch are the same, whether its rows are learned afterwards or not."""
    evaluations = 0

    @law_settings
    @given(case.sales, case.sales)
    def check(past: list[Any], batch: list[Any]) -> None:
        nonlocal evaluations
        tables = case.learn(MemoryTables(), past)
        rows = case.to_rows(tables, [case.later(row) if n % 2 else row for n, row in enumerate(batch)])
        scores = case.score(tables, rows)
        evaluation = case.learn_rows(tables, rows).evaluation
        for (model, metric), expected in case.evaluate(tables, rows).items():
            actual = evaluation.values.get(model, {}).get(metric, (0.0, 0.0))
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9, err_msg=f"{model} {metric}")
            evaluations += expected[1] > 0
        if evaluation.times is not None and evaluation.times.rows_from is not None:
            assert evaluation.state_as_of < evaluation.times.rows_from
        np.testing.assert_array_equal(case.score(tables, rows), scores)

    check()
    assert evaluations > EXAMPLES / 2, "most batches must have rows that are scored"


def states_equal_those_of_a_reference_implementation(case: LearnerCase) -> None:
    @law_settings
    @given(case.logs, case.logs, case.logs)
    def check(first: list[Any], second: list[Any], third: list[Any]) -> None:
        states = [MemoryTables()]
        for batch in (first, second, third):
            states.append(case.learn(states[-1], batch))
        case.compare_with_reference([first, second, third], states)

    check()


def weights_decay_in_event_time_for_any_split_into_batches(case: LearnerCase) -> None:
    @law_settings
    @given(case.sales, st.integers(1, 7))
    def check(log: list[Any], size: int) -> None:
        tables = MemoryTables()
        for start in range(0, len(log), size):
            tables = case.learn(tables, log[start : start + size])
        whole = case.learn(MemoryTables(), log)
        assert_close(case.decayed_weights(tables), case.decayed_weights(whole), 1e-6)

    check()


def weights_without_a_removed_user_are_those_of_a_state_that_never_had_the_user(case: LearnerCase) -> None:
    @law_settings
    @given(case.sales, case.sales)
    def check(past: list[Any], batch: list[Any]) -> None:
        user = case.user_of(batch[0])
        others = [row for row in past if case.user_of(row) != user]
        assume(others)
        # The user is in the second and third batch, and the newest row is of another user.
        tables = never = MemoryTables()
        batches = [others, past, [*batch, case.later(others[0])]]
        for one in batches:
            tables = case.learn(tables, one)
            never = case.learn(never, [row for row in one if case.user_of(row) != user])
        removed = case.remove(tables, [user], sum(batches, []))
        assert_close(case.decayed_weights(removed), case.decayed_weights(never), 1e-9)
        assert not any(f" {user} " in name for name in case.numbers(removed))

    check()


def a_user_that_was_never_learned_is_removed_without_effect(case: LearnerCase) -> None:
    if not case.stores_users:
        return

    @law_settings
    @given(case.logs)
    def check(past: list[Any]) -> None:
        tables = case.learn(MemoryTables(), past)
        log = [case.unseen(row) for row in past]
        removed = case.remove(tables, sorted({case.user_of(row) for row in log}), log)
        assert_close(case.numbers(removed), case.numbers(tables), 1e-5)

    check()


LAWS = (
    rows_in_any_order_and_in_any_number_of_parts_give_the_same_result,
    an_empty_batch_changes_nothing,
    learning_is_deterministic_and_does_not_change_its_inputs,
    rows_of_unseen_keys_are_scored_without_error,
    a_state_that_is_read_from_parquet_gives_the_same_next_batch,
    a_batch_is_scored_with_the_state_before_it,
    states_equal_those_of_a_reference_implementation,
    weights_decay_in_event_time_for_any_split_into_batches,
    weights_without_a_removed_user_are_those_of_a_state_that_never_had_the_user,
    a_user_that_was_never_learned_is_removed_without_effect,
)


def peeking(case: LearnerCase) -> LearnerCase:
    """The learner, changed so that it learns a batch before it scores it; the laws must find that."""

    class Peeking(type(case.spec)):  # type: ignore[misc]
        def learn(self, batch: LearnerBatch[pa.Table]) -> Learned:
            learned: Learned = super().learn(batch)
            assert isinstance(batch.stored, MemoryTables)
            after = batch.stored.with_learned(self, learned)
            return replace(learned, evaluation=super().learn(replace(batch, stored=after)).evaluation)

    return replace(case, spec=Peeking(case.spec.settings))


def evaluation_numbers(evaluation: Evaluation) -> Numbers:
    """Values and weights by model and metric, and the times of the scored rows."""
    numbers: Numbers = {
        f"{model} {metric}": np.array(value)
        for model, metrics in evaluation.values.items()
        for metric, value in metrics.items()
    }
    if (times := evaluation.times) is not None:
        numbers["times"] = np.array([times.rows_from or 0, times.rows_to or 0, times.late_rows])
    return numbers | {"state_as_of": np.array(evaluation.state_as_of)}


def _through_parquet(rows: pa.Table) -> pa.Table:
    file = BytesIO()
    pq.write_table(rows, file)
    return pq.read_table(file)


def assert_equal(actual: Numbers, expected: Numbers) -> None:
    """Equal to the bit."""
    assert actual.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_array_equal(actual[name], numbers, err_msg=name)


def assert_close(actual: Numbers, expected: Numbers, tolerance: float) -> None:
    """Equal within `tolerance`, relative to the largest number of the same name, but at least to 1."""
    assert actual.keys() == expected.keys(), f"only in one of them: {sorted(actual.keys() ^ expected.keys())}"
    for name, numbers in expected.items():
        largest = max(1.0, float(np.abs(numbers).max(initial=0.0)))
        np.testing.assert_allclose(actual[name], numbers, rtol=0, atol=tolerance * largest, err_msg=name)
