"""When steps run beside the queries of a continuous run, and the thread that runs them."""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pyspark.sql import SparkSession

from profilestream.base import console
from profilestream.base.errors import NothingToDo, ProfilestreamError, first_sentence
from profilestream.base.session import with_spark_session

NEVER = "never"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """The times of a step.

    Args:
        text: an interval such as `5m` (units s, m, h, d), a cron expression of five fields, or `never`.
        timezone: of the cron expression.

    Raises:
        ValueError: the text is none of them.
    """

    text: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        self.next_after(datetime.now(UTC))

    def next_after(self, time: datetime) -> datetime | None:
        """The first time after another one, in UTC; null: never."""
        if self.text == NEVER:
            return None
        if match := re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", self.text):
            return time + timedelta(**{_UNITS[match[2]]: int(match[1])})
        try:
            return next(CronSim(self.text, time.astimezone(ZoneInfo(self.timezone)))).astimezone(UTC)
        except CronSimError as error:
            raise ValueError(
                f"{self.text!r} is neither an interval such as 5m, nor a cron expression ({error}), nor {NEVER}"
            ) from None
        except StopIteration:
            raise ValueError(f"the cron expression {self.text!r} has no time") from None


@dataclass(frozen=True)
class ScheduledStep:
    """A step and its schedule."""

    name: str
    schedule: Schedule
    run: Callable[[SparkSession], object]


class StepScheduler:
    """Runs the steps that are due, one after the other in a thread, until the block ends.

    A step that fails is logged, and runs again at its next time. The end of the block waits for the step in progress.
    """

    def __init__(self, spark: SparkSession, steps: Sequence[ScheduledStep]) -> None:
        # Not the session of the main thread: a MERGE sets its application id in the settings of its session.
        self._spark = spark.newSession() if steps else spark
        self._steps = steps
        now = datetime.now(UTC)
        self._next = {step.name: step.schedule.next_after(now) for step in steps}
        self._thread: threading.Thread | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        if self._thread is not None:
            self._thread.join()

    def run_due(self, now: datetime | None = None) -> None:
        """Start the steps whose time has come; returns at once. While steps run, it starts none."""
        now = now or datetime.now(UTC)
        if self._thread is not None and self._thread.is_alive():
            return
        due = [step for step in self._steps if (at := self._next[step.name]) is not None and at <= now]
        if due:
            for step in due:
                self._next[step.name] = step.schedule.next_after(now)
            run = with_spark_session(self._spark, self._run)
            self._thread = threading.Thread(target=run, args=(due,), daemon=True)
            self._thread.start()

    def _run(self, steps: list[ScheduledStep]) -> None:
        for step in steps:
            if self._is_over:
                return
            started = time.monotonic()
            try:
                step.run(self._spark)
            except NothingToDo as error:
                log.info("%s: %s; skipped, to do: %s", step.name, error.what, error.do)
            except ProfilestreamError as error:
                log.error("%s failed: %s", step.name, error)
            except Exception as error:
                log.error("%s failed: %s: %s", step.name, type(error).__name__, first_sentence(str(error))[:500])
            else:
                console.line(f"{step.name}: {time.monotonic() - started:.1f} s")
