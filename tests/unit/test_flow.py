"""What runs with what, and when nothing more does; no Spark."""

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
    """The stages of each call of streaming.run, which does nothing and says that it was asked to stop in the second."""
    calls: list[list[str]] = []

    def run(spark: Any, queries: list[Query], settings: Any, options: RunOptions, *, together: bool = False) -> bool:
        calls.append([query.stage for query in queries])
        assert together == (calls[-1] != ["capture_events"])
        return len(calls) < 2

    monkeypatch.setattr(streaming, "run", run)
    return calls


def test_stages_that_others_follow_run_together_and_none_begins_after_a_stop(runs: list[list[str]]) -> None:
    flow.run(NO_SPARK, settings_module.load(str(ROOT / "conf" / "demo.toml"), []), RunOptions())
    together = ["derive_features", "derive_profiles", "derive_sessions"]
    assert runs == [["capture_events"], together]


def test_no_stage_runs_beside_one_that_it_follows() -> None:
    settings = settings_module.load(str(ROOT / "conf" / "demo.toml"), [])
    for group in flow.DERIVED:
        queries = [query for stage in group for query in stage.queries(settings)]
        written = {table.name for query in queries for table in query.tables}
        assert not [query.stage for query in queries if query.reads.follows and query.reads.follows.name in written]
