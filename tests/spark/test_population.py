"""population_stats and the profile vector equal their definitions, computed in plain Python."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings
from profilestream.base.runner import rows_of
from profilestream.base.settings import validated
from profilestream.derive import population
from profilestream.derive.fold import Fold
from profilestream.derive.population import PopulationSums
from profilestream.derive.table_declaration import DerivedTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

START = datetime(2026, 1, 1, tzinfo=UTC)
HALF_LIFE = 30.0
EVENTS = (
    "event_id string, source string, user_id string, event_time timestamp, price double, quantity double, batch int"
)
DECLARATION = {
    "name": "profiles",
    "write": "merge",
    "keys": {"user_id": {"of": "user_id"}},
    "statistics": {
        "mean": {
            "kind": "mean_vector",
            "dimensions": {"price": "price", "is_bulk": "int(quantity > 2)", "constant": "7"},
            "weight": "quantity",
            "half_life_days": HALF_LIFE,
        }
    },
    "population": {"name": "population_stats", "of": "mean", "weights": {"price": 2.5}},
}
Log = list[tuple[Any, ...]]


def _log() -> Log:
    """Sixty events of five users; the four batches do not follow the order of time."""
    generator = random.Random(4)
    return [
        (f"e{n:02}", "shop", f"u{n % 5}", START + timedelta(days=generator.uniform(0, 200)), generator.uniform(1, 90),
         float(generator.randint(1, 4)), generator.randrange(4))
        for n in range(60)
    ]  # fmt: skip


def _vector(event: tuple[Any, ...]) -> list[float]:
    return [event[4], float(event[5] > 2), 7.0]


def _merge_batches(
    spark: SparkSession, log: Log, derived: DerivedTable, batches: list[int]
) -> tuple[DataFrame, DataFrame]:
    """Profiles and population_stats after the batches in this order; each batch is merged into both tables."""
    fold = Fold(derived)
    events = spark.createDataFrame(log, EVENTS)
    profiles = spark.createDataFrame([], derived.table.schema)
    stats = spark.createDataFrame([], derived.population_table.schema)
    for batch_id, n in enumerate(batches):
        new = fold.selection.rows(events.where(F.col("batch") == n))
        updated = fold.update(rows_of(new, profiles, ["user_id"]), new).localCheckpoint()
        txn, touched = Txn("q", "epoch", batch_id), profiles.join(updated, "user_id", "left_semi")
        change = population.change(updated, touched, derived)
        _assert_local_change_equals(change, updated, touched, derived)
        row = population.before_batch(stats, derived, txn).plus(change).row(derived, txn)
        stats = stats.unionByName(spark.createDataFrame(row)).localCheckpoint()
        untouched = profiles.join(updated, "user_id", "left_anti")
        batch_columns = {"epoch": F.lit("epoch"), "batch_id": F.lit(0)}
        profiles = untouched.unionByName(updated.withColumns(batch_columns)).localCheckpoint()
    return profiles, stats


def _assert_local_change_equals(
    change: PopulationSums, rows: DataFrame, before: DataFrame, derived: DerivedTable
) -> None:
    local = population.change(rows.toArrow(), before.toArrow(), derived)
    assert (local.as_of, local.users) == (change.as_of, change.users)
    assert local.sums == pytest.approx(change.sums, rel=1e-12, abs=1e-9)
    assert local.squares == pytest.approx(change.squares, rel=1e-12, abs=1e-9)


def _weight(event: tuple[Any, ...], at: datetime) -> float:
    return float(event[5] * 2.0 ** (-((at - event[3]) / timedelta(days=1)) / HALF_LIFE))


def test_population_stats_are_mean_and_variance_over_users(spark: SparkSession) -> None:
    derived, log = validated(DerivedTable, DECLARATION, "p.toml"), _log()
    _, stats = _merge_batches(spark, log, derived, [0, 1, 2, 3])
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


def test_the_profile_vector_equals_the_recursion_of_the_literature(spark: SparkSession) -> None:
    """P <- P + eta (W (X - mu) - P) for each event in order of time, with constant mu and W.

    The fold reads batches in another order.
    """
    derived, log = validated(DerivedTable, DECLARATION, "p.toml"), _log()
    profiles, stats = _merge_batches(spark, log, derived, [2, 0, 3, 1])
    stats_row = population.latest(stats).first()
    assert stats_row is not None
    scale = {
        name: derived.population.weights.get(name, 1.0) / stats_row["variances"][name] ** 0.5  # type: ignore[union-attr]
        for name in ("price", "is_bulk")
    } | {"constant": 0.0}
    expected = {}
    for user in {e[2] for e in log}:
        p, total, before = [0.0] * 3, 0.0, START
        for event in sorted((e for e in log if e[2] == user), key=lambda e: e[3]):
            total = total * 2 ** (-((event[3] - before) / timedelta(days=1)) / HALF_LIFE) + event[5]
            eta, before = event[5] / total, event[3]
            deviations = [
                scale[name] * (x - stats_row["means"][name])
                for name, x in zip(derived.vector.dimensions, _vector(event), strict=True)
            ]
            p = [old + eta * (new - old) for old, new in zip(p, deviations, strict=True)]
        expected[user] = dict(zip(derived.vector.dimensions, p, strict=True))
    values = Fold(derived).read(profiles, F.lit(START + timedelta(days=500)))
    vectors = population.profile_vectors(values, population.latest(stats), derived)
    actual = {row["user_id"]: row["vector"] for row in vectors.collect()}
    assert actual.keys() == expected.keys()
    for user, vector in expected.items():
        assert actual[user] == pytest.approx(vector, rel=1e-9, abs=1e-9), user


def test_any_split_and_order_of_batches_gives_the_same_population(spark: SparkSession) -> None:
    derived, log = validated(DerivedTable, DECLARATION, "p.toml"), _log()
    one_batch = [(*event[:-1], 0) for event in log]
    cases = [(log, [0, 1, 2, 3]), (log, [3, 1, 0, 2]), (one_batch, [0])]
    rows = [population.latest(_merge_batches(spark, events, derived, batches)[1]).first() for events, batches in cases]
    first = rows[0]
    assert first is not None
    for row in rows:
        assert row is not None and row["users"] == first["users"]
        for column in ("sums", "squares", "means"):
            assert row[column] == pytest.approx(first[column], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": {"name": "p", "of": "nosuch"}}, "population.of = 'nosuch' is not a mean_vector of this table"),
        (
            {"population": {"name": "p", "of": "mean", "weights": {"x": 1}}},
            "contains names that are not dimensions of mean: ['x']",
        ),
        ({"write": "append"}, "a population needs a table with write = 'merge'"),
        ({"readings": {"mean": {"sql": "1", "meaning": "One."}}}, "readings with the name of a statistic: ['mean']"),
    ],
)
def test_an_invalid_population_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSettings) as raised:
        validated(DerivedTable, {**DECLARATION, **changes}, "p.toml")
    assert message in raised.value.what
