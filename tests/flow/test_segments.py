"""learn_segments: distinct groups become segments, every user counts once, and sums equal a recount of all users."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from profilestream.base import commits, streaming, tables
from profilestream.base.errors import Refused
from profilestream.base.queries import RunOptions
from profilestream.derive import profiles
from profilestream.learn import stage
from profilestream.learn.segments import describe_segments
from profilestream.learn.segments.segments_spec import SegmentsSpec
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import learn_segments
from tests import naive_kmeans
from tests.builders import VECTOR_PROFILES, Shop, event
from tests.fault_injection import Crashes
from tests.open_readers import assert_all_readers_agree
from tests.recount import assert_sums_equal_recount, last_segments, user_rows
from tests.stage_batches import StageBatches

SETTINGS = """
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
# Price and type of the events of each group.
GROUPS = {"a": (1.0, "view"), "b": (100.0, "view"), "c": (50.0, "purchase")}
DIMENSIONS = ("price", "buys", "never")


def segments_shop(home: Path) -> Shop:
    home.mkdir(parents=True, exist_ok=True)
    (home / "profiles.toml").write_text(VECTOR_PROFILES)
    return Shop(home, extra_settings=SETTINGS.format(file=home / "profiles.toml"))


def capture_day(spark: SparkSession, shop: Shop, day: int, group_of: dict[str, str]) -> None:
    """Two events of each user on a day, with the price and type of its group; then update the profiles."""
    events = []
    for number, (user, group) in enumerate(group_of.items()):
        price, kind = GROUPS[group]
        for n in (0, 1):
            one = event(0, who=user, kind=kind, price=str(price + number % 5), at=f"2026-01-{day:02}T1{n}:00:00Z")
            events.append({**one, "id": f"{user}-{day}-{n}"})
    shop.append_events(spark, events)
    streaming.run(spark, profiles.queries(shop.settings()), shop.settings(), RunOptions())


def segments_by_group(users: dict[str, Row], group_of: dict[str, str]) -> dict[str, set[int]]:
    """The segments of the users of each group."""
    result: dict[str, set[int]] = {}
    for user, group in group_of.items():
        result.setdefault(group, set()).add(users[f"shop:{user}"]["segment_id"])
    return result


def test_groups_become_segments_and_sums_equal_a_recount_after_crashes_and_changed_users(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = segments_shop(tmp_path)
    settings = shop.settings()
    queries = stage.queries(SegmentsSpec, settings)
    group_of = {f"u{n}": "ab"[n % 2] for n in range(20)}
    capture_day(spark, shop, 1, group_of)
    streaming.run(spark, queries, settings, RunOptions())
    assert_sums_equal_recount(spark, settings)
    first = user_rows(spark, settings)
    assert not shop.read(spark, tables.MODEL_METRICS).count(), "the first batch has no earlier state to evaluate"
    # A third group is added, and one user of the second group becomes similar to the first.
    new_users = {f"n{n}": "c" for n in range(10)}
    capture_day(spark, shop, 9, {**new_users, **{"u1": "a", "u0": "a"}})
    assert crashes.run_through(queries, settings, batch_id=1) == 4
    assert_sums_equal_recount(spark, settings)
    after = user_rows(spark, settings)
    assert len(after) == 30
    unchanged = {user: group for user, group in group_of.items() if user not in ("u0", "u1")}
    groups = segments_by_group(after, {**unchanged, **new_users})
    assert groups["c"].isdisjoint(groups["a"] | groups["b"]) and len(groups["c"]) == 1
    assert groups["a"].isdisjoint(groups["b"])
    assert_evaluated(spark, shop, after)
    # A row is written again only if the user's segment changed.
    rows = [(first[f"shop:{user}"], after[f"shop:{user}"]) for user in unchanged]
    assert all((old == new) == (old["segment_id"] == new["segment_id"]) for old, new in rows)
    assert sum(old == new for old, new in rows) == 15, "of 18; the split/merge move changed three"
    for table, column in ((SegmentsSpec(settings).users_table, "distance"), (SegmentsSpec(settings).table, "weight")):
        assert_all_readers_agree(spark, table.path(settings.paths), column)
    # The profile table that the stage follows is rebuilt.
    profiles.profile_table(settings).table.recreate(spark, settings.paths)
    with pytest.raises(Refused, match="user_profiles was rebuilt"):
        streaming.run(spark, queries, settings, RunOptions())


def assert_evaluated(spark: SparkSession, shop: Shop, users: dict[str, Row]) -> None:
    """The costs of batch 1 are those by brute force: to the nearest center of batch 0, and to the mean of all users."""
    rows = shop.read(spark, SegmentsSpec(shop.settings()).table).where("batch_id = 0").collect()
    centers = np.array([[row["center"][name] for name in DIMENSIONS] for row in rows])
    evaluated = [row for user, row in users.items() if user.startswith("shop:n") or user in ("shop:u0", "shop:u1")]
    points = np.array([row["point"] for row in evaluated])
    mean = sum(np.array(row["sums"]) for row in rows) / sum(row["weight"] for row in rows)
    to_nearest = ((points[:, None] - centers) ** 2).sum(axis=2).min(axis=1)
    metrics = {(row["model"], row["metric"]): row for row in shop.read(spark, tables.MODEL_METRICS).collect()}
    assert {key: row["value"] for key, row in metrics.items()} == {
        ("kmeans", "cost"): pytest.approx(to_nearest.mean()),
        ("mean", "cost"): pytest.approx(((points - mean) ** 2).sum(axis=1).mean()),
        ("all", "late_rows"): 0.0,
    }
    assert {row["weight"] for (model, _), row in metrics.items() if model != "all"} == {len(points)} == {12}
    times = {
        tuple(row[column].astimezone(UTC) for column in ("state_as_of", "rows_from", "rows_to"))
        for row in metrics.values()
    }
    newest = datetime(2026, 1, 9, 11, tzinfo=UTC)
    assert times == {(datetime(2026, 1, 1, 11, tzinfo=UTC), newest, newest)}


@dataclass
class ProfileChanges(StageBatches):
    """Runs the stage with changes of profiles that a test defines."""

    local_max_rows: int = 0

    def write_batch(self, day: int, group_of: dict[str, str], change: str = "insert") -> None:
        """Change the profiles of users to those of their groups; `delete` erases them."""
        rows = [
            (f"shop:{user}", datetime(2026, 1, day, 12, tzinfo=UTC), (((1.0, [*_mean(group, n), 0.0]),),), change)
            for n, (user, group) in enumerate(group_of.items())
        ]
        state = "state struct<behavior: struct<vector: struct<weight: double, sums: array<double>>>>"
        changes = self.spark.createDataFrame(rows, f"user_id string, as_of timestamp, {state}, _change_type string")
        changes = changes.withColumn("_commit_version", F.lit(self.batches))
        self.write(changes, local_max_rows=self.local_max_rows)


def _profile_changes(spark: SparkSession, home: Path) -> ProfileChanges:
    settings = segments_shop(home).settings()
    return ProfileChanges(spark, settings, stage.queries(SegmentsSpec, settings)[0])


def _mean(group: str, number: int) -> tuple[float, float]:
    price, kind = GROUPS[group]
    return price + number % 5, float(kind == "purchase")


def test_sums_equal_a_recount_after_late_users_erased_users_and_an_empty_batch(
    spark: SparkSession, tmp_path: Path
) -> None:
    changes = _profile_changes(spark, tmp_path)
    changes.write_batch(10, {f"u{n}": "abc"[n % 3] for n in range(12)})
    changes.write_batch(2, {"u3": "b", "late": "a"})
    changes.write_batch(11, {"u4": "a"}, change="delete")
    changes.write_batch(12, {})
    assert_sums_equal_recount(spark, changes.settings)
    users = user_rows(spark, changes.settings)
    assert "shop:u4" not in users and len(users) == 12 and f"{users['shop:late']['as_of']:%d}" == "02"
    assert max(row["batch_id"] for row in last_segments(spark, changes.settings).values()) == 2
    # Both profiles of batch 1 are older than the state, and batch 2 has none: nothing is scored.
    rows = tables.MODEL_METRICS.read(spark, changes.settings.paths).collect()
    assert {(row["batch_id"], row["model"], row["metric"]): row["value"] for row in rows} == {
        (1, "all", "late_rows"): 2.0,
        (2, "all", "late_rows"): 0.0,
    }
    assert {(row["state_as_of"].astimezone(UTC), row["rows_from"], row["rows_to"]) for row in rows} == {
        (datetime(2026, 1, 10, 12, tzinfo=UTC), None, None)
    }


@pytest.mark.parametrize("local_max_rows", [0, 1000])
def test_users_after_all_users_were_erased_are_counted_alone(
    spark: SparkSession, tmp_path: Path, local_max_rows: int
) -> None:
    changes = _profile_changes(spark, tmp_path)
    changes.local_max_rows = local_max_rows
    first = {f"u{n}": "abc"[n % 3] for n in range(6)}
    changes.write_batch(10, first)
    changes.write_batch(11, first, change="delete")
    assert not user_rows(spark, changes.settings)
    changes.write_batch(12, {f"n{n}": "ab"[n % 2] for n in range(4)})
    assert_sums_equal_recount(spark, changes.settings)
    assert len(user_rows(spark, changes.settings)) == 4


@pytest.mark.long  # for every learner: tests/laws.py
def test_the_number_of_partitions_does_not_change_the_segments(spark: SparkSession, tmp_path: Path) -> None:
    results = []
    for partitions in (1, 8):
        changes = _profile_changes(spark, tmp_path / str(partitions))
        spark.conf.set("spark.sql.shuffle.partitions", partitions)
        try:
            for day in (1, 4):
                changes.write_batch(day, {f"u{n}": "abc"[(n + n // 12 + day) % 3] for n in range(day, 30)})
        finally:
            spark.conf.set("spark.sql.shuffle.partitions", 1)
        results.append((user_rows(spark, changes.settings), last_segments(spark, changes.settings)))
    (users, state), (other_users, other_state) = results
    assert {u: row["segment_id"] for u, row in users.items()} == {
        u: row["segment_id"] for u, row in other_users.items()
    }
    assert state.keys() == other_state.keys() and len(state) == 3
    for segment, row in state.items():
        for column in ("weight", "sums", "scatter", "cost"):
            np.testing.assert_allclose(other_state[segment][column], row[column], rtol=1e-9, atol=1e-9)


def test_the_job_prints_descriptions_and_scores_for_each_k(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = segments_shop(tmp_path)
    capture_day(spark, shop, 1, {f"u{n}": "abc"[n % 3] for n in range(45)})
    assert learn_segments.main(["--config", str(shop.config())]) == 0
    output = capsys.readouterr().out
    lines = sorted(line.split("  ", 2)[2] for line in output.splitlines() if line.startswith("segment "))
    assert lines == [
        "cheap, low buys; 100% of users with buys <= 0.5 and price <= 52.5",
        "expensive, low buys; 100% of users with buys <= 0.5 and price > 52.5",
        "high buys; 100% of users with buys > 0.5",
    ]
    settings = shop.settings()
    version = commits.version(spark, tables.SEGMENT_DESCRIPTIONS, settings.paths)
    describe_segments.run(spark, settings)
    assert commits.version(spark, tables.SEGMENT_DESCRIPTIONS, settings.paths) == version
    assert learn_segments.main(["--config", str(shop.config()), "--try-k", "2", "4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()][1:]
    assert [row[0] for row in rows] == ["2", "3", "4"]
    assert max(rows, key=lambda row: float(row[2]))[0] == "3"
    # With three segments the cost is that within the groups. Points are in standard deviations, with weight 2 for buys.
    means = np.array([_mean("abc"[n % 3], n) for n in range(45)])
    points = (means - means.mean(axis=0)) / means.std(axis=0) * [1, 2]
    within = sum(naive_kmeans.cost(points[n::3]) for n in range(3))
    assert float(rows[1][1]) == pytest.approx(within / naive_kmeans.cost(points), abs=0.0005)
