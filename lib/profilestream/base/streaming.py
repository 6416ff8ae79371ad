"""Runs the queries of stages, one after the other or together, until they end or are requested to stop."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import FrameType
from typing import Any

from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import SparkSession

from profilestream.base import batch_durations, console, jvm, locks
from profilestream.base.batch_durations import StageBatches
from profilestream.base.errors import ProfilestreamError
from profilestream.base.observe.metrics_file import endpoint
from profilestream.base.observe.operation_metrics import failed_start
from profilestream.base.observe.otlp_export import sent_by_otlp
from profilestream.base.queries import Query, RunOptions
from profilestream.base.query_runner import QueryRunner
from profilestream.base.restarts import Restarts
from profilestream.base.schedule import ScheduledStep, StepScheduler
from profilestream.base.session import Threads
from profilestream.base.settings import Settings
from profilestream.base.turns import Turns

log = logging.getLogger(__name__)


def run(
    spark: SparkSession,
    queries: list[Query],
    settings: Settings,
    options: RunOptions,
    *,
    together: bool = False,
    steps: Sequence[ScheduledStep] = (),
) -> bool:
    """Run queries: each to the end of its input, one after the other; or all at once until stopped.

    SIGTERM and Ctrl-C stop the run after the batch in progress. A continuous run starts a query again after a
    transient failure (restarts.py).

    Args:
        together: run all queries at once to the end of their input; no query may read what another one writes. While
            the driver plans a batch of one query, the executors work for another. Errors start with the stage name.
        steps: of a continuous run.

    Returns:
        True when all queries ended by themselves; false when they were requested to stop.

    Raises:
        ProfilestreamError: the reason why a query failed; the other queries are stopped first.
    """
    is_one_group = together or options.continuous is not None
    groups = [queries] if is_one_group and queries else [[query] for query in queries]
    is_served = options.continuous is not None
    with _stop_signals() as stop_requested, endpoint(settings) if is_served else nullcontext(), sent_by_otlp(settings):
        for group in groups:
            if not stop_requested.is_set():
                _run_group(spark, group, settings, options, stop_requested, together, steps)
        return not stop_requested.is_set()


@contextmanager
def prefix_errors(stage: str) -> Iterator[None]:
    """Errors raised in the block start with the name of the stage; unchanged when the name is empty."""
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
    stop_requested: threading.Event,
    with_stage_names: bool,
    steps: Sequence[ScheduledStep],
) -> None:
    def stage_of(query: Query) -> str:
        return query.stage if with_stage_names else ""

    # What a person has allowed for the start is not repeated at a restart.
    options_of_restart = replace(options, rebuild=(), replan=False, accept_gaps=False)

    # Of the queries with an interval, at most half as many process a batch at a time as there are processors. Without
    # turns their batches start at the same time, because Spark aligns triggers with the clock.
    slots = threading.Semaphore(max(1, spark.sparkContext.defaultParallelism // 2))

    def new_runner(query: Query, ended: QueryRunner | None = None) -> QueryRunner:
        with failed_start(query.stage, query.source, settings), prefix_errors(stage_of(query)):
            is_limited = query.min_interval and options.continuous is not None
            turns = Turns(slots, query.max_busy_share) if is_limited else None
            if ended is None:
                return QueryRunner(query, spark, settings, options, turns=turns)
            return QueryRunner(query, spark, settings, options_of_restart, ended.progress, turns)

    def start(runner: QueryRunner) -> None:
        with prefix_errors(stage_of(runner.query)):
            runner.start(spark)

    def start_again(ended: QueryRunner) -> QueryRunner:
        ended.progress.restarts += 1
        runner = new_runner(ended.query, ended)
        start(runner)
        return runner

    with ExitStack() as stack:
        for query in queries:
            with prefix_errors(stage_of(query)):
                stack.enter_context(locks.hold_lock(settings.paths.lock_folder, query.lock))
        # Creating and opening a table takes 0.5 s of planning, so the tables are created in parallel.
        with Threads(spark, len(queries) + 1) as threads:
            table_creation = threads.submit(batch_durations.create, spark, settings)
            runners = list(threads.map(new_runner, queries))
        table_creation.result()
        stack.callback(_release, runners)
        batches = stack.enter_context(StageBatches(spark, settings, runners))
        scheduler = stack.enter_context(StepScheduler(spark, steps))
        restarts = Restarts(settings.stream if options.continuous is not None else None)
        try:
            for runner in runners:
                stack.enter_context(runner.progress)
                start(runner)
            while not stop_requested.is_set() and _watch(spark, runners, restarts, start_again):
                batches.flush_when_due()
                scheduler.run_due()
        finally:
            if stop_requested.is_set():
                log.info("stopping after the batches in progress")
            for runner in runners:
                runner.request_stop()
            for runner in runners:
                if runner.is_active():
                    runner.stop_when_idle()
        for runner in runners:
            with prefix_errors(stage_of(runner.query)):
                _raise_failure(runner)
        for runner in runners:
            runner.query.on_progress(spark, runner.epoch, True)
    for runner in runners:
        progress = runner.progress
        if not progress.batches:
            console.line(f"{progress.stage}: no new rows")
            continue
        batches_text = "1 batch" if progress.batches == 1 else f"{progress.batches:,} batches"
        console.line(f"{progress.stage}: {progress.rows:,} rows in {batches_text}, {progress.seconds:.1f} s")
        cost = batches.metrics.costs.get(runner.query.name)
        if cost is not None and (text := cost.text()):
            console.line(f"{progress.stage}  {text}")


def _release(runners: list[QueryRunner]) -> None:
    """Drop the handles of ended queries: Java and Python refer to each other, so no collector frees them."""
    for runner in runners:
        runner.handle = None
    jvm.collect_garbage()


def _watch(
    spark: SparkSession,
    runners: list[QueryRunner],
    restarts: Restarts,
    start_again: Callable[[QueryRunner], QueryRunner],
) -> bool:
    """Wait for each query up to a second, and start failed ones again; false when the group has ended or failed."""
    is_running = False
    for number, runner in enumerate(runners):
        if runner.is_active():
            _await(runner)
            runner.query.on_progress(spark, runner.epoch, False)
            is_running = True
        elif (failure := runner.failure()) is not None:
            delay = restarts.delay(runner, failure)
            if delay is None:
                return False
            is_running = True
            if delay <= 0:
                try:
                    runners[number] = start_again(runner)
                except Exception as error:
                    runner.error = error
    return is_running


def _await(runner: QueryRunner) -> None:
    assert runner.handle is not None
    try:
        runner.handle.awaitTermination(1)
    except StreamingQueryException as error:
        runner.error = runner.error or error


def _raise_failure(runner: QueryRunner) -> None:
    failure = runner.failure()
    if isinstance(failure, PySparkException):
        raise ProfilestreamError(
            f"{runner.query.name} failed: {type(failure).__name__}: {_cause(failure)[:500]}",
            where=f"query {runner.query.name}",
            do="fix the cause and run it again; the tables contain complete batches only",
        ) from failure
    if failure is not None:
        raise failure


def _cause(failure: PySparkException) -> str:
    """The line with the cause: for an error in a Python worker, the last line of its traceback."""
    lines = str(failure).strip().splitlines()
    before_java = next((lines[n - 1] for n, line in enumerate(lines) if n and "JVM stacktrace" in line), "")
    if before_java or "Python worker" not in lines[0]:
        return before_java or lines[0]
    return next((line for line in reversed(lines) if line.strip()), "")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set during the block; signals are handled in the main thread only."""
    stop_requested = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop_requested.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop_requested
        return
    previous: dict[int, Any] = {n: signal.signal(n, request_stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop_requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
