"""What is checked before a query starts: that checkpoint and tables tell the same story."""

from urllib.parse import unquote

from pyspark.sql import SparkSession

from profilestream.base import commits, files
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.session import Threads
from profilestream.base.settings import Paths
from profilestream.base.tables import Table


def check_start(
    spark: SparkSession,
    name: str,
    tables: tuple[Table, ...],
    folder: str,
    glob: str,
    checkpoint: Checkpoint,
    paths: Paths,
    *,
    accept_new_epoch: bool = False,
    accept_changed_files: bool = False,
) -> None:
    """Refuse to start where going on would lose or double rows; make the tables of a query that is new.

    Raises:
        Refused: a table is gone, the checkpoint is older than the tables, or another epoch wrote them, or a file
            changed after it was read.
        SourceMissing: the folder of input is not there.
    """
    if folder and not files.exists(spark, folder):
        raise SourceMissing(
            f"there is no input at {folder}", where=f"query {name}", do="mend the source's path in the settings"
        )
    found = tables
    if checkpoint.is_new():
        _check_no_other_epoch(spark, name, tables, checkpoint, paths, accept=accept_new_epoch)
        with Threads(spark, len(tables)) as beside:
            is_made = beside.map(lambda table: table.create(spark, paths), tables)
        found = tuple(table for table, is_new in zip(tables, is_made, strict=True) if not is_new)
    with commits.states_ready(spark, found, paths):
        for table in found:
            _check_table(spark, name, table, checkpoint, paths, is_trusted=table is tables[-1])
    for table in tables:
        table.register(spark, paths)
    if folder and not accept_changed_files:
        _check_files(spark, name, folder, glob, checkpoint)


def check_followed(spark: SparkSession, stage: str, followed: Table, checkpoint: Checkpoint, paths: Paths) -> None:
    """Refuse to go on after the followed table was made anew: what was added from the old one would stay.

    Raises:
        Refused: it was.
    """
    known = checkpoint.source_table()
    if known is not None and known != commits.table_id(spark, followed, paths):
        raise Refused(
            f"table {followed.name} was made anew, and {stage} holds what it said before",
            where=checkpoint.path,
            do=f"derive the stage again too: jobs/{stage}.py --rebuild",
        )


def unfinished_batch(checkpoint: Checkpoint) -> int | None:
    """The batch that was begun and not committed; null when there is none."""
    begun, finished = checkpoint.last_begun(), checkpoint.last_finished()
    return begun if begun is not None and begun != finished else None


def holds(spark: SparkSession, table: Table, paths: Paths, name: str, checkpoint: Checkpoint, batch_id: int) -> bool:
    """Whether a table already holds a batch of this query."""
    return commits.is_done(spark, table, paths, Txn(name, checkpoint.epoch(), batch_id))


def same_names(seen: dict[str, int]) -> dict[str, int]:
    """Paths from a checkpoint (URL-encoded URIs) written as file listings write them."""
    return {files.qualified(unquote(path)): stamp for path, stamp in seen.items()}


def _check_no_other_epoch(
    spark: SparkSession, name: str, tables: tuple[Table, ...], checkpoint: Checkpoint, paths: Paths, *, accept: bool
) -> None:
    for table in tables:
        if accept or not table.exists(spark, paths):
            continue
        ours = Txn(name, checkpoint.epoch(), 0).app_id(table)
        prefix = ours.rsplit("/", 1)[0] + "/"
        others = [app for app in commits.writers(spark, table, paths) if app.startswith(prefix) and app != ours]
        if others:
            raise Refused(
                f"the checkpoint of {name} is new, but {table.name} already holds batches "
                f"of epoch {others[0][len(prefix) :]}",
                where=checkpoint.path,
                do="restore the checkpoint, or read everything again with --accept-new-epoch "
                "(events that are already stored are found as duplicates)",
            )


def _check_table(
    spark: SparkSession, name: str, table: Table, checkpoint: Checkpoint, paths: Paths, *, is_trusted: bool
) -> None:
    begun, finished = checkpoint.last_begun(), checkpoint.last_finished()
    if not table.exists(spark, paths):
        raise Refused(
            f"table {table.name} is gone, but the checkpoint of {name} has begun batch {begun}",
            where=table.path(paths),
            do="restore the table; or read everything again: "
            f"remove {checkpoint.path} and start with --accept-new-epoch",
        )
    table.check_stored(spark, paths)
    table.upgrade(spark, paths)
    written = commits.last_batch(spark, table, paths, Txn(name, checkpoint.epoch(), 0).app_id(table))
    if written is not None and (begun is None or written > begun):
        raise Refused(
            f"the checkpoint of {name} is older than table {table.name}: "
            f"it knows batch {begun}, the table holds {written}",
            where=checkpoint.path,
            do=f"restore the newer checkpoint; or remove {checkpoint.path} and start with --accept-new-epoch",
        )
    if is_trusted and finished is not None and (written is None or written < finished):
        raise Refused(
            f"table {table.name} is older than the checkpoint of {name}: it holds batch {written}, "
            f"the checkpoint has finished {finished}",
            where=table.path(paths),
            do="restore the newer table, or the checkpoint that belongs to this one",
        )


def _check_files(spark: SparkSession, name: str, folder: str, glob: str, checkpoint: Checkpoint) -> None:
    seen = same_names(checkpoint.files_seen())
    if not seen:
        return
    now = files.sizes(spark, folder, glob)
    changed = [path for path, (_, modified) in now.items() if path in seen and seen[path] != modified]
    if changed:
        raise Refused(
            f"{len(changed)} file(s) changed after they were read, and what was added would be lost: {changed[:3]}",
            where=f"query {name}",
            do="copy them under new names (rows already read are found as duplicates), "
            "or go on without: --accept-changed-files",
        )
