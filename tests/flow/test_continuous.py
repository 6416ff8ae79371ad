"""Continuous runs: steps beside the stages, restarts of failed stages, and the end of the run."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from profilestream.base import commits, streaming, tables
from profilestream.base.delta_table import Table
from profilestream.base.queries import Batch, BatchResult, Query, RunOptions
from profilestream.base.query_runner import QueryRunner
from profilestream.base.schedule import Schedule, ScheduledStep
from profilestream.base.session import Threads
from profilestream.capture import ingest
from profilestream.derive import sessions, tiles
from pyspark.sql import DataFrame, SparkSession

from tests.builders import Shop, event, wait_until

ROOT = Path(__file__).parent.parent.parent
SETTINGS = """
[stream]
restart_seconds = 0.2
restarts = 3
[derive]
min_interval_seconds = 0.2
[derive.sessions]
enabled = true
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path, extra_settings=SETTINGS)
    shop.write("a.jsonl", "".join(json.dumps(event(n)) + "\n" for n in range(3)))
    return shop


def _run_until(spark: SparkSession, shop: Shop, is_over: Callable[[], bool], *steps: ScheduledStep) -> None:
    """Capture and sessions in a continuous run, which gets SIGTERM when the condition is true."""
    settings = shop.settings()
    queries = [ingest.query(settings, "shop"), *sessions.queries(settings)]

    def stop() -> None:
        try:
            wait_until(is_over, "end of the test", seconds=240)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with Threads(spark, 1) as threads:
        stopping = threads.submit(stop)
        options = RunOptions(continuous=0.2, rebuild=("capture_events",))
        assert not streaming.run(spark, queries, settings, options, together=True, steps=steps)
        stopping.result()


def _failing(monkeypatch: pytest.MonkeyPatch, table: Table, errors: list[Exception]) -> None:
    """Appends to the table raise these errors first."""
    append = commits.append

    def append_or_fail(frame: Any, target: Table, *args: Any) -> None:
        if target.name == table.name and errors:
            raise errors.pop(0)
        append(frame, target, *args)

    monkeypatch.setattr(commits, "append", append_or_fail)


def _count(spark: SparkSession, shop: Shop, table: Table) -> int:
    return shop.read(spark, table).count() if table.exists(spark, shop.settings().paths) else 0


def test_a_stage_that_fails_starts_again_beside_the_others_and_no_row_is_lost_or_doubled(
    spark: SparkSession, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _failing(monkeypatch, tables.CAPTURE_BATCHES, [OSError("the disk is full"), ConnectionError("reset by peer")])
    seen: list[int] = []

    def count(session: SparkSession) -> None:
        assert session is not spark
        seen.append(_count(session, shop, tables.SESSIONS))
        if seen[-1] and shop.written == 1:
            shop.write("b.jsonl", json.dumps(event(3, who="later")) + "\n")

    step = ScheduledStep("count", Schedule("1s"), count)
    resets: list[str] = []
    monkeypatch.setattr(QueryRunner, "_reset", lambda runner, _: resets.append(runner.query.name))
    _run_until(spark, shop, lambda: bool(seen) and seen[-1] >= 4, step)
    assert resets == ["capture_events/shop"]  # a restart does not rebuild again
    restarts = [record.getMessage() for record in caplog.records if "starts again" in record.getMessage()]
    assert restarts == [
        "capture_events/shop failed, and starts again in 0 s (1 of 3): OSError: the disk is full",
        "capture_events/shop failed, and starts again in 0 s (2 of 3): ConnectionError: reset by peer",
    ]
    assert shop.counts(spark) == (4, 4, 0, 0)
    assert _count(spark, shop, tables.EVENTS) == 4


def test_batches_of_stages_that_may_wait_take_turns(spark: SparkSession, shop: Shop) -> None:
    shop.overrides = [f'derive.features=["{ROOT}/conf/derive/user_hours.toml"]']
    settings = shop.settings()
    active: list[str] = []
    most: dict[str, int] = {}

    def recorded(name: str, query: Query) -> Query:
        def write(frame: DataFrame, batch: Batch) -> BatchResult:
            active.append(name)
            most[name] = max(most.get(name, 0), len(active))
            time.sleep(0.5)
            try:
                return query.write(frame, batch)
            finally:
                active.remove(name)

        return replace(query, write=write)

    shop.capture(spark)
    stages = {"sessions": sessions, "features": tiles}
    queries = [recorded(name, query) for name, stage in stages.items() for query in stage.queries(settings)]
    with Threads(spark, 1) as threads:
        stopping = threads.submit(wait_until, lambda: len(most) == 2, "both stages", seconds=120)
        stopping.add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGTERM))
        streaming.run(spark, queries, settings, RunOptions(continuous=0.2), together=True)
    assert most == {"sessions": 1, "features": 1}


def test_a_run_ends_with_the_error_after_the_last_restart_and_at_once_if_a_person_must_act(
    spark: SparkSession, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = shop.settings()
    queries = [ingest.query(settings, "shop"), *sessions.queries(settings)]
    _failing(monkeypatch, tables.EVENTS, [OSError(f"error {n}") for n in range(9)])
    with pytest.raises(OSError, match="error 3"):
        streaming.run(spark, queries, settings, RunOptions(continuous=0.2), together=True)
    assert len([record for record in caplog.records if "starts again" in record.getMessage()]) == 3
