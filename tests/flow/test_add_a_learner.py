"""The learner of docs/add_a_learner.md runs as it is printed there: without Spark, and as a stage."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from profilestream.base.tables import MODEL_METRICS
from profilestream.learn import stage
from profilestream.learn.memory_tables import MemoryTables
from pyspark.sql import SparkSession

from tests.builders import Shop
from tests.stage_batches import StageBatches

PAGE = Path(__file__).parent.parent.parent / "docs" / "add_a_learner.md"
START = datetime(2026, 1, 1, tzinfo=UTC)
_FIELDS: list[Any] = [("user_id", pa.string()), ("category", pa.string()), ("event_time", pa.timestamp("us", "UTC"))]
EVENT = pa.schema(_FIELDS)
# Categories of the events of three batches; each event is one hour after the one before.
BATCHES = (["a", "a", "b", "c", "d", "d"], ["a", "x", "d"], ["x", "b"])
# Share of the events in the three categories with the highest counts before the batch; ties in order of name.
HITS = {1: 2 / 3, 2: 1 / 2}


@pytest.fixture(scope="module")
def code() -> dict[str, Any]:
    """The names that the Python blocks of the page define."""
    blocks = [part.split("```")[0] for part in PAGE.read_text().split("```python\n")[1:]]
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def _events(first: int, categories: list[str]) -> pa.Table:
    rows = [
        {"user_id": f"u{n % 3}", "category": category, "event_time": START + timedelta(hours=n)}
        for n, category in enumerate(categories, first)
    ]
    return pa.Table.from_pylist(rows).cast(EVENT)


def _batches() -> list[pa.Table]:
    firsts = [sum(map(len, BATCHES[:n])) for n in range(len(BATCHES))]
    return [_events(first, categories) for first, categories in zip(firsts, BATCHES, strict=True)]


def test_the_learner_runs_without_spark_and_equals_a_loop(code: dict[str, Any], tmp_path: Path) -> None:
    spec = code["CategoryTrendsSpec"](Shop(tmp_path).settings())
    tables, hits = MemoryTables(), dict[int, float]()
    for n, rows in enumerate(_batches()):
        tables, evaluation = code["learn_in_memory"](spec, tables, rows)
        if evaluation.values:
            hits[n] = evaluation.values["trends"]["hit_3"][0]
    assert hits == pytest.approx(HITS)
    naive, newest = dict[str, float](), dict[str, datetime]()
    for row in pa.concat_tables(_batches()).to_pylist():
        category, at = str(row["category"]), row["event_time"]
        age = (at - newest.get(category, at)) / timedelta(days=7)
        naive[category], newest[category] = naive.get(category, 0.0) * 2.0**-age + 1.0, at
    counts = {row["category"]: row["count"] for row in tables.by_name["category_trends"].to_pylist()}
    assert counts == pytest.approx(naive, rel=1e-12)


def test_removed_users_leave_no_count(code: dict[str, Any], tmp_path: Path) -> None:
    spec = code["CategoryTrendsSpec"](Shop(tmp_path).settings())
    every, others = MemoryTables(), MemoryTables()
    for rows in _batches():
        every, _ = code["learn_in_memory"](spec, every, rows)
        others, _ = code["learn_in_memory"](spec, others, rows.filter(pc.field("user_id") != "u1"))
    events = pa.concat_tables(_batches()).filter(pc.field("user_id") == "u1")
    removed = every.with_learned(spec, spec.remove(every, events.select(["user_id"]), events))
    end = START + timedelta(days=1)
    counts, expected = (
        {
            row["category"]: row["count"] * 2 ** -((end - row["as_of"]) / timedelta(days=7))
            for row in one.by_name["category_trends"].to_pylist()
        }
        for one in (removed, others)
    )
    assert counts == pytest.approx(expected, rel=1e-9)


def test_the_stage_writes_the_same_rows_by_spark_and_in_the_driver(
    spark: SparkSession, code: dict[str, Any], tmp_path: Path
) -> None:
    results = []
    for name, local_max_rows in (("spark", 0), ("driver", 10_000)):
        settings = Shop(tmp_path / name).settings()
        spec = type("Enabled", (code["CategoryTrendsSpec"],), {"config": code["CategoryTrends"](enabled=True)})
        (query,) = stage.queries(spec, settings)
        batches = StageBatches(spark, settings, query)
        for rows in _batches():
            batches.write(spark.createDataFrame(rows), local_max_rows=local_max_rows)
        metrics = MODEL_METRICS.read(spark, settings.paths).where("metric = 'hit_3'").collect()
        assert {row["batch_id"]: row["value"] for row in metrics} == pytest.approx(HITS)
        table = query.tables[-1].read(spark, settings.paths).toArrow()
        results.append({row["category"]: (row["count"], row["as_of"], row["batch_id"]) for row in table.to_pylist()})
    assert results[0] == results[1]
