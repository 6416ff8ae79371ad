"""What the derived tables and the models say, and where two sets of them differ."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from profilestream.base.delta_table import Table
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.derive import fold_stage, markov, population, sessions, transitions, user_features
from profilestream.derive.fold import Fold
from profilestream.learn import factors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

Said = dict[str, dict[str, dict[str, Any]]]


UNSURE = object()


@dataclass(frozen=True)
class Cut:
    """A map from which keys were cut: each weight is known within the weight of the rest only (law 3)."""

    weights: dict[str, float]
    rest: float


def said(spark: SparkSession, settings: Settings, at: datetime | None = None) -> Said:
    """Table -> key -> what its statistics say; of population_stats the newest row."""
    found: Said = {}
    for derived in fold_stage.declared_tables(settings).values():
        rows = derived.table.read(spark, settings.paths)
        one_a_key = Fold.of(derived).merge_rows(rows) if derived.write == "append" else rows
        found[derived.name] = by_key(Fold.of(derived), one_a_key, at)
        if derived.population:
            newest = population.latest(derived.population_table.read(spark, settings.paths)).drop("epoch", "batch_id")
            found[derived.population.name] = {"newest": newest.collect()[0].asDict(recursive=True)}
    if settings.derive.sessions.enabled:
        found[sessions.NAME] = _rows(sessions.table(settings), spark, settings)
    if settings.derive.transitions.enabled:
        found |= {name: _transitions(name, spark, settings) for name in (transitions.USERS, transitions.ALL)}
    if settings.derive.windows.enabled:
        found[user_features.NAME] = _rows(user_features.table(settings), spark, settings)
    if settings.serve.tags.enabled:
        # Evidence tells rounded numbers.
        found |= {table.name: _rows(table, spark, settings, "evidence") for table in (USER_GROUPS, USER_TAGS)}
    return found


def _rows(table: Table, spark: SparkSession, settings: Settings, *without: str) -> dict[str, dict[str, Any]]:
    """What a table says, by key; without when a row was worked out."""
    kept = table.read(spark, settings.paths).drop("epoch", "batch_id", "as_of", *without)
    rows = [row.asDict() for row in kept.collect()]
    found = {str([row[key] for key in table.key]): row for row in rows}
    assert len(found) == len(rows), f"a key of {table.name} stands twice"
    return found


def _transitions(name: str, spark: SparkSession, settings: Settings) -> dict[str, dict[str, Any]]:
    """What a table of transitions says, by key: as of its newest session, since a row's own time depends on the way."""
    derived = transitions.declaration(settings, name)
    rows = markov.transition_counts(derived.table.read(spark, settings.paths), derived).collect()
    return {str([row[key] for key in derived.keys]): row.asDict() for row in rows}


def learned(spark: SparkSession, settings: Settings) -> dict[tuple[str, str], Any]:
    """Vectors of `factors` by side and key."""
    rows = factors.read_state(spark, settings).rows.select("side", "key", "vector").collect()
    return {(row["side"], row["key"]): np.frombuffer(row["vector"], np.float32) for row in rows}


def assert_learned_alike(one: dict[tuple[str, str], Any], other: dict[tuple[str, str], Any]) -> None:
    """The same rows, with vectors within 1e-5 of the largest number."""
    assert one.keys() == other.keys() and one
    largest = max(abs(vector).max() for vector in one.values())
    apart = max(abs(other[key] - vector).max() for key, vector in one.items())
    assert apart <= 1e-5 * largest, f"vectors are {apart / largest:.2g} of the largest apart"


def by_key(fold: Fold, rows: DataFrame, at: datetime | None = None) -> dict[str, dict[str, Any]]:
    """What rows, one a key, say; where a map was cut the readings are unsure, since they may be made of it."""
    keys = list(fold.derived.keys)
    collected = fold.read(rows, None if at is None else F.lit(at)).collect()
    found = {str([row[key] for key in keys]): row.asDict(recursive=True) for row in collected}
    assert len(found) == len(collected), f"a key of {fold.derived.name} stands twice"
    maps = [path for path, s in fold.derived.statistics.items() if s.kind in ("top", "frequent")]
    for row in rows.select(*keys, *[F.col(f"{path}.rest").alias(path.replace(".", "/")) for path in maps]).collect():
        one = found[str([row[key] for key in keys])]
        cut = {path: row[path.replace(".", "/")] for path in maps if row[path.replace(".", "/")]}
        for path, rest in cut.items():
            facet, name = _place(one, path)
            facet[name] = Cut(facet[name], rest)
        for path in fold.derived.readings if cut else ():
            facet, name = _place(one, path)
            facet[name] = UNSURE
    return found


def _place(row: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Where a statistic or reading stands: the row or one of its facets, and its name there."""
    facet, _, name = path.rpartition(".")
    return (row[facet] if facet else row), name


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
        case Cut():
            return _largest(value.weights)
        case dict():
            return max(map(_largest, value.values()), default=0.0)
        case list():
            return max(map(_largest, value), default=0.0)
    return 0.0


def _apart(a: Any, b: Any, scale: float, where: str) -> list[str]:
    if a is UNSURE or b is UNSURE:
        return []
    match a, b:
        case (Cut(), dict() | Cut()) | (dict(), Cut()):
            one, other = (value if isinstance(value, Cut) else Cut(value, 0.0) for value in (a, b))
            unsure = max(one.rest, other.rest) + 1e-9 * scale
            far = {
                key: (one.weights.get(key, 0.0), other.weights.get(key, 0.0))
                for key in one.weights.keys() | other.weights.keys()
                if abs(one.weights.get(key, 0.0) - other.weights.get(key, 0.0)) > unsure
            }
            return [f"{where}: {far}, of which {unsure} is unsure"] if far else []
        case dict(), dict() if a.keys() == b.keys():
            return [told for key in a for told in _apart(a[key], b[key], scale, f"{where}.{key}")]
        case list(), list() if len(a) == len(b):
            return [told for n in range(len(a)) for told in _apart(a[n], b[n], scale, f"{where}[{n}]")]
        case float(), float():
            return [] if abs(a - b) <= 1e-9 * scale else [f"{where}: {a} and {b}"]
    return [] if a == b else [f"{where}: {a} and {b}"]
