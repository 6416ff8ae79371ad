"""Profiles, one merged row per user, equal plain Python after late events, several batches and crashes."""

import json
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from profilestream import flow
from profilestream.base import commits, streaming
from profilestream.base.errors import Refused
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage, profiles
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.builders import USER_PROFILES, Shop, event
from tests.fault_injection import Crashes
from tests.open_readers import assert_all_readers_agree

ROOT = Path(__file__).parent.parent.parent
AT = datetime.fromisoformat("2026-03-01T00:00:00+00:00")
ZONE = "Asia/Tokyo"
# The shipped table has 32 statistics; these few cover every form of declaration.
SMALL = (
    USER_PROFILES
    + """
[statistics.behavior]
events = { kind = "count" }
types = { kind = "top", of = "event_type", n = 32 }
types_7d = { kind = "top", of = "event_type", n = 32, half_life_days = 7 }
active_days = { kind = "distinct", of = "event_date" }
spent = { kind = "sum", of = "value", where = "event_type = 'purchase'" }
hours = { kind = "histogram", of = "hour(from_utc_timestamp(event_time, '${shop_timezone}'))", bins = 24 }
vector = { kind = "mean_vector", dimensions = { purchase = "int(event_type = 'purchase')", price = "price" } }
[statistics.social]
shares = { kind = "count", where = "event_type = 'share'" }
[population]
name = "population_stats"
of = "behavior.vector"
"""
)


def _event(n: int) -> dict[str, Any]:
    kind = ("view", "purchase", "return", "share")[n % 4]
    who = None if n % 9 == 0 else f"u{n % 5}"
    return event(n, kind=kind, who=who, at=f"2026-01-05T{n % 24:02}:{n:02}:00Z", price=str(1 + n % 5))


def _shop(home: Path, files: int) -> Shop:
    """A day of events in `files` files, newest first; each file is a batch of both stages."""
    file = home / "user_profiles.toml"
    home.mkdir(parents=True, exist_ok=True)
    file.write_text(SMALL)
    extra = f'[derive]\nmax_files_per_trigger = 1\nprofiles = ["{file}"]\nshop_timezone = "{ZONE}"\n'
    shop = Shop(home, extra_settings=extra)
    log = sorted((_event(n) for n in range(50)), key=lambda e: e["at"], reverse=True)
    for n in range(files):
        part = log[n * len(log) // files : (n + 1) * len(log) // files]
        shop.write(f"{n:02}.jsonl", "\n".join(json.dumps(e) for e in part))
    return shop


def _profiles(spark: SparkSession, settings: Settings) -> dict[str, dict[str, Any]]:
    """The values of the profiles as of AT, by user."""
    derived = _derived(settings)
    rows = Fold(derived).read(derived.table.read(spark, settings.paths), F.lit(AT)).collect()
    assert len({row["user_id"] for row in rows}) == len(rows)
    return {row["user_id"]: row.asDict(recursive=True) for row in rows}


def _derived(settings: Settings) -> DerivedTable:
    return next(iter(fold_stage.declared_tables(settings).values()))


def test_the_shipped_declaration_of_profiles_is_valid(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, extra_settings=f'[derive]\nprofiles = ["{ROOT}/conf/derive/user_profiles.toml"]\n')
    profiles.check(spark, shop.settings())
    table = _derived(shop.settings()).table
    table.create(spark, shop.settings().paths)
    table.check_stored(spark, shop.settings().paths)


def test_profiles_of_two_batches_equal_the_counts_of_plain_python(spark: SparkSession, tmp_path: Path) -> None:
    shop = _shop(tmp_path, files=2)
    flow.run(spark, shop.settings(), RunOptions())
    values_by_user = _profiles(spark, shop.settings())
    paths = shop.settings().paths
    assert_all_readers_agree(spark, _derived(shop.settings()).table.path(paths), "behavior.events")
    assert_all_readers_agree(spark, _derived(shop.settings()).population_table.path(paths), "users")
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for e in map(_event, range(50)):
        if e["who"]:
            by_user[f"shop:{e['who']}"].append(e)
    assert values_by_user.keys() == by_user.keys()
    for user, events in by_user.items():
        behavior = values_by_user[user]["behavior"]
        assert behavior["events"] == len(events)
        assert behavior["types"] == Counter(e["kind"] for e in events)
        assert behavior["spent"] == sum(float(e["price"]) for e in events if e["kind"] == "purchase")
        assert behavior["active_days"] == len({e["at"][:10] for e in events})
        in_tokyo = Counter((int(e["at"][11:13]) + 9) % 24 for e in events)
        assert behavior["hours"] == [in_tokyo[hour] for hour in range(24)]
        assert values_by_user[user]["social"]["shares"] == sum(e["kind"] == "share" for e in events)
        recent: dict[str, float] = defaultdict(float)
        for e in events:
            days = (AT - datetime.fromisoformat(e["at"].replace("Z", "+00:00"))).total_seconds() / 86_400
            recent[e["kind"]] += 2 ** (-days / 7)
        assert behavior["types_7d"] == pytest.approx(dict(recent), rel=1e-9)


def test_a_batch_without_users_makes_no_commit_and_later_runs_continue(spark: SparkSession, tmp_path: Path) -> None:
    shop = _shop(tmp_path, files=0)
    settings = shop.settings()
    written = (_derived(settings).table, _derived(settings).population_table)
    versions = []
    for n, user in enumerate([None, "anna", None, None, "ben"]):
        shop.write(f"{n}.jsonl", json.dumps({**_event(n), "who": user}))
        shop.capture(spark)
        assert streaming.run(spark, profiles.queries(settings), settings, RunOptions())
        versions.append(tuple(commits.versions(spark, written, settings.paths).values()))
    assert versions == [(0, 0), (1, 1), (1, 1), (1, 1), (2, 2)]
    stats = written[1].read(spark, settings.paths).orderBy("batch_id").select("batch_id", "users").collect()
    assert [tuple(row) for row in stats] == [(1, 1), (4, 2)]
    written[0].recreate(spark, settings.paths)
    written[1].recreate(spark, settings.paths)
    with pytest.raises(Refused, match="is older than the checkpoint"):
        streaming.run(spark, profiles.queries(settings), settings, RunOptions())


def test_a_crash_before_or_after_either_write_changes_nothing(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    """Profiles are merged, and a row of population_stats is appended; the crashes are in the second batch."""
    shop = _shop(tmp_path, files=2)
    shop.capture(spark)
    settings = shop.settings()
    assert crashes.run_through(profiles.queries(settings), settings, batch_id=1) == 3
    events = [_event(n) for n in range(50) if _event(n)["who"]]
    assert sum(p["behavior"]["events"] for p in _profiles(spark, settings).values()) == len(events)
    prices: dict[str, list[float]] = defaultdict(list)
    for e in events:
        prices[e["who"]].append(float(e["price"]))
    stats = _derived(settings).population_table.read(spark, settings.paths).orderBy("batch_id").collect()
    assert [row["batch_id"] for row in stats] == [0, 1] and stats[1]["users"] == len(prices)
    mean_of_means = sum(sum(p) / len(p) for p in prices.values()) / len(prices)
    assert stats[1]["means"]["price"] == pytest.approx(mean_of_means, rel=1e-9)
    changes = spark.read.option("readChangeFeed", True).option("startingVersion", 1).format("delta")
    touched = changes.load(_derived(settings).table.path(settings.paths)).where("_change_type != 'update_preimage'")
    assert touched.select("_commit_version").distinct().count() == 2
