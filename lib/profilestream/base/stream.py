"""Runs streaming queries exactly once: epoch, lock, start checks, batch plan, replay, clean stop.

A stage hands over a `Query`: how its source is read and how one micro-batch is written. Everything that makes a
replay, a crash or a restored checkpoint harmless is here and nowhere else.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from profilestream.base import commits, files, jvm, locks, stage_batches, startup_checks
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import ProfilestreamError, Refused
from profilestream.base.progress import StageProgress
from profilestream.base.session import Threads
from profilestream.base.settings import Paths, Settings, fingerprint
from profilestream.base.stage_batches import StageBatches
from profilestream.base.tables import Table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchResult:
    """What a batch did, for the log line and the progress display."""

    rows_in: int = 0
    rows_out: int = 0
    files: int = 0


@dataclass
class Batch:
    """One micro-batch while it is written.

    Args:
        is_retry: it was begun before, so tables may hold it already.
    """

    spark: SparkSession
    paths: Paths
    txn: Txn
    plan: Plan
    is_retry: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def is_done(self, table: Table) -> bool:
        """Whether the table already holds this batch. Asking Delta takes 0.4 s, so only a replay asks."""
        return self.is_retry and commits.is_done(self.spark, table, self.paths, self.txn)

    def append(self, frame: DataFrame, table: Table) -> None:
        """Append to a table unless it already holds this batch."""
        with self.phase(f"append {table.name}"):
            if not self.is_done(table):
                commits.append(frame, table, self.paths, self.txn)

    @contextmanager
    def in_background(self, at_once: int = 1) -> Iterator[Callable[..., None]]:
        """Gives a function that makes a call in another thread while the block goes on; at its end all have ended.

        A call may append, but nothing may be merged meanwhile: its transaction is named in the session's settings.
        """
        begun: list[Future[Any]] = []

        def run(call: Callable[..., object], *args: Any) -> None:
            begun.append(threads.submit(call, *args))

        with Threads(self.spark, at_once) as threads:
            yield run
        for one in begun:
            one.result()

    def merge(self, frame: DataFrame, table: Table, **how: Any) -> DataFrame:
        """Put rows in place of those of the same key unless the table already holds this batch; gives the rows.

        Args:
            how: as for commits.merge.
        """
        with self.phase(f"merge {table.name}"):
            if self.is_done(table):
                return frame
            return commits.merge(frame, table, self.paths, self.txn, **how)

    @contextmanager
    def cached(self, frame: DataFrame) -> Iterator[int]:
        """Keep what the batch reads for the block, and count its rows."""
        frame.persist()
        try:
            with self.phase("read"):
                rows = frame.count()
            yield rows
        finally:
            frame.unpersist()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of a part of the batch; they go to stage_batches."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


@dataclass(frozen=True)
class RunOptions:
    """What a person may ask of one run, beside the settings.

    Args:
        continuous: keep running, with a batch every so many seconds; null runs to the end of what is there.
        accept_new_epoch: begin a new checkpoint over tables that another one wrote.
        accept_changed_files: go on although files changed after they were read.
        replan: begin the unfinished batch anew with today's settings and side tables, if none of its writes happened.
        skip_files: unreadable files to pass over, each recorded as one rejected row.
        rebuild: names of stages: forget what they have done, empty their tables and derive them again.
        cascade: rebuild the stages too that follow a rebuilt table (flow.py).
    """

    continuous: float | None = None
    accept_new_epoch: bool = False
    accept_changed_files: bool = False
    replan: bool = False
    skip_files: tuple[str, ...] = ()
    rebuild: tuple[str, ...] = ()
    cascade: bool = False


@dataclass(frozen=True)
class Query:
    """One streaming query of a stage.

    Args:
        stage, source: its name; the checkpoint lies in `<checkpoints>/<stage>[/<source>]`.
        lock: what no second run may hold at the same time.
        tables: written by the query, in order; the last is written by every batch and is the trusted one.
        shared: those of them that other stages write too; a rebuild leaves their rows.
        follows: the table that is the source, if a stage derived it: its rows or its change feed.
        settings: all that changes what is written, in readable form.
        read: the source as a streaming frame.
        write: writes one batch; called again with the same rows when a batch is replayed.
        versions: of what else a batch reads (a Delta version, a hash of files), taken when it is planned.
        folder, glob: of input files, when the source is one; empty otherwise.
        told: called with the epoch now and then while it runs (false) and when it has ended well (true), for what is
            said elsewhere of the tables; must not raise, nor take long.
    """

    stage: str
    source: str
    lock: str
    tables: tuple[Table, ...]
    settings: str
    read: Callable[[SparkSession], DataFrame]
    write: Callable[[DataFrame, Batch], BatchResult]
    versions: Callable[[SparkSession, Checkpoint, int], dict[str, int]] = lambda spark, checkpoint, batch_id: {}
    shared: tuple[Table, ...] = ()
    follows: Table | None = None
    folder: str = ""
    glob: str = ""
    told: Callable[[SparkSession, str, bool], None] = lambda spark, epoch, is_over: None

    @property
    def fingerprint(self) -> str:
        """Changes when `settings` does."""
        return fingerprint(self.settings)

    @property
    def name(self) -> str:
        """`<stage>/<source>`."""
        return f"{self.stage}/{self.source}" if self.source else self.stage


class _Stopped(Exception):
    """Raised into a query that was asked to stop, before its next batch begins."""


class QueryRunner:
    """A started query; knows why it ended."""

    def __init__(self, query: Query, spark: SparkSession, settings: Settings, options: RunOptions) -> None:
        self.query, self._settings, self._options = query, settings, options
        self._paths = settings.paths
        self._checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, query.name))
        if is_rebuilt := query.stage in options.rebuild:
            self._forget(spark)
        startup_checks.check_start(
            spark, query.name, query.tables, query.folder, query.glob, self._checkpoint, settings.paths,
            accept_new_epoch=options.accept_new_epoch or is_rebuilt,
            accept_changed_files=options.accept_changed_files,
        )  # fmt: skip
        if query.follows:
            startup_checks.check_followed(spark, query.stage, query.follows, self._checkpoint, settings.paths)
        self._checkpoint.drop_unbegun_files()
        self._adopt_plan(spark)
        self.epoch = self._checkpoint.epoch()
        self.error: BaseException | None = None
        self.batches: dict[int, Batch] = {}
        self.done: dict[int, BatchResult] = {}
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        self._newest = -1
        self.progress = StageProgress(query.name, self._files_to_do(spark))
        self.handle: StreamingQuery | None = None

    def _forget(self, spark: SparkSession) -> None:
        """Remove the checkpoint, then empty the tables. After a crash between the two the next start is refused."""
        files.delete(spark, self._checkpoint.path)
        for table in self.query.tables:
            if table not in self.query.shared:
                table.empty(spark, self._paths)

    def start(self, spark: SparkSession) -> None:
        """Start it; does not wait."""
        every = self._options.continuous
        trigger = {"availableNow": True} if every is None else {"processingTime": f"{every} seconds"}
        self.handle = (
            self.query.read(spark)
            .writeStream.queryName(self.query.name)
            .foreachBatch(self._process)
            .option("checkpointLocation", self._checkpoint.path)
            .trigger(**trigger)
            .start()
        )

    def is_active(self) -> bool:
        """Whether the query still runs."""
        return self.handle is not None and self.handle.isActive

    def stop_when_idle(self) -> None:
        """Stop between two batches; a batch that is under way is finished and committed first."""
        self._stopping.set()
        with self._busy:
            newest = self._newest
        deadline = time.monotonic() + 10
        while self.is_active() and (self._checkpoint.last_finished() or -1) < newest and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.handle is not None:
            self.handle.stop()

    def failure(self) -> BaseException | None:
        """What ended the query; null while it runs, and when it came to its end or was asked to stop."""
        if self.error is not None:
            return None if isinstance(self.error, _Stopped) else self.error
        return self.handle.exception() if self.handle is not None and not self.handle.isActive else None

    def _process(self, frame: DataFrame, batch_id: int) -> None:
        with self._busy:
            try:
                if self._stopping.is_set():
                    raise _Stopped
                self._run_batch(frame, batch_id)
            except BaseException as error:
                self.error = error
                raise

    def _run_batch(self, frame: DataFrame, batch_id: int) -> None:
        began = time.monotonic()
        spark = frame.sparkSession
        txn = Txn(self.query.name, self.epoch, batch_id)
        found = self._checkpoint.plan(batch_id)
        plan = found or self._new_plan(self.query.versions(spark, self._checkpoint, batch_id))
        batch = Batch(spark, self._paths, txn, plan, is_retry=found is not None)
        if batch.is_done(self.query.tables[-1]):
            log.info("query=%s epoch=%s batch_id=%s already written", self.query.name, self.epoch, batch_id)
            return
        if found is None:
            self._checkpoint.store_plan(batch_id, plan)
        with commits.states_ready(spark, self.query.tables, self._paths):
            done = self.query.write(frame, batch)
        self.batches[batch_id], self.done[batch_id], self._newest = batch, done, batch_id
        jvm.collect_garbage()
        self.progress.batch_done(done.rows_in, done.files)
        log.info(
            "query=%s epoch=%s batch_id=%s rows_in=%s rows_out=%s seconds=%.2f phases=%s",
            self.query.name, self.epoch, batch_id, done.rows_in, done.rows_out, time.monotonic() - began,
            {name: round(seconds, 2) for name, seconds in batch.seconds.items()},
        )  # fmt: skip

    def _new_plan(self, versions: dict[str, int]) -> Plan:
        skips = [files.qualified(path) for path in self._options.skip_files]
        return Plan(self.query.fingerprint, self.query.settings, versions, skips)

    def _adopt_plan(self, spark: SparkSession) -> None:
        """Keep to the plan of a batch that was begun and not finished, or begin it anew when that is asked for."""
        batch_id = startup_checks.unfinished_batch(self._checkpoint)
        plan = None if batch_id is None else self._checkpoint.plan(batch_id)
        if batch_id is None or plan is None:
            return
        same = plan.fingerprint == self.query.fingerprint
        if same and not (self._options.skip_files or self._options.replan):
            return
        where = f"{self.query.name}, batch {batch_id}, {self._checkpoint.path}/plans/{batch_id}"
        if not same and not self._options.replan:
            raise Refused(
                f"batch {batch_id} was begun with other settings or another mapping and is not finished",
                where=where,
                do="restore the settings kept in that file and run once, then edit; or begin the batch anew: --replan",
            )
        written = [
            t.name
            for t in self.query.tables
            if startup_checks.holds(spark, t, self._paths, self.query.name, self._checkpoint, batch_id)
        ]
        if written and same and not self._options.skip_files:
            return
        if written:
            raise Refused(
                f"batch {batch_id} cannot be begun anew: it is already in {written}",
                where=where,
                do="restore the settings kept in that file, run once, then edit",
            )
        anew = self.query.versions(spark, self._checkpoint, batch_id) if self._options.replan else plan.versions
        self._checkpoint.store_plan(batch_id, self._new_plan(anew))

    def _files_to_do(self, spark: SparkSession) -> int | None:
        if not self.query.folder:
            return None
        seen = self._checkpoint.files_seen()
        names = startup_checks.same_names(seen)
        # Spark passes over empty files without a word, so they do not count.
        waiting = [
            path
            for path, (size, _) in files.sizes(spark, self.query.folder, self.query.glob).items()
            if size and path not in names
        ]
        unfinished = startup_checks.unfinished_batch(self._checkpoint)
        return len(waiting) + (0 if unfinished is None else self._checkpoint.files_of(unfinished))


def checkpoint_path(paths: Paths, name: str) -> str:
    """Where the checkpoint of the query of this name lies."""
    return f"{files.qualified(paths.checkpoints).rstrip('/')}/{name}"


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
            one.query.told(spark, one.epoch, True)


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
                one.query.told(spark, one.epoch, False)
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
