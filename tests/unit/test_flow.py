"""Order of the stages: which ones run at the same time, and what a requested stop skips; no Spark."""

from pathlib import Path
from typing import Any, cast

import pytest
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import streaming
from profilestream.base.queries import Query, RunOptions
from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent.parent
NO_SPARK = cast(SparkSession, None)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The stages of each call of streaming.run. It is replaced by a function that reports a stop in the second call."""
    calls: list[list[str]] = []

    def run(spark: Any, queries: list[Query], settings: Any, options: RunOptions, *, together: bool = False) -> bool:
        calls.append([query.stage for query in queries])
        assert together == (calls[-1] != ["capture_events"])
        return len(calls) < 2

    monkeypatch.setattr(streaming, "run", run)
    return calls


def test_the_first_derive_stages_run_together_and_no_stage_starts_after_a_stop(runs: list[list[str]]) -> None:
    flow.run(NO_SPARK, settings_module.load(str(ROOT / "conf" / "demo.toml"), []), RunOptions())
    assert runs == [["capture_events"], ["derive_features", "derive_profiles", "derive_sessions"]]


def test_no_stage_runs_at_the_same_time_as_a_stage_that_it_follows() -> None:
    settings = settings_module.load(str(ROOT / "conf" / "demo.toml"), [])
    for group in flow.DERIVED:
        queries = [query for stage in group for query in stage.queries(settings)]
        written = {table.name for query in queries for table in query.tables}
        assert not [
            query.stage for query in queries if query.reads.source_table and query.reads.source_table.name in written
        ]
