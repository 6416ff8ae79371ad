"""serve_tables: the tables `users` and `items`; only rows that changed are written."""

from pyspark.sql import SparkSession

from profilestream.base import locks
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from profilestream.serve.plain_tables import changed_rows, items_table, users_table

STEP = changed_rows.STEP


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declarations that the columns depend on; writes nothing.

    Raises:
        BadSettings: no profile table is declared, or the name of an outcome cannot be that of a column.
    """
    profiles.profile_table(settings)
    users_table.table(settings)


def run(spark: SparkSession, settings: Settings) -> tuple[int, int]:
    """Bring `items` and `users`, which uses the names of `items`, up to date, in one commit each.

    Returns:
        The numbers of rows of `users` and of `items` that were written or deleted.

    Raises:
        BadSettings: as for `check`.
        SourceMissing: `events` or the profile table does not exist.
    """
    with locks.hold_lock(settings.paths.lock_folder, STEP):
        items = items_table.update(spark, settings)
        return users_table.update(spark, settings), items
