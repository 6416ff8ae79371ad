"""population_stats and the profile vector, against plain Python."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings
from profilestream.base.settings import validated
from profilestream.derive import population
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

START = datetime(2026, 1, 1, tzinfo=UTC)
HALF_LIFE = 30.0
EVENTS = (
    "event_id string, source string, user_id string, event_time timestamp, price double, quantity double, batch int"
)
DECLARED = {
    "name": "profiles",
    "write": "merge",
    "keys": {"user_id": {"of": "user_id"}},
    "statistics": {
        "mean": {
            "kind": "mean_vector",
            "dimensions": {"price": "price", "many": "int(quantity > 2)", "flat": "7"},
            "weight": "quantity",
            "half_life_days": HALF_LIFE,
        }
    },
    "population": {"name": "population_stats", "of": "mean", "weights": {"price": 2.5}},
}
Log = list[tuple[Any, ...]]


def _log() -> Log:
    """Sixty events of five users in four batches, late and early ones mixed."""
    dice = random.Random(4)
    return [
        (f"e{n:02}", "shop", f"u{n % 5}", START + timedelta(days=dice.uniform(0, 200)), dice.uniform(1, 90),
         float(dice.randint(1, 4)), dice.randrange(4))
        for n in range(60)
    ]  # fmt: skip


def _vector(event: tuple[Any, ...]) -> list[float]:
    return [event[4], float(event[5] > 2), 7.0]


def _folded(spark: SparkSession, log: Log, derived: DerivedTable, batches: list[int]) -> tuple[DataFrame, DataFrame]:
    """Profiles and population_stats after the batches, each merged onto the table as it was before."""
    fold = Fold.of(derived)
    events = spark.createDataFrame(log, EVENTS)
    profiles = spark.createDataFrame([], derived.table.schema)
    stats = spark.createDataFrame([], derived.population_table.schema)
    for batch_id, n in enumerate(batches):
        touched = fold.merge_into(profiles, fold.partials(events.where(F.col("batch") == n)), "mean").localCheckpoint()
        row = population.after_batch(stats, touched, derived, Txn("q", "epoch", batch_id))
        stats = stats.unionByName(row).localCheckpoint()
        untouched = profiles.join(touched, "user_id", "left_anti").select(touched.columns[:-1])
        profiles = untouched.unionByName(touched.select(untouched.columns)).select("user_id", "as_of", "mean")
        profiles = profiles.withColumns({"epoch": F.lit("epoch"), "batch_id": F.lit(0)}).localCheckpoint()
    return profiles, stats


def _weight(event: tuple[Any, ...], at: datetime) -> float:
    return float(event[5] * 2.0 ** (-((at - event[3]) / timedelta(days=1)) / HALF_LIFE))


def test_population_stats_are_mean_and_variance_over_users(spark: SparkSession) -> None:
    derived, log = validated(DerivedTable, DECLARED, "p.toml"), _log()
    _, stats = _folded(spark, log, derived, [0, 1, 2, 3])
    row = population.latest(stats).first()
    assert row is not None and stats.count() == 4
    by_user: dict[str, Log] = defaultdict(list)
    for event in log:
        by_user[event[2]].append(event)
    means = []
    for events in by_user.values():
        at = max(e[3] for e in events)
        total = sum(_weight(e, at) for e in events)
        means.append([sum(_weight(e, at) * _vector(e)[d] for e in events) / total for d in range(3)])
    assert row["users"] == 5
    for d, name in enumerate(derived.vector.dimensions):
        mean = sum(m[d] for m in means) / 5
        assert row["means"][name] == pytest.approx(mean, rel=1e-9)
        assert row["variances"][name] == pytest.approx(sum((m[d] - mean) ** 2 for m in means) / 5, rel=1e-9, abs=1e-9)


def test_the_profile_vector_is_the_recursion_of_the_literature(spark: SparkSession) -> None:
    """P <- P + eta (W (X - mu) - P), event after event; mu and W frozen. The fold sees batches, out of order."""
    derived, log = validated(DerivedTable, DECLARED, "p.toml"), _log()
    profiles, stats = _folded(spark, log, derived, [2, 0, 3, 1])
    frozen = population.latest(stats).first()
    assert frozen is not None
    scale = {
        name: derived.population.weights.get(name, 1.0) / frozen["variances"][name] ** 0.5  # type: ignore[union-attr]
        for name in ("price", "many")
    } | {"flat": 0.0}
    expected = {}
    for user in {e[2] for e in log}:
        p, total, before = [0.0] * 3, 0.0, START
        for event in sorted((e for e in log if e[2] == user), key=lambda e: e[3]):
            total = total * 2 ** (-((event[3] - before) / timedelta(days=1)) / HALF_LIFE) + event[5]
            eta, before = event[5] / total, event[3]
            away = [
                scale[name] * (x - frozen["means"][name])
                for name, x in zip(derived.vector.dimensions, _vector(event), strict=True)
            ]
            p = [old + eta * (new - old) for old, new in zip(p, away, strict=True)]
        expected[user] = dict(zip(derived.vector.dimensions, p, strict=True))
    said = Fold.of(derived).read(profiles, F.lit(START + timedelta(days=500)))
    got = {
        r["user_id"]: r["vector"] for r in population.profile_vectors(said, population.latest(stats), derived).collect()
    }
    assert got.keys() == expected.keys()
    for user, vector in expected.items():
        assert got[user] == pytest.approx(vector, rel=1e-9, abs=1e-9), user


def test_batches_in_any_number_and_order_give_the_same_population(spark: SparkSession) -> None:
    derived, log = validated(DerivedTable, DECLARED, "p.toml"), _log()
    at_once = [(*event[:-1], 0) for event in log]
    ways = [(log, [0, 1, 2, 3]), (log, [3, 1, 0, 2]), (at_once, [0])]
    rows = [population.latest(_folded(spark, events, derived, batches)[1]).first() for events, batches in ways]
    first = rows[0]
    assert first is not None
    for row in rows:
        assert row is not None and row["users"] == first["users"]
        for column in ("sums", "squares", "means"):
            assert row[column] == pytest.approx(first[column], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"population": {"name": "p", "of": "nosuch"}}, "population.of = 'nosuch' is not a mean_vector of this table"),
        ({"population": {"name": "p", "of": "mean", "weights": {"x": 1}}}, "names no dimension of mean: ['x']"),
        ({"write": "append"}, "kept beside a table with write = 'merge' only"),
        ({"readings": {"mean": "1"}}, "readings that are statistics already: ['mean']"),
    ],
)
def test_a_population_that_does_not_fit_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSettings) as raised:
        validated(DerivedTable, {**DECLARED, **changes}, "p.toml")
    assert words in raised.value.what
