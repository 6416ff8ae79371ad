"""Whether training rows know the future: their features, once more, from a log that ends at their time."""

from collections import Counter
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import SourceMissing, StateCorrupt
from profilestream.base.settings import Settings
from profilestream.base.tables import Table
from profilestream.derive.entity_features import Features
from profilestream.derive.point_in_time import features_as_of
from profilestream.learn import training_examples

_EVER = datetime(9999, 1, 1, tzinfo=UTC)
_AGAIN = "_again_"
# Sums in another order, and roots of their differences: no leak is that small.
_CLOSE = 1e-5


@dataclass(frozen=True)
class _Cut(Features):
    """Features by a log that ends before a time (microseconds); asked for with `known_by`, which reads no tiles."""

    end: int = 0

    def read(self, spark: SparkSession, table: Table) -> DataFrame:
        rows = super().read(spark, table)
        return rows.where(F.unix_micros("event_time") < self.end) if table == tables.EVENTS else rows


def leaks(spark: SparkSession, rows: DataFrame, features: Features, times: int = 3) -> dict[str, int]:
    """Columns that tell something else when the log ends at the time of their row.

    Args:
        rows: the entity's keys, `at`, and any columns of `features`.
        times: different times that are looked at, drawn by a hash.

    Returns:
        Column -> number of rows; empty when nothing leaks.
    """
    columns = [name for name in features.columns if name in rows.columns]
    drawn = (
        rows.select(F.unix_micros("at").alias("at")).distinct().orderBy(F.xxhash64("at"), "at").limit(times).collect()
    )
    found = Counter[str]()
    for (at,) in drawn:
        found.update(_apart(spark, rows.where(F.unix_micros("at") == at), features, columns, at))
    return {name: n for name, n in found.items() if n}


def _apart(spark: SparkSession, rows: DataFrame, features: Features, columns: list[str], at: int) -> dict[str, int]:
    """By column, how many rows a log that ends at their time tells otherwise."""
    cut = _Cut(**{field.name: getattr(features, field.name) for field in fields(features)}, end=at)
    again = features_as_of(spark, rows, cut, known_by=_EVER)
    renamed = again.select(*features.keys, "at", *[F.col(name).alias(f"{_AGAIN}{name}") for name in columns])
    joined = rows.join(renamed, [*features.keys, "at"])
    differs = [_differs(name, features.types[name]) for name in columns]
    row = joined.agg(*map(F.count_if, differs)).head()
    assert row is not None
    return dict(zip(columns, row, strict=True))


def _differs(name: str, kind: str) -> Column:
    was, now = F.col(name), F.col(f"{_AGAIN}{name}")
    if kind == "double":
        near = F.abs(was - now) <= _CLOSE * (1 + F.greatest(F.abs(was), F.abs(now)))
        return ~((was.isNull() & now.isNull()) | F.coalesce(near, F.lit(False)))
    if kind.startswith("map"):
        was, now = F.array_sort(F.map_entries(was)), F.array_sort(F.map_entries(now))
    return ~was.eqNullSafe(now)


def verify(spark: SparkSession, settings: Settings, times: int) -> int:
    """Look for leaks in the stored rows of the set, by the events that they were made of.

    Returns:
        The number of rows of the set.

    Raises:
        SourceMissing: the set has no rows.
        StateCorrupt: a column knows what came later.
    """
    made, name = training_examples.table(settings), settings.learn.examples.set_name
    features = training_examples.pinned(spark, settings)
    where = made.path(settings.paths)
    do = "run jobs/learn_examples.py; rows stand once the newest event is later by a horizon"
    missing = SourceMissing(f"there are no training rows of the set {name!r}", where=where, do=do)
    if not made.exists(spark, settings.paths):
        raise missing
    made.check_stored(spark, settings.paths)
    rows = made.read(spark, settings.paths).where(F.col("set_name") == name)
    row = rows.agg(F.count(F.lit(1)), F.max("events_version")).head()
    if row is None or not row[0]:
        raise missing
    then = replace(features, versions={**features.versions, tables.EVENTS.name: row[1]})
    if found := leaks(spark, rows, then, times):
        raise StateCorrupt(
            f"training rows of the set {name!r} know what came at their time or later: {found}",
            where=where,
            do="do not train on them; make them again, and when that does not help report it",
        )
    return int(row[0])
