"""Batches of a new query over `events` in order of event date.

A new Delta stream first reads the table as it is, the initial snapshot. Delta 4.4.0 orders its files by modification
time and path, and has no option to order them by event time. Tasks write in parallel, so that order mixes dates that
are months apart, and a learner would be evaluated with a state that knows the future. Here each batch of the snapshot
gets the rows of a range of dates instead: the batch that Delta gives files 31 to 61 gets the dates of files 31 to 61
in order of date. The ranges depend only on the offsets of the checkpoint and on the version of the table. So a retry
reads the same rows, and the batches together read each row of the version once.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.checkpoints import Checkpoint
from profilestream.base.delta_table import Table
from profilestream.base.settings import Paths

# Rows of one commit of `events` have the same values.
_COMMIT = ("source", "epoch", "batch_id")


def rows_in_date_order(
    frame: DataFrame, table: Table, paths: Paths, checkpoint: Checkpoint, batch_id: int
) -> DataFrame:
    """The rows of a batch: of the initial snapshot those of its dates, of later commits those of its files.

    All rows of a date are in one batch, so a batch may have more or fewer files than Delta counted.

    Args:
        frame: the rows that Delta selected.
    """
    part = checkpoint.snapshot_part(batch_id)
    if part is None:
        return frame
    spark = frame.sparkSession
    dates = table.file_dates(spark, paths, part.version)
    snapshot = table.read(spark, paths, version=part.version)
    rows = snapshot.where(_from(dates, part.first_file)).where(~_from(dates, part.end_file))
    if not part.has_later_commits:
        return rows
    later = frame.join(F.broadcast(snapshot.select(*_COMMIT).distinct()), list(_COMMIT), "left_anti")
    return rows.unionByName(later.select(*rows.columns))


def _from(dates: list[str], file: int | None) -> Column:
    """Whether the date of a row is in a batch that starts at this file, or in a later one; null: after all files.

    The date of the preceding file is complete in an earlier batch.
    """
    if file == 0:
        return F.lit(True)
    first = None if file is None else next((date for date in dates[file:] if date > dates[file - 1]), None)
    return F.lit(False) if first is None else F.col("event_date") >= F.lit(first).cast("date")
