"""serve_scores after the whole flow: lists with pinned versions, exactly the wanted users, shown by serve_user."""

import json
from typing import Any

import pytest
from profilestream import flow
from profilestream.base import tables
from profilestream.base.queries import RunOptions
from profilestream.learn import factors
from profilestream.serve.scores import recommend
from pyspark.sql import SparkSession

from jobs import serve_scores, serve_user
from tests.builders import Shop, event
from tests.open_readers import assert_all_readers_agree

PROFILES = """
name = "user_profiles"
write = "merge"
where = "user_id IS NOT NULL"
[keys]
user_id = { of = "user_id" }
[statistics.preference]
items = { kind = "top", of = "item_id", n = 20 }
"""
SETTINGS = """
[derive]
profiles = ["{home}/user_profiles.toml"]
[learn.factors]
enabled = true
k = 4
first_full_passes = 2
[serve.scores]
enabled = true
top_n = 3
"""


def _bought(n: int) -> dict[str, Any]:
    """Two groups of users, each with items of its own; a user buys four of the group's six."""
    group, user, item = n % 2, n // 2 % 6, n // 12
    return event(n, kind="purchase", who=f"u{group}{user}", what=f"i{group}{(user + item) % 6}")


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """After the whole flow."""
    home = tmp_path_factory.mktemp("scores")
    (home / "user_profiles.toml").write_text(PROFILES)
    shop = Shop(home, extra_settings=SETTINGS.format(home=home))
    # A user who only looked away (weight 0) has a profile and nothing that was learned.
    others = [event(90, kind="exposure", who="shy", what="i00"), event(91, kind="return", who="back", what="i01")]
    shop.write("a.jsonl", "\n".join(json.dumps(one) for one in [*map(_bought, range(48)), *others]))
    flow.run(_session, shop.settings(), RunOptions())
    return shop


def _lists(spark: SparkSession, shop: Shop) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in shop.read(spark, tables.RECOMMENDATIONS).orderBy("user_id", "rank").collect():
        found.setdefault(row["user_id"], []).append(row)
    return found


def test_every_user_has_a_list_from_one_version_of_model_and_profiles(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _lists(spark, shop)
    assert found.keys() == {f"shop:u{group}{user}" for group in "01" for user in range(6)} | {"shop:shy", "shop:back"}
    bought = {(f"shop:{one['who']}", f"shop:{one['what']}") for one in map(_bought, range(48))}
    for user, rows in found.items():
        assert [row["rank"] for row in rows] == [1, 2, 3]
        assert all((user, row["item_id"]) not in bought for row in rows)
        assert {(row["model_version"], row["profile_version"]) for row in rows} == {("factors@1", 1)}
    for group in "01":
        for number in range(6):
            first = found[f"shop:u{group}{number}"][:2]
            assert all(row["item_id"].startswith(f"shop:i{group}") and row["ranker"] == "blend" for row in first)
            assert all(row["reason"].startswith(f"because you bought shop:i{group}") for row in first)
    # What was shown to it is what its profile likes, so neighbors speak; who only returned has popularity.
    assert {row["ranker"] for row in found["shop:shy"]} == {"neighbors"}
    assert {row["ranker"] for row in found["shop:back"]} == {"popularity"}
    assert_all_readers_agree(spark, tables.RECOMMENDATIONS.path(shop.settings().paths), "score")

    assert serve_user.main(["--config", str(shop.config()), "--user", "shop:u00"]) == 0
    said = capsys.readouterr().out
    assert "  recommended\n    1  shop:i0" in said and "because you bought" in said
    assert serve_scores.main(["--config", str(shop.config()), "--similar-users", "shop:u00"]) == 0
    assert {line.split()[1][:7] for line in capsys.readouterr().out.splitlines()} == {"shop:u0"}
    assert serve_scores.main(["--config", str(shop.config()), "--similar-items", "nothing"]) == 2
    assert "nothing was learned of item 'nothing'" in capsys.readouterr().err


def test_a_shorter_list_takes_the_place_of_a_longer_one_and_users_not_asked_for_keep_theirs(
    spark: SparkSession, shop: Shop
) -> None:
    before = _lists(spark, shop)
    shop.overrides = ["serve.scores.top_n=1", "serve.scores.active_days=0.03"]
    settings = shop.settings()
    recommend.run(spark, settings)
    after = _lists(spark, shop)
    newest = factors.read(spark, settings).known.now
    asked = {user for user, rows in after.items() if len(rows) == 1}
    seen = (
        spark.read.format("delta")
        .load(f"{shop.home}/warehouse/user_profiles")
        .selectExpr("user_id", "unix_micros(as_of) t")
    )
    assert asked == {row["user_id"] for row in seen.collect() if row["t"] >= newest - 0.03 * 86_400e6}
    assert 0 < len(asked) < len(after)
    for user, rows in after.items():
        assert rows == before[user][: len(rows)]
