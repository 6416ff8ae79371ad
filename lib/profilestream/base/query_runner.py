"""Runs one streaming query exactly once: start checks, batch plan, retry of an unfinished batch, clean stop."""

import logging
import threading
import time

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from profilestream.base import commits, files, jvm, startup_checks
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused
from profilestream.base.progress import StageProgress
from profilestream.base.queries import Batch, BatchResult, Query, RunOptions
from profilestream.base.settings import Paths, Settings

log = logging.getLogger(__name__)


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
            spark, query.name, query.tables, query.reads.folder, query.reads.glob, self._checkpoint, settings.paths,
            accept_new_epoch=options.accept_new_epoch or is_rebuilt,
            accept_changed_files=options.accept_changed_files,
        )  # fmt: skip
        if query.reads.follows:
            startup_checks.check_followed(spark, query.stage, query.reads.follows, self._checkpoint, settings.paths)
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
            self.query.reads.read(spark)
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
        if not self.query.reads.folder:
            return None
        seen = self._checkpoint.files_seen()
        names = startup_checks.same_names(seen)
        # Spark passes over empty files without a word, so they do not count.
        waiting = [
            path
            for path, (size, _) in files.sizes(spark, self.query.reads.folder, self.query.reads.glob).items()
            if size and path not in names
        ]
        unfinished = startup_checks.unfinished_batch(self._checkpoint)
        return len(waiting) + (0 if unfinished is None else self._checkpoint.files_of(unfinished))


def checkpoint_path(paths: Paths, name: str) -> str:
    """Where the checkpoint of the query of this name lies."""
    return f"{files.qualified(paths.checkpoints).rstrip('/')}/{name}"
