"""Declaration of a streaming query: its source, its tables, and the function that writes one micro-batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.readwriter import DataStreamReader

from profilestream.base import commits, local_appends, runner
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.date_order import rows_in_date_order
from profilestream.base.delta_table import Table
from profilestream.base.errors import ProfilestreamError
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.runner import Rows, Selection
from profilestream.base.session import Threads, frame_of_arrow
from profilestream.base.settings import Paths, fingerprint
from profilestream.base.tables import EVENTS

# Compressed. A frame whose rows are larger is held by Spark, which is slower but equal.
_BYTES_PER_ROW = 200
# First words of the names of phases that write a table.
_APPEND, _MERGE = "append ", "merge "


@dataclass(frozen=True)
class BatchResult:
    """Counts of a batch, for the log line, the progress display and the exported metrics.

    Args:
        rows_rejected, rows_duplicate: of capture.
        event_time_max: newest event time of the clean rows of capture, in microseconds since 1970; null without any.
    """

    rows_in: int = 0
    rows_out: int = 0
    files: int = 0
    rows_rejected: int = 0
    rows_duplicate: int = 0
    event_time_max: int | None = None


@dataclass(frozen=True)
class Stored(Generic[Rows]):
    """Stored rows that an update is computed from.

    Args:
        read_as: arguments of commits.merge: the commit is refused if the table has changed since.
    """

    rows: Rows
    read_as: dict[str, Any]


@dataclass
class Batch:
    """One micro-batch while it is written.

    Args:
        is_retry: the batch was started before, so tables may already contain it.
        local_max_rows: setting `stream.local_max_rows`.
        local_max_keys: setting `stream.local_max_keys`.
        indexes: the rows of tables that are updated by key, which the batches of a run share, by name of the table.
        load_states: lets Delta load the states of the tables that Spark writes, in the background.
        last_table: name of the last table of the query.
        has_commits: whether a table has a commit of this batch.
        seconds: duration by phase.
        cpu_seconds: CPU time of the batch (observe/cpu_clock.py); null while it runs, and where it is unknown.
    """

    spark: SparkSession
    paths: Paths
    txn: Txn
    plan: Plan
    is_retry: bool = False
    local_max_rows: int = 0
    local_max_keys: int = 0
    indexes: dict[str, KeyedRows] = field(default_factory=dict, repr=False)
    load_states: Callable[[], object] = field(default=lambda: None, repr=False)
    last_table: str = ""
    has_commits: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float | None = None

    def is_done(self, table: Table) -> bool:
        """Whether the table already contains this batch; only a retry reads the log for it."""
        is_done = self.is_retry and commits.is_done(self.spark, table, self.paths, self.txn)
        self.has_commits |= is_done
        return is_done

    def prepare_writes(self, rows: int) -> None:
        """Start to load the states of the tables if Spark will process this number of input rows."""
        if rows > self.local_max_rows:
            self.load_states()

    def is_local(self, rows: int, table: Table) -> bool:
        """Whether this number of rows is processed, and appended to the table, in the process of the driver."""
        return rows <= self.local_max_rows and local_appends.is_possible(table, self.paths)

    def keyed_rows(self, rows: int, table: Table) -> KeyedRows | None:
        """The rows of a table for an update with this number of input rows in the process of the driver.

        Null if Spark updates the table.
        """
        if not self.is_local(rows, table):
            return None
        if table.name not in self.indexes:
            self.indexes[table.name] = KeyedRows(table, self.paths)
        index = self.indexes[table.name]
        return index if index.refresh(self.local_max_keys) else None

    def select(
        self, frame: DataFrame, selections: Sequence[Selection], count: int, tables: Sequence[Table]
    ) -> list[Any]:
        """The results of selections over a frame: Arrow tables if the driver processes the batch, otherwise frames.

        Args:
            count: number of rows of the frame.
            tables: that the results are written to.
        """
        if self.is_written_locally(count, tables):
            with self.phase("evaluate"):
                return runner.collect(frame, selections)
        return [selection.rows(frame) for selection in selections]

    def is_written_locally(self, rows: int, tables: Sequence[Table]) -> bool:
        """Whether a batch with this number of rows can be written to these tables in the process of the driver."""
        return all(
            self.keyed_rows(rows, table) is not None if table.is_updated else self.is_local(rows, table)
            for table in tables
        )

    def version_to_update(self, table: Table) -> int:
        """The version of a table that an update is computed from.

        It is the pinned one. Another process may have committed between a crash and the retry of the batch, so a retry
        uses the latest one; if the table contains the batch already, the version before it.
        """
        if self.is_done(table):
            return commits.version_before(self.spark, table, self.paths, self.txn)
        pinned = None if self.is_retry else self.plan.versions.get(table.name)
        return commits.version(self.spark, table, self.paths) if pinned is None else pinned

    def stored(self, table: Table, keys: Rows) -> Stored[Rows]:
        """The rows of a table that an update of these keys is computed from.

        Args:
            keys: a result of `select`, with the key columns of the table.
        """
        if isinstance(keys, DataFrame):
            version = self.version_to_update(table)
            rows = runner.rows_of(keys, table.read(self.spark, self.paths, version=version), table.key)
            return Stored(rows, {"read_version": version})
        with self.phase("read rows"):
            index = self.indexes[table.name]
            before = index.find(keys.select(list(table.key)))
        return Stored(before.rows, {"index": index, "before": before})

    def append_all(self, rows: Sequence[tuple[Rows, Table]]) -> None:
        """Append to several tables, two at a time: one is planned while the other is computed.

        The last table is written alone, after the others: it marks the batch as complete (Query.tables).
        """
        *others, last = rows
        with self.in_background(at_once=2) as run:
            for one in others:
                run(self.append, *one)
        self.append(*last)

    @property
    def commit_seconds(self) -> float:
        """Seconds of the phases that write rows; of rows of Spark also the seconds in which they are computed."""
        return sum(seconds for name, seconds in self.seconds.items() if name.startswith((_APPEND, _MERGE)))

    def append(self, rows: DataFrame | pa.Table, table: Table, count: int | None = None) -> None:
        """Append to a table unless it already contains this batch; an Arrow table without rows makes no commit.

        Args:
            count: an upper bound of the number of rows, if it is known; few rows are appended without Spark.
        """
        with self.phase(f"{_APPEND}{table.name}"):
            if self.is_done(table):
                return
            if isinstance(rows, DataFrame):
                if count is not None and self.is_local(count, table):
                    rows = rows.toArrow()
            elif not self.is_local(len(rows), table):
                rows = frame_of_arrow(self.spark, rows).coalesce(1)
            if self._is_commit_needed(rows, table):
                commits.append(rows, table, self.paths, self.txn)

    @contextmanager
    def in_background(self, at_once: int = 1) -> Iterator[Callable[..., None]]:
        """Yield a function that runs a call in another thread; the block ends when all calls have ended.

        A call may append. Do not merge in the block: a MERGE sets its application id in the session's settings.
        """
        futures: list[Future[Any]] = []

        def run(call: Callable[..., object], *args: Any) -> None:
            futures.append(threads.submit(call, *args))

        with Threads(self.spark, at_once) as threads:
            yield run
        for future in futures:
            future.result()

    def merge(
        self, rows: Rows, table: Table, *, stored: Stored[Rows] | None = None, count: int | None = None, **how: Any
    ) -> Rows:
        """Insert or update rows by key unless the table already contains this batch; returns the rows.

        Spark writes an Arrow table without an `index`. Another one without rows makes no commit.

        Args:
            stored: the rows of the table that the rows were computed from.
            count: number of input rows of a frame, if it has about as many rows; few are written by the driver.
            how: keyword arguments of commits.merge.
        """
        if stored is not None:
            how |= stored.read_as
        if not isinstance(rows, DataFrame) and "index" not in how:
            self.merge(frame_of_arrow(self.spark, rows), table, count=count, **how)
            return rows
        with self.phase(f"{_MERGE}{table.name}"):
            if self.is_done(table):
                return rows
            index = None if count is None else self.keyed_rows(count, table)
            few = self._collected(rows) if index is not None and isinstance(rows, DataFrame) else None
            if few is not None:
                self._commit_merge(few, table, index=index, **how)
                return frame_of_arrow(self.spark, few)
            return self._commit_merge(rows, table, **how)

    def _commit_merge(self, rows: Rows, table: Table, **how: Any) -> Rows:
        if not self._is_commit_needed(rows, table):
            return rows
        return commits.merge(rows, table, self.paths, self.txn, **how)

    def _is_commit_needed(self, rows: DataFrame | pa.Table, table: Table) -> bool:
        """Whether there may be rows to commit; the last table gets a commit if another one has one."""
        is_needed = isinstance(rows, DataFrame) or len(rows) > 0 or (self.has_commits and table.name == self.last_table)
        self.has_commits |= is_needed
        return is_needed

    @contextmanager
    def cached(self, frame: Rows, *, is_small: bool = False, tables: Sequence[Table] = ()) -> Iterator[tuple[Any, int]]:
        """Hold the rows of a frame during the block: few rows in the driver, others in the cache of Spark.

        An Arrow table is held as it is.

        Args:
            is_small: the frame probably has few rows, whatever Spark estimates.
            tables: if results for them can be written by the driver, the rows of a frame become an Arrow table.

        Yields:
            The held rows, and their number.
        """
        if not isinstance(frame, DataFrame):
            yield frame, len(frame)
            return
        with self.phase("read"):
            is_small = is_small or _estimated_bytes(frame) <= self.local_max_rows * _BYTES_PER_ROW
            few = self._collected(frame) if is_small else None
            is_local = few is not None and len(tables) > 0 and self.is_written_locally(len(few), tables)
            held: Any = few
            if few is None:
                held = frame.persist()
            elif not is_local:
                held = frame_of_arrow(self.spark, few)
            rows = held.count() if few is None else len(few)
        try:
            self.prepare_writes(rows)
            yield held, rows
        finally:
            if isinstance(held, DataFrame):
                held.unpersist()

    def _collected(self, frame: DataFrame) -> pa.Table | None:
        """The rows of a frame; null if there are more than `local_max_rows`."""
        if not self.local_max_rows:
            return None
        rows = frame.limit(self.local_max_rows + 1).toArrow()
        return rows if len(rows) <= self.local_max_rows else None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the duration of a phase of the batch, for `stage_batches`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True)
class RunOptions:
    """Options of one run, from the command line.

    Args:
        continuous: seconds between batches of a run that ends when it is stopped; null: run to the end of the input.
        accept_new_epoch: start a new checkpoint over tables that another one wrote.
        accept_changed_units: continue although units of a source, such as files, changed after they were read.
        accept_gaps: continue after records of a source that are no longer available; a new epoch starts after them.
        replan: plan the unfinished batch again with the current settings and side tables, if it has written nothing.
        skipped_units: unreadable units of a source, such as files, to skip; each is recorded as one rejected row.
        rebuild: names of stages whose checkpoints are removed and whose tables are emptied and derived again.
        cascade: also rebuild the stages that follow a rebuilt table (flow.py).
    """

    continuous: float | None = None
    accept_new_epoch: bool = False
    accept_changed_units: bool = False
    accept_gaps: bool = False
    replan: bool = False
    skipped_units: tuple[str, ...] = ()
    rebuild: tuple[str, ...] = ()
    cascade: bool = False


class ExternalSource(Protocol):
    """What a run needs to know of a source that profilestream does not write."""

    def check(self, spark: SparkSession, checkpoint: Checkpoint, options: RunOptions) -> None:
        """Raise an error if the source and the checkpoint disagree; may restart the checkpoint."""

    def new_units(self, spark: SparkSession, checkpoint: Checkpoint) -> int | None:
        """Number of units, such as files, that the run will read; null when it is unknown."""

    def explain(self, error: Exception, checkpoint: Checkpoint) -> ProfilestreamError | None:
        """The error for a user when the source made Spark's query fail; null when the cause is another one."""


@dataclass(frozen=True)
class QueryInput:
    """Where a query reads from.

    Args:
        read: the source as a streaming frame.
        source_table: the table that it reads, if a stage derives it; null for logs and `events`.
        external: the source of a log; null when the source is a table of profilestream.
        is_change_feed: whether it reads the change feed of the table.
        select: the rows of a batch, from the rows that the source selected.
    """

    read: Callable[[SparkSession], DataFrame]
    source_table: Table | None = None
    external: ExternalSource | None = None
    is_change_feed: bool = False
    select: Callable[[DataFrame, Checkpoint, int], DataFrame] = lambda frame, checkpoint, batch_id: frame

    @property
    def table(self) -> Table | None:
        """The table of profilestream that it reads; null for logs."""
        return self.source_table or (EVENTS if self.external is None else None)


@dataclass(frozen=True)
class Query:
    """One streaming query of a stage; `stage_query` builds it.

    Args:
        stage, source: its name; the checkpoint is in `<checkpoints>/<stage>[/<source>]`.
        lock: name of the lock that a run of the query holds.
        reads: its source.
        tables: tables that the query writes, in order. A batch with rows writes the last table, so it decides which
            batches are done.
        shared: those of `tables` that other stages also write; a rebuild does not change their rows.
        settings: all settings that change what is written, as text.
        write: writes one batch; a retry of the batch calls it again with the same rows.
        versions: returns the version (of Delta, or a hash of files) of each other input, when a batch is planned.
        on_progress: called with the epoch about once a second while the query runs (false) and after it ended without
            an error (true), for reports outside of the tables; must not raise and must return quickly.
        min_interval: seconds between the starts of two batches of a continuous run, at least. If it is not 0, batches
            of the query take turns with those of other such queries, so that processors remain for capture and
            profiles.
        max_busy_share: share of the time of a continuous run in which batches of the query run, at most.
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
    min_interval: float
    max_busy_share: float

    @property
    def fingerprint(self) -> str:
        """Hash of `settings`."""
        return fingerprint(self.settings)

    @property
    def name(self) -> str:
        """`<stage>/<source>`."""
        return f"{self.stage}/{self.source}" if self.source else self.stage

    def trigger(self, interval: float | None) -> dict[str, Any]:
        """Arguments of Spark's trigger; `interval` as in RunOptions.continuous."""
        if interval is None:
            return {"availableNow": True}
        return {"processingTime": f"{max(interval, self.min_interval)} seconds"}


def _estimated_bytes(frame: DataFrame) -> int:
    return int(frame._jdf.queryExecution().analyzed().stats().sizeInBytes())


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
    min_interval: float = 0.0,
    max_busy_share: float = 1.0,
) -> Query:
    """A query of a stage; the arguments are the fields of `Query`. The lock is the name of the stage by default."""
    return Query(
        stage, source, lock or stage, reads, tables, shared, settings, write, versions, on_progress, min_interval,
        max_busy_share,
    )  # fmt: skip


def appended_rows(table: Table, writer: str, paths: Paths, max_files: int) -> QueryInput:
    """The rows appended to a Delta table, in commit order; rows deleted or rewritten later are not read again.

    A new query first reads all existing rows; those of `events` in order of event date.

    Args:
        writer: the stage that writes the table, for the message of SourceMissing when there is no table yet.
        max_files: maximum number of files per micro-batch.
    """

    def read(spark: SparkSession) -> DataFrame:
        table.require(spark, paths, do=f"run jobs/{writer}.py first")
        return _delta_stream(spark, max_files).option("skipChangeCommits", True).load(table.uri(paths))

    if table != EVENTS:
        return QueryInput(read, source_table=table)

    def select(frame: DataFrame, checkpoint: Checkpoint, batch_id: int) -> DataFrame:
        return rows_in_date_order(frame, table, paths, checkpoint, batch_id)

    return QueryInput(read, select=select)


def changed_rows(table: Table, writer: str, paths: Paths, max_files: int) -> QueryInput:
    """The change feed of a merged Delta table; a new query first reads all existing rows, as inserts.

    Args:
        writer, max_files: as for appended_rows.
    """

    def read(spark: SparkSession) -> DataFrame:
        table.require(spark, paths, do=f"run jobs/{writer}.py first")
        return _delta_stream(spark, max_files).option("readChangeFeed", True).load(table.uri(paths))

    return QueryInput(read, source_table=table, is_change_feed=True)


def _delta_stream(spark: SparkSession, max_files: int) -> DataStreamReader:
    return spark.readStream.format("delta").option("maxFilesPerTrigger", max_files)
