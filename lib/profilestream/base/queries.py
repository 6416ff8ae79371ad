"""What a streaming query is: its source, its tables, and the function that writes one micro-batch."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.readwriter import DataStreamReader

from profilestream.base import commits
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.session import Threads
from profilestream.base.settings import Paths, fingerprint
from profilestream.base.tables import EVENTS, Table


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
class QueryInput:
    """Where a query reads from.

    Args:
        read: the source as a streaming frame.
        follows: the table that is the source, if a stage derived it: its rows or its change feed.
        folder, glob: of input files, when the source is a folder; empty otherwise.
    """

    read: Callable[[SparkSession], DataFrame]
    follows: Table | None = None
    folder: str = ""
    glob: str = ""


@dataclass(frozen=True)
class Query:
    """One streaming query of a stage; `stage_query` builds it.

    Args:
        stage, source: its name; the checkpoint is in `<checkpoints>/<stage>[/<source>]`.
        lock: name of the lock that a run of the query holds.
        reads: its source.
        tables: written by the query, in order. Every batch writes the last one, so its last batch is the trusted one.
        shared: those of them that other stages write too; a rebuild leaves their rows.
        settings: all settings that change what is written, as text.
        write: writes one batch; a retry of the batch calls it again with the same rows.
        versions: of all else that a batch reads (a Delta version, a hash of files), taken when the batch is planned.
        on_progress: called with the epoch about once a second while the query runs (false) and after it ended without
            an error (true), for reports outside of the tables; must not raise and must return quickly.
    """

    stage: str
    source: str
    lock: str
    reads: QueryInput
    tables: tuple[Table, ...]
    shared: tuple[Table, ...]
    settings: str
    write: Callable[[DataFrame, Batch], BatchResult]
    versions: Callable[[SparkSession, Checkpoint, int], dict[str, int]]
    on_progress: Callable[[SparkSession, str, bool], None]

    @property
    def fingerprint(self) -> str:
        """Changes when `settings` does."""
        return fingerprint(self.settings)

    @property
    def name(self) -> str:
        """`<stage>/<source>`."""
        return f"{self.stage}/{self.source}" if self.source else self.stage


def stage_query(
    stage: str,
    reads: QueryInput,
    tables: tuple[Table, ...],
    write: Callable[[DataFrame, Batch], BatchResult],
    *,
    settings: str,
    source: str = "",
    lock: str = "",
    shared: tuple[Table, ...] = (),
    versions: Callable[[SparkSession, Checkpoint, int], dict[str, int]] = lambda spark, checkpoint, batch_id: {},
    on_progress: Callable[[SparkSession, str, bool], None] = lambda spark, epoch, is_over: None,
) -> Query:
    """A query of a stage; the arguments are those of `Query`. Its lock has the name of the stage unless one is given."""
    return Query(stage, source, lock or stage, reads, tables, shared, settings, write, versions, on_progress)


def appended_rows(table: Table, writer: str, paths: Paths, max_files: int) -> QueryInput:
    """The rows appended to a Delta table, in commit order; rows deleted or rewritten later are not read again.

    Args:
        writer: the stage that writes the table, for the message of SourceMissing when there is no table yet.
        max_files: files that a micro-batch takes at most.
    """

    def read(spark: SparkSession) -> DataFrame:
        table.require(spark, paths, do=f"run jobs/{writer}.py first")
        return _delta_stream(spark, max_files).option("skipChangeCommits", True).load(table.uri(paths))

    return QueryInput(read, follows=None if table == EVENTS else table)


def changed_rows(table: Table, writer: str, paths: Paths, max_files: int) -> QueryInput:
    """The change feed of a merged Delta table; a new query reads the rows that exist as inserts first.

    Args:
        writer, max_files: as for appended_rows.
    """

    def read(spark: SparkSession) -> DataFrame:
        table.require(spark, paths, do=f"run jobs/{writer}.py first")
        return _delta_stream(spark, max_files).option("readChangeFeed", True).load(table.uri(paths))

    return QueryInput(read, follows=table)


def _delta_stream(spark: SparkSession, max_files: int) -> DataStreamReader:
    return spark.readStream.format("delta").option("maxFilesPerTrigger", max_files)
