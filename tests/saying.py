"""What the derived tables say, and where two sets of them differ."""

from datetime import datetime
from typing import Any

from profilestream.base.settings import Settings
from profilestream.derive import population, stage
from profilestream.derive.fold import Fold
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

Said = dict[str, dict[str, dict[str, Any]]]


def said(spark: SparkSession, settings: Settings, at: datetime | None = None) -> Said:
    """Table -> key -> what its statistics say; of population_stats the newest row."""
    found: Said = {}
    for derived in stage.declared(settings).values():
        rows = derived.table.read(spark, settings.paths)
        one_a_key = Fold(derived).merged(rows) if derived.write == "append" else rows
        found[derived.name] = by_key(Fold(derived), one_a_key, at)
        if derived.population:
            newest = population.newest(derived.population_table.read(spark, settings.paths)).drop("epoch", "batch_id")
            found[derived.population.name] = {"newest": newest.collect()[0].asDict(recursive=True)}
    return found


def by_key(fold: Fold, rows: DataFrame, at: datetime | None = None) -> dict[str, dict[str, Any]]:
    """What rows, one a key, say."""
    collected = fold.read(rows, None if at is None else F.lit(at)).collect()
    found = {str([row[key] for key in fold.derived.keys]): row.asDict(recursive=True) for row in collected}
    assert len(found) == len(collected), f"a key of {fold.derived.name} stands twice"
    return found


def differences(one: Said, other: Said) -> list[str]:
    """Where two differ by more than 1e-9 of the largest number of a row; empty when they say the same."""
    found = []
    for table in sorted(one.keys() | other.keys()):
        a, b = one.get(table, {}), other.get(table, {})
        found += [f"{table}: only one has {key}" for key in sorted(a.keys() ^ b.keys())]
        for key in a.keys() & b.keys():
            scale = max(1.0, _largest(a[key]), _largest(b[key]))
            found += [f"{table}, {key}, {told}" for told in _apart(a[key], b[key], scale, "")]
    return found


def _largest(value: Any) -> float:
    match value:
        case float() | int():
            return abs(value)
        case dict():
            return max(map(_largest, value.values()), default=0.0)
        case list():
            return max(map(_largest, value), default=0.0)
    return 0.0


def _apart(a: Any, b: Any, scale: float, where: str) -> list[str]:
    match a, b:
        case dict(), dict() if a.keys() == b.keys():
            return [told for key in a for told in _apart(a[key], b[key], scale, f"{where}.{key}")]
        case list(), list() if len(a) == len(b):
            return [told for n in range(len(a)) for told in _apart(a[n], b[n], scale, f"{where}[{n}]")]
        case float(), float():
            return [] if abs(a - b) <= 1e-9 * scale else [f"{where}: {a} and {b}"]
    return [] if a == b else [f"{where}: {a} and {b}"]
