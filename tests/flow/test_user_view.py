"""serve_user: the view of a user as of any time (law 8) and as known by any time, and errors for unknown users."""

import html
import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from profilestream import flow
from profilestream.base import tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.queries import RunOptions
from profilestream.derive import profiles
from profilestream.derive.fold import Fold
from profilestream.serve.users import user_page, user_view
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import serve_user
from tests.builders import SHOP, USER_PROFILES, Shop, event

DERIVE = Path(__file__).parent.parent.parent / "conf" / "derive"
SMALL = (
    USER_PROFILES
    + """
[statistics.basic]
first_seen = { kind = "min", of = "event_time", type = "timestamp" }
last_seen = { kind = "max", of = "event_time", type = "timestamp" }
[statistics.preference]
items = { kind = "top", of = "item_id", n = 32 }
[statistics.behavior]
events = { kind = "count" }
orders = { kind = "distinct", of = "${order}", where = "event_type = 'purchase'" }
spent = { kind = "sum", of = "value", where = "event_type = 'purchase'" }
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
# 10:00 UTC is on the same day, 20:00 UTC on the next one.
TIMEZONE = "Asia/Kolkata"
MAPPING = SHOP.replace("quantity string", "quantity string, label string").replace(
    'quantity = "quantity"', 'quantity = "quantity"\ntext = "label"\ncurrency = "\'EUR\'"'
)
EVIL = "cup <script>alert(1)</script>"


def _shop(home: Path) -> Shop:
    home.mkdir(parents=True, exist_ok=True)
    (home / "user_profiles.toml").write_text(SMALL)
    profiles_of = f'[derive]\nprofiles = ["{home}/user_profiles.toml"]\nshop_timezone = "{TIMEZONE}"\n'
    return Shop(home, mapping=MAPPING, extra_settings=profiles_of)


def _write(shop: Shop, name: str, numbers: range, **changes: Any) -> None:
    shop.write(name, "\n".join(json.dumps(_event(n) | changes) for n in numbers))


def _event(n: int) -> dict[str, Any]:
    return event(n, kind=("view", "purchase")[n % 2], who=f"u{n % 3}", at=f"2026-01-{1 + n % 28:02}T10:00:{n:02}Z") | {
        "label": EVIL if n % 5 == 0 else None
    }


def _write_results_of_steps(spark: SparkSession, shop: Shop) -> None:
    """Rows of the tables of steps, all of `shop:u1`."""
    time, run = (
        datetime(2026, 1, 20, 20, tzinfo=UTC),
        {"user_id": "shop:u1", "as_of": datetime(2026, 1, 20, tzinfo=UTC)},
    )
    model = {"model_version": "factors@1", "ranker": "blend"}
    versions = {"models_version": 1, "events_version": 1, "model_valid_from": time}
    unusual = {"score": 9.0, "share_of_days": 0.01, "events_version": 1}
    reason = {"feature": "orders", "value": 4.0, "contribution": 0.1, "text": "orders 4; raises the score"}
    measure = {"measure": "events", "observed": 9.0, "expected": 1.0, "z": 3.0, "text": "events: 9 instead of 1"}
    tag = {"rule_version": "v", "valid_from": time, **run}
    rows: dict[Table, Any] = {
        tables.USER_TAGS: [
            tag | {"tag": "vip", "gained_after": time, "evidence": "bought shop:i0 often"},
            tag | {"tag": "new", "gained_after": None, "valid_to": time.replace(day=26), "end_reason": "lost"},
        ],
        tables.USER_GROUPS: [run | {"rfm_segment": "at_risk", "frequency_quintile": 2}],
        tables.USER_SCORES: [
            run | versions | {"outcome": "purchase_28d", "score": 1.5, "probability": 0.82, "reasons": [reason]},
        ],
        tables.RECOMMENDATIONS: [
            run | model | {"purpose": "buy_again", "rank": 1, "item_id": "shop:i0", "score": 1.0, "reason": "often"},
        ],
        tables.UNUSUAL_ACTIVITY: [
            run | unusual | {"day": date(2026, 1, 20), "reasons": [measure]},
        ],
    }  # fmt: skip
    for table, values in rows.items():
        table.create(spark, shop.settings().paths)
        frame = spark.createDataFrame(values, table.schema)
        frame.write.format("delta").mode("append").save(table.uri(shop.settings().paths))


def _timeline(numbers: Iterable[int]) -> list[dict[str, Any]]:
    """The last 20 days of `shop:u1`, with loops."""
    by_day: dict[date, list[dict[str, Any]]] = {}
    for n in numbers:
        if n % 3 == 1:
            by_day.setdefault(date(2026, 1, 1 + n % 28), []).append(_event(n))
    days: list[dict[str, Any]] = []
    for day in sorted({*by_day, date(2026, 1, 21), date(2026, 1, 27)}, reverse=True)[:20]:
        events = by_day.get(day, [])
        orders = [one for one in events if one["kind"] == "purchase"]
        items = Counter(f"shop:{one['what']}" for one in events)
        values: dict[str, Any] = {"events": dict(Counter(one["kind"] for one in events))} if events else {}
        if orders:
            values |= {"orders": [{"order_id": None, "value": 2.5} for _ in orders], "order_count": len(orders)}
        if items:
            counted = sorted(items, key=lambda item: (-items[item], item))
            values |= {
                "items": [{"item_id": item, "events": items[item]} for item in counted],
                "item_count": len(items),
            }
        values |= {"tags_gained": ["vip"]} if day.day == 21 else {"tags_lost": ["new"]} if day.day == 27 else {}
        days.append({"day": day} | values | ({"unusual": ["events: 9 instead of 1"]} if day.day == 20 else {}))
    return days


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

    _write_results_of_steps(spark, shop)
    current = user_view.read(spark, settings, "shop:u1")
    assert current.sections["summary"] == [
        "First seen on 2026-01-01, last seen on 2026-01-28.",
        "10 orders for 25.00 EUR, 2.50 EUR each on average.",
        "Favorite items: shop:i0, shop:i1, shop:i2.",
        "RFM segment: at risk.",
        "Purchase_28d 82.0% likely.",
    ]
    facets = current.sections["behavior"], current.sections["preference"]["items"]
    assert (facets[0]["orders"], facets[0]["spent"]) == (10, 25.0)
    assert sorted(facets[1], key=lambda item: (-facets[1][item], item))[:3] == ["shop:i0", "shop:i1", "shop:i2"]
    assert current.sections["timeline"] == _timeline(range(56))
    assert current.item_names == {"shop:i0": EVIL}
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
    assert text.startswith("shop:u1, as of 2026-01-28 10:00 UTC\n  First seen on 2026-01-01, ")
    assert f"    1  {EVIL} (shop:i0); often; blend\n" in text and f": bought {EVIL} (shop:i0) often\n" in text
    assert "    events        19\n" in text and "    vector        " in text
    assert (
        serve_user.main([*config, "--user", "shop:u1", "--as-of", "2026-01-15T10:00:14", "--json", "--language", "zh"])
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["summary"][0].startswith("首次访问 2026-01-01，最近访问 2026-01-")
    assert document["as_of"] == "2026-01-15T10:00:14+00:00"
    assert document["behavior"]["events"] == earlier_view.sections["behavior"]["events"]

    page = tmp_path / "user.html"
    assert serve_user.main([*config, "--user", "shop:u1", "--html", str(page)]) == 0
    assert capsys.readouterr().out == f"open in a browser: {page}\n"
    assert page.read_text() == user_page.as_html(current)
    assert "<script" not in page.read_text() and f"{html.escape(EVIL)} (shop:i0)" in page.read_text()

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
