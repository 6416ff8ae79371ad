"""Writes that happen exactly once: one Delta commit per table and batch, skipped when a batch is retried.

Delta stores the latest version per application id and skips a write with an older or equal version. So every write
carries `<stage>/<source>/<table>/<epoch>` and the batch id (delta-io/delta#1141; MERGE takes them only as
session settings, #3934).
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from delta.exceptions import (
    ConcurrentAppendException,
    ConcurrentDeleteDeleteException,
    ConcurrentDeleteReadException,
    ConcurrentWriteException,
)
from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import delta_log, local_appends
from profilestream.base.delta_log import DeltaLog
from profilestream.base.delta_table import Table, log_entry
from profilestream.base.errors import Conflict, StateCorrupt
from profilestream.base.keyed_rows import KeyedRows, StoredRows
from profilestream.base.runner import Rows, with_constant
from profilestream.base.session import Threads, conf_set, frame_of_arrow, materialize
from profilestream.base.settings import Paths, fingerprint

_APP_ID = "spark.databricks.delta.write.txnAppId"
_VERSION = "spark.databricks.delta.write.txnVersion"
# A MERGE joins all rows of the touched files with the batch. A Bloom filter of the batch's keys drops most of the
# rows before the shuffle. By default, Spark builds the filter only for a scan of 10 GB or more and a batch of a few MB.
_MERGE_CONF = {
    "spark.databricks.delta.merge.materializeSource": "none",  # `merge` materializes it
    "spark.sql.optimizer.runtime.bloomFilter.applicationSideScanSizeThreshold": "64MB",
    "spark.sql.optimizer.runtime.bloomFilter.creationSideThreshold": str(2**62),  # of unknown size: a local checkpoint
}
_SMALL_ROW_GROUP_BYTES = str(1 << 20)
_ATTEMPTS = 5
_CONFLICTS = (
    ConcurrentAppendException, ConcurrentDeleteDeleteException, ConcurrentDeleteReadException, ConcurrentWriteException,
)  # fmt: skip
_COMPACTED_FILE_SIZE = 8  # times the size below which a file is small
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Txn:
    """The writer of a commit: the query (`<stage>/<source>`), its epoch, and the batch."""

    query: str
    epoch: str
    batch_id: int

    def app_id(self, table: Table) -> str:
        """The application id of this writer in the Delta log of the table."""
        return f"{self.query}/{table.name}/{self.epoch}"


def version(spark: SparkSession, table: Table, paths: Paths) -> int:
    """The latest version of the table, read from its log now."""
    folder = table.local_folder(paths)
    if folder is not None and (latest := delta_log.latest_version(folder)) >= 0:
        return latest
    return int(table.log(spark, paths).startTransaction().readVersion())


def versions(spark: SparkSession, tables: Iterable[Table], paths: Paths) -> dict[str, int]:
    """The latest version of each table, by name; a batch stores them, so that a retry reads the same rows."""
    return {table.name: version(spark, table, paths) for table in tables}


def table_id(spark: SparkSession, table: Table, paths: Paths) -> str:
    """Delta's id of the table; it changes when the table is created again."""
    return table.metadata(spark, paths).id


def last_batch(spark: SparkSession, table: Table, paths: Paths, app_id: str) -> int | None:
    """The last batch that this writer committed to the table; null when there is none."""
    if (stored := table.delta_rs_table(paths)) is not None:
        return stored.transaction_version(app_id)
    batch_id = int(table.log(spark, paths).startTransaction().txnVersion(app_id))
    return None if batch_id < 0 else batch_id


def writers(spark: SparkSession, table: Table, paths: Paths) -> list[str]:
    """Every application id that committed to the table."""
    if (folder := table.local_folder(paths)) is not None:
        log = DeltaLog(folder)
        log.refresh()
        return sorted(log.transactions)
    ids = table.log(spark, paths).unsafeVolatileSnapshot().transactions().keysIterator()
    app_ids = []
    while ids.hasNext():
        app_ids.append(str(ids.next()))
    return sorted(app_ids)


@contextmanager
def preload_states(spark: SparkSession, tables: tuple[Table, ...], paths: Paths) -> Iterator[None]:
    """Let Delta load the states of the tables (0.4 s each) in parallel with the body of the block.

    A commit with an application id reads the state of its table, to find an earlier commit of the same batch. Without
    this block, the commit waits until the state is loaded.
    """
    with Threads(spark, len(tables)) as threads:
        states = [threads.submit(_load_state, spark, table, paths) for table in tables]
        yield
        for state in states:
            state.result()


def _load_state(spark: SparkSession, table: Table, paths: Paths) -> None:
    table.log(spark, paths).startTransaction().txnVersion("")


def is_done(spark: SparkSession, table: Table, paths: Paths, txn: Txn) -> bool:
    """Whether the table already contains this batch. Check first: Delta computes a write before it skips it."""
    last = last_batch(spark, table, paths, txn.app_id(table))
    return last is not None and last >= txn.batch_id


def version_before(spark: SparkSession, table: Table, paths: Paths, txn: Txn) -> int:
    """The version of the table before the commit of a batch.

    Raises:
        StateCorrupt: the log does not contain the commit.
    """
    latest = version(spark, table, paths)
    while (actions := log_entry(spark, table.path(paths), latest)) is not None:
        committed = [(a["txn"]["appId"], a["txn"]["version"]) for a in actions if "txn" in a]
        if (txn.app_id(table), txn.batch_id) in committed:
            return latest - 1
        latest -= 1
    raise StateCorrupt(
        f"the log of {table.name} has no entry of batch {txn.batch_id} of {txn.query}",
        where=table.path(paths),
        do="derive the table again: --rebuild",
    )


def next_txn(spark: SparkSession, table: Table, paths: Paths, step: str, inputs: str) -> Txn | None:
    """The transaction of a step's next commit; null when the latest commit of the table is from the same inputs.

    Args:
        inputs: everything that the rows are computed from, such as settings and versions of tables, as text.
    """
    latest = version(spark, table, paths)
    txn = Txn(step, fingerprint(inputs), latest + 1)
    return None if last_batch(spark, table, paths, txn.app_id(table)) == latest else txn


def with_batch_columns(rows: Rows, table: Table, txn: Txn, *more: str) -> Rows:
    """Rows in the column order of the table, with epoch and batch id filled in; `more` columns follow."""
    rows = with_constant(with_constant(rows, "epoch", txn.epoch), "batch_id", txn.batch_id)
    return rows.select(*table.names, *more) if isinstance(rows, DataFrame) else rows.select([*table.names, *more])


def append_untracked(spark: SparkSession, rows: pa.Table, table: Table, paths: Paths) -> None:
    """Append rows that belong to no batch; a caller that repeats the call appends them twice."""
    if local_appends.is_possible(table, paths):
        local_appends.append(rows, table, paths)
    else:
        frame_of_arrow(spark, rows).coalesce(1).write.format("delta").mode("append").save(table.uri(paths))


def append(frame: DataFrame | pa.Table, table: Table, paths: Paths, txn: Txn) -> None:
    """Append the rows once: those of a frame by Spark, those of an Arrow table in the process of the driver.

    The frame must have the columns of the table and must not read the table.
    """
    if not isinstance(frame, DataFrame):
        local_appends.append(frame, table, paths, (txn.app_id(table), txn.batch_id))
        return
    table.check(frame.schema)
    with conf_set(frame.sparkSession, file_conf(table)):
        (
            frame.write.format("delta")
            .mode("append")
            .option("txnAppId", txn.app_id(table))
            .option("txnVersion", txn.batch_id)
            .save(table.uri(paths))
        )


def file_conf(table: Table) -> dict[str, str]:
    """Settings of the Parquet files that Spark writes.

    Rows of a table that is updated by key are read one by one (keyed_rows.py), each with its row group.
    """
    conf = {f"parquet.enable.dictionary#{name}": "false" for name in table.distinct_columns}
    if table.is_updated:
        conf |= {
            "parquet.block.size": _SMALL_ROW_GROUP_BYTES,
            "spark.sql.parquet.compression.codec": local_appends.UPDATED_CODEC,
        }
    return conf


def replace(frame: DataFrame, table: Table, paths: Paths, txn: Txn, *, where: str) -> None:
    """Replace the rows that satisfy `where` (a SQL condition on the table), once."""
    table.check(frame.schema)
    writer = frame.write.format("delta").mode("overwrite").option("replaceWhere", where)
    writer = writer.option("txnAppId", txn.app_id(table)).option("txnVersion", txn.batch_id)
    repeat_conflicts(lambda: writer.save(table.uri(paths)))


def rewrite(frame: DataFrame, table: Table, paths: Paths, *, where: str) -> None:
    """Replace the rows that satisfy `where` by rows computed from them, in one commit that belongs to no batch.

    The frame must read the table in the plan that is written: with cached rows, commits since then would be lost. To
    repeat it after a conflict, compute the frame again.
    """
    table.check(frame.schema)
    frame.write.format("delta").mode("overwrite").option("replaceWhere", where).save(table.uri(paths))


def merge(
    frame: Rows,
    table: Table,
    paths: Paths,
    txn: Txn,
    *,
    delete_flag: str = "",
    within: str = "",
    read_version: int | None = None,
    index: KeyedRows | None = None,
    before: StoredRows | None = None,
) -> Rows:
    """Insert or update rows by the table's key, once: those of a frame by Spark, those of an Arrow table by the driver.

    The rows have one row per key, and no key is null.

    Args:
        frame: may have more columns than the table.
        delete_flag: name of a boolean column of the frame that is not in the table: true deletes the row of that key.
        within: a SQL condition on the table (`t`) that is true for every key of the frame; files without such rows are
            not read.
        read_version: the version of the table that the rows were computed from, if they depend on its rows.
        index: of the table, for the rows of an Arrow table.
        before: the stored rows that the rows of an Arrow table were computed from, if they contain them.

    Returns:
        The rows; a frame is materialized.

    Raises:
        Conflict: rows of the table changed after `read_version`, or the rows `before` changed; the MERGE would undo
            those commits.
    """
    if not isinstance(frame, DataFrame):
        assert index is not None
        deleted = None
        if delete_flag:
            deleted = frame.filter(frame[delete_flag]).select(table.key)
            frame = frame.filter(pc.invert(frame[delete_flag]))
        rows, app_id = frame.select(table.names), txn.app_id(table)
        index.update(rows, app_id, txn.batch_id, deleted=deleted, before=before, read_version=read_version)
        return frame
    spark = frame.sparkSession
    table.check(frame.select(*table.names).schema)
    rows = materialize(frame)
    # Spark builds a Bloom filter only from filtered rows; this condition is true for all rows.
    source = rows.where(F.hash(*table.key) >= -(2**31))
    on = " AND ".join([*(f"t.{column} = s.{column}" for column in table.key), *([within] if within else [])])
    values: dict[str, str | Column] = {column: f"s.{column}" for column in table.names}
    is_inserted = f"NOT s.{delete_flag}" if delete_flag else "true"
    # An application id that stayed set would make every later write a no-op.
    conf = {**_MERGE_CONF, **file_conf(table), _APP_ID: txn.app_id(table), _VERSION: str(txn.batch_id)}

    def execute() -> None:
        started = table.log(spark, paths).startTransaction()
        _check_rows_unchanged(spark, table, paths, read_version, int(started.readVersion()))
        if started.snapshot().numOfFiles() == 0:
            # The table is empty, so no key can match; a MERGE would also write every row again to the change feed.
            append(rows.where(f"NOT {delete_flag}" if delete_flag else "true").select(*table.names), table, paths, txn)
            return
        with conf_set(spark, conf):
            merger = DeltaTable.forPath(spark, table.uri(paths)).alias("t").merge(source.alias("s"), on)
            if delete_flag:
                merger = merger.whenMatchedDelete(f"s.{delete_flag}")
            merger.whenMatchedUpdate(set=values).whenNotMatchedInsert(is_inserted, values).execute()

    repeat_conflicts(execute)
    return rows


def _check_rows_unchanged(spark: SparkSession, table: Table, paths: Paths, since: int | None, latest: int) -> None:
    """Raise Conflict if rows were added or removed after a version (null: not checked). A compaction changes none."""
    for number in range(latest + 1 if since is None else since + 1, latest + 1):
        actions = log_entry(spark, table.path(paths), number)
        if actions is None or delta_log.changes_rows(actions):
            raise Conflict(
                f"{table.name} changed from version {since} to {latest} during a batch",
                where=table.path(paths),
                do="run the job again; the batch is then computed from the latest rows",
            )


def repeat_conflicts(write: Callable[[], object], attempts: int = _ATTEMPTS) -> None:
    """Call a write, again if another writer, such as a compaction, has replaced files that it had read.

    Raises:
        PySparkException: of Delta, if that happened at every attempt.
    """
    for attempt in range(1, attempts + 1):
        try:
            write()
            return
        except _CONFLICTS as error:
            if attempt == attempts:
                raise
            log.info("repeating a commit: %s", type(error).__name__)


def delete(spark: SparkSession, table: Table, paths: Paths, *, where: str) -> None:
    """Delete the rows that satisfy `where` (a SQL condition on the table); a second call deletes nothing."""
    repeat_conflicts(lambda: DeltaTable.forPath(spark, table.uri(paths)).delete(where))


def update(spark: SparkSession, table: Table, paths: Paths, *, where: str, values: dict[str, str | Column]) -> None:
    """Set columns of the rows that satisfy `where` (a SQL condition on the table); no commit without such rows."""
    repeat_conflicts(lambda: DeltaTable.forPath(spark, table.uri(paths)).update(where, values))


def compact(
    spark: SparkSession, table: Table, paths: Paths, *, small_file_bytes: int, where: str = "", attempts: int = 3
) -> bool:
    """Combine the small files of each partition (OPTIMIZE), which changes no rows.

    Args:
        small_file_bytes: files below this size are small; combined ones have up to eight times this size.
        where: a SQL condition on partition columns; empty: all partitions.

    Returns:
        False if the files were changed during every attempt; the table is then as the other writers left it.
    """
    conf = {
        **file_conf(table),
        "spark.databricks.delta.optimize.minFileSize": str(small_file_bytes),
        "spark.databricks.delta.optimize.maxFileSize": str(_COMPACTED_FILE_SIZE * small_file_bytes),
    }
    statement = f"OPTIMIZE delta.`{table.uri(paths)}`{f' WHERE {where}' if where else ''}"
    try:
        with conf_set(spark, conf):
            repeat_conflicts(lambda: spark.sql(statement).collect(), attempts)
    except _CONFLICTS:
        return False
    return True
