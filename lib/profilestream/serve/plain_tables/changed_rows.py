"""Rows of a table that is computed completely in each run: only those that changed are written, in one commit."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.checkpoints import Plan
from profilestream.base.commits import Txn
from profilestream.base.delta_table import DECLARATION_PROPERTY, Table
from profilestream.base.queries import Batch
from profilestream.base.session import persisted
from profilestream.base.settings import Settings
from profilestream.serve.users import all_users

STEP = "serve_tables"
DELETED = "_deleted"
_STORED = "_stored"


@dataclass(frozen=True)
class PinnedTables:
    """Input tables of one run at fixed versions, by name; those that do not exist are left out."""

    spark: SparkSession
    settings: Settings
    versions: dict[str, int]

    def read(self, table: Table) -> DataFrame | None:
        """The rows; null if the table does not exist or is not an input with these settings."""
        if table.name not in self.versions:
            return None
        return all_users.read_version(self.spark, table, self.settings, self.versions[table.name])


def pin(spark: SparkSession, settings: Settings, tables: Collection[Table]) -> PinnedTables:
    """The tables at their current versions."""
    existing = [table for table in tables if table.exists(spark, settings.paths)]
    return PinnedTables(spark, settings, commits.versions(spark, existing, settings.paths))


def update(
    table: Table, pinned: PinnedTables, parameters: object, rows: Callable[[], DataFrame], *, not_compared: str = ""
) -> int:
    """Write the rows that differ from the stored ones, and delete stored rows without a new row, in one commit.

    The table is created again if it has another declaration. There is no commit if no row changes, and nothing is
    computed if the latest commit is from the same inputs.

    Args:
        parameters: everything else that the rows depend on.
        rows: computes all rows of the table.
        not_compared: a column; a row that differs in this column only is not written.

    Returns:
        The number of written and deleted rows.
    """
    spark, paths = pinned.spark, pinned.settings.paths
    _prepare(table, pinned)
    txn = commits.next_txn(spark, table, paths, STEP, repr((pinned.versions, parameters)))
    if txn is None:
        return 0
    version = txn.batch_id - 1
    stored = table.read(spark, paths, version=version)
    with persisted(changed_rows(rows(), stored, table, not_compared)) as changed:
        count = changed.count()
        if count:
            merge(changed, count, table, pinned.settings, txn, version)
    return count


def merge(changed: DataFrame, count: int, table: Table, settings: Settings, txn: Txn, read_version: int) -> None:
    """Write rows, and delete those with the flag DELETED, in one commit.

    Args:
        count: number of rows, at most; few are written by the driver.
        read_version: version of the table that the rows were computed from.
    """
    limits = settings.stream
    batch = Batch(
        changed.sparkSession, settings.paths, txn, Plan(""),
        local_max_rows=limits.local_max_rows, local_max_keys=limits.local_max_keys,
    )  # fmt: skip
    batch.merge(changed, table, count=count, delete_flag=DELETED, read_version=read_version)


def _prepare(table: Table, pinned: PinnedTables) -> None:
    """Make the table ready for writing; one with other columns is created again."""
    spark, paths = pinned.spark, pinned.settings.paths
    if table.declaration and table.exists(spark, paths):
        stored = table.metadata(spark, paths)
        is_other = stored.properties.get(DECLARATION_PROPERTY) != table.declaration
        if is_other and stored.schema_version <= table.schema_version:
            table.recreate(spark, paths)
    table.prepare(spark, paths)


def changed_rows(rows: DataFrame, stored: DataFrame, table: Table, not_compared: str = "") -> DataFrame:
    """New and different rows, and the keys of stored rows without a new one, with the flag DELETED."""
    (key,) = table.key
    compared = [name for name in table.names if name not in (key, not_compared)]
    old = stored.select(key, F.struct(*compared).alias(_STORED))
    new = rows.select(*table.names, F.lit(False).alias(DELETED))
    is_same = F.struct(*compared).eqNullSafe(F.col(_STORED))
    changed = new.join(old, key, "full").where(F.col(DELETED).isNull() | ~is_same)
    return changed.select(*table.names, F.coalesce(DELETED, F.lit(True)).alias(DELETED))
