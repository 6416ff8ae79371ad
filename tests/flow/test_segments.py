"""learn_segments: groups that are planted are found, each user counts once, and the sums are those of a recount."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from profilestream.base import commits, streaming, tables
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused
from profilestream.base.queries import Batch, RunOptions
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from profilestream.learn import describe_segments, segments
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import learn_segments
from tests.builders import Shop, event
from tests.fault_injection import Crashes
from tests.open_readers import assert_all_readers_agree
from tests.recount import assert_recounted, newest_of, users_of

PROFILES = """
name = "user_profiles"
write = "merge"
where = "user_id IS NOT NULL"
[keys]
user_id = { of = "user_id" }
[statistics.behavior.vector]
kind = "mean_vector"
[statistics.behavior.vector.dimensions]
price = "price"
buys = "int(event_type = 'purchase')"
never = "0"
[population]
name = "population_stats"
of = "behavior.vector"
weights = { buys = 2 }
words = { price = ["cheap", "dear"] }
"""
MADE = """
[derive]
profiles = ["{file}"]
[learn]
max_files_per_trigger = 1
[learn.segments]
enabled = true
k = 3
half_life_days = 10
passes = 2
"""
# Price and type of what each group does.
GROUPS = {"a": (1.0, "view"), "b": (100.0, "view"), "c": (50.0, "purchase")}
DIMENSIONS = ("price", "buys", "never")


def shop_of(home: Path) -> Shop:
    home.mkdir(parents=True, exist_ok=True)
    (home / "profiles.toml").write_text(PROFILES)
    return Shop(home, extra_settings=MADE.format(file=home / "profiles.toml"))


def take(spark: SparkSession, shop: Shop, day: int, people: dict[str, str]) -> None:
    """Each of the people does on a day what its group does, twice; profiles take it."""
    events = []
    for number, (who, group) in enumerate(people.items()):
        price, kind = GROUPS[group]
        for n in (0, 1):
            one = event(0, who=who, kind=kind, price=str(price + number % 5), at=f"2026-01-{day:02}T1{n}:00:00Z")
            events.append({**one, "id": f"{who}-{day}-{n}"})
    shop.arrive(spark, events)
    streaming.run(spark, profiles.queries(shop.settings()), shop.settings(), RunOptions())


def groups_in(people: dict[str, Row], group_of: dict[str, str]) -> dict[str, set[int]]:
    """The segments in which the people of each group are."""
    found: dict[str, set[int]] = {}
    for who, group in group_of.items():
        found.setdefault(group, set()).add(people[f"shop:{who}"]["segment_id"])
    return found


def test_planted_groups_are_found_and_recounted_through_crashes_and_users_who_change_sides(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = shop_of(tmp_path)
    settings = shop.settings()
    queries = segments.queries(settings)
    people = {f"u{n}": "ab"[n % 2] for n in range(20)}
    take(spark, shop, 1, people)
    streaming.run(spark, queries, settings, RunOptions())
    assert_recounted(spark, settings)
    first = users_of(spark, settings)
    assert not shop.read(spark, tables.MODEL_METRICS).count(), "nothing was known that could be evaluated"
    # A third group comes, and one of the second becomes like the first.
    newcomers = {f"n{n}": "c" for n in range(10)}
    take(spark, shop, 9, {**newcomers, **{"u1": "a", "u0": "a"}})
    assert crashes.run_through(queries, settings, batch_id=1) == 4
    assert_recounted(spark, settings)
    after = users_of(spark, settings)
    assert len(after) == 30
    untouched = {who: group for who, group in people.items() if who not in ("u0", "u1")}
    found = groups_in(after, {**untouched, **newcomers})
    assert found["c"].isdisjoint(found["a"] | found["b"]) and len(found["c"]) == 1
    assert found["a"].isdisjoint(found["b"])
    evaluated = {row["ranker"]: row for row in shop.read(spark, tables.MODEL_METRICS).collect()}
    assert evaluated.keys() == {"kmeans", "mean"} and {row["users"] for row in evaluated.values()} == {12}
    costs = _costs_by_the_state_before(spark, settings, after)
    assert {name: row["cost"] for name, row in evaluated.items()} == pytest.approx(costs)
    # Who was not touched and not moved is as it was.
    still = [who for who, row in after.items() if row["batch_id"] == 0]
    assert len(still) > 5 and all(after[who] == first[who] for who in still)
    for table, column in ((segments.users_table(settings), "distance"), (segments.table(settings), "weight")):
        assert_all_readers_agree(spark, table.path(settings.paths), column)
    # The table that is followed is made anew.
    profiles.of_users(settings).table.empty(spark, settings.paths)
    with pytest.raises(Refused, match="user_profiles was made anew"):
        streaming.run(spark, queries, settings, RunOptions())


def _costs_by_the_state_before(spark: SparkSession, settings: Settings, after: dict[str, Row]) -> dict[str, float]:
    """By brute force: to the nearest center of batch 0, and to the mean of all."""
    rows = segments.table(settings).read(spark, settings.paths).where("batch_id = 0").collect()
    centers = np.array([[row["center"][name] for name in DIMENSIONS] for row in rows])
    came = np.array([row["point"] for who, row in after.items() if who[5] == "n" or who in ("shop:u0", "shop:u1")])
    assert len(came) == 12
    mean = sum(np.array(row["sums"]) for row in rows) / sum(row["weight"] for row in rows)
    to_nearest = ((came[:, None] - centers) ** 2).sum(axis=2).min(axis=1)
    return {"kmeans": float(to_nearest.mean()), "mean": float(((came - mean) ** 2).sum(axis=1).mean())}


@dataclass
class Told:
    """A stage that is told of changed profiles by hand, batch by batch."""

    spark: SparkSession
    settings: Settings
    batches: int = 0

    def __post_init__(self) -> None:
        (self.query,) = segments.queries(self.settings)
        for table in self.query.tables:
            table.create(self.spark, self.settings.paths)

    def of(self, day: int, people: dict[str, str], change: str = "insert") -> None:
        """The profiles of people are now those of their groups; for a `delete` they are gone."""
        rows = [
            (f"shop:{who}", datetime(2026, 1, day, 12, tzinfo=UTC), ((1.0, [*_mean(group, n), 0.0]),), change)
            for n, (who, group) in enumerate(people.items())
        ]
        state = "behavior struct<vector: struct<weight: double, sums: array<double>>>"
        changes = self.spark.createDataFrame(rows, f"user_id string, as_of timestamp, {state}, _change_type string")
        versions = self.query.versions(self.spark, Checkpoint(self.spark, ""), self.batches)
        batch = Batch(
            self.spark, self.settings.paths, Txn(segments.STAGE, "epoch", self.batches), Plan("", versions=versions)
        )
        self.query.write(changes.withColumn("_commit_version", F.lit(self.batches)), batch)
        self.batches += 1


def _mean(group: str, number: int) -> tuple[float, float]:
    price, kind = GROUPS[group]
    return price + number % 5, float(kind == "purchase")


def test_who_is_erased_late_or_nobody_leaves_what_a_recount_finds(spark: SparkSession, tmp_path: Path) -> None:
    told = Told(spark, shop_of(tmp_path).settings())
    told.of(10, {f"u{n}": "abc"[n % 3] for n in range(12)})
    told.of(2, {"u3": "b", "late": "a"})
    told.of(11, {"u4": "a"}, change="delete")
    told.of(12, {})
    assert_recounted(spark, told.settings)
    people = users_of(spark, told.settings)
    assert "shop:u4" not in people and len(people) == 12 and f"{people['shop:late']['as_of']:%d}" == "02"
    assert max(row["batch_id"] for row in newest_of(spark, told.settings).values()) == 3


@pytest.mark.long  # of any learner: tests/laws.py
def test_more_partitions_give_the_same_segments(spark: SparkSession, tmp_path: Path) -> None:
    found = []
    for parts in (1, 8):
        told = Told(spark, shop_of(tmp_path / str(parts)).settings())
        spark.conf.set("spark.sql.shuffle.partitions", parts)
        try:
            for day in (1, 4):
                told.of(day, {f"u{n}": "abc"[(n + n // 12 + day) % 3] for n in range(day, 30)})
        finally:
            spark.conf.set("spark.sql.shuffle.partitions", 1)
        found.append((users_of(spark, told.settings), newest_of(spark, told.settings)))
    (users, segments_of_one), (others, again) = found
    assert {who: row["segment_id"] for who, row in users.items()} == {w: row["segment_id"] for w, row in others.items()}
    assert segments_of_one.keys() == again.keys() and len(again) == 3
    for segment, row in segments_of_one.items():
        for column in ("weight", "sums", "scatter", "cost"):
            np.testing.assert_allclose(again[segment][column], row[column], rtol=1e-9, atol=1e-9)


def test_the_job_tells_segments_in_words_and_how_many_there_might_be(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = shop_of(tmp_path)
    take(spark, shop, 1, {f"u{n}": "abc"[n % 3] for n in range(45)})
    assert learn_segments.main(["--config", str(shop.config())]) == 0
    said = capsys.readouterr().out
    lines = sorted(line.split("  ", 2)[2] for line in said.splitlines() if line.startswith("segment "))
    assert lines == [
        "high buys; 100% of those with buys > 0.5",
        "low buys, cheap; 100% of those with buys <= 0.5 and price <= 52.5",
        "low buys, dear; 100% of those with buys <= 0.5 and price > 52.5",
    ]
    settings = shop.settings()
    version = commits.version(spark, segments.descriptions_table(), settings.paths)
    describe_segments.run(spark, settings)
    assert commits.version(spark, segments.descriptions_table(), settings.paths) == version
    assert learn_segments.main(["--config", str(shop.config()), "--try-k", "2", "4"]) == 0
    tried = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    best = max(tried[1:], key=lambda words: float(words[2]))
    assert best[0] == "3" and float(best[1]) < 0.1
