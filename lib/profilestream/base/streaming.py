"""Runs the queries of stages: one after the other, or together, until they end or are stopped."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import SparkSession

from profilestream.base import jvm, locks, stage_batches
from profilestream.base.errors import ProfilestreamError
from profilestream.base.queries import Query, RunOptions
from profilestream.base.query_runner import QueryRunner
from profilestream.base.session import Threads
from profilestream.base.settings import Settings
from profilestream.base.stage_batches import StageBatches

log = logging.getLogger(__name__)


def run(
    spark: SparkSession, queries: list[Query], settings: Settings, options: RunOptions, *, together: bool = False
) -> bool:
    """Run queries: one after the other to the end of what is there, or all at once until stopped.

    SIGTERM and Ctrl-C stop after the batch that is under way.

    Args:
        together: run all at once to the end of what is there, too; none of them reads what another one writes. While
            the driver plans a batch of one, the executors work for another. Errors begin with the name of their stage.

    Returns:
        Whether they came to their end; false when they were asked to stop.

    Raises:
        ProfilestreamError: why a query ended; the other queries are stopped first.
    """
    at_once = together or options.continuous is not None
    groups = [queries] if at_once and queries else [[query] for query in queries]
    with _stop_signals() as asked:
        for group in groups:
            if not asked.is_set():
                _run_group(spark, group, settings, options, asked, together)
        return not asked.is_set()


@contextmanager
def named(stage: str) -> Iterator[None]:
    """Errors of the block begin with the name of a stage, when one is given."""
    try:
        yield
    except ProfilestreamError as error:
        if not stage:
            raise
        raise type(error)(f"stage {stage}: {error.what}", where=error.where, do=error.do) from error


def _run_group(
    spark: SparkSession,
    queries: list[Query],
    settings: Settings,
    options: RunOptions,
    asked: threading.Event,
    is_told: bool,
) -> None:
    with ExitStack() as stack:
        for query in queries:
            with named(query.stage if is_told else ""):
                stack.enter_context(locks.held(settings.paths.lock_folder, query.lock))

        def checked(query: Query) -> QueryRunner:
            with named(query.stage if is_told else ""):
                return QueryRunner(query, spark, settings, options)

        # Making and opening a table is planning of half a second, of which the processors do several at once.
        with Threads(spark, len(queries) + 1) as beside:
            telling = beside.submit(stage_batches.make, spark, settings)
            running = list(beside.map(checked, queries))
        telling.result()
        stack.callback(_forget, running)
        told = stack.enter_context(StageBatches(spark, settings, running))
        try:
            for one in running:
                stack.enter_context(one.progress)
                with named(one.query.stage if is_told else ""):
                    one.start(spark)
            _wait(spark, running, asked, told)
        finally:
            for one in running:
                if one.is_active():
                    one.stop_when_idle()
        for one in running:
            with named(one.query.stage if is_told else ""):
                _raise_with_name(one)
        for one in running:
            one.query.on_progress(spark, one.epoch, True)


def _forget(running: list[QueryRunner]) -> None:
    """Let go of queries that have ended: Java's refers to ours and ours to Java's, which no collector sees through."""
    for one in running:
        one.handle = None
    jvm.collect_garbage()


def _wait(spark: SparkSession, running: list[QueryRunner], asked: threading.Event, told: StageBatches) -> None:
    while any(one.is_active() for one in running):
        for one in running:
            if asked.is_set():
                log.info("stopping %s after the batch that is under way", one.query.name)
                one.stop_when_idle()
            elif one.is_active():
                _await(one)
                one.query.on_progress(spark, one.epoch, False)
            elif one.failure() is not None:
                return
        told.flush_when_due()


def _await(one: QueryRunner) -> None:
    assert one.handle is not None
    try:
        one.handle.awaitTermination(1)
    except StreamingQueryException as error:
        one.error = one.error or error


def _raise_with_name(one: QueryRunner) -> None:
    failure = one.failure()
    if isinstance(failure, PySparkException):
        raise ProfilestreamError(
            f"{one.query.name} failed: {type(failure).__name__}: {_said(failure)[:500]}",
            where=f"query {one.query.name}",
            do="the tables hold whole batches only, so mend the cause and run it again",
        ) from failure
    if failure is not None:
        raise failure


def _said(failure: PySparkException) -> str:
    """The line that says what happened: of an error in a Python worker the last one of its traceback."""
    lines = str(failure).strip().splitlines()
    return next((lines[n - 1] for n, line in enumerate(lines) if n and "JVM stacktrace" in line), "") or (
        next((line for line in reversed(lines) if line.strip()), "") if "Python worker" in lines[0] else lines[0]
    )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
