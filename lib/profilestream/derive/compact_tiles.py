"""Merges hour tiles into day tiles: one row per entity and day, in the same table, with midnight as its `hour`.

A property of the table contains the last day with day tiles. Up to that day, readers use tiles of complete days only,
and read parts of a day from `events`. The property is set before the rows are rewritten. So readers get the same
results between the two commits, and after a crash between them.
"""

from datetime import date, timedelta

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks
from profilestream.base.delta_table import Table
from profilestream.base.settings import Paths, Settings
from profilestream.derive import feature_declaration, fold_stage
from profilestream.derive.feature_declaration import DAY, HOUR
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable

STEP, PROPERTY = "steward_compact_tiles", "profilestream.day_tiles_until"
_DAY_TILE_EPOCH = "days"  # `epoch` of day tiles; the epoch of hour tiles is a UUID
_EPOCH = date(1970, 1, 1)


def day_tiles_until(spark: SparkSession, table: Table, paths: Paths) -> date | None:
    """The last day with day tiles; null if there are no day tiles."""
    value = table.property_of(spark, paths, PROPERTY)
    return None if value is None else date.fromisoformat(value)


def tile_length(time: Column, until: date | None) -> Column:
    """Length in microseconds of the tile that contains a time.

    Args:
        time: microseconds.
        until: the last day with day tiles.
    """
    if until is None:
        return F.lit(HOUR).cast("bigint")
    first_hour_tiles = ((until - _EPOCH).days + 1) * DAY
    return F.when(time < first_hour_tiles, F.lit(DAY)).otherwise(F.lit(HOUR)).cast("bigint")


def tile_bounds(until: date | None) -> tuple[Column, Column]:
    """Start and end of a tile in microseconds. An hour tile of a day with day tiles gets the bounds of the day."""
    hour = F.unix_micros("hour")
    length = tile_length(hour, until)
    start = hour - F.pmod(hour, length)
    return start, start + length


def run(spark: SparkSession, settings: Settings) -> None:
    """Compact the old days of every tile table of an entity; does nothing when the settings have no age limit.

    The age of a day is its distance to the last day of the table. The stage may append tiles meanwhile: those of old
    days remain hour tiles. A second run rewrites only days for which late events added hour tiles.

    Raises:
        Refused: another run is active.
    """
    age = settings.derive.windows.day_tiles_after_days
    features = feature_declaration.declared_features(settings)
    if age is None or features is None:
        return
    with locks.hold_lock(settings.paths.lock_folder, STEP):
        for derived in fold_stage.declared_tables(settings).values():
            if derived.name in features.entities.values() and derived.table.exists(spark, settings.paths):
                _compact(spark, derived, age, settings.paths)


def _compact(spark: SparkSession, derived: DerivedTable, age: int, paths: Paths) -> None:
    table = derived.table
    table.check_stored(spark, paths)
    rows = table.read(spark, paths)
    last_day = rows.agg(F.max("date")).head()
    if last_day is None or last_day[0] is None:
        return
    until = last_day[0] - timedelta(days=age + 1)
    is_old_hour_tile = (F.col("date") <= until) & (F.col("epoch") != _DAY_TILE_EPOCH)
    days = [row["date"] for row in rows.where(is_old_hour_tile).select("date").distinct().collect()]
    if not days:
        return
    stored_until = day_tiles_until(spark, table, paths)
    if stored_until is None or stored_until < until:
        spark.sql(f"ALTER TABLE delta.`{table.uri(paths)}` SET TBLPROPERTIES ('{PROPERTY}' = '{until}')")
    # A compaction may replace the files of these days meanwhile.
    commits.repeat_conflicts(lambda: _rewrite(spark, derived, days, paths))


def _rewrite(spark: SparkSession, derived: DerivedTable, days: list[date], paths: Paths) -> None:
    """Replace the tiles of these days by day tiles."""
    table = derived.table
    old_tiles = table.read(spark, paths).where(F.col("date").isin(days))
    by_day = Fold(derived).merge_rows(old_tiles.withColumn("hour", F.col("date").cast("timestamp")))
    batch_columns = {"epoch": F.lit(_DAY_TILE_EPOCH), "batch_id": F.lit(0).cast("bigint")}
    day_tiles = fold_stage.repartition_by_folder(by_day.withColumns(batch_columns).select(*table.names), derived)
    # All days have the same order of entities, so a reader merges consecutive tiles of one entity: 5 % faster.
    day_tiles = day_tiles.sortWithinPartitions(*derived.partitioned_by, *derived.keys)
    commits.rewrite(day_tiles, table, paths, where=f"date IN ({', '.join(repr(str(day)) for day in days)})")
