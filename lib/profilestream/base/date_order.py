"""Batches of a new query over `events` in order of event date.

A new Delta stream first reads the table as it is, the initial snapshot. Delta 4.4.0 orders its files by modification
time and path, and has no option to order them by event time. Tasks write in parallel, so that order mixes dates that
are months apart, and a learner would be evaluated with a state that knows the future. Here a batch of the snapshot gets
other files instead: the batch that Delta gives files 31 to 61 gets files 31 to 61 in order of date. This order depends
only on the version of the table, and the numbers on the offsets of the checkpoint. So a retry reads the same rows, and
the batches together read each row of the version once.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from profilestream.base.checkpoints import Checkpoint
from profilestream.base.delta_table import Table
from profilestream.base.settings import Paths

# Rows of one commit of `events` have the same values.
_COMMIT = ("source", "epoch", "batch_id")


def rows_in_date_order(
    frame: DataFrame, table: Table, paths: Paths, checkpoint: Checkpoint, batch_id: int
) -> DataFrame:
    """The rows of a batch: of the initial snapshot those of its files in order of date, of later commits all rows.

    Args:
        frame: the rows that Delta selected.
    """
    part = checkpoint.snapshot_part(batch_id)
    if part is None:
        return frame
    spark = frame.sparkSession
    files = table.files_by_date(spark, paths, part.version)[part.first_file : part.end_file]
    snapshot = table.read(spark, paths, version=part.version)
    name = F.substring_index(F.col("_metadata.file_path"), "/", -1)
    rows = snapshot.where(name.isin([file for file, _ in files]))
    for column in table.partitioned_by if files else ():
        # Delta reads only these partitions.
        values = sorted({partition[column] for _, partition in files})
        rows = rows.where(F.col(column).isin([F.lit(value).cast(snapshot.schema[column].dataType) for value in values]))
    if not part.has_later_commits:
        return rows
    later = frame.join(F.broadcast(snapshot.select(*_COMMIT).distinct()), list(_COMMIT), "left_anti")
    return rows.unionByName(later.select(*rows.columns))
