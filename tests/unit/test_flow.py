"""Order of the stages: which ones run at the same time, and what a requested stop skips; no Spark."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import streaming
from profilestream.base.errors import BadSettings, NothingToDo, SourceMissing
from profilestream.base.queries import Query, RunOptions
from profilestream.flow import Step
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


def test_all_stages_but_capture_and_profiles_wait_between_batches_of_a_continuous_run() -> None:
    settings = settings_module.load(str(ROOT / "conf" / "demo.toml"), [])
    queries = [query for stage in flow.STAGES for query in stage.queries(settings)]
    at_every_second = {query.stage: query.trigger(1.0)["processingTime"] for query in queries}
    seconds = {"capture": "1.0", "derive": "5.0", "learn": "10.0"}
    expected = {stage: f"{seconds[stage.split('_')[0]]} seconds" for stage in at_every_second}
    assert at_every_second == expected | {"derive_profiles": "1.0 seconds"}
    assert {query.trigger(60.0)["processingTime"] for query in queries} == {"60.0 seconds"}
    assert {query.trigger(None)["availableNow"] for query in queries} == {True}


def _raising(error: Exception) -> Callable[..., None]:
    def run(*_: object) -> None:
        raise error

    return run


def test_a_step_that_has_nothing_to_do_is_skipped_with_a_note_and_later_steps_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_module.load(str(ROOT / "conf" / "demo.toml"), [])
    monkeypatch.setattr(streaming, "run", lambda *_, **__: True)
    calls: list[str] = []
    steps = [Step(name, "1h", lambda _: True, lambda *_, name=name: calls.append(name)) for name in ("a", "b", "c")]
    nothing = NothingToDo("no version was published yet", where="here", do="publish one")
    monkeypatch.setattr(flow, "STEPS", (steps[0], replace(steps[1], run=_raising(nothing)), steps[2]))
    assert flow.run(NO_SPARK, settings, RunOptions())
    assert calls == ["a", "c"]
    assert "stage b: no version was published yet; skipped, to do: publish one" in capsys.readouterr().err
    for error in (SourceMissing("no table", where="here", do="x"), BadSettings("wrong", where="here", do="x")):
        monkeypatch.setattr(flow, "STEPS", (replace(steps[0], run=_raising(error)),))
        with pytest.raises(type(error), match="stage a: "):
            flow.run(NO_SPARK, settings, RunOptions())
