"""Every table, declared once, in flow order. Creation, checks, reads and tests derive from these values."""

import functools
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from delta.tables import DeltaTable, DeltaTableBuilder
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from profilestream.base import files
from profilestream.base.errors import Refused, SchemaMismatch, SourceMissing
from profilestream.base.jvm import java_class
from profilestream.base.settings import Paths

VERSION_PROPERTY = "profilestream.schema_version"
DECLARATION_PROPERTY = "profilestream.declaration"
_TRIES = 3  # to make a table
_MAKING: dict[str, threading.Lock] = {}  # by path: two sources of a run write the same tables


@functools.cache
def _parsed(ddl: str) -> T.StructType:
    return cast(T.StructType, T.StructType.fromDDL(ddl))


@dataclass(frozen=True)
class Table:
    """A Delta table `<warehouse>/<name>`.

    Args:
        ddl: columns in order, as in CREATE TABLE.
        key: columns that name a row.
        partitioned_by: folder columns.
        schema_version: raised by every change of columns. A table newer than the code is refused; an older one gets the
            columns that it lacks, null in the rows that are there, so a new column may be null.
        properties: Delta table properties.
        declaration: fingerprint of what its rows are derived by; empty when they are not derived.
    """

    name: str
    ddl: str
    key: tuple[str, ...]
    partitioned_by: tuple[str, ...] = ()
    schema_version: int = 1
    properties: dict[str, str] = field(default_factory=dict, hash=False)
    declaration: str = ""

    @property
    def schema(self) -> T.StructType:
        """The columns; needs a running session."""
        return _parsed(self.ddl)

    @property
    def columns(self) -> list[str]:
        """Column names in order, read from the DDL without a session."""
        return [line.split()[0] for line in self.ddl.strip().splitlines()]

    def path(self, paths: Paths) -> str:
        """Where the table lies, as the settings spell it."""
        return f"{paths.warehouse.rstrip('/')}/{self.name}"

    def uri(self, paths: Paths) -> str:
        """Where the table lies, for Spark."""
        return files.qualified(self.path(paths))

    def log(self, spark: SparkSession, paths: Paths) -> Any:
        """Delta's log of the table."""
        logs = java_class(spark, "org.apache.spark.sql.delta.DeltaLog")
        return logs.forTable(spark._jsparkSession, self.uri(paths))

    def metadata(self, spark: SparkSession, paths: Paths) -> Any:
        """What Delta keeps of the table beside its rows (id, columns, properties), read from its log now."""
        return self.log(spark, paths).startTransaction().metadata()

    def property_of(self, spark: SparkSession, paths: Paths, key: str) -> str | None:
        """A property of the table, read from its log now; null when it has none of that name."""
        return _property(self.metadata(spark, paths), key)

    def create(self, spark: SparkSession, paths: Paths) -> bool:
        """Make the table when it is not there; tells whether it made it.

        A process killed while it made the table leaves a log without a version, of which Delta says that there is a
        table and that it cannot be found; it is removed.
        """
        path = self.uri(paths)
        with _MAKING.setdefault(path, threading.Lock()):
            return self._made(spark, path)

    def _made(self, spark: SparkSession, path: str) -> bool:
        for _ in range(_TRIES - 1):
            with suppress(PySparkException, Py4JJavaError):
                return self._made_now(spark, path)
            time.sleep(1)  # another process may be making it just now
            if not DeltaTable.isDeltaTable(spark, path):
                files.prune(spark, f"{path}/_delta_log")
        return self._made_now(spark, path)

    def _made_now(self, spark: SparkSession, path: str) -> bool:
        if DeltaTable.isDeltaTable(spark, path):
            return False
        self._described(DeltaTable.createIfNotExists(spark), path).execute()
        return True

    def empty(self, spark: SparkSession, paths: Paths) -> None:
        """Make the table anew, without rows and with today's columns. Delta cannot replace a table that has no name."""
        path = self.uri(paths)
        files.delete(spark, path)
        logs = java_class(spark, "org.apache.spark.sql.delta.DeltaLog")
        logs.invalidateCache(spark._jsparkSession, files.hadoop_path(spark, path))
        self.create(spark, paths)

    def _described(self, builder: DeltaTableBuilder, path: str) -> DeltaTableBuilder:
        builder = builder.location(path).addColumns(self.schema)
        builder = builder.partitionedBy(*self.partitioned_by) if self.partitioned_by else builder
        properties = {VERSION_PROPERTY: str(self.schema_version), **self.properties}
        if self.declaration:
            properties[DECLARATION_PROPERTY] = self.declaration
        for key, value in properties.items():
            builder = builder.property(key, value)
        return builder

    def register(self, spark: SparkSession, paths: Paths) -> None:
        """Name the table in the catalog, when the settings name one."""
        if paths.catalog:
            spark.sql(f"CREATE SCHEMA IF NOT EXISTS {paths.catalog}")
            spark.sql(
                f"CREATE TABLE IF NOT EXISTS {paths.catalog}.{self.name} USING DELTA LOCATION '{self.uri(paths)}'"
            )

    def exists(self, spark: SparkSession, paths: Paths) -> bool:
        """Whether the table is there."""
        return DeltaTable.isDeltaTable(spark, self.uri(paths))

    def require(self, spark: SparkSession, paths: Paths, *, do: str) -> None:
        """Raise SourceMissing, with what to do, when the table is not there."""
        if not self.exists(spark, paths):
            raise SourceMissing(f"there is no table {self.name}", where=paths.warehouse, do=do)

    def read(self, spark: SparkSession, paths: Paths, *, version: int | None = None) -> DataFrame:
        """The table as a frame, at a version of its history when one is named."""
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(self.uri(paths))

    def check_stored(self, spark: SparkSession, paths: Paths) -> None:
        """Refuse a stored table that this code cannot write; writes nothing.

        Raises:
            Refused: it was written by newer code, or derived by another declaration.
            SchemaMismatch: its columns are not those declared here, even after new nullable columns are added.
        """
        path, metadata = self.path(paths), self.metadata(spark, paths)
        stored = int(_property(metadata, VERSION_PROPERTY) or 0)
        if stored > self.schema_version:
            raise Refused(
                f"table {self.name} has schema version {stored}, this code knows {self.schema_version}",
                where=path,
                do="run the newer profilestream that wrote it",
            )
        if self.declaration and _property(metadata, DECLARATION_PROPERTY) != self.declaration:
            raise Refused(
                f"table {self.name} was derived by another declaration",
                where=path,
                do="restore the declaration, or derive the table again from all events: --rebuild",
            )
        have = _columns(metadata)
        new = self._new_columns(have.names) if stored < self.schema_version else []
        self.check(T.StructType([*have, *new]))

    def upgrade(self, spark: SparkSession, paths: Paths) -> None:
        """Add the columns that a stored table of an older schema version lacks; `check_stored` comes first."""
        metadata = self.metadata(spark, paths)
        if int(_property(metadata, VERSION_PROPERTY) or 0) >= self.schema_version:
            return
        path = f"delta.`{self.uri(paths)}`"
        if new := [
            f"{field.name} {field.dataType.simpleString()}" for field in self._new_columns(_columns(metadata).names)
        ]:
            spark.sql(f"ALTER TABLE {path} ADD COLUMNS ({', '.join(new)})")
        spark.sql(f"ALTER TABLE {path} SET TBLPROPERTIES ('{VERSION_PROPERTY}' = '{self.schema_version}')")

    def _new_columns(self, have: list[str]) -> list[T.StructField]:
        return [field for field in self.schema if field.nullable and field.name not in have]

    def check(self, got: T.StructType) -> None:
        """Raise SchemaMismatch unless `got` has the declared columns and types (any nullability)."""
        have = {f.name: f.dataType.simpleString() for f in got}
        want = {f.name: f.dataType.simpleString() for f in self.schema}
        wrong = [
            f"  {name}: want {kind}, got {have.get(name, 'no such column')}"
            for name, kind in want.items()
            if have.get(name) != kind
        ]
        extra = sorted(have.keys() - want.keys())
        if wrong or extra:
            raise SchemaMismatch(
                "\n".join([f"frame does not fit table {self.name!r}", *wrong, f"  not in the table: {extra}"]),
                where=f"table {self.name}",
                do=f"end the transform with a select of the columns in tables.{self.name.upper()}",
            )


EVENTS = Table(
    name="events",
    ddl="""
        event_id STRING NOT NULL,
        event_type STRING NOT NULL,
        event_time TIMESTAMP NOT NULL,
        ingest_time TIMESTAMP NOT NULL,
        event_date DATE NOT NULL,
        user_id STRING,
        item_id STRING,
        order_id STRING,
        category STRING,
        brand STRING,
        price DOUBLE,
        currency STRING,
        quantity DOUBLE,
        value DOUBLE,
        rating DOUBLE,
        session_id STRING,
        query STRING,
        text STRING,
        target_user_id STRING,
        channel STRING,
        device STRING,
        region STRING,
        attributes MAP<STRING, STRING>,
        extra MAP<STRING, STRING>,
        warnings ARRAY<STRING>,
        source STRING NOT NULL,
        position STRING NOT NULL,
        epoch STRING NOT NULL,
        batch_id BIGINT NOT NULL
    """,
    key=("source", "event_id", "event_date"),
    partitioned_by=("event_date",),
    # Of 29 columns only this one is asked for by range; min and max of the others cost a tenth of a batch.
    properties={"delta.dataSkippingStatsColumns": "event_time"},
)

REJECTED_EVENTS = Table(
    name="rejected_events",
    ddl="""
        source STRING NOT NULL,
        position STRING NOT NULL,
        rule STRING NOT NULL,
        reason STRING NOT NULL,
        payload STRING,
        payload_encoding STRING NOT NULL,
        payload_header STRING,
        ingest_time TIMESTAMP NOT NULL,
        epoch STRING NOT NULL,
        batch_id BIGINT NOT NULL,
        reprocessed_from STRING
    """,
    key=("source", "position", "epoch", "batch_id"),
)

# The value of a batch, and the trend with it learned (capture/alarms.py).
_MEASURE = (
    "value: DOUBLE, batches: BIGINT, as_of: BIGINT, weight: DOUBLE, squares: DOUBLE, mean: DOUBLE, spread: DOUBLE"
)

CAPTURE_BATCHES = Table(
    name="capture_batches",
    ddl=f"""
        source STRING NOT NULL,
        epoch STRING NOT NULL,
        batch_id BIGINT NOT NULL,
        kind STRING NOT NULL,
        ingest_time TIMESTAMP NOT NULL,
        files BIGINT NOT NULL,
        rows_in BIGINT NOT NULL,
        rows_clean BIGINT NOT NULL,
        rows_rejected BIGINT NOT NULL,
        rows_duplicate BIGINT NOT NULL,
        rejected_by_rule MAP<STRING, BIGINT> NOT NULL,
        warned_by_rule MAP<STRING, BIGINT> NOT NULL,
        event_time_min TIMESTAMP,
        event_time_max TIMESTAMP,
        lateness_seconds_max DOUBLE,
        seconds DOUBLE NOT NULL,
        fingerprint STRING NOT NULL,
        reprocessed_up_to MAP<STRING, BIGINT>,
        reprocessed_rules ARRAY<STRING>,
        measures MAP<STRING, STRUCT<{_MEASURE}>>
    """,
    key=("source", "epoch", "batch_id", "kind"),
    schema_version=2,
)

CAPTURE_ALARMS = Table(
    name="capture_alarms",
    ddl="""
        source STRING NOT NULL,
        epoch STRING NOT NULL,
        batch_id BIGINT NOT NULL,
        ingest_time TIMESTAMP NOT NULL,
        event_time_max TIMESTAMP,
        measure STRING NOT NULL,
        value DOUBLE NOT NULL,
        expected DOUBLE NOT NULL,
        deviations DOUBLE NOT NULL,
        action STRING NOT NULL,
        message STRING NOT NULL
    """,
    key=("source", "epoch", "batch_id", "measure"),
)

MODEL_METRICS = Table(
    name="model_metrics",
    ddl="""
        learner STRING NOT NULL,
        ranker STRING NOT NULL,
        epoch STRING NOT NULL,
        batch_id BIGINT NOT NULL,
        as_of TIMESTAMP NOT NULL,
        users BIGINT NOT NULL,
        recall_10 DOUBLE,
        recall_20 DOUBLE,
        ndcg_10 DOUBLE,
        mrr_20 DOUBLE,
        coverage DOUBLE,
        novelty DOUBLE,
        rmse DOUBLE,
        cost DOUBLE
    """,
    key=("learner", "ranker", "epoch", "batch_id"),
    schema_version=2,
)

# One row a user: fifths (5 is best) by recency, frequency and money, and what they are called (serve/tags/rfm.py).
USER_GROUPS = Table(
    name="user_groups",
    ddl="""
        user_id STRING NOT NULL,
        recency_days DOUBLE,
        frequency DOUBLE,
        money DOUBLE,
        recency_quintile INT,
        frequency_quintile INT,
        monetary_quintile INT,
        rfm STRING,
        loyalty STRING,
        loyalty_since TIMESTAMP,
        cohort STRING,
        as_of TIMESTAMP NOT NULL
    """,
    key=("user_id",),
    properties={"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"},
)

# A row each time that a user had a tag; `until` is null while it holds, and `ended` says why it ended (serve/tags/assign_tags.py).
USER_TAGS = Table(
    name="user_tags",
    ddl="""
        user_id STRING NOT NULL,
        tag STRING NOT NULL,
        since TIMESTAMP NOT NULL,
        until TIMESTAMP,
        ended STRING,
        evidence STRING,
        rule_version STRING NOT NULL,
        as_of TIMESTAMP NOT NULL
    """,
    key=("user_id", "tag", "since"),
    properties={"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"},
)

RECOMMENDATIONS = Table(
    name="recommendations",
    ddl="""
        user_id STRING NOT NULL,
        kind STRING NOT NULL,
        rank INT NOT NULL,
        item_id STRING NOT NULL,
        score DOUBLE NOT NULL,
        ranker STRING NOT NULL,
        because STRING,
        reason STRING NOT NULL,
        model_version STRING NOT NULL,
        profile_version BIGINT,
        as_of TIMESTAMP NOT NULL
    """,
    key=("user_id", "kind", "rank"),
    properties={"delta.enableDeletionVectors": "true"},
)

STAGE_BATCHES = Table(
    name="stage_batches",
    ddl="""
        stage STRING NOT NULL,
        source STRING NOT NULL,
        epoch STRING NOT NULL,
        batch_id BIGINT NOT NULL,
        started_at TIMESTAMP NOT NULL,
        rows_in BIGINT NOT NULL,
        lag_files BIGINT,
        seconds DOUBLE NOT NULL,
        seconds_by_phase MAP<STRING, DOUBLE> NOT NULL
    """,
    key=("stage", "source", "epoch", "batch_id"),
)

ALL = (
    EVENTS, REJECTED_EVENTS, CAPTURE_BATCHES, CAPTURE_ALARMS, MODEL_METRICS, USER_GROUPS, USER_TAGS, RECOMMENDATIONS,
    STAGE_BATCHES,
)  # fmt: skip


def _property(metadata: Any, key: str) -> str | None:
    found = metadata.configuration().get(key)
    return str(found.get()) if found.isDefined() else None


def _columns(metadata: Any) -> T.StructType:
    return T.StructType.fromJson(json.loads(metadata.schemaString()))


def delta_version(spark: SparkSession, path: str) -> int:
    """The newest version of the Delta table at a path.

    Raises:
        SourceMissing: there is no such table.
    """
    uri = files.qualified(path)
    if not DeltaTable.isDeltaTable(spark, uri):
        raise SourceMissing("there is no Delta table", where=path, do="name a path that holds one")
    row = DeltaTable.forPath(spark, uri).history(1).select("version").first()
    return 0 if row is None else int(row["version"])
