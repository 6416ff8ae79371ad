"""Hour tiles become day tiles: one row an entity and day, in the same table, whose `hour` is midnight.

The table's property says up to which day; readers take whole days up to there and tell parts of them from `events`. It
is set before the rows are put together, so a reader between the two, or after a crash, finds the same answers.
"""

from datetime import date, timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks
from profilestream.base.settings import Paths, Settings
from profilestream.base.tables import Table
from profilestream.derive import feature_declaration, fold_stage, tiles
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import Derived

STEP, PROPERTY = "steward_compact_tiles", "profilestream.day_tiles_until"
_EPOCH = "days"  # of the rows that stand for a day; a batch's epoch is a UUID


def day_tiles_until(spark: SparkSession, table: Table, paths: Paths) -> date | None:
    """The newest day that is told by day tiles; null when there is none."""
    found = table.property_of(spark, paths, PROPERTY)
    return None if found is None else date.fromisoformat(found)


def run(spark: SparkSession, settings: Settings) -> None:
    """Put together the hours of days that are old enough, table by table; nothing when the settings name no age.

    A day's age is counted from the newest day of the table. The stage that appends tiles must not run meanwhile: its
    lock is held. A second run finds nothing to do, but for days to which late events have come since.
    """
    age = settings.derive.windows.day_tiles_after_days
    features = feature_declaration.declared(settings)
    if age is None or features is None:
        return
    with locks.held(settings.paths.lock_folder, tiles.STAGE):
        for derived in fold_stage.declared(settings).values():
            if derived.name in features.entities.values() and derived.table.exists(spark, settings.paths):
                _put_together(spark, derived, age, settings.paths)


def _put_together(spark: SparkSession, derived: Derived, age: int, paths: Paths) -> None:
    table = derived.table
    table.check_stored(spark, paths)
    rows = table.read(spark, paths)
    newest = rows.agg(F.max("date")).head()
    if newest is None or newest[0] is None:
        return
    until = newest[0] - timedelta(days=age + 1)
    apart = rows.where((F.col("date") <= until) & (F.col("epoch") != _EPOCH)).select("date").distinct().collect()
    if not apart:
        return
    before = day_tiles_until(spark, table, paths)
    if before is None or before < until:
        spark.sql(f"ALTER TABLE delta.`{table.uri(paths)}` SET TBLPROPERTIES ('{PROPERTY}' = '{until}')")
    in_days = F.col("date").isin([day["date"] for day in apart])
    by_day = Fold.of(derived).merged(
        table.read(spark, paths).where(in_days).withColumn("hour", F.col("date").cast("timestamp"))
    )
    stamp = {"epoch": F.lit(_EPOCH), "batch_id": F.lit(0).cast("bigint")}
    told = fold_stage.by_folder(by_day.withColumns(stamp).select(*table.columns), derived)
    # Day after day brings the entities in the same order, so their sums lie side by side: a twentieth less to merge.
    told = told.sortWithinPartitions(*derived.partitioned_by, *derived.keys)
    commits.rewrite(told, table, paths, where=f"date IN ({', '.join(repr(str(day['date'])) for day in apart)})")
