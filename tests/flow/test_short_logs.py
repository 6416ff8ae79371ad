"""The shipped tags, RFM segments and the report on logs that are short, sparse, without prices or without users."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from profilestream import flow, table_registry
from profilestream.base import commits, tables
from profilestream.base.queries import RunOptions
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.serve.report import queries_events, queries_users, write_report
from profilestream.serve.users import user_view
from pyspark.sql import SparkSession

from benchmarks.workloads import write_user_features
from tests.builders import RUN_DEPENDENT_COLUMNS, SHOP, Shop

ROOT = Path(__file__).parent.parent.parent
MAPPING = SHOP.replace("quantity string", "quantity string, basket string").replace(
    'quantity = "quantity"', 'quantity = "quantity"\norder_id = "basket"'
)
SETTINGS = """
[derive]
features = ["{conf}/derive/user_hours.toml"]
profiles = ["{conf}/derive/user_profiles.toml"]
[derive.windows]
file = "{windows}"
enabled = true
[serve]
user_ids = "{user_ids}"
[serve.tags]
file = "{conf}/tags.toml"
enabled = true
[serve.report]
enabled = true
"""


def _shop(home: Path, log: list[dict[str, Any]], user_ids: str = "people") -> Shop:
    settings = SETTINGS.format(conf=ROOT / "conf", windows=write_user_features(home), user_ids=user_ids)
    shop = Shop(home, mapping=MAPPING, extra_settings=settings)
    numbered = [{"id": f"e{n}", "what": f"i{n % 13}", "quantity": "1", **event} for n, event in enumerate(log)]
    shop.write("a.jsonl", "\n".join(map(json.dumps, numbered)))
    return shop


def _event(who: str | None, kind: str, at: datetime, **more: Any) -> dict[str, Any]:
    return {"who": who, "kind": kind, "at": f"{at:%Y-%m-%dT%H:%M:%S}Z", **more}


def _tags(spark: SparkSession, shop: Shop) -> dict[str, dict[str, str]]:
    """Evidence by user, by tag."""
    tags: dict[str, dict[str, str]] = {}
    for row in shop.read(spark, USER_TAGS).collect():
        tags.setdefault(row["tag"], {})[row["user_id"].removeprefix("shop:")] = row["evidence"]
    return tags


def _groups(spark: SparkSession, shop: Shop) -> dict[str, Any]:
    return {row["user_id"].removeprefix("shop:"): row for row in shop.read(spark, USER_GROUPS).collect()}


# Saturday to the Sunday of the next week: four of the nine days are at a weekend.
START = datetime(2026, 3, 7, 10)


def _nine_days() -> list[dict[str, Any]]:
    """No event has a price. One stray event of `viewer` is 75 days older than the others."""

    def day(number: int, hour: int = 0) -> datetime:
        return START + timedelta(days=number, hours=hour)

    often = [_event(f"often{n}", "purchase", day(number)) for n in range(4) for number in range(9 - n)]
    once = [_event(f"once{n}", "purchase", day(2)) for n in range(8)]
    marks = [_event("marks", "favorite", day(6, hour)) for hour in range(3)]
    carts = [_event("carts", "cart", day(7, hour)) for hour in range(2)]
    both = [_event("both", kind, day(7)) for kind in ("favorite", "cart", "purchase")]
    viewers = [_event(who, "view", day(n)) for who in ("viewer", "visitor") for n in range(2, 8)]
    stray = [_event("viewer", "view", START - timedelta(days=75))]
    one_weekend = [_event("saturday", "view", day(n)) for n in (0, 1)]
    two_weekends = [_event("weekends", "view", day(n)) for n in (0, 1, 7, 8)]
    newest = [_event("newest", "view", day(8, 5))]
    return [*often, *once, *marks, *carts, *both, *viewers, *stray, *one_weekend, *two_weekends, *newest]


@pytest.fixture(scope="module")
def nine_days(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = _shop(tmp_path_factory.mktemp("nine_days"), _nine_days())
    flow.run(_session, shop.settings(), RunOptions())
    return shop


def test_a_log_of_nine_days_gives_no_tag_that_compares_it_with_earlier_weeks(
    spark: SparkSession, nine_days: Shop
) -> None:
    tags = _tags(spark, nine_days)
    assert tags.keys() == {"abandoned_cart", "weekend_shopper", "rfm_champion"}
    assert tags["abandoned_cart"] == {"carts": "2 times added to the cart and no purchase in 7 days"}
    assert tags["weekend_shopper"].keys() == {"weekends"}
    groups = _groups(spark, nine_days)
    assert {groups[f"once{n}"]["rfm_segment"] for n in range(8)} == {"potential"}
    assert {row["rfm_segment"] for row in groups.values()} <= {None, "champions", "loyal", "potential"}


def test_stray_events_after_the_others_change_nothing_for_other_users(
    spark: SparkSession, nine_days: Shop, tmp_path: Path
) -> None:
    strays = [_event(who, "view", START + timedelta(days=days)) for who, days in (("viewer", 83), ("late", 99))]
    shop = _shop(tmp_path, [*_nine_days(), *strays])
    flow.run(spark, shop.settings(), RunOptions())
    names = [name for name in USER_GROUPS.names if name not in RUN_DEPENDENT_COLUMNS]
    groups, tags = [], []
    for one in (nine_days, shop):
        rows = _groups(spark, one).items()
        groups.append({user: [row[n] for n in names] for user, row in rows if user not in ("viewer", "late")})
        by_user = [(tag, user, text) for tag, users in _tags(spark, one).items() for user, text in users.items()]
        tags.append(sorted(row for row in by_user if row[1] not in ("viewer", "late")))
    assert groups[0] == groups[1] and tags[0] == tags[1]
    assert len(groups[0]) > 10 and len(tags[0]) > 2


def test_without_prices_there_is_no_monetary_value_and_recency_and_frequency_make_a_champion(
    spark: SparkSession, nine_days: Shop
) -> None:
    groups = _groups(spark, nine_days)
    values = {(row["monetary"], row["monetary_quintile"], row["loyalty_tier"]) for row in groups.values()}
    assert values == {(None, None, None)}
    assert groups["often0"]["rfm_segment"] == "champions" and groups["often0"]["frequency"] == 9
    champions = _tags(spark, nine_days)["rfm_champion"]
    assert champions["often0"] == "9 orders, the last one 0 days ago"
    view = user_view.read(spark, nine_days.settings(), "shop:often0").sections
    assert view["groups"]["rfm_quintiles"] == "recency 5, frequency 5"
    assert view["tags"]["rfm_champion"].startswith("since at least 2026-03-15: ")


def test_the_funnel_counts_favorites_and_carts_separately(spark: SparkSession, nine_days: Shop) -> None:
    events = nine_days.read(spark, tables.EVENTS)
    totals = queries_events.totals(events, "UTC")
    assert totals is not None
    users = queries_events.users(events, totals)
    assert users is not None
    steps = {step: users.steps[step] for step in ("added to favorites", "added to cart")}
    assert (steps, users.cart_buyers) == ({"added to favorites": 2, "added to cart": 2}, 1)


def test_a_second_run_without_new_input_writes_nothing(spark: SparkSession, nine_days: Shop) -> None:
    settings = nine_days.settings()
    page = Path(write_report.path(settings))

    def state() -> tuple[dict[str, int], int]:
        registry = [table for table in table_registry.registry(settings) if table.exists(spark, settings.paths)]
        return commits.versions(spark, registry, settings.paths), page.stat().st_mtime_ns

    before = state()
    flow.run(spark, settings, RunOptions())
    assert state() == before and len(before[0]) >= 9


def test_after_a_backfill_of_eleven_years_tags_start_when_the_events_show_it(
    spark: SparkSession, tmp_path: Path
) -> None:
    """`steady` buys every 50 days, the first time with an order id; `early` bought once in 2016, others recently."""
    first, last = datetime(2015, 1, 1, 10), datetime(2025, 12, 31, 10)
    steady = [
        _event("steady", "purchase", first + timedelta(days=50 * n), price="10", basket=None if n else "A1")
        for n in range(80)
    ]
    early = [_event("early", "purchase", datetime(2016, 5, 1, 10), price="5")]
    recent = [_event(f"recent{n}", "purchase", datetime(2025, 10, 15 + n, 10), price="10") for n in range(4)]
    late = [_event("late", "view", last - timedelta(days=days)) for days in (10, 0)]
    shop = _shop(tmp_path, [*steady, *early, *recent, *late])
    flow.run(spark, shop.settings(), RunOptions())
    groups, settings = _groups(spark, shop), shop.settings()
    assert (groups["steady"]["frequency"], groups["early"]["frequency"]) == (80, 1)
    assert (groups["early"]["rfm_segment"], groups["steady"]["rfm_segment"]) == ("lost", "champions")
    rows = {(row["tag"], row["user_id"]): row for row in shop.read(spark, USER_TAGS).collect()}
    one_time, new = rows["one_time_buyer", "shop:early"], rows["new_user", "shop:late"]
    assert one_time["evidence"] == "one order of 5, 3531 days ago"
    times = [(row["valid_from"].date(), row["gained_after"]) for row in (one_time, new)]
    assert times == [
        (datetime(2016, 7, 30).date(), one_time["valid_from"]), (datetime(2025, 12, 21).date(), new["valid_from"])
    ]  # fmt: skip
    champion, tier = rows["rfm_champion", "shop:steady"], groups["steady"]
    assert (champion["gained_after"], tier["loyalty_tier"], tier["loyalty_tier_after"]) == (None, "platinum", None)
    view = queries_users.tags(spark, settings)
    assert view is not None
    assert {tag.tag for tag in view.tags if tag.gained} == {"new_user"}
    assert sum(tag.unknown_start for tag in view.tags) == len(rows) - 2
    texts = user_view.read(spark, settings, "shop:steady").sections
    assert texts["groups"]["loyalty_tier"] == "platinum since at least 2025-12-31"


def test_sessions_as_user_ids_get_no_tags_and_sections_that_need_people(spark: SparkSession, tmp_path: Path) -> None:
    """Sessions of one day each; guests without any id are counted only."""
    start = datetime(2026, 1, 1, 10, tzinfo=UTC)
    views = [
        _event(f"session{n}", "view", start + timedelta(days=n, minutes=minute))
        for n in range(40)
        for minute in range(2)
    ]
    bought = [_event(f"session{n}", "purchase", start + timedelta(days=n, hours=1)) for n in range(3)]
    unbought = [_event("session39", "cart", start + timedelta(days=39, minutes=5))]
    guests = [_event(None, "view", start + timedelta(days=n)) for n in range(40)]
    shop = _shop(
        tmp_path, [*views, *bought, *unbought, *guests, _event("session40", "view", start + timedelta(40))], "sessions"
    )
    flow.run(spark, shop.settings(), RunOptions())
    assert _tags(spark, shop).keys() == {"abandoned_cart"}
    groups = {(row["recency_days"], row["monetary"], row["rfm_segment"]) for row in _groups(spark, shop).values()}
    assert groups == {(None, None, None)}
    page = Path(write_report.path(shop.settings())).read_text()
    assert "the user ids are sessions" in page and "purchased on another day" not in page
    assert re.search(r'data-name="users" data-value="41"', page)
