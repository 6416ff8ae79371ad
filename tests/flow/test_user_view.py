"""serve_user: the view of a user as of any time (law 8) and as known by any time, and errors for unknown users."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from profilestream import flow
from profilestream.base import tables
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.queries import RunOptions
from profilestream.derive import profiles
from profilestream.derive.fold import Fold
from profilestream.serve.users import user_view
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import serve_user
from tests.builders import USER_PROFILES, Shop, event

DERIVE = Path(__file__).parent.parent.parent / "conf" / "derive"
SMALL = (
    USER_PROFILES
    + """
[statistics.behavior]
events = { kind = "count" }
types_7d = { kind = "top", of = "event_type", n = 32, half_life_days = 7 }
last_item = { kind = "last", of = "item_id", type = "string" }
hours = { kind = "histogram", of = "hour(event_time)", bins = 24 }
vector = { kind = "mean_vector", dimensions = { purchase = "int(event_type = 'purchase')", price = "price" } }
[readings.behavior.recent_share]
sql = "try_element_at(behavior.types_7d, 'purchase') / behavior.events"
meaning = "Recent purchases by all events."
[population]
name = "population_stats"
of = "behavior.vector"
"""
)


def _shop(home: Path) -> Shop:
    home.mkdir(parents=True, exist_ok=True)
    (home / "user_profiles.toml").write_text(SMALL)
    return Shop(home, extra_settings=f'[derive]\nprofiles = ["{home}/user_profiles.toml"]\n')


def _write(shop: Shop, name: str, numbers: range, **changes: Any) -> None:
    shop.write(name, "\n".join(json.dumps(_event(n) | changes) for n in numbers))


def _event(n: int) -> dict[str, Any]:
    return event(n, kind=("view", "purchase")[n % 2], who=f"u{n % 3}", at=f"2026-01-{1 + n % 28:02}T10:00:{n:02}Z")


def test_the_view_at_an_earlier_time_equals_the_table_at_that_time(
    spark: SparkSession, tmp_path: Path, capsys: Any
) -> None:
    shop = _shop(tmp_path / "all")
    _write(shop, "a.jsonl", range(0, 40))
    flow.run(spark, shop.settings(), RunOptions())
    derived = profiles.profile_table(shop.settings())
    version = spark.sql(f"DESCRIBE HISTORY delta.`{derived.table.path(shop.settings().paths)}`").first()["version"]  # type: ignore[index]
    known_by = datetime.now(UTC)
    _write(shop, "b.jsonl", range(40, 56))
    flow.run(spark, shop.settings(), RunOptions())
    settings = shop.settings()

    current = user_view.read(spark, settings, "shop:u1")
    assert current.sections["behavior"]["events"] == sum(n % 3 == 1 for n in range(56))
    assert current.sections["vector"].keys() == {"purchase", "price"}

    earlier_version_view = user_view.read(spark, settings, "shop:u1", current.as_of, known_by)
    old_rows = derived.table.read(spark, settings.paths, version=version).where("user_id = 'shop:u1'")
    old_profile = Fold(derived).read(old_rows, F.lit(current.as_of)).first()
    assert old_profile is not None
    assert earlier_version_view.sections["behavior"] == old_profile.asDict(recursive=True)["behavior"]
    assert earlier_version_view.sections["behavior"]["events"] == sum(n % 3 == 1 for n in range(40))

    middle = datetime(2026, 1, 15, 10, 0, 14, tzinfo=UTC)
    before = [n for n in range(56) if _event(n)["at"] < "2026-01-15T10:00:14Z"]
    earlier_view = user_view.read(spark, settings, "shop:u1", middle)
    shorter_log = _shop(tmp_path / "before")
    shorter_log.write("a.jsonl", "\n".join(json.dumps(_event(n)) for n in before))
    flow.run(spark, shorter_log.settings(), RunOptions())
    rows = derived.table.read(spark, shorter_log.settings().paths).where("user_id = 'shop:u1'")
    expected = Fold(derived).read(rows, F.lit(middle)).first()
    assert expected is not None
    for name, value in expected.asDict(recursive=True)["behavior"].items():
        assert earlier_view.sections["behavior"][name] == (
            pytest.approx(value, rel=1e-9) if name != "last_item" else value
        ), name

    capsys.readouterr()
    config = ["--config", str(shop.config())]
    assert serve_user.main([*config, "--user", "shop:u1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("shop:u1, as of 2026-01-28 10:00 UTC\n  behavior\n")
    assert "    events        19\n" in text and "    vector        " in text
    assert serve_user.main([*config, "--user", "shop:u1", "--as-of", "2026-01-15T10:00:14", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["as_of"] == "2026-01-15T10:00:14+00:00"
    assert document["behavior"]["events"] == earlier_view.sections["behavior"]["events"]

    for arguments, code, message in (
        (["--user", "u1"], 2, "there is no user 'u1'"),
        (["--user", "unknown"], 2, "user ids look like shop:u0, shop:u1, shop:u2"),
        (["--user", "shop:u1", "--as-of", "2025-01-01"], 2, "user 'shop:u1' has no profile at that time: first event"),
        (["--user", "shop:u1", "--as-of", "noon"], 2, "'noon' is not a time"),
    ):
        assert serve_user.main([*config, *arguments]) == code
        assert message in capsys.readouterr().err
    assert serve_user.main([*config, "--user", "u1"]) == 2
    assert capsys.readouterr().err.strip().endswith("use shop:u1")


def test_a_missing_profile_table_is_an_error_with_the_job_to_run_or_the_setting(
    spark: SparkSession, tmp_path: Path
) -> None:
    shop = _shop(tmp_path)
    tables.EVENTS.create(spark, shop.settings().paths)
    with pytest.raises(SourceMissing) as missing:
        user_view.read(spark, shop.settings(), "shop:u1")
    assert missing.value.do == "run jobs/derive_profiles.py first, or name a time: --as-of"
    shop.extra_settings = ""
    with pytest.raises(BadSettings) as undeclared:
        profiles.profile_table(shop.settings())
    assert undeclared.value.where == "derive.profiles"
