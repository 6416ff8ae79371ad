"""serve_tags in the complete flow, with the shipped tags: output of the job, a second day, a change feed reader."""

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from profilestream import flow
from profilestream.base import commits
from profilestream.base.queries import RunOptions
from profilestream.base.tables import SEGMENT_DESCRIPTIONS, USER_GROUPS, USER_TAGS
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.users import user_view
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.workloads import write_user_features
from jobs import serve_tags, serve_user
from tests.builders import SHOP, Shop
from tests.open_readers import assert_all_readers_agree

ROOT = Path(__file__).parent.parent.parent
MAPPING = SHOP.replace("quantity string", "quantity string, basket string, words string, country string").replace(
    'quantity = "quantity"', 'quantity = "quantity"\norder_id = "basket"\nquery = "words"\nregion = "country"'
)
SETTINGS = """
[derive]
features = ["{conf}/derive/user_hours.toml"]
profiles = ["{conf}/derive/user_profiles.toml"]
[derive.windows]
file = "{windows}"
enabled = true
[learn.segments]
enabled = true
k = 2
[serve.tags]
file = "{conf}/tags.toml"
enabled = true
"""


def _event(number: int, day: str, who: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"e{number}", "kind": kind, "at": f"{day}T10:00:00Z", "who": who, "what": f"i{number % 3}", "price": "20",
        "quantity": "1", "basket": f"b{day}{who}" if kind in ("purchase", "return") else None, **more,
    }  # fmt: skip


def _first_days() -> list[dict[str, Any]]:
    """Users: `weekly` bought every week and stopped; `once` bought once and views items; `searcher` searches without
    buying; `returner` returned an order; `bulk` placed three orders on one day.
    """
    weekly = [_event(n, f"2026-01-{1 + 7 * n:02d}", "weekly", "purchase", country="France") for n in range(4)]
    once = [_event(10, "2026-01-02", "once", "purchase", country="Norway")]
    views = [_event(20 + n, "2026-03-01", "once", "view") for n in range(20)]
    searches = [_event(50 + n, "2026-03-01", "searcher", "search", words="blue lamp") for n in range(3)]
    # Feature windows end before the newest event, so an additional event comes last.
    searches.append(_event(59, "2026-03-01", "searcher", "view", at="2026-03-01T11:00:00Z"))
    returns = [_event(60 + n, "2026-01-20", "returner", kind) for n, kind in enumerate(["purchase", "return"])]
    bulk = [_event(70 + n, "2026-01-02", "bulk", "purchase", country="Norway", basket=f"bulk{n}") for n in range(3)]
    return [*weekly, *once, *views, *searches, *returns, *bulk]


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop after the complete flow over its first days."""
    home = tmp_path_factory.mktemp("tags")
    settings = SETTINGS.format(conf=ROOT / "conf", windows=write_user_features(home))
    shop = Shop(home, mapping=MAPPING, extra_settings=settings)
    shop.write("a.jsonl", "\n".join(map(json.dumps, _first_days())))
    flow.run(_session, shop.settings(), RunOptions())
    return shop


def _tag_rows(spark: SparkSession, shop: Shop) -> dict[tuple[str, str], Any]:
    rows = shop.read(spark, USER_TAGS).collect()
    return {(row["user_id"].removeprefix("shop:"), row["tag"]): row for row in rows}


def test_the_flow_assigns_the_shipped_tags_and_updates_them_on_a_second_day(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _tag_rows(spark, shop)
    evidence = {key: row["evidence"] for key, row in first.items()}
    assert {user: text for (user, tag), text in evidence.items() if tag == "abroad"} == {"weekly": "in France"}
    overdue = {user: text for (user, tag), text in evidence.items() if tag == "overdue_purchase"}
    assert overdue["weekly"] == "no purchase for 38 days, usually one every 7"
    assert overdue.keys() == {"weekly"}, "orders of one day have no usual interval"
    assert evidence["once", "views_without_purchase"] == "20 views and no purchase in 30 days"
    searches = evidence["searcher", "searches_without_purchase"]
    assert searches == "3 searches and no purchase in 7 days, such as blue lamp"
    assert None not in evidence.values()
    groups = {row["user_id"]: row for row in shop.read(spark, USER_GROUPS).collect()}
    assert {user: (row["frequency"], row["monetary"], row["cohort"]) for user, row in groups.items()} == {
        "shop:weekly": (4.0, 80.0, "2026-01"),
        "shop:once": (1.0, 20.0, "2026-01"),
        "shop:searcher": (0.0, None, "2026-03"),
        "shop:returner": (1.0, 0.0, "2026-01"),
        "shop:bulk": (3.0, 60.0, "2026-01"),
    }
    assert groups["shop:searcher"]["rfm_segment"] is None and groups["shop:weekly"]["frequency_quintile"] == 4

    config = ["--config", str(shop.config())]
    versions = [commits.version(spark, table, shop.settings().paths) for table in (USER_GROUPS, USER_TAGS)]
    assert serve_tags.main(config) == 0
    printed = capsys.readouterr().out
    assert re.search(r"social +reviewer +0$", printed, re.M)
    line = r"risk +overdue_purchase +1 +20\.0% +1 new  shop:weekly: no purchase for 38 days"
    assert re.search(line, printed)
    assert serve_tags.main([*config, "--list-users", "overdue_purchase"]) == 0
    assert capsys.readouterr().out == "shop:weekly  2026-02-21 10:00  no purchase for 38 days, usually one every 7\n"
    other = shop.home / "other.toml"
    shipped = (ROOT / "conf" / "tags.toml").read_text()
    other.write_text(shipped.replace("social.reviews >= 3", "true").replace("features.views_30d >= 20", "false"))
    assert serve_tags.main([*config, "--compare", str(other)]) == 0
    counts = {line.split()[0]: line.split()[1::2] for line in capsys.readouterr().out.splitlines()}
    assert counts["reviewer"] == ["0", "5", "0"] and counts["overdue_purchase"] == ["1", "0", "0"]
    assert [commits.version(spark, table, shop.settings().paths) for table in (USER_GROUPS, USER_TAGS)] == versions

    shop.write("b.jsonl", "\n".join(map(json.dumps, [_event(90, "2026-03-02", "weekly", "purchase")])))
    flow.run(spark, shop.settings(), RunOptions())
    second = _tag_rows(spark, shop)
    ended, old_evidence = second["weekly", "overdue_purchase"], evidence["weekly", "overdue_purchase"]
    assert (ended["end_reason"], ended["valid_to"].day, ended["evidence"]) == ("lost", 2, old_evidence)
    assert second["once", "views_without_purchase"] == first["once", "views_without_purchase"]
    for table, column in ((USER_GROUPS, "monetary"), (USER_TAGS, "")):
        assert_all_readers_agree(spark, table.path(shop.settings().paths), column)


def test_a_user_view_as_of_a_time_equals_the_tables_at_that_time(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, user = shop.settings(), "shop:weekly"
    commits_of_tags = DeltaTable.forPath(spark, USER_TAGS.uri(settings.paths)).history().orderBy("version").collect()
    known_by = commits_of_tags[1]["timestamp"].replace(tzinfo=UTC)
    old_view = user_view.read(spark, settings, user, datetime(2026, 3, 1, 11, 0, 1, tzinfo=UTC), known_by).sections
    old_tags = USER_TAGS.read(spark, settings.paths, version=1).where(F.col("user_id") == user).collect()
    assert {name: text.split(": ", 1)[1] for name, text in old_view["tags"].items()} == {
        row["tag"]: row["evidence"] for row in old_tags
    }
    old_groups = USER_GROUPS.read(spark, settings.paths, version=1).where(F.col("user_id") == user).first()
    assert old_groups is not None and old_view["groups"]["rfm_segment"] == old_groups["rfm_segment"]
    assert "overdue_purchase" in old_view["tags"]

    view = user_view.read(spark, settings, user).sections
    segment = SegmentsSpec(settings).users_table.read(spark, settings.paths).where(F.col("user_id") == user).first()
    rows = SEGMENT_DESCRIPTIONS.read(spark, settings.paths).collect()
    descriptions = {row["segment_id"]: row["description"] for row in rows}
    assert segment is not None
    assert view["segment"]["name"] == f"{segment['segment_id']}: {descriptions[segment['segment_id']]}"
    assert view["segment"]["distance_to_center"] == segment["distance"]
    assert "overdue_purchase" not in view["tags"]
    assert view["preference_events"] == {
        "shop:i0": "3 purchase, last 2026-03-02", "shop:i1": "1 purchase, last 2026-01-08",
        "shop:i2": "1 purchase, last 2026-01-15",
    }  # fmt: skip
    assert view["drift"]["7 days"] == "unchanged"
    assert view["summary"][:2] == [
        "First seen on 2026-01-01, last seen on 2026-03-02.",
        "5 orders for 100.00, 20.00 each on average.",
    ]
    last_day = view["timeline"][0]
    assert (last_day["day"], last_day["orders"]) == (
        date(2026, 3, 2),
        [{"order_id": "b2026-03-02weekly", "value": 20.0}],
    )
    assert "overdue_purchase" in last_day["tags_lost"]
    assert serve_user.main(["--config", str(shop.config()), "--user", "shop:searcher"]) == 0
    blocks = [line.strip() for line in capsys.readouterr().out.splitlines() if re.match("  [a-z]", line)]
    assert blocks[:5] == ["unusual", "timeline", "tags", "groups", "segment"]


def test_the_change_feed_reader_of_the_docs_gets_each_user_once(
    spark: SparkSession, shop: Shop, tmp_path: Path
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tags.md").read_text(), re.S)
    paths = {"demo/warehouse": f"{shop.home}/warehouse", "demo/campaign": f"{tmp_path}/campaign"}
    for documented, actual in paths.items():
        snippet = snippet.replace(documented, actual)
    for _ in range(2):
        exec(snippet, {"spark": spark})
        mails = spark.read.format("delta").load(f"{tmp_path}/campaign/mails").collect()
        assert [(row["user_id"], row["evidence"]) for row in mails] == [
            ("shop:weekly", "no purchase for 38 days, usually one every 7")
        ]


def test_invalid_settings_stop_the_job_at_its_start(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(shop.config())]
    assert serve_tags.main([*config, "--check"]) == 0
    assert serve_tags.main([*config, "--check", "--set", "derive.windows.enabled=false"]) == 2
    assert "tags.views_without_purchase.enter_when" in capsys.readouterr().err
    assert serve_tags.main([*config, "--set", "serve.tags.file="]) == 2
    assert "no file declares tags" in capsys.readouterr().err
    assert serve_tags.main([*config, "--list-users", "unknown"]) == 2
    assert "there is no tag 'unknown'" in capsys.readouterr().err
