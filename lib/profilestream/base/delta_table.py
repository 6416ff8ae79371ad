"""Table: a declared Delta table. Creation, schema checks, column comments and documentation derive from it."""

import functools
import json
import threading
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from delta.tables import DeltaTable, DeltaTableBuilder
from deltalake import DeltaTable as DeltaRsTable
from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import delta_log, files, locks
from profilestream.base.arrow_types import arrow_field
from profilestream.base.columns import Column
from profilestream.base.errors import Refused, SchemaMismatch, SourceMissing
from profilestream.base.jvm import java_class
from profilestream.base.settings import Paths

_PROPERTY_PREFIX = "profilestream."
VERSION_PROPERTY = f"{_PROPERTY_PREFIX}schema_version"
DECLARATION_PROPERTY = f"{_PROPERTY_PREFIX}declaration"
DEFAULT_RETENTION = "stored until the data of a person is erased or the stage is rebuilt"
_CREATE_ATTEMPTS = 3
_CREATE_LOCKS: dict[str, threading.Lock] = {}  # by path: two sources of one run create the same tables


@functools.cache
def _schema(columns: tuple[Column, ...]) -> T.StructType:
    parsed = cast(T.StructType, T.StructType.fromDDL(", ".join(column.ddl for column in columns)))
    return _commented(parsed, columns)


@functools.cache
def _arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([arrow_field(column.name, column.type) for column in columns])


def _commented(struct: T.StructType, columns: tuple[Column, ...]) -> T.StructType:
    """The struct with the comments of its columns, also inside structs."""
    fields = []
    for stored, column in zip(struct, columns, strict=True):
        inner = _commented(cast(T.StructType, stored.dataType), column.fields) if column.fields else stored.dataType
        fields.append(T.StructField(stored.name, inner, stored.nullable, {"comment": column.comment}))
    return T.StructType(fields)


@dataclass(frozen=True)
class Metadata:
    """Delta's metadata of a stored table; its id changes when the table is created again."""

    id: str
    schema: T.StructType
    properties: dict[str, str]

    @property
    def schema_version(self) -> int:
        """The version of the columns; 0 if it is not stored."""
        return int(self.properties.get(VERSION_PROPERTY, 0))


@dataclass(frozen=True)
class Table:
    """A Delta table `<warehouse>/<name>`.

    Args:
        columns: in order.
        key: columns that identify a row.
        found_by: columns of the key by which the driver finds rows (keyed_rows.py); empty: all.
        meaning: what one row is, in one sentence.
        writer: the stage or step that writes it.
        retention: how long its rows are stored.
        partitioned_by: partition columns.
        schema_version: incremented by every change of columns. A stored table with a higher version is refused. One
            with a lower version gets the missing columns, with null values; so a new column must be nullable.
        properties: Delta table properties.
        distinct_columns: columns with almost as many values as rows. Appended files have no dictionary for them: it
            would take time and save no space.
        declaration: fingerprint of the declaration of a derived table; empty for other tables.
        fixed_settings: settings that cannot change after the table was created, by name; stored as table properties.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    found_by: tuple[str, ...] = ()
    meaning: str = ""
    writer: str = ""
    retention: str = DEFAULT_RETENTION
    partitioned_by: tuple[str, ...] = ()
    schema_version: int = 1
    properties: dict[str, str] = field(default_factory=dict, hash=False)
    distinct_columns: tuple[str, ...] = ()
    declaration: str = ""
    fixed_settings: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def schema(self) -> T.StructType:
        """The columns with their comments; needs a running session."""
        return _schema(self.columns)

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    @property
    def is_updated(self) -> bool:
        """Whether rows are updated by key, with deletion vectors."""
        return self.properties.get("delta.enableDeletionVectors") == "true"

    @property
    def arrow_schema(self) -> pa.Schema:
        """The columns as Arrow types, with times in UTC; needs no session."""
        return _arrow_schema(self.columns)

    def arrow_rows(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Plain values as rows; maps are lists of pairs; times are datetimes or microseconds since 1970."""
        return pa.Table.from_pylist(rows, self.arrow_schema)

    def path(self, paths: Paths) -> str:
        """Path of the table, based on the warehouse path in the settings."""
        return f"{paths.warehouse.rstrip('/')}/{self.name}"

    def uri(self, paths: Paths) -> str:
        """Qualified URI of the table, for Spark."""
        return files.qualified(self.path(paths))

    def log(self, spark: SparkSession, paths: Paths) -> Any:
        """Delta's log of the table."""
        logs = java_class(spark, "org.apache.spark.sql.delta.DeltaLog")
        return logs.forTable(spark._jsparkSession, self.uri(paths))

    def local_folder(self, paths: Paths) -> Path | None:
        """The folder of the table; null on a remote file system."""
        folder = files.local_path(self.path(paths))
        return None if folder is None else Path(folder)

    def delta_rs_table(self, paths: Paths) -> DeltaRsTable | None:
        """The stored table, read by delta-rs; null if it is remote, or has a feature that delta-rs does not support."""
        folder = self.local_folder(paths)
        try:
            return None if folder is None else DeltaRsTable(folder)
        except DeltaError:
            return None

    def metadata(self, spark: SparkSession, paths: Paths) -> Metadata:
        """Id, columns and properties of the table, read from its log now; without Spark if the table is local."""
        if (stored := self.delta_rs_table(paths)) is not None:
            metadata, schema = stored.metadata(), stored.schema().to_json()
            return Metadata(str(metadata.id), T.StructType.fromJson(json.loads(schema)), metadata.configuration)
        remote = self.log(spark, paths).startTransaction().metadata()
        properties = java_class(spark, "scala.jdk.javaapi.CollectionConverters").asJava(remote.configuration())
        return Metadata(remote.id(), T.StructType.fromJson(json.loads(remote.schemaString())), dict(properties))

    def property_of(self, spark: SparkSession, paths: Paths, key: str) -> str | None:
        """A property of the table, read from its log now; null when it is not set."""
        return self.metadata(spark, paths).properties.get(key)

    def create(self, spark: SparkSession, paths: Paths) -> bool:
        """Create the table if it does not exist; true if it was created.

        On a remote file system, Spark creates it. A process that was killed while it did so leaves a log without a
        version. Delta then fails both to create the table (it exists) and to read it (it is not found). Such a log is
        removed.
        """
        if (folder := self.local_folder(paths)) is not None:
            return delta_log.create(
                folder, self.schema.json(), self.partitioned_by, self._stored_properties(), self.meaning
            )
        path = self.uri(paths)
        with _CREATE_LOCKS.setdefault(path, threading.Lock()):
            for _ in range(_CREATE_ATTEMPTS - 1):
                with suppress(PySparkException, Py4JJavaError):
                    return self._create_once(spark, path)
                time.sleep(1)  # another process may be creating it
                if not DeltaTable.isDeltaTable(spark, path):
                    files.prune(spark, f"{path}/_delta_log")
            return self._create_once(spark, path)

    def _create_once(self, spark: SparkSession, path: str) -> bool:
        if DeltaTable.isDeltaTable(spark, path):
            return False
        self._builder(DeltaTable.createIfNotExists(spark), path).execute()
        return True

    def _builder(self, builder: DeltaTableBuilder, path: str) -> DeltaTableBuilder:
        builder = builder.location(path).addColumns(self.schema)
        builder = builder.comment(self.meaning) if self.meaning else builder
        builder = builder.partitionedBy(*self.partitioned_by) if self.partitioned_by else builder
        for key, value in self._stored_properties().items():
            builder = builder.property(key, value)
        return builder

    def _stored_properties(self) -> dict[str, str]:
        properties = {VERSION_PROPERTY: str(self.schema_version), **self.properties}
        if self.declaration:
            properties[DECLARATION_PROPERTY] = self.declaration
        return properties | {_PROPERTY_PREFIX + name: value for name, value in self.fixed_settings.items()}

    def recreate(self, spark: SparkSession, paths: Paths) -> None:
        """Delete the table and create it without rows. Delta cannot replace a table that is not in a catalog.

        Raises:
            Refused: maintenance of the table is running.
        """
        path = self.uri(paths)
        with self.maintenance_lock(paths):
            files.delete(spark, path)
            logs = java_class(spark, "org.apache.spark.sql.delta.DeltaLog")
            logs.invalidateCache(spark._jsparkSession, files.hadoop_path(spark, path))
            self.create(spark, paths)

    def maintenance_lock(self, paths: Paths) -> AbstractContextManager[None]:
        """The lock that maintenance of the table holds.

        A compaction that ended after the table was created again would add its entry, with a later version, to the new
        log.
        """
        return locks.hold_lock(paths.lock_folder, f"maintain/{self.name}")

    def prepare(self, spark: SparkSession, paths: Paths) -> None:
        """Make the table ready for writing: create, check, upgrade and register it.

        Raises:
            Refused, SchemaMismatch: as check_stored.
        """
        if not self.create(spark, paths):
            self.upgrade(spark, paths)
        self.register(spark, paths)

    def register(self, spark: SparkSession, paths: Paths) -> None:
        """Register the table in the catalog, if the settings contain one."""
        if paths.catalog:
            spark.sql(f"CREATE SCHEMA IF NOT EXISTS {paths.catalog}")
            spark.sql(self.registration(paths))

    def registration(self, paths: Paths) -> str:
        """The statement of Spark SQL that registers the table, in the schema of the settings if there is one."""
        uri, schema = self.uri(paths).replace("'", "\\'"), f"{paths.catalog}." if paths.catalog else ""
        return f"CREATE TABLE IF NOT EXISTS {schema}{self.name} USING DELTA LOCATION '{uri}'"

    def exists(self, spark: SparkSession, paths: Paths) -> bool:
        """Whether the table exists."""
        if (folder := self.local_folder(paths)) is not None:
            return delta_log.latest_version(folder) >= 0
        return DeltaTable.isDeltaTable(spark, self.uri(paths))

    def require(self, spark: SparkSession, paths: Paths, *, do: str) -> None:
        """Raise SourceMissing, with what to do, when the table does not exist."""
        if not self.exists(spark, paths):
            raise SourceMissing(f"there is no table {self.name}", where=paths.warehouse, do=do)

    def read(self, spark: SparkSession, paths: Paths, *, version: int | None = None) -> DataFrame:
        """The rows of the table, at a given Delta version or the latest."""
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(self.uri(paths))

    def row_count(self, spark: SparkSession, paths: Paths) -> int:
        """The number of rows, by the log alone if it is local and has statistics of all files."""
        if (folder := self.local_folder(paths)) is not None:
            log = delta_log.DeltaLog(folder)
            log.refresh()
            if log.is_readable and (count := log.row_count()) is not None:
                return count
        return self.read(spark, paths).count()

    def files_by_date(self, spark: SparkSession, paths: Paths, version: int) -> list[tuple[str, dict[str, str]]]:
        """The name and the partition values of each file of a version, in order of the oldest event date of the files.

        Files of one date are in the order in which they were written. Delta's statistics of a file contain the date.
        """
        log = self.log(spark, paths)
        defaults = [getattr(log, f"getSnapshotAt$default${n}")() for n in (2, 3, 4)]
        files_of_version = DataFrame(log.getSnapshotAt(version, *defaults).allFiles().toDF(), spark)
        oldest = F.coalesce(F.get_json_object("stats", "$.minValues.event_date"), F.lit(""))
        name = F.substring_index("path", "/", -1)
        rows = files_of_version.select(oldest, "modificationTime", name, "partitionValues").collect()
        return [(row[2], row[3]) for row in sorted(rows, key=lambda row: tuple(row[:3]))]

    def check_stored(self, spark: SparkSession, paths: Paths) -> None:
        """Refuse a stored table that this code cannot write; writes nothing.

        Raises:
            Refused: newer code wrote it, its rows were derived by another declaration, or a fixed setting differs.
            SchemaMismatch: its columns differ from the declared ones, even after new nullable columns are added.
        """
        self._checked_metadata(spark, paths)

    def _checked_metadata(self, spark: SparkSession, paths: Paths) -> Metadata:
        path, metadata = self.path(paths), self.metadata(spark, paths)
        stored = metadata.schema_version
        if stored > self.schema_version:
            raise Refused(
                f"table {self.name} has schema version {stored}; this code supports {self.schema_version}",
                where=path,
                do="run the newer profilestream that wrote it",
            )
        if self.declaration and metadata.properties.get(DECLARATION_PROPERTY) != self.declaration:
            raise Refused(
                f"table {self.name} was derived by another declaration",
                where=path,
                do="restore the declaration, or derive the table again from all events: --rebuild",
            )
        for name, value in self.fixed_settings.items():
            created_with = metadata.properties.get(_PROPERTY_PREFIX + name)
            if created_with != value:
                raise Refused(
                    f"{name} is {value!r}, but table {self.name} was created with {created_with!r}",
                    where=path,
                    do=f"set {name} to {created_with!r}, or write into a new warehouse (paths.warehouse)",
                )
        new = self.new_columns(metadata.schema.names) if stored < self.schema_version else []
        self.check(T.StructType([*metadata.schema, *new]))
        return metadata

    def upgrade(self, spark: SparkSession, paths: Paths) -> None:
        """Check a stored table, and add the columns that one of a lower schema version lacks.

        Raises:
            Refused, SchemaMismatch: as check_stored.
        """
        metadata = self._checked_metadata(spark, paths)
        if metadata.schema_version >= self.schema_version:
            return
        path = f"delta.`{self.uri(paths)}`"
        missing = self.new_columns(metadata.schema.names)
        new = [f"{column.name} {column.dataType.simpleString()}" for column in missing]
        if new:
            spark.sql(f"ALTER TABLE {path} ADD COLUMNS ({', '.join(new)})")
        spark.sql(f"ALTER TABLE {path} SET TBLPROPERTIES ('{VERSION_PROPERTY}' = '{self.schema_version}')")

    def new_columns(self, stored: list[str]) -> list[T.StructField]:
        """The nullable columns that a table with these columns lacks."""
        return [column for column in self.schema if column.nullable and column.name not in stored]

    def check(self, schema: T.StructType) -> None:
        """Raise SchemaMismatch unless a schema has the declared columns and types; nullability is ignored."""
        actual = {f.name: f.dataType.simpleString() for f in schema}
        expected = {f.name: f.dataType.simpleString() for f in self.schema}
        wrong = [
            f"  {name}: expected {kind}, got {actual.get(name, 'no such column')}"
            for name, kind in expected.items()
            if actual.get(name) != kind
        ]
        extra = sorted(actual.keys() - expected.keys())
        if wrong or extra:
            raise SchemaMismatch(
                "\n".join([f"frame does not fit table {self.name!r}", *wrong, f"  not in the table: {extra}"]),
                where=f"table {self.name}",
                do=f"end the transform with a select of the columns of {self.name}, as its declaration lists them",
            )


def log_entry(spark: SparkSession, path: str, version: int) -> list[dict[str, Any]] | None:
    """The actions of a version in the log of the Delta table at a path; null without this entry."""
    text = files.read_text(spark, f"{path.rstrip('/')}/_delta_log/{version:020d}.json")
    return None if text is None else [json.loads(line) for line in text.split("\n") if line]


def delta_version(spark: SparkSession, path: str) -> int:
    """The latest version of the Delta table at a path.

    Raises:
        SourceMissing: there is no such table.
    """
    uri = files.qualified(path)
    if not DeltaTable.isDeltaTable(spark, uri):
        raise SourceMissing("there is no Delta table", where=path, do="give the path of a Delta table")
    row = DeltaTable.forPath(spark, uri).history(1).select("version").first()
    return 0 if row is None else int(row["version"])
