"""Schedules of steps, the thread that runs them, and the delays of restarts; no Spark."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from profilestream import flow
from profilestream.base import restarts as restarts_module
from profilestream.base import schedule
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings, Conflict, NothingToDo, Refused, SourceMissing, SourceUnavailable
from profilestream.base.query_runner import QueryRunner
from profilestream.base.restarts import Restarts
from profilestream.base.schedule import Schedule, ScheduledStep, StepScheduler
from profilestream.base.settings import Stream
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from tests.builders import wait_until

DEMO = str(Path(__file__).parent.parent.parent / "conf" / "demo.toml")
NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86400), ("* * * * *", 30), ("*/5 * * * *", 270)],
)
def test_an_interval_is_added_and_a_cron_expression_gives_its_next_time(text: str, seconds: int) -> None:
    assert Schedule(text).next_after(NOON) == NOON + timedelta(seconds=seconds)


def test_a_cron_expression_is_in_its_time_zone_also_when_the_clock_changes() -> None:
    six = Schedule("0 6 * * *", "Europe/Berlin")
    before_the_change = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert six.next_after(before_the_change) == datetime(2026, 3, 29, 4, tzinfo=UTC)
    assert six.next_after(datetime(2026, 3, 27, 12, tzinfo=UTC)) == datetime(2026, 3, 28, 5, tzinfo=UTC)
    assert Schedule("never").next_after(NOON) is None


@pytest.mark.parametrize("text", ["", "5", "0m", "5 m", "-1h", "1w", "61 * * * *", "* * * *", "0 0 30 2 *", "hourly"])
def test_other_texts_are_no_schedule(text: str) -> None:
    with pytest.raises(ValueError, match="cron expression"):
        Schedule(text)


@pytest.fixture
def _no_session(monkeypatch: pytest.MonkeyPatch) -> SparkSession:
    monkeypatch.setattr(schedule, "with_spark_session", lambda spark, call: call)
    return cast(SparkSession, SimpleNamespace(newSession=lambda: None))


def _scheduler(spark: SparkSession, *steps: tuple[str, str, Callable[[], object]]) -> StepScheduler:
    def call(run: Callable[[], object]) -> Callable[[SparkSession], object]:
        return lambda _: run()

    return StepScheduler(spark, [ScheduledStep(name, Schedule(text), call(run)) for name, text, run in steps])


def test_steps_run_at_their_times_one_after_the_other_and_a_missed_time_is_not_made_up(
    _no_session: SparkSession,
) -> None:
    calls: list[str] = []
    goes_on = threading.Event()

    def slow() -> None:
        calls.append("slow")
        if "fast" in calls:
            wait_until(lambda: steps._is_over, "the end of the block", seconds=10)
        goes_on.wait(10)

    with _scheduler(
        _no_session, ("slow", "1m", slow), ("fast", "1m", lambda: calls.append("fast")), ("no", "never", calls.clear)
    ) as steps:
        now = datetime.now(UTC)
        steps.run_due(now)
        assert calls == []
        for minute in (2, 4, 6):  # the step is in progress
            steps.run_due(now + timedelta(minutes=minute))
        goes_on.set()
        assert steps._thread is not None
        steps._thread.join()
        assert calls == ["slow", "fast"]
        steps.run_due(now + timedelta(minutes=6))
    assert calls == ["slow", "fast", "slow"]  # the end of the block waits for one step, and starts no other


def test_a_step_that_fails_is_logged_and_runs_again_at_its_next_time(
    _no_session: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [Refused("locked", where="here", do="wait"), PySparkException("no memory\n  at Java"), None]
    done = threading.Event()

    def failing() -> None:
        if error := errors.pop(0):
            raise error
        done.set()

    def idle() -> None:
        raise NothingToDo("no version", where="here", do="publish one")

    caplog.set_level(logging.INFO)
    with _scheduler(_no_session, ("tags", "1m", failing), ("lists", "1d", idle)) as steps:
        now = datetime.now(UTC)
        for hours in (30, 60, 90):
            steps.run_due(now + timedelta(hours=hours))
            assert steps._thread is not None
            steps._thread.join(10)
    assert done.is_set()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "tags failed: locked\n  where: here\n  what to do: wait"
    assert "lists: no version; skipped, to do: publish one" in messages
    assert "tags failed: PySparkException: no memory" in messages


def _failed_runner(batches: int) -> QueryRunner:
    fake = SimpleNamespace(query=SimpleNamespace(name="derive_profiles"), progress=SimpleNamespace(batches=batches))
    return cast(QueryRunner, fake)


def test_the_delay_of_a_restart_doubles_and_the_restarts_in_a_row_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(restarts_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    restarts, failure = Restarts(Stream(restarts=6, restart_seconds=20)), OSError("the disk is full")

    def restart(runner: QueryRunner) -> float | None:
        """The delay; time passes until the query is due."""
        delay = restarts.delay(runner, failure)
        if delay is not None:
            assert restarts.delay(runner, failure) == delay
            now[0] += delay
            assert restarts.delay(runner, failure) == 0
        return delay

    assert [restart(_failed_runner(0)) for _ in range(7)] == [20, 40, 80, 160, 300, 300, None]
    assert restarts.delay(_failed_runner(1), failure) == 20  # it had completed a batch


@pytest.mark.parametrize(
    ("failure", "is_restarted"),
    [
        (PySparkException("a task failed"), True),
        (ConnectionError("reset"), True),
        (Conflict("changed", where="", do=""), True),
        (SourceUnavailable("no answer", where="", do=""), True),
        (SourceMissing("no such topic", where="", do=""), False),
        (Refused("another epoch", where="", do=""), False),
        (BadSettings("an expression fails on every row", where="", do=""), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_queries_with_a_transient_failure_are_started_again(failure: BaseException, is_restarted: bool) -> None:
    assert (Restarts(Stream()).delay(_failed_runner(0), failure) is not None) == is_restarted
    assert Restarts(None).delay(_failed_runner(0), failure) is None
    assert Restarts(Stream(restarts=0)).delay(_failed_runner(0), failure) is None


def test_settings_replace_the_schedule_of_a_step_and_errors_name_all_wrong_ones() -> None:
    def steps(*overrides: str) -> dict[str, str]:
        settings = settings_module.load(DEMO, list(overrides))
        return {step.name: step.schedule.text for step in flow.scheduled_steps(settings)}

    assert steps()["serve_tags"] == "5m"
    assert steps('schedule.steps={serve_tags = "0 6 * * 1"}')["serve_tags"] == "0 6 * * 1"
    assert steps('schedule.steps={serve_tags = "never"}')["serve_scores"] == "1h"
    with pytest.raises(BadSettings) as error:
        steps('schedule.steps={serve_tag = "1m", serve_scores = "daily"}')
    assert "unknown steps ['serve_tag']; the steps are ['steward_compact_tiles'" in str(error.value)
    assert "serve_scores: 'daily' is neither an interval such as 5m, nor a cron expression" in str(error.value)
    with pytest.raises(BadSettings, match="not a time zone such as Europe/London"):
        steps("schedule.timezone=Mars")


def test_every_step_declares_a_schedule() -> None:
    assert all(Schedule(step.every).next_after(NOON) is not None for step in flow.STEPS)
