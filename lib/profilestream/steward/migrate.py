"""Brings the stored tables of a warehouse to the columns of this version of the code, while no job runs.

A stage also adds missing columns to its own tables at its start. This job does it for all tables at once, and shows
before an upgrade what would change and what would be refused.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from pyspark.sql import SparkSession

from profilestream import flow, table_registry
from profilestream.base import locks
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused, SchemaMismatch
from profilestream.base.settings import Settings


@dataclass(frozen=True)
class TableChange:
    """A stored table that this code does not write as it is.

    Args:
        stored_version: its schema version.
        new_columns: nullable columns that it lacks.
        problem: why this code cannot write it; null if it can.
    """

    table: Table
    stored_version: int
    new_columns: list[str]
    problem: Refused | SchemaMismatch | None = None

    @property
    def text(self) -> str:
        """The change in one line."""
        name, versions = self.table.name, f"schema version {self.stored_version} -> {self.table.schema_version}"
        if self.problem is not None:
            return f"{name}: {self.problem.what}; what to do: {self.problem.do}"
        return f"{name}: {versions}, new columns: {', '.join(self.new_columns) or 'none'}"


def changes(spark: SparkSession, settings: Settings) -> list[TableChange]:
    """The stored tables that differ from their declaration, in flow order; writes nothing."""
    found = []
    for table in table_registry.registry(settings):
        if not table.exists(spark, settings.paths):
            continue
        problem: Refused | SchemaMismatch | None = None
        try:
            table.check_stored(spark, settings.paths)
        except (Refused, SchemaMismatch) as error:
            problem = error
        stored = table.metadata(spark, settings.paths)
        if problem is not None or stored.schema_version < table.schema_version:
            new = [name for name in table.names if name not in stored.schema.names]
            found.append(TableChange(table, stored.schema_version, new, problem))
    return found


def migrate(spark: SparkSession, settings: Settings) -> list[TableChange]:
    """Add the missing columns to all stored tables; returns what was changed.

    Holds the locks of all stages and steps, so that no job of another version writes at the same time.

    Raises:
        Refused: a job is running, or this code cannot write a table; then no table is changed.
    """
    with ExitStack() as stack:
        for lock in flow.lock_names(settings):
            stack.enter_context(locks.hold_lock(settings.paths.lock_folder, lock))
        found = changes(spark, settings)
        if problems := [change for change in found if change.problem is not None]:
            raise Refused(
                "\n".join(["this code cannot write some tables", *(f"  {change.text}" for change in problems)]),
                where=settings.paths.warehouse,
                do="resolve each of them as stated; no table was changed",
            )
        for change in found:
            change.table.upgrade(spark, settings.paths)
    return found
