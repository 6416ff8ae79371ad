"""Laws of `recommendations` for random logs: each recommended item is allowed by the settings."""

import random
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.derive import profiles
from profilestream.learn import stage
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.serve.scores import recommend
from pyspark.sql import SparkSession

from jobs import serve_scores
from tests.builders import SHOP, USER_PROFILES, Shop, event

MAPPING = SHOP.replace("quantity string", "quantity string, shelf string") + 'category = "shelf"\n'
PROFILES = USER_PROFILES + '[statistics.preference]\nitems = { kind = "top", of = "item_id", n = 5 }\n'
# Five stored events per user: most purchases are not among them.
SETTINGS = """
[derive]
profiles = ["{home}/user_profiles.toml"]
[learn.factors]
enabled = true
k = 4
max_events_per_user = 5
first_full_passes = 1
"""
TOP_K, MAX_AGE_DAYS, MAX_PER_CATEGORY, MAX_SHARE = 4, 40, 2, 0.5
TYPES = ("view", "view", "purchase", "purchase", "return", "cart", "exposure")
Lists = dict[str, list[Any]]


def _shop(home: Path) -> Shop:
    (home / "user_profiles.toml").write_text(PROFILES)
    return Shop(home, mapping=MAPPING, extra_settings=SETTINGS.format(home=home))


def _random_log(seed: int) -> list[dict[str, Any]]:
    """400 events in 90 days by 12 users, some of them without a user, an item or a quantity."""
    rng = random.Random(seed)
    log = []
    for n in range(400):
        item = int(rng.triangular(0, 39, 5))
        at = datetime(2026, 1, 1) + timedelta(minutes=rng.randrange(90 * 1440 - 30 * 1440 * (item % 3 == 2)))
        log.append(
            event(
                n, kind=rng.choice(TYPES), at=f"{at:%Y-%m-%dT%H:%M:%S}Z",
                who=None if rng.random() < 0.05 else f"u{rng.randrange(12)}",
                what=None if rng.random() < 0.05 else f"i{item:02}",
                quantity=rng.choice([None, "1", "2", "3"]), shelf=None if item % 7 == 0 else f"shelf {item % 4}",
            )
        )  # fmt: skip
    return log


def _learn(spark: SparkSession, shop: Shop, log: list[dict[str, Any]]) -> None:
    shop.append_events(spark, log)
    settings = shop.settings()
    queries = [*profiles.queries(settings), *stage.queries(FactorsSpec, settings)]
    streaming.run(spark, queries, settings, RunOptions(), together=True)


def _bought(log: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Pairs of user and item with a purchase, unless all pieces were returned after the last purchase."""
    pieces, last = defaultdict[tuple[str, str], float](float), dict[tuple[str, str], str]()
    purchased = set()
    for e in sorted(log, key=lambda e: (e["at"], e["kind"])):
        if e["kind"] in ("purchase", "return") and e["who"] and e["what"]:
            pair = f"shop:{e['who']}", f"shop:{e['what']}"
            pieces[pair] += float(e["quantity"] or 1) * (1 if e["kind"] == "purchase" else -1)
            last[pair] = e["kind"]
            purchased |= {pair} if e["kind"] == "purchase" else set()
    return {pair for pair in purchased if pieces[pair] > 0 or last[pair] == "purchase"}


def _run(spark: SparkSession, shop: Shop, **scores: Any) -> Lists:
    """The lists of a run with these settings of serve.scores."""
    shop.overrides = [f"serve.scores.{key}={str(value).lower()}" for key, value in scores.items()]
    count = recommend.run(spark, shop.settings())
    lists: Lists = {}
    for row in shop.read(spark, tables.RECOMMENDATIONS).orderBy("user_id", "rank").collect():
        lists.setdefault(row["user_id"], []).append(row)
    assert count == len(lists)
    return lists


def _assert_allowed(lists: Lists, log: list[dict[str, Any]], top_k: int, max_per_category: int | None) -> None:
    bought, newest, category = _bought(log), dict[str, str](), dict[str, str]()
    for e in sorted(log, key=lambda e: e["at"]):
        if e["what"] and e["who"] and e["kind"] != "exposure":
            newest[f"shop:{e['what']}"] = e["at"]
            category[f"shop:{e['what']}"] = e["shelf"]
    oldest = datetime.fromisoformat(max(newest.values())) - timedelta(days=MAX_AGE_DAYS)
    for user, rows in lists.items():
        items = [row["item_id"] for row in rows]
        assert not {(user, item) for item in items} & bought
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1)) and len(rows) <= top_k
        assert len(set(items)) == len(items)
        assert all(datetime.fromisoformat(newest[item]) >= oldest for item in items)
        assert all(name.startswith("shop:") for name in (user, *items))
        shelves = Counter(category[item] for item in items if category[item])
        assert max_per_category is None or all(count <= max_per_category for count in shelves.values())
        assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
        for row in rows:
            assert row["reason_item_id"] != row["item_id"]
            assert (row["reason_ranker"] == "popularity") == (row["reason"] == "popular now")
            if row["reason"].startswith("because you bought"):
                assert (user, row["reason_item_id"]) in bought


@pytest.mark.parametrize("seed", [1, 2])
def test_every_recommended_item_of_a_random_log_is_allowed(
    spark: SparkSession, tmp_path: Path, at_length: bool, seed: int
) -> None:
    shop, log = _shop(tmp_path), _random_log(seed)
    _learn(spark, shop, log)
    common = {"max_item_age_days": MAX_AGE_DAYS}
    every = _run(spark, shop, top_k=40, exclude_seen=False, **common)
    assert len(every) == 12
    _assert_allowed(every, log, 40, None)
    limits = {"top_k": TOP_K, "max_per_category": MAX_PER_CATEGORY, **common}
    _assert_allowed(_run(spark, shop, **limits), log, TOP_K, MAX_PER_CATEGORY)
    shared = _run(spark, shop, max_share_per_item=MAX_SHARE, **limits)
    _assert_allowed(shared, log, TOP_K, MAX_PER_CATEGORY)
    counts = Counter(row["item_id"] for rows in shared.values() for row in rows)
    assert max(counts.values()) <= MAX_SHARE * 12
    if at_length:
        assert shared == _run(spark, shop, max_share_per_item=MAX_SHARE, **limits)


def test_users_who_bought_every_item_have_no_list_and_are_not_counted(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = _shop(tmp_path)
    pairs = [(user, item) for user in range(3) for item in range(9)]
    _learn(spark, shop, [event(n, kind="purchase", who=f"u{u}", what=f"i{i}") for n, (u, i) in enumerate(pairs)])
    assert serve_scores.main(["--config", str(shop.config())]) == 0
    assert "0 users have recommendations" in capsys.readouterr().out
    assert shop.read(spark, tables.RECOMMENDATIONS).count() == 0
