"""Writes that happen exactly once: one Delta commit per table and batch, skipped when a batch is replayed.

Delta remembers the newest version per application id; a write with an older or equal version is skipped. So every
write carries `<stage>/<source>/<table>/<epoch>` and the batch id (delta-io/delta#1141; MERGE takes them only as
session settings, #3934).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.session import Threads, materialize
from profilestream.base.settings import Paths
from profilestream.base.tables import Table

_APP_ID = "spark.databricks.delta.write.txnAppId"
_VERSION = "spark.databricks.delta.write.txnVersion"
# A MERGE joins every row of the touched files, whole, with the batch. A Bloom filter of the batch's keys drops most of
# them before they are shuffled; Spark makes one only for scans of 10 GB, from a few filtered megabytes.
_MERGING = {
    "spark.databricks.delta.merge.materializeSource": "none",  # it is computed here
    "spark.sql.optimizer.runtime.bloomFilter.applicationSideScanSizeThreshold": "64MB",
    "spark.sql.optimizer.runtime.bloomFilter.creationSideThreshold": str(2**62),  # a computed frame has no size
}


@dataclass(frozen=True)
class Txn:
    """Who writes: the query (`<stage>/<source>`), its epoch, and the batch."""

    query: str
    epoch: str
    batch_id: int

    def app_id(self, table: Table) -> str:
        """The application id under which Delta remembers this writer of this table."""
        return f"{self.query}/{table.name}/{self.epoch}"


def version(spark: SparkSession, table: Table, paths: Paths) -> int:
    """The newest version of the table, read from its log now."""
    return int(table.log(spark, paths).startTransaction().readVersion())


def table_id(spark: SparkSession, table: Table, paths: Paths) -> str:
    """What Delta calls this table; another one once it was made anew."""
    return str(table.metadata(spark, paths).id())


def last_batch(spark: SparkSession, table: Table, paths: Paths, app_id: str) -> int | None:
    """The newest batch that this writer committed to the table; null when there is none."""
    found = int(table.log(spark, paths).startTransaction().txnVersion(app_id))
    return None if found < 0 else found


def writers(spark: SparkSession, table: Table, paths: Paths) -> list[str]:
    """Every application id that ever committed to the table."""
    ids = table.log(spark, paths).unsafeVolatileSnapshot().transactions().keysIterator()
    found = []
    while ids.hasNext():
        found.append(str(ids.next()))
    return sorted(found)


@contextmanager
def states_ready(spark: SparkSession, tables: tuple[Table, ...], paths: Paths) -> Iterator[None]:
    """Let Delta rebuild the tables' states (0.4 s each), all at once, while the body does what does not need them yet.

    A commit with an application id needs the state, to see whether it was made before; without this it waits for it.
    """
    with Threads(spark, len(tables)) as background:
        ready = [background.submit(last_batch, spark, table, paths, "") for table in tables]
        yield
        for one in ready:
            one.result()


def is_done(spark: SparkSession, table: Table, paths: Paths, txn: Txn) -> bool:
    """Whether the table already holds this batch. Ask before computing: a replayed write is computed, then skipped."""
    found = last_batch(spark, table, paths, txn.app_id(table))
    return found is not None and found >= txn.batch_id


def stamped(rows: DataFrame, table: Table, txn: Txn, *more: str) -> DataFrame:
    """Rows as the table has them, with the epoch and the batch that write them, and more columns if asked for."""
    stamp = {"epoch": F.lit(txn.epoch), "batch_id": F.lit(txn.batch_id).cast("bigint")}
    return rows.withColumns(stamp).select(*table.columns, *more)


def append(frame: DataFrame, table: Table, paths: Paths, txn: Txn) -> None:
    """Append the rows, once. The frame must end in the table's columns and not read the table itself."""
    table.check(frame.schema)
    (
        frame.write.format("delta")
        .mode("append")
        .option("txnAppId", txn.app_id(table))
        .option("txnVersion", txn.batch_id)
        .save(table.uri(paths))
    )


def replace(frame: DataFrame, table: Table, paths: Paths, txn: Txn, *, where: str) -> None:
    """Put the rows in place of those that satisfy `where` (a SQL condition on the table), once."""
    table.check(frame.schema)
    (
        frame.write.format("delta")
        .mode("overwrite")
        .option("replaceWhere", where)
        .option("txnAppId", txn.app_id(table))
        .option("txnVersion", txn.batch_id)
        .save(table.uri(paths))
    )


def rewrite(frame: DataFrame, table: Table, paths: Paths, *, where: str) -> None:
    """Put rows in place of those that satisfy `where`, from which they are made, in one commit that is no batch's.

    The frame must read the table in the very plan that is written: rows that were kept would undo what came meanwhile.
    """
    table.check(frame.schema)
    frame.write.format("delta").mode("overwrite").option("replaceWhere", where).save(table.uri(paths))


def merge(
    frame: DataFrame,
    table: Table,
    paths: Paths,
    txn: Txn,
    *,
    becomes: dict[str, Column] | None = None,
    gone: str = "",
    within: str = "",
) -> DataFrame:
    """Insert or update rows by the table's key, once; the frame has one row per key, and no key is null.

    Args:
        frame: may have columns that the table has not.
        becomes: what a row of the table (`t`) and the row of the frame (`s`) of its key become, by column; the
            frame's value in columns that are not named.
        gone: name of a boolean column of the frame, not of the table: true deletes the row of that key.
        within: a SQL condition on the table (`t`) that holds for every key of the frame, so that files without such
            rows are not read.

    Returns:
        The frame, computed.
    """
    spark = frame.sparkSession
    table.check(frame.select(*table.columns).schema)
    rows = materialize(frame)
    if table.log(spark, paths).startTransaction().snapshot().numOfFiles() == 0:
        # Nothing can match, and a MERGE would write every row a second time for the change feed.
        append(rows.where(f"NOT {gone}" if gone else "true").select(*table.columns), table, paths, txn)
        return rows
    # Spark makes a Bloom filter only from rows that were filtered; this condition holds for all.
    source = rows.where(F.hash(*table.key) >= -(2**31))
    on = " AND ".join([*(f"t.{column} = s.{column}" for column in table.key), *([within] if within else [])])
    values: dict[str, str | Column] = {column: f"s.{column}" for column in table.columns}
    updated = {**values, **(becomes or {})}
    stays = f"NOT s.{gone}" if gone else "true"
    with _conf(spark, {**_MERGING, _APP_ID: txn.app_id(table), _VERSION: str(txn.batch_id)}):
        merger = DeltaTable.forPath(spark, table.uri(paths)).alias("t").merge(source.alias("s"), on)
        if gone:
            merger = merger.whenMatchedDelete(f"s.{gone}")
        merger.whenMatchedUpdate(set=updated).whenNotMatchedInsert(stays, values).execute()
    return rows


def delete(spark: SparkSession, table: Table, paths: Paths, *, where: str) -> None:
    """Delete the rows that satisfy `where` (a SQL condition on the table); once more, it finds none."""
    DeltaTable.forPath(spark, table.uri(paths)).delete(where)


@contextmanager
def _conf(spark: SparkSession, values: dict[str, str]) -> Iterator[None]:
    """Session settings for one commit. An application id left behind would make every later write a no-op."""
    before = {key: spark.conf.get(key, None) for key in values}
    try:
        for key, value in values.items():
            spark.conf.set(key, value)
        yield
    finally:
        for key, was in before.items():
            if was is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, was)
