"""Runs one streaming query exactly once: start checks, batch plan, retry of an unfinished batch, clean stop.

Only this module and startup_checks handle retries, crashes and restored checkpoints.
"""

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from profilestream.base import commits, files, jvm, startup_checks
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import NothingWritten, Refused
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.observe.cpu_clock import CPU_CLOCK
from profilestream.base.queries import Batch, BatchResult, Query, RunOptions
from profilestream.base.settings import Paths, Settings
from profilestream.base.stage_progress import StageProgress
from profilestream.base.turns import Turns

_STOP_TIMEOUT_SECONDS = 10
log = logging.getLogger(__name__)


class _Stopped(Exception):
    """Raised inside a query that was requested to stop, before its next batch starts."""


class QueryRunner:
    """A query that is checked at construction, started by `start`, and stopped between two batches.

    Args:
        progress: of an earlier run of the query in this process, to continue; null: none.
        turns: what each batch waits for before it runs; null: nothing.

    Raises:
        ProfilestreamError: the query must not start; see startup_checks.
    """

    def __init__(
        self, query: Query, spark: SparkSession, settings: Settings, options: RunOptions,
        progress: StageProgress | None = None, turns: Turns | None = None,
    ) -> None:  # fmt: skip
        self.query, self._settings, self._options = query, settings, options
        self._paths, self._turns = settings.paths, turns or Turns()
        self._checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, query.name))
        if is_rebuilt := query.stage in options.rebuild:
            self._reset(spark)
        external = query.reads.external
        if external is not None:
            external.check(spark, self._checkpoint, options)
        is_restarted = self._checkpoint.start_offsets() is not None
        startup_checks.check_start(
            spark, query.name, query.tables, self._checkpoint, settings.paths,
            accept_new_epoch=options.accept_new_epoch or is_rebuilt or is_restarted,
        )  # fmt: skip
        if query.reads.source_table:
            startup_checks.check_followed(
                spark, query.stage, query.reads.source_table, self._checkpoint, settings.paths
            )
        self._adopt_plan(spark)
        self.epoch = self._checkpoint.epoch()
        self.error: BaseException | None = None
        self.batches: dict[int, Batch] = {}
        self.results: dict[int, BatchResult] = {}
        self._indexes: dict[str, KeyedRows] = {}
        self._batch_lock = threading.Lock()
        self._stop_requested = threading.Event()
        self._last_batch = -1
        if progress is None:
            new_units = None if external is None else external.new_units(spark, self._checkpoint)
            progress = StageProgress(query.name, new_units)
        self.progress = progress
        self.handle: StreamingQuery | None = None

    def _reset(self, spark: SparkSession) -> None:
        """Remove the checkpoint, then empty the tables. After a crash between the two, the next start is refused."""
        files.delete(spark, self._checkpoint.path)
        for table in self.query.tables:
            if table not in self.query.shared:
                table.recreate(spark, self._paths)

    def start(self, spark: SparkSession) -> None:
        """Start the query; does not wait for it."""
        self.handle = (
            self.query.reads.read(spark)
            .writeStream.queryName(self.query.name)
            .foreachBatch(self._process)
            .option("checkpointLocation", self._checkpoint.path)
            .trigger(**self.query.trigger(self._options.continuous))
            .start()
        )

    def finished_offset(self) -> dict[str, Any]:
        """The offset at which the last finished batch ends, as its source wrote it; empty before the first batch."""
        return self._checkpoint.finished_offset()

    def is_active(self) -> bool:
        """Whether the query is running."""
        return self.handle is not None and self.handle.isActive

    def request_stop(self) -> None:
        """Let no further batch begin."""
        self._stop_requested.set()

    def stop_when_idle(self) -> None:
        """Stop between two batches; a batch in progress is finished and committed first."""
        self.request_stop()
        with self._batch_lock:
            last = self._last_batch
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while self.is_active() and not self._is_finished(last) and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.handle is not None:
            self.handle.stop()

    def _is_finished(self, batch_id: int) -> bool:
        finished = self._checkpoint.last_finished()
        return batch_id < 0 or (finished is not None and finished >= batch_id)

    def failure(self) -> BaseException | None:
        """The error that ended the query; null while it runs, and after it finished or was stopped."""
        if isinstance(self.error, _Stopped):
            return None
        error = self.error
        if error is None and self.handle is not None and not self.handle.isActive:
            error = self.handle.exception()
        external = self.query.reads.external
        if external is None or not isinstance(error, (PySparkException, Py4JJavaError)):
            return error
        return external.explain(error, self._checkpoint) or error

    def _process(self, frame: DataFrame, batch_id: int) -> None:
        with self._turns.turn(self._stop_requested) as waited, self._batch_lock:
            try:
                if self._stop_requested.is_set():
                    raise _Stopped
                with CPU_CLOCK.measure() as cpu:
                    self._run_batch(frame, batch_id)
                if batch_id in self.batches:
                    self.batches[batch_id].cpu_seconds = cpu.seconds
                    self.batches[batch_id].seconds["turn"] = waited
            except BaseException as error:
                self.error = error
                raise

    def _run_batch(self, frame: DataFrame, batch_id: int) -> None:
        started = time.monotonic()
        spark = frame.sparkSession
        txn = Txn(self.query.name, self.epoch, batch_id)
        stored_plan = self._checkpoint.plan(batch_id)
        plan = stored_plan or self._new_plan(self.query.versions(spark, self._checkpoint, batch_id))
        stream = self._settings.stream
        batch = Batch(
            spark, self._paths, txn, plan, is_retry=stored_plan is not None, local_max_rows=stream.local_max_rows,
            local_max_keys=stream.local_max_keys, indexes=self._indexes, last_table=self.query.tables[-1].name,
        )  # fmt: skip
        if batch.is_done(self.query.tables[-1]):
            log.info("%s  batch id %s is already in its tables", self.query.name, batch_id)
            return
        if stored_plan is None:
            self._checkpoint.store_plan(batch_id, plan)
        with ExitStack() as stack:

            @cache
            def load_states() -> None:
                stack.enter_context(commits.preload_states(spark, self.query.tables, self._paths))

            batch.load_states = load_states
            try:
                result = self.query.write(self.query.reads.select(frame, self._checkpoint, batch_id), batch)
            except NothingWritten:
                self._checkpoint.drop_plan(batch_id)
                raise
        if not batch.has_commits:
            self._checkpoint.store_plan(batch_id, replace(plan, is_without_commits=True))
        self.batches[batch_id], self.results[batch_id], self._last_batch = batch, result, batch_id
        jvm.collect_garbage()
        self.progress.batch_done(result.rows_in, result.files)
        log.debug(
            "query=%s epoch=%s batch_id=%s rows_in=%s rows_out=%s seconds=%.2f phases=%s",
            self.query.name, self.epoch, batch_id, result.rows_in, result.rows_out, time.monotonic() - started,
            {name: round(seconds, 2) for name, seconds in batch.seconds.items()},
        )  # fmt: skip

    def _new_plan(self, versions: dict[str, int]) -> Plan:
        skipped_units = [files.qualified(path) for path in self._options.skipped_units]
        return Plan(self.query.fingerprint, self.query.settings, versions, skipped_units)

    def _adopt_plan(self, spark: SparkSession) -> None:
        """Use the stored plan of an unfinished batch, or replace it when that is requested and safe."""
        batch_id = self._checkpoint.unfinished()
        plan = None if batch_id is None else self._checkpoint.plan(batch_id)
        if batch_id is None or plan is None:
            return
        is_same = plan.fingerprint == self.query.fingerprint
        if is_same and not (self._options.skipped_units or self._options.replan):
            return
        where = f"{self.query.name}, batch {batch_id}, {self._checkpoint.path}/plans/{batch_id}"
        if not is_same and not self._options.replan:
            raise Refused(
                f"batch {batch_id} is unfinished and was started with other settings or another mapping",
                where=where,
                do="restore the settings stored in that file, run once, then edit; or plan the batch again: --replan",
            )
        written = [
            table.name
            for table in self.query.tables
            if startup_checks.contains_batch(spark, table, self._paths, self.query.name, self._checkpoint, batch_id)
        ]
        if written and is_same and not self._options.skipped_units:
            return
        if written:
            raise Refused(
                f"batch {batch_id} cannot be planned again: it is already in {written}",
                where=where,
                do="restore the settings stored in that file, run once, then edit",
            )
        versions = plan.versions
        if self._options.replan:
            versions = self.query.versions(spark, self._checkpoint, batch_id)
        self._checkpoint.store_plan(batch_id, self._new_plan(versions))


def checkpoint_path(paths: Paths, name: str) -> str:
    """Path of the checkpoint of the query with this name."""
    return f"{files.qualified(paths.checkpoints).rstrip('/')}/{name}"
