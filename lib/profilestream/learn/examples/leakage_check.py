"""Check of training examples for leakage: compute their features again from a log that ends at their time."""

from collections import Counter
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import SourceMissing, StateCorrupt
from profilestream.base.settings import Settings
from profilestream.derive.entity_features import EntityFeatures
from profilestream.derive.point_in_time import features_as_of
from profilestream.learn.examples import training_examples

_NO_LIMIT = datetime(9999, 1, 1, tzinfo=UTC)
_RECOMPUTED = "_recomputed_"
# Sums in another order, and roots of their differences, differ by less than this. A leak is larger.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class _TruncatedLogFeatures(EntityFeatures):
    """Features from a log that ends before a time (microseconds). Use it with `known_by`, so that no tile is read."""

    end: int = 0

    def read(self, spark: SparkSession, table: Table) -> DataFrame:
        rows = super().read(spark, table)
        return rows.where(F.unix_micros("event_time") < self.end) if table == tables.EVENTS else rows


def find_leaks(spark: SparkSession, rows: DataFrame, features: EntityFeatures, times: int = 3) -> dict[str, int]:
    """Columns that have another value when the log ends at the time of the row.

    Args:
        rows: the entity's keys, `at`, and any columns of `features`.
        times: number of distinct times to check, selected by a hash.

    Returns:
        Number of rows by column; empty without leakage.
    """
    columns = [name for name in features.columns if name in rows.columns]
    times_by_hash = rows.select(F.unix_micros("at").alias("at")).distinct().orderBy(F.xxhash64("at"), "at")
    leaks = Counter[str]()
    for (at,) in times_by_hash.limit(times).collect():
        leaks.update(_count_differences(spark, rows.where(F.unix_micros("at") == at), features, columns, at))
    return {name: count for name, count in leaks.items() if count}


def _count_differences(
    spark: SparkSession, rows: DataFrame, features: EntityFeatures, columns: list[str], at: int
) -> dict[str, int]:
    """By column, the number of rows of one time whose value differs."""
    truncated = _TruncatedLogFeatures(
        **{field.name: getattr(features, field.name) for field in fields(features)}, end=at
    )
    recomputed = features_as_of(spark, rows, truncated, known_by=_NO_LIMIT)
    renamed = [F.col(name).alias(f"{_RECOMPUTED}{name}") for name in columns]
    joined = rows.join(recomputed.select(*features.keys, "at", *renamed), [*features.keys, "at"])
    differs = [_differs(name, features.types[name]) for name in columns]
    row = joined.agg(*map(F.count_if, differs)).head()
    assert row is not None
    return dict(zip(columns, row, strict=True))


def _differs(name: str, sql_type: str) -> Column:
    stored, recomputed = F.col(name), F.col(f"{_RECOMPUTED}{name}")
    if sql_type == "double":
        tolerance = _TOLERANCE * (1 + F.greatest(F.abs(stored), F.abs(recomputed)))
        is_close = F.coalesce(F.abs(stored - recomputed) <= tolerance, F.lit(False))
        return ~((stored.isNull() & recomputed.isNull()) | is_close)
    if sql_type.startswith("map"):
        stored, recomputed = F.array_sort(F.map_entries(stored)), F.array_sort(F.map_entries(recomputed))
    return ~stored.eqNullSafe(recomputed)


def verify_stored_examples(spark: SparkSession, settings: Settings, times: int) -> int:
    """Check the stored rows of the set against the version of `events` that they were computed from.

    Returns:
        The number of rows of the set.

    Raises:
        SourceMissing: the set has no rows.
        StateCorrupt: a column depends on events at or after the time of its row.
    """
    table, set_name = training_examples.table(settings), settings.learn.examples.set_name
    features = training_examples.features_at_current_versions(spark, settings)
    where = table.path(settings.paths)
    do = "run jobs/learn_examples.py; a row exists as soon as the newest event is one horizon later than its time"
    missing = SourceMissing(f"there are no training examples of the set {set_name!r}", where=where, do=do)
    if not table.exists(spark, settings.paths):
        raise missing
    table.check_stored(spark, settings.paths)
    rows = table.read(spark, settings.paths).where(F.col("set_name") == set_name)
    row = rows.agg(F.count(F.lit(1)), F.max("events_version")).head()
    if row is None or not row[0]:
        raise missing
    features = replace(features, versions={**features.versions, tables.EVENTS.name: row[1]})
    if leaks := find_leaks(spark, rows, features, times):
        raise StateCorrupt(
            f"training examples of the set {set_name!r} leak later events; rows by column: {leaks}",
            where=where,
            do="do not train on them; run jobs/learn_examples.py again, and report it if the error remains",
        )
    return int(row[0])
