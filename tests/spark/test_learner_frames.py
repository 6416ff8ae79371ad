"""Specs learn and remove the same with frames as with Arrow tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from profilestream.base import runner
from profilestream.base.delta_table import Table
from profilestream.learn.learner_spec import Learned, LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from pyspark.sql import DataFrame, SparkSession

from tests import laws, learner_cases
from tests.laws import LearnerCase
from tests.naive_als import DAY, Event
from tests.outcomes_case import Example

CASES = learner_cases.cases_of(tuple(learner_cases.CASES))
# Rows of users 0 to 4 at days 1 to 40; user 4 has one item that no other user has.
EVENTS = [
    Event(f"u{n % 5}", f"i{n * n % 7 + (20 if n == 39 else 0)}", 1.0, (n + 1) * DAY, 1.0 + n % 5) for n in range(40)
]
LOGS: dict[str, list[Any]] = {
    "factors": EVENTS,
    "rankers": EVENTS,
    "demand": [replace(one, category=f"c{n % 2}") for n, one in enumerate(EVENTS)],
    "outcomes": [
        Example(f"u{n % 5}", n // 5 * 7, n % 7 * 1.0, n % 3 * 5.0, n % 4 == 0, n % 4 * 10.0) for n in range(40)
    ],
    "segments": [(f"u{n % 5}", (n % 5 * 3.0, n % 3 * 1.0), (n + 1) * DAY) for n in range(40)],
}


@dataclass(frozen=True)
class FrameTables:
    """The rows of MemoryTables as frames."""

    spark: SparkSession
    memory: MemoryTables

    def rows(
        self, table: Table, columns: Sequence[str], keys: DataFrame | None = None, **values: str | Sequence[int]
    ) -> DataFrame:
        rows = self.memory.rows(table, columns, None if keys is None else keys.toArrow(), **values)
        return self.spark.createDataFrame(rows if len(rows) else rows.schema.empty_table())

    def last_batch(self, table: Table) -> pa.Table:
        return self.memory.last_batch(table)


@pytest.mark.parametrize("name", CASES)
def test_frames_and_arrow_tables_give_the_same_state(spark: SparkSession, tmp_path: Path, name: str) -> None:
    case = CASES[name](tmp_path)
    log = LOGS[case.spec.name]
    tables = case.learn(MemoryTables(), log[:30])
    frames, rows = FrameTables(spark, tables), case.to_rows(tables, log[30:])
    in_memory = case.learn_rows(tables, rows)
    by_spark = case.spec.learn(LearnerBatch(spark.createDataFrame(rows), len(rows), frames))
    after = _assert_same(case, tables, by_spark, in_memory)
    laws.assert_close(laws.evaluation_numbers(by_spark.evaluation), laws.evaluation_numbers(in_memory.evaluation), 1e-5)
    keys, events = pa.table({"user_id": ["u4"]}), case.to_rows(MemoryTables(), log[4::5])
    removed = case.spec.remove(after, keys, events)
    by_spark = case.spec.remove(FrameTables(spark, after), spark.createDataFrame(keys), spark.createDataFrame(events))
    _assert_same(case, after, by_spark, removed)


def _assert_same(case: LearnerCase, before: MemoryTables, by_spark: Learned, in_memory: Learned) -> MemoryTables:
    """The state in memory."""
    collected = Learned({name: runner.collected(rows) for name, rows in by_spark.rows.items()})
    after = before.with_learned(case.spec, in_memory)
    laws.assert_close(case.numbers(before.with_learned(case.spec, collected)), case.numbers(after), 1e-5)
    return after
