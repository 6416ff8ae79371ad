"""serve_scores in the complete flow: lists from pinned versions, selection of users, output of serve_user."""

import json
from typing import Any

import pytest
from profilestream import flow
from profilestream.base import commits, tables
from profilestream.base.errors import BadSettings
from profilestream.base.queries import RunOptions
from profilestream.learn.factors import factors_spec
from profilestream.serve.scores import recommend
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import serve_scores, serve_user
from tests.builders import USER_PROFILES, Shop, event
from tests.open_readers import assert_all_readers_agree

PROFILES = (
    USER_PROFILES
    + """
[statistics.preference]
items = { kind = "top", of = "item_id", n = 20 }
"""
)
SETTINGS = """
[derive]
profiles = ["{home}/user_profiles.toml"]
[learn.factors]
enabled = true
k = 4
first_full_passes = 2
[learn.rankers]
enabled = true
[serve.scores]
enabled = true
top_k = 3
max_item_age_days = inf
active_within_days = inf
"""


def _purchase(n: int) -> dict[str, Any]:
    """A purchase: two groups of users with separate items; each user buys four of the six items of the group."""
    group, user, item = n % 2, n // 2 % 6, n // 12
    return event(n, kind="purchase", who=f"u{group}{user}", what=f"i{group}{(user + item) % 6}")


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop after the complete flow."""
    home = tmp_path_factory.mktemp("scores")
    (home / "user_profiles.toml").write_text(PROFILES)
    shop = Shop(home, extra_settings=SETTINGS.format(home=home))
    # Users with exposures (weight 0) or returns only have a profile but no vector.
    others = [event(90, kind="exposure", who="exposed", what="i00"), event(91, kind="return", who="back", what="i01")]
    shop.write("a.jsonl", "\n".join(map(json.dumps, [*map(_purchase, range(48)), *others])))
    flow.run(_session, shop.settings(), RunOptions())
    return shop


def _lists(spark: SparkSession, shop: Shop, purpose: str = "for_you") -> dict[str, list[Any]]:
    """Rows of `recommendations` by user, in order of rank."""
    lists: dict[str, list[Any]] = {}
    rows = shop.read(spark, tables.RECOMMENDATIONS).where(F.col("purpose") == purpose)
    for row in rows.orderBy("user_id", "rank").collect():
        lists.setdefault(row["user_id"], []).append(row)
    return lists


def test_every_user_has_a_list_from_one_version_of_the_model_and_of_the_profiles(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = _lists(spark, shop)
    buyers = {f"shop:u{group}{user}" for group in "01" for user in range(6)}
    assert lists.keys() == buyers | {"shop:exposed", "shop:back"}
    bought = {(f"shop:{purchase['who']}", f"shop:{purchase['what']}") for purchase in map(_purchase, range(48))}
    for user, rows in lists.items():
        assert [row["rank"] for row in rows] == [1, 2, 3]
        assert all((user, row["item_id"]) not in bought for row in rows)
        assert {(row["model_version"], row["profile_version"]) for row in rows} == {("factors@1", 1)}
    for group in "01":
        for number in range(6):
            first = lists[f"shop:u{group}{number}"][:2]
            assert all(row["item_id"].startswith(f"shop:i{group}") and row["ranker"] == "blend" for row in first)
            assert all(row["reason"].startswith(f"because you bought shop:i{group}") for row in first)
    # The profile of the exposed user prefers the shown item, so its list comes from the neighbors of that item. A user
    # with returns only has no preferences, so the list comes from popularity.
    assert {row["ranker"] for row in lists["shop:exposed"]} == {"neighbors"}
    assert {row["ranker"] for row in lists["shop:back"]} == {"popularity"}
    assert_all_readers_agree(spark, tables.RECOMMENDATIONS.path(shop.settings().paths), "score")

    assert serve_user.main(["--config", str(shop.config()), "--user", "shop:u00"]) == 0
    text = capsys.readouterr().out
    assert "  recommended: for you\n    1  shop:i0" in text and "because you bought" in text
    assert serve_scores.main(["--config", str(shop.config()), "--similar-users", "shop:u00"]) == 0
    assert {line.split()[1][:7] for line in capsys.readouterr().out.splitlines()} == {"shop:u0"}
    assert serve_scores.main(["--config", str(shop.config()), "--similar-items", "unknown"]) == 2
    assert "the model does not contain item 'unknown'" in capsys.readouterr().err


def test_users_with_baskets_have_lists_of_their_items_from_the_counts(spark: SparkSession, shop: Shop) -> None:
    again, next_basket = (_lists(spark, shop, purpose) for purpose in ("buy_again", "next_basket"))
    bought = {(f"shop:{purchase['who']}", f"shop:{purchase['what']}") for purchase in map(_purchase, range(48))}
    assert again.keys() == next_basket.keys() == {user for user, _ in bought}
    for user, rows in again.items():
        assert [row["rank"] for row in rows] == [1, 2, 3]
        assert all((user, row["item_id"]) in bought for row in rows)
        assert {(row["ranker"], row["model_version"]) for row in rows} == {("due_counts", "basket_counts@1")}
        assert [row["item_id"] for row in next_basket[user]] == [row["item_id"] for row in rows]


def test_a_shorter_list_replaces_a_longer_one_and_other_users_keep_their_lists(spark: SparkSession, shop: Shop) -> None:
    before = _lists(spark, shop)
    shop.overrides = ["serve.scores.top_k=1", "serve.scores.active_within_days=0.03"]
    settings = shop.settings()
    recommend.run(spark, settings)
    after = _lists(spark, shop)
    newest = factors_spec.read_state(spark, settings).global_sums.as_of
    selected = {user for user, rows in after.items() if len(rows) == 1}
    profiles = (
        spark.read.format("delta")
        .load(f"{shop.home}/warehouse/user_profiles")
        .selectExpr("user_id", "unix_micros(as_of) t")
    )
    assert selected == {row["user_id"] for row in profiles.collect() if row["t"] >= newest - 0.03 * 86_400e6}
    assert 0 < len(selected) < len(after)
    for user, rows in after.items():
        assert rows == before[user][: len(rows)]


def test_lists_are_written_again_only_with_other_inputs(spark: SparkSession, shop: Shop) -> None:
    def run(*overrides: str) -> int:
        shop.overrides = list(overrides)
        recommend.run(spark, shop.settings())
        return commits.version(spark, tables.RECOMMENDATIONS, shop.settings().paths)

    one, two = ["serve.scores.top_k=1"], ["serve.scores.top_k=2"]
    first = run(*one)
    assert [run(*one), run(*two), run(*one)] == [first + n for n in (0, 1, 2)]


def test_lists_that_do_not_use_the_factors_do_not_need_them(spark: SparkSession, shop: Shop) -> None:
    before = _lists(spark, shop, "buy_again")
    no_factors = ["learn.factors.enabled=false", f"serve.scores.top_k={max(map(len, before.values()))}"]
    shop.overrides = [*no_factors, 'serve.scores.purposes=["buy_again"]']
    recommend.run(spark, shop.settings())
    assert (_lists(spark, shop, "buy_again"), _lists(spark, shop)) == (before, {})
    shop.overrides = no_factors
    with pytest.raises(BadSettings, match="remove for_you from serve.scores.purposes"):
        recommend.run(spark, shop.settings())
