"""The state in memory: rows are updated, deleted and appended as in the tables of a stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from profilestream.base.columns import Column
from profilestream.base.delta_table import Table
from profilestream.learn.kernels.arrays import IS_DELETED
from profilestream.learn.learner_spec import Learned, LearnerSpec
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.segments.segments_spec import SegmentsSpec

from tests.builders import Shop

_BATCH = (Column("epoch", "STRING NOT NULL", "."), Column("batch_id", "BIGINT NOT NULL", "."))
SCORES = Table(
    "scores",
    (Column("side", "STRING NOT NULL", "."), Column("id", "BIGINT NOT NULL", "."), Column("score", "DOUBLE", "."),
     Column("items", "ARRAY<STRING>", "."), *_BATCH),
    ("side", "id"),
    properties={"delta.enableDeletionVectors": "true"},
)  # fmt: skip
TOTALS = Table("totals", (Column("total", "DOUBLE NOT NULL", "."), *_BATCH), ("epoch", "batch_id"))


@pytest.fixture
def spec(tmp_path: Path) -> LearnerSpec:
    """A learner whose state is in SCORES and TOTALS."""

    class Totals(SegmentsSpec):
        state_tables = (SCORES, TOTALS)
        other_inputs: ClassVar[dict[str, Any]] = {}

    return Totals(Shop(tmp_path).settings())


def learned(scores: list[tuple[str, int, float]], totals: list[float], deleted: list[bool] | None = None) -> Learned:
    columns = {name: [row[n] for row in scores] for n, name in enumerate(("side", "id", "score"))}
    types = {"side": pa.string(), "id": pa.int64(), "score": pa.float64()}
    rows = pa.table({name: pa.array(columns[name], type_) for name, type_ in types.items()})
    rows = rows.append_column("items", pa.array([["a"]] * len(rows), pa.list_(pa.string())))
    if deleted is not None:
        rows = rows.append_column(IS_DELETED, pa.array(deleted))
    return Learned({"scores": rows, "totals": pa.table({"total": pa.array(totals, pa.float64())})})


def scores_of(tables: MemoryTables, **values: Any) -> dict[tuple[str, int], float]:
    rows = tables.rows(SCORES, ["side", "id", "score", "items"], **values).to_pylist()
    return {(row["side"], row["id"]): row["score"] for row in rows}


def test_a_batch_replaces_the_rows_with_the_same_key_and_deletes_the_marked_ones(spec: LearnerSpec) -> None:
    first = MemoryTables().with_learned(spec, learned([("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0)], []))
    rows = learned([("b", 1, 4.0), ("a", 2, 0.0), ("a", 3, 5.0)], [], [False, True, False])
    after = first.with_learned(spec, rows)
    assert scores_of(after) == {("a", 1): 1.0, ("b", 1): 4.0, ("a", 3): 5.0}
    assert scores_of(first) == {("a", 1): 1.0, ("a", 2): 2.0, ("b", 1): 3.0}
    assert after.by_name[SCORES.name].column_names == ["side", "id", "score", "items"]


def test_rows_are_selected_by_one_value_or_by_several(spec: LearnerSpec) -> None:
    tables = MemoryTables().with_learned(spec, learned([("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0)], []))
    assert scores_of(tables, side="a", id=[2, 3]) == {("a", 2): 2.0}
    assert scores_of(tables, id=[]) == {}


def test_an_appended_table_has_the_rows_of_the_last_batch_with_rows(spec: LearnerSpec) -> None:
    tables = MemoryTables()
    assert tables.last_batch(TOTALS).to_pylist() == []
    for totals, expected in (([1.0, 2.0], [1.0, 2.0]), ([3.0], [3.0]), ([], [3.0])):
        tables = tables.with_learned(spec, learned([], totals))
        assert tables.last_batch(TOTALS)["total"].to_pylist() == expected


def test_a_null_in_a_column_that_has_none_is_an_error(spec: LearnerSpec) -> None:
    rows = learned([("a", 1, 1.0)], [])
    broken = rows.rows["scores"].set_column(1, "id", pa.nulls(1, pa.int64()))
    with pytest.raises(ValueError, match="id"):
        MemoryTables().with_learned(spec, replace(rows, rows={**rows.rows, "scores": broken}))
