"""The content of derived tables and models, and the differences between two of them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from profilestream.base.delta_table import Table
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.derive import fold_stage, markov, population, sessions, transitions, user_features
from profilestream.derive.fold import Fold
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.rankers.rankers_spec import RankersSpec
from profilestream.serve.tags import tag_declaration
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

Snapshot = dict[str, dict[str, dict[str, Any]]]
UNCERTAIN = object()


@dataclass(frozen=True)
class TruncatedMap:
    """A map from which keys were cut: its weights are exact within the weight of the rest (law 3)."""

    weights: dict[str, float]
    rest: float


def snapshot(spark: SparkSession, settings: Settings, at: datetime | None = None) -> Snapshot:
    """Table -> key -> values of its statistics; for population_stats, the latest row."""
    content: Snapshot = {}
    for derived in fold_stage.declared_tables(settings).values():
        rows = derived.table.read(spark, settings.paths)
        one_per_key = Fold(derived).merge_rows(rows) if derived.write == "append" else rows
        content[derived.name] = values_by_key(Fold(derived), one_per_key, at)
        if derived.population:
            latest = population.latest(derived.population_table.read(spark, settings.paths)).drop("epoch", "batch_id")
            content[derived.population.name] = {"latest": latest.collect()[0].asDict(recursive=True)}
    if settings.derive.sessions.enabled:
        content[sessions.NAME] = _rows(sessions.table(settings), spark, settings)
    if settings.derive.transitions.enabled:
        content |= {name: _transitions(name, spark, settings) for name in (transitions.USERS, transitions.ALL)}
    if settings.derive.windows.enabled:
        content[user_features.NAME] = _rows(user_features.table(settings), spark, settings)
    if settings.learn.rankers.enabled:
        (table,) = RankersSpec(settings).tables
        content[table.name] = _rows(table, spark, settings)
    if settings.serve.tags.enabled:
        # Evidence contains rounded numbers.
        content |= {table.name: _rows(table, spark, settings, "evidence") for table in (USER_GROUPS, USER_TAGS)}
        # Segments are fitted, so they depend on the batches, and so do the tags of their rules.
        rules = tag_declaration.from_settings(settings).tags.items()
        by_segment = {tag for tag, rule in rules if "segment." in f"{rule.enter_when} {rule.hold_when}"}
        kept = {key: row for key, row in content[USER_TAGS.name].items() if row["tag"] not in by_segment}
        content[USER_TAGS.name] = kept
    return content


def _rows(table: Table, spark: SparkSession, settings: Settings, *without: str) -> dict[str, dict[str, Any]]:
    """The rows of a table by key, without the time of their computation."""
    columns = table.read(spark, settings.paths).drop("epoch", "batch_id", "as_of", *without)
    rows = [row.asDict() for row in columns.collect()]
    by_key = {str([row[key] for key in table.key]): row for row in rows}
    assert len(by_key) == len(rows), f"a key of {table.name} has two rows"
    return by_key


def _transitions(name: str, spark: SparkSession, settings: Settings) -> dict[str, dict[str, Any]]:
    """The counts of a table of transitions by key, as of its latest session; a row's `as_of` depends on the batches."""
    derived = transitions.declaration(settings, name)
    rows = markov.transition_counts(derived.table.read(spark, settings.paths), derived).collect()
    return {str([row[key] for key in derived.keys]): row.asDict() for row in rows}


def factor_vectors(spark: SparkSession, settings: Settings) -> dict[tuple[str, str], Any]:
    """Vectors of `factors` by side and key."""
    rows = FactorsSpec(settings).table.read(spark, settings.paths).where("side != 'global'").collect()
    return {(row["side"], row["key"]): np.frombuffer(row["vector"], np.float32) for row in rows}


def assert_vectors_close(one: dict[tuple[str, str], Any], other: dict[tuple[str, str], Any]) -> None:
    """Both have the same rows, with vectors that differ by at most 1e-5 of the largest number."""
    assert one.keys() == other.keys() and one
    largest = max(abs(vector).max() for vector in one.values())
    difference = max(abs(other[key] - vector).max() for key, vector in one.items())
    assert difference <= 1e-5 * largest, f"vectors differ by {difference / largest:.2g} of the largest number"


def values_by_key(fold: Fold, rows: DataFrame, at: datetime | None = None) -> dict[str, dict[str, Any]]:
    """Values of rows with one row per key. Readings of a row with a truncated map are UNCERTAIN: they may use it."""
    keys = list(fold.derived.keys)
    collected = fold.read(rows, None if at is None else F.lit(at)).collect()
    by_key = {str([row[key] for key in keys]): row.asDict(recursive=True) for row in collected}
    assert len(by_key) == len(collected), f"a key of {fold.derived.name} has two rows"
    maps = [path for path, s in fold.derived.statistics.items() if s.kind in ("top", "frequent")]
    for row in rows.select(
        *keys, *[F.col(fold.derived.rest_of(path)).alias(path.replace(".", "/")) for path in maps]
    ).collect():
        values = by_key[str([row[key] for key in keys])]
        truncated = {path: row[path.replace(".", "/")] for path in maps if row[path.replace(".", "/")]}
        for path, rest in truncated.items():
            facet, name = _place(values, path)
            facet[name] = TruncatedMap(facet[name], rest)
        for path in fold.derived.readings if truncated else ():
            facet, name = _place(values, path)
            facet[name] = UNCERTAIN
    return by_key


def _place(row: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The dict that contains a statistic or reading (the row or a facet), and its name in it."""
    facet, _, name = path.rpartition(".")
    return (row[facet] if facet else row), name


def differences(one: Snapshot, other: Snapshot) -> list[str]:
    """The values that differ by more than 1e-9 of the largest number of a row."""
    different = []
    for table in sorted(one.keys() | other.keys()):
        a, b = one.get(table, {}), other.get(table, {})
        different += [f"{table}: only one has {key}" for key in sorted(a.keys() ^ b.keys())]
        for key in a.keys() & b.keys():
            scale = max(1.0, _largest(a[key]), _largest(b[key]))
            different += [f"{table}, {key}, {text}" for text in _differences(a[key], b[key], scale, "")]
    return different


def _largest(value: Any) -> float:
    match value:
        case float() | int():
            return abs(value)
        case TruncatedMap():
            return _largest(value.weights)
        case dict():
            return max(map(_largest, value.values()), default=0.0)
        case list():
            return max(map(_largest, value), default=0.0)
    return 0.0


def _differences(a: Any, b: Any, scale: float, where: str) -> list[str]:
    if a is UNCERTAIN or b is UNCERTAIN:
        return []
    match a, b:
        case (TruncatedMap(), dict() | TruncatedMap()) | (dict(), TruncatedMap()):
            one, other = (value if isinstance(value, TruncatedMap) else TruncatedMap(value, 0.0) for value in (a, b))
            bound = max(one.rest, other.rest) + 1e-9 * scale
            far = {
                key: (one.weights.get(key, 0.0), other.weights.get(key, 0.0))
                for key in one.weights.keys() | other.weights.keys()
                if abs(one.weights.get(key, 0.0) - other.weights.get(key, 0.0)) > bound
            }
            return [f"{where}: {far}, more than {bound}"] if far else []
        case dict(), dict() if a.keys() == b.keys():
            return [text for key in a for text in _differences(a[key], b[key], scale, f"{where}.{key}")]
        case list(), list() if len(a) == len(b):
            return [text for n in range(len(a)) for text in _differences(a[n], b[n], scale, f"{where}[{n}]")]
        case float(), float():
            return [] if abs(a - b) <= 1e-9 * scale else [f"{where}: {a} and {b}"]
    return [] if a == b else [f"{where}: {a} and {b}"]
