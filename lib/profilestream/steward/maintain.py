"""Maintenance of all tables: compaction, removal of files and log entries that no reader needs, retention of payloads.

It runs while other jobs write the tables (docs/decisions/0041-table-maintenance.md). One number per table decides what
is removed: the oldest version that a reader needs. The last version before it with a checkpoint of Delta, and all later
ones, can be read afterwards.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream import table_registry
from profilestream.base import commits, console, files
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, Refused
from profilestream.base.settings import Settings
from profilestream.base.tables import REJECTED_EVENTS
from profilestream.derive import compact_tiles
from profilestream.learn import publication
from profilestream.steward import needed_versions, table_files
from profilestream.steward.maintenance_report import MaintenanceReport, TableReport, TableSize
from profilestream.steward.needed_versions import KEEP_HOURS, NeededVersion, Reader

STEP = "steward_maintain"
# A file that no entry of the log names belongs to a writer that has not committed yet, or crashed.
_LONGEST_WRITE = timedelta(days=1)
# With more partitions, all are compacted: Spark parses long conditions slowly.
_MAX_PARTITIONS_BY_NAME = 200


def check(settings: Settings, names: Sequence[str] = ()) -> None:
    """Check the names of tables in `maintain.tables` and in the arguments.

    Raises:
        BadSettings: a name is not one of a table.
    """
    known = [table.name for table in table_registry.registry(settings)]
    for where, wanted in ((f"{settings.config_file}, maintain.tables", settings.maintain.tables), ("--table", names)):
        if unknown := sorted(set(wanted) - set(known)):
            raise BadSettings(f"there are no tables {unknown}", where=where, do=f"use names of tables: {known}")


def run(
    spark: SparkSession, settings: Settings, now: datetime, names: Sequence[str] = (), *, is_dry_run: bool = False
) -> MaintenanceReport:
    """Maintain the tables that exist, and remove temporary files of crashed writers from the checkpoints.

    Args:
        now: when the run started; versions that were committed later are not removed.
        names: of the tables; empty: all.
        is_dry_run: change nothing.

    Raises:
        Refused: another process maintains or rebuilds a table at the same time.
    """
    if not is_dry_run:
        _compact_tiles(spark, settings)
    existing = [table for table in table_registry.registry(settings) if table.exists(spark, settings.paths)]
    tables = [table for table in existing if not names or table.name in names]
    readers = needed_versions.readers(spark, settings) if tables else []
    reports = []
    for table in tables:
        with nullcontext() if is_dry_run else table.maintenance_lock(settings.paths):
            reports.append(_Maintenance(spark, settings, table, readers, now, is_dry_run).run())
    temporary_files = _temporary_files(spark, settings, now)
    if not is_dry_run:
        for path in temporary_files:
            files.delete(spark, path)
    return MaintenanceReport(reports, len(temporary_files), is_dry_run)


def _compact_tiles(spark: SparkSession, settings: Settings) -> None:
    try:
        compact_tiles.run(spark, settings)
    except Refused as error:
        console.line(f"{compact_tiles.STEP} is left for the next run: {error.what}")


def _temporary_files(spark: SparkSession, settings: Settings, now: datetime) -> list[str]:
    """Temporary files in the checkpoints, which a crashed writer left."""
    root, before = files.qualified(settings.paths.checkpoints), (now - _LONGEST_WRITE).timestamp() * 1000
    listed = files.listing(spark, root)
    return [f"{root}/{path}" for path, (_, modified) in listed.items() if path.endswith(".tmp") and modified < before]


@dataclass(frozen=True)
class _Maintenance:
    """The maintenance of one table."""

    spark: SparkSession
    settings: Settings
    table: Table
    readers: Sequence[Reader]
    now: datetime
    is_dry_run: bool

    @property
    def _uri(self) -> str:
        return self.table.uri(self.settings.paths)

    def run(self) -> TableReport:
        """Do what is due, in an order in which a crash leaves nothing that a later run cannot remove."""
        before = self._size(table_files.list_table(self.spark, self._uri))
        payloads = self._clear_payloads()
        small_files, is_compacted = self._compact()
        listed = table_files.list_table(self.spark, self._uri)
        needed = self._needed(listed)
        first = listed.first_version(needed.version)
        removed = {} if first is None else listed.removable(first, self.now - _LONGEST_WRITE)
        removed |= {} if first is None else listed.old_entries(first)
        if not self.is_dry_run:
            for path in removed:  # data files first, then the entries that name them
                files.delete(self.spark, f"{self._uri}/{path}")
        after = None if self.is_dry_run else self._size(table_files.list_table(self.spark, self._uri))
        return TableReport(
            self.table.name, before, after, small_files, payloads, len(removed), sum(removed.values()), needed,
            listed.latest, is_compacted,
        )  # fmt: skip

    def _needed(self, listed: table_files.TableFiles) -> NeededVersion:
        """The oldest version that a reader needs."""
        hours = self.settings.maintain.of(self.table.name).keep_hours
        by_time = NeededVersion(listed.version_at(self.now - timedelta(hours=hours)), KEEP_HOURS)
        table_id = commits.table_id(self.spark, self.table, self.settings.paths)
        by_reader = [one for reader in self.readers for one in reader.needed_versions(self.table.name, table_id)]
        return min([*by_reader, by_time], key=lambda one: one.version)

    def _clear_payloads(self) -> int:
        """Set old payloads of rejected rows to null; their number."""
        days = self.settings.maintain.rejected_payload_days
        if days is None or self.table.name != REJECTED_EVENTS.name:
            return 0
        is_old = f"payload IS NOT NULL AND ingest_time < TIMESTAMP '{(self.now - timedelta(days=days)).isoformat()}'"
        count = self.table.read(self.spark, self.settings.paths).where(is_old).count()
        if count and not self.is_dry_run:
            values: dict[str, str | Column] = {"payload": F.lit(None).cast("string")}
            commits.update(self.spark, self.table, self.settings.paths, where=is_old, values=values)
        return count

    def _compact(self) -> tuple[int, bool]:
        """Combine the small files of partitions with many; their number, and whether it succeeded.

        A loaded model reads the files of a published table that it found, so they stay where they are.
        """
        upkeep = self.settings.maintain.of(self.table.name)
        if self.table.writer == publication.STAGE:
            return 0, True
        small_file_bytes = round(upkeep.small_file_mb * 1_000_000)
        is_small = F.col("size") < small_file_bytes
        partitions = self._stored_files().groupBy(F.to_json("partitionValues"))
        counts = partitions.agg(F.count_if(is_small).alias("small"), F.first("partitionValues")).collect()
        due = [row for row in counts if row["small"] >= upkeep.min_files]
        small_files = sum(row["small"] for row in due)
        if not due or self.is_dry_run:
            return small_files, True
        is_by_name = len(due) < len(counts) and len(due) <= _MAX_PARTITIONS_BY_NAME
        where = " OR ".join(_partition_condition(row[2]) for row in due) if is_by_name else ""
        is_compacted = commits.compact(
            self.spark, self.table, self.settings.paths, small_file_bytes=small_file_bytes, where=where
        )
        # A first version has a checkpoint, and Delta writes one only at every tenth version.
        self.table.log(self.spark, self.settings.paths).checkpoint()
        return small_files, is_compacted

    def _stored_files(self) -> DataFrame:
        """The files of the latest version, as Delta's `add` actions."""
        log = self.table.log(self.spark, self.settings.paths)
        return DataFrame(log.startTransaction().snapshot().allFiles().toDF(), self.spark)

    def _size(self, listed: table_files.TableFiles) -> TableSize:
        records = F.get_json_object("stats", "$.numRecords").cast("bigint")
        rows = F.sum(records - F.coalesce("deletionVector.cardinality", F.lit(0)))
        (total,) = self._stored_files().agg(rows, F.count(F.lit(1)), F.sum("size")).collect()
        return TableSize(total[0] or 0, total[1], total[2] or 0, len(listed.files), listed.bytes)


def _partition_condition(values: dict[str, str | None]) -> str:
    """A SQL condition on the partition columns, from their values as texts."""
    equal = [
        f"{name} IS NULL" if value is None else f"{name} = {_sql_literal(value)}" for name, value in values.items()
    ]
    return f"({' AND '.join(equal)})"


def _sql_literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
