"""Checks before a query starts: the checkpoint and the tables must agree."""

from pyspark.sql import SparkSession

from profilestream.base import commits
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused
from profilestream.base.session import Threads
from profilestream.base.settings import Paths


def check_start(
    spark: SparkSession,
    name: str,
    tables: tuple[Table, ...],
    checkpoint: Checkpoint,
    paths: Paths,
    *,
    accept_new_epoch: bool = False,
) -> None:
    """Refuse to start if a run would lose or duplicate rows; create the tables of a new query.

    Args:
        name: name of the query.
        tables: tables that the query writes, in order.

    Raises:
        Refused: a table is missing, the checkpoint is older than the tables, or another epoch wrote them.
    """
    existing = tables
    if checkpoint.is_new():
        _check_no_other_epoch(spark, name, tables, checkpoint, paths, accept=accept_new_epoch)
        with Threads(spark, len(tables)) as threads:
            creation_flags = threads.map(lambda table: table.create(spark, paths), tables)
        existing = tuple(table for table, is_new in zip(tables, creation_flags, strict=True) if not is_new)
    started, finished = checkpoint.last_started(), checkpoint.last_written()
    txn = Txn(name, checkpoint.epoch(), 0)

    def check(table: Table) -> None:
        _check_table(spark, table, txn, started, finished if table is tables[-1] else None, checkpoint.path, paths)

    with Threads(spark, len(tables)) as threads:
        list(threads.map(check, existing))
    for table in tables:
        table.register(spark, paths)


def check_followed(spark: SparkSession, stage: str, followed: Table, checkpoint: Checkpoint, paths: Paths) -> None:
    """Refuse to continue after the source table was rebuilt: results computed from the old version would remain.

    Raises:
        Refused: the source table was rebuilt.
    """
    source_id = checkpoint.source_table_id()
    if source_id is not None and source_id != commits.table_id(spark, followed, paths):
        raise Refused(
            f"{followed.name} was rebuilt; {stage} still holds results computed from the old version",
            where=checkpoint.path,
            do=f"rebuild the stage too: jobs/{stage}.py --rebuild",
        )


def contains_batch(
    spark: SparkSession, table: Table, paths: Paths, name: str, checkpoint: Checkpoint, batch_id: int
) -> bool:
    """Whether a table already contains a batch of this query."""
    return commits.is_done(spark, table, paths, Txn(name, checkpoint.epoch(), batch_id))


def _check_no_other_epoch(
    spark: SparkSession, name: str, tables: tuple[Table, ...], checkpoint: Checkpoint, paths: Paths, *, accept: bool
) -> None:
    for table in tables:
        if accept or not table.exists(spark, paths):
            continue
        own_id = Txn(name, checkpoint.epoch(), 0).app_id(table)
        prefix = own_id.rsplit("/", 1)[0] + "/"
        others = [app for app in commits.writers(spark, table, paths) if app.startswith(prefix) and app != own_id]
        if others:
            raise Refused(
                f"the checkpoint of {name} is new, but {table.name} already holds batches "
                f"of epoch {others[0][len(prefix) :]}",
                where=checkpoint.path,
                do="restore the checkpoint, or read everything again with --accept-new-epoch "
                "(events that are already stored are recognized as duplicates)",
            )


def _check_table(
    spark: SparkSession,
    table: Table,
    txn: Txn,
    started: int | None,
    finished: int | None,
    checkpoint_path: str,
    paths: Paths,
) -> None:
    """Refuse a table that does not agree with the checkpoint.

    Args:
        txn: of any batch of the query.
        started: the last batch that the checkpoint has started.
        finished: the last batch that the table must contain; null: any.
    """
    if not table.exists(spark, paths):
        raise Refused(
            f"table {table.name} is missing, but the checkpoint of {txn.query} has started batch {started}",
            where=table.path(paths),
            do="restore the table; or read everything again: "
            f"remove {checkpoint_path} and start with --accept-new-epoch",
        )
    table.upgrade(spark, paths)
    written = commits.last_batch(spark, table, paths, txn.app_id(table))
    if written is not None and (started is None or written > started):
        raise Refused(
            f"the checkpoint of {txn.query} is older than table {table.name}: "
            f"its last batch is {started}, the table contains batch {written}",
            where=checkpoint_path,
            do=f"restore the newer checkpoint; or remove {checkpoint_path} and start with --accept-new-epoch",
        )
    if finished is not None and (written is None or written < finished):
        raise Refused(
            f"table {table.name} is older than the checkpoint of {txn.query}: its last batch is {written}, "
            f"the checkpoint has written batch {finished}",
            where=table.path(paths),
            do="restore the newer table, or the checkpoint that belongs to this one",
        )
