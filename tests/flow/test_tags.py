"""serve_tags after the whole flow, with the shipped tags: what the job prints, a second day, a campaign."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from profilestream import flow
from profilestream.base import commits
from profilestream.base.queries import RunOptions
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.learn import segments
from profilestream.serve.users import user_view
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.workloads import windows_of_users
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
    """Who orders every week and stops; who bought once and looks; who came yesterday and searches in vain."""
    weekly = [_event(n, f"2026-01-{1 + 7 * n:02d}", "weekly", "purchase", country="France") for n in range(4)]
    once = [_event(10, "2026-01-02", "once", "purchase", country="United Kingdom")]
    looks = [_event(20 + n, "2026-03-01", "once", "view") for n in range(20)]
    seeks = [_event(50 + n, "2026-03-01", "seeks", "search", words="blue lamp") for n in range(3)]
    # A window of features ends before the newest event, so that is one of its own.
    seeks.append(_event(59, "2026-03-01", "seeks", "view", at="2026-03-01T11:00:00Z"))
    back = [_event(60 + n, "2026-01-20", "sends", kind) for n, kind in enumerate(["purchase", "return"])]
    return [*weekly, *once, *looks, *seeks, *back]


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop after its first days, through the whole flow."""
    home = tmp_path_factory.mktemp("tags")
    settings = SETTINGS.format(conf=ROOT / "conf", windows=windows_of_users(home))
    made = Shop(home, mapping=MAPPING, extra_settings=settings)
    made.write("a.jsonl", "\n".join(map(json.dumps, _first_days())))
    flow.run(_session, made.settings(), RunOptions())
    return made


def _told(spark: SparkSession, shop: Shop) -> dict[tuple[str, str], Any]:
    rows = shop.read(spark, USER_TAGS).collect()
    return {(row["user_id"].removeprefix("shop:"), row["tag"]): row for row in rows}


def test_the_flow_tags_the_shipped_facets_and_a_second_day_ends_and_begins(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _told(spark, shop)
    said = {key: row["evidence"] for key, row in first.items()}
    assert said["weekly", "abroad"] == "in France"
    assert said["weekly", "slipping_away"] == "no purchase for 38 days, usually one in 7"
    assert said["once", "looks_only"] == "20 views and no purchase in 30 days"
    assert said["seeks", "searching"] == "3 searches and no purchase in 7 days, such as blue lamp"
    assert None not in said.values()
    groups = {row["user_id"]: row for row in shop.read(spark, USER_GROUPS).collect()}
    assert {user: (row["frequency"], row["money"], row["cohort"]) for user, row in groups.items()} == {
        "shop:weekly": (4.0, 80.0, "2026-01"),
        "shop:once": (1.0, 20.0, "2026-01"),
        "shop:seeks": (0.0, 0.0, "2026-03"),
        "shop:sends": (1.0, 0.0, "2026-01"),
    }
    assert groups["shop:seeks"]["rfm"] is None and groups["shop:weekly"]["frequency_quintile"] == 4

    config = ["--config", str(shop.config())]
    versions = [commits.version(spark, table, shop.settings().paths) for table in (USER_GROUPS, USER_TAGS)]
    assert serve_tags.main(config) == 0
    printed = capsys.readouterr().out
    assert re.search(r"social +reviewer +0$", printed, re.M)
    line = r"risk +slipping_away +1 +25\.0% +1 new  shop:weekly: no purchase for 38 days"
    assert re.search(line, printed)
    assert serve_tags.main([*config, "--list", "slipping_away"]) == 0
    assert capsys.readouterr().out == ("shop:weekly  2026-03-01 11:00  no purchase for 38 days, usually one in 7\n")
    other = shop.home / "other.toml"
    shipped = (ROOT / "conf" / "tags.toml").read_text()
    other.write_text(shipped.replace("social.reviews >= 3", "true").replace("features.views_30d >= 20", "false"))
    assert serve_tags.main([*config, "--compare", str(other)]) == 0
    compared = {line.split()[0]: line.split()[1::2] for line in capsys.readouterr().out.splitlines()}
    assert compared["reviewer"] == ["0", "4", "0"] and compared["slipping_away"] == ["1", "0", "0"]
    assert [commits.version(spark, table, shop.settings().paths) for table in (USER_GROUPS, USER_TAGS)] == versions

    shop.write("b.jsonl", "\n".join(map(json.dumps, [_event(90, "2026-03-02", "weekly", "purchase")])))
    flow.run(spark, shop.settings(), RunOptions())
    second = _told(spark, shop)
    ended = second["weekly", "slipping_away"]
    assert (ended["ended"], ended["until"].day, ended["evidence"]) == ("lost", 2, said["weekly", "slipping_away"])
    assert second["once", "looks_only"] == first["once", "looks_only"]
    for table, column in ((USER_GROUPS, "money"), (USER_TAGS, "")):
        assert_all_readers_agree(spark, table.path(shop.settings().paths), column)


def test_a_person_is_told_what_the_tables_said_then_and_what_is_unusual_first(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, user = shop.settings(), "shop:weekly"
    of_tags = DeltaTable.forPath(spark, USER_TAGS.uri(settings.paths)).history().orderBy("version").collect()
    known_by = of_tags[1]["timestamp"].replace(tzinfo=UTC)
    then = user_view.of(spark, settings, user, datetime(2026, 3, 1, 11, 0, 1, tzinfo=UTC), known_by).said
    travelled = USER_TAGS.read(spark, settings.paths, version=1).where(F.col("user_id") == user).collect()
    assert {name: text.split(": ", 1)[1] for name, text in then["tags"].items()} == {
        row["tag"]: row["evidence"] for row in travelled
    }
    old_groups = USER_GROUPS.read(spark, settings.paths, version=1).where(F.col("user_id") == user).first()
    assert old_groups is not None and then["groups"]["rfm"] == old_groups["rfm"]
    assert "slipping_away" in then["tags"]

    now = user_view.of(spark, settings, user).said
    kept = segments.users_table(settings).read(spark, settings.paths).where(F.col("user_id") == user).first()
    described = segments.descriptions_table().read(spark, settings.paths).collect()
    words = {row["segment_id"]: row["description"] for row in described}
    assert kept is not None and now["segment"]["segment"] == f"{kept['segment_id']}: {words[kept['segment_id']]}"
    assert now["segment"]["distance"] == kept["distance"]
    assert "slipping_away" not in now["tags"]
    assert now["behind"] == {
        "shop:i0": "3 purchase, last 2026-03-02", "shop:i1": "1 purchase, last 2026-01-08",
        "shop:i2": "1 purchase, last 2026-01-15",
    }  # fmt: skip
    assert now["drift"]["7 days"] == "as before"
    assert serve_user.main(["--config", str(shop.config()), "--user", "shop:seeks"]) == 0
    blocks = [line.strip() for line in capsys.readouterr().out.splitlines() if re.match("  [a-z]", line)]
    assert blocks[:4] == ["tags", "groups", "segment", "basic"]


def test_a_campaign_that_subscribes_as_the_docs_say_hears_of_each_user_once(
    spark: SparkSession, shop: Shop, tmp_path: Path
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tags.md").read_text(), re.S)
    places = {"demo/warehouse": f"{shop.home}/warehouse", "demo/campaign": f"{tmp_path}/campaign"}
    for place, here in places.items():
        snippet = snippet.replace(place, here)
    for _ in range(2):
        exec(snippet, {"spark": spark})
        mails = spark.read.format("delta").load(f"{tmp_path}/campaign/mails").collect()
        assert [(row["user_id"], row["evidence"]) for row in mails] == [
            ("shop:weekly", "no purchase for 38 days, usually one in 7")
        ]


def test_wrong_settings_end_the_job_at_its_start(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(shop.config())]
    assert serve_tags.main([*config, "--check"]) == 0
    assert serve_tags.main([*config, "--check", "--set", "derive.windows.enabled=false"]) == 2
    assert "tags.looks_only.where" in capsys.readouterr().err
    assert serve_tags.main([*config, "--set", "serve.tags.file="]) == 2
    assert "no file declares tags" in capsys.readouterr().err
    assert serve_tags.main([*config, "--list", "nobody"]) == 2
    assert "no tag is called 'nobody'" in capsys.readouterr().err
