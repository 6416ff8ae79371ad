"""serve_campaign and serve_trends on a small shop with a planted effect and planted prices, and on a real log."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from profilestream.base import tables
from profilestream.capture import mapping as mappings
from profilestream.serve.campaigns import campaign_users
from profilestream.serve.campaigns.campaign_effect import Campaign
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import serve_campaign, serve_trends
from tests.builders import USER_PROFILES, Shop
from tests.naive_windows import DAY, Event, Log, append_events

PROFILES = (
    USER_PROFILES
    + """
[statistics.behavior.vector]
kind = "mean_vector"
half_life_days = 90
[statistics.behavior.vector.dimensions]
purchase = "int(event_type = 'purchase')"
price = "price"
[population]
name = "population_stats"
of = "behavior.vector"
"""
)
Main = Callable[[list[str]], int]
FIRST, DAYS, USERS = datetime(2026, 2, 11, tzinfo=UTC), 40, 150
SPRING = Campaign(date(2026, 3, 9), date(2026, 3, 16), "UTC")
EFFECT = 10.0


@dataclass
class Market:
    """A shop whose campaign mostly reached users with high spend, and the files with treated users and groups."""

    spark: SparkSession
    shop: Shop
    log: Log
    treated: list[str]

    @property
    def config(self) -> list[str]:
        return ["--config", str(self.shop.config())]

    def file(self, name: str) -> str:
        return str(self.shop.home / name)

    def user_states(self, events: DataFrame) -> DataFrame:
        """Users as of the start of the campaign."""
        treated = self.spark.createDataFrame([(user,) for user in self.treated], "user_id string")
        derived = campaign_users.profile_table(self.shop.settings())
        return campaign_users.user_states(events, treated, SPRING, derived, 1000, 0).orderBy("user_id")


def _log(treated: set[int]) -> Log:
    """Bread and milk every second day, and a gift for treated users in the campaign; milk prices rise in the east."""
    first, log = int(FIRST.timestamp()) * 1_000_000, []
    rng = np.random.default_rng(0)
    for user in range(USERS):
        for day in range(user % 2, DAYS, 2):
            basket = {"bread": _bread_price(user) + rng.normal(0, 0.3), "milk": 0.5 + (0.005 * day if user % 3 else 0)}
            if user in treated and day == 26 + user % 2:
                basket["gift"] = EFFECT
            at, order = first + day * DAY + user * 60_000_000, f"{user}-{day}"
            log += [
                Event(at, f"{order}-{item}", "purchase", f"u{user}", item, item, None, order, price, price)
                for item, price in basket.items()
            ]
    return log


def _bread_price(user: int) -> float:
    return 4 + 2 * ((user * 37) % USERS) / USERS


@pytest.fixture(scope="module")
def market(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Market:
    home = tmp_path_factory.mktemp("market")
    (home / "profiles.toml").write_text(PROFILES)
    shop = Shop(home, extra_settings=f'[derive]\nprofiles = ["{home}/profiles.toml"]\n')
    uniform = np.random.default_rng(3).random(USERS)
    treated = [user for user in range(USERS) if uniform[user] < (_bread_price(user) - 3.6) / 2.8]
    log = _log(set(treated))
    append_events(_session, log, shop.settings())
    (home / "reached.csv").write_text("\n".join(["who,wave", *[f"{user},1" for user in treated], "0,2"]))
    places = [f"u{user},{'east' if user % 3 else 'west'}" for user in range(USERS + 9)]
    (home / "places.csv").write_text("\n".join(["user_id,place", *places, "u0,moon"]))
    return Market(_session, shop, log, [f"u{user}" for user in treated])


def test_serve_campaign_finds_the_planted_effect_and_no_placebo_effect(
    market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    users = ["--users", market.file("reached.csv"), "--user-id", "concat('u', who)", "--where", "wave = '1'"]
    days = ["--start", "2026-03-09", "--end", "2026-03-15"]
    page = market.shop.home / "campaign.html"
    assert serve_campaign.main([*market.config, *users, *days, "--resamples", "200", "--out", str(page)]) == 0
    output = capsys.readouterr().out
    count = len(market.treated)
    assert f"users with earlier events: {count} treated, {USERS - count} untreated\n" in output
    spend_lines = [line.split() for line in output.splitlines() if line.startswith("  spend ")]
    assert [words[1] for words in spend_lines] == ["during", "after", "during"]
    (low, high), *without_effect = [(float(words[3][1:]), float(words[5][:-1])) for words in spend_lines]
    assert EFFECT - 1 < low < EFFECT < high < EFFECT + 1
    assert all(below < 0 < above for below, above in without_effect)
    assert float(spend_lines[0][-1]) > high, "the difference without matching is larger than the effect"
    html = page.read_text()
    assert "difference without matching" in html and 'src="http' not in html


def test_serve_campaign_refuses_invalid_campaigns_and_users(market: Market, capsys: pytest.CaptureFixture[str]) -> None:
    users = ["--users", market.file("reached.csv")]
    valid_ids = ["--user-id", "concat('u', who)", "--where", "wave = '1'"]
    days = ["--start", "2026-03-09", "--end", "2026-03-15"]
    for flags, message in (
        ([*users, *valid_ids, "--start", "2026-03-09", "--end", "2026-03-08"], "2026-03-09 is after the last day"),
        ([*users, *valid_ids, "--start", "2026-03-09", "--end", "2026-03-30"], "events from 2026-02-11"),
        (["--users", "missing.csv", *days], "there is no missing.csv"),
        ([*users, "--user-id", "name", *days], "reached.csv = 'name' is not valid"),
    ):
        assert serve_campaign.main([*market.config, *flags]) == 2
        assert message in capsys.readouterr().err


def test_covariates_do_not_depend_on_events_after_the_start(market: Market) -> None:
    events = tables.EVENTS.read(market.spark, market.shop.settings().paths)
    is_after_start = F.unix_micros("event_time") >= int(SPRING.boundary(0).timestamp()) * 1_000_000
    more_events = events.where(is_after_start).withColumns({"value": F.lit(1e6), "price": F.lit(1e6)})
    states = market.user_states(events).collect()
    assert states == market.user_states(events.where(~is_after_start)).collect()
    assert states == market.user_states(events.unionByName(more_events)).collect()

    end = int(SPRING.boundary(-1).timestamp()) * 1_000_000
    earlier = {f"u{user}": [e for e in market.log if e.user_id == f"u{user}" and e.at < end] for user in range(USERS)}
    assert {row["user_id"]: row["is_treated"] for row in states} == {user: user in market.treated for user in earlier}
    orders = {user: len({e.order_id for e in log}) for user, log in earlier.items()}
    assert {row["user_id"]: row["earlier_orders"] for row in states} == orders
    spend = {user: pytest.approx(sum(e.value or 0 for e in log)) for user, log in earlier.items()}
    assert {row["user_id"]: row["earlier_spend"] for row in states} == spend
    prices = np.array([row["vector"]["price"] for row in states])
    assert (prices.mean(), prices.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))


def test_serve_trends_finds_the_planted_price_trend_of_a_group(
    market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    page = market.shop.home / "trends.html"
    groups = ["--groups", market.file("places.csv"), "--group", "place", "--where", "place <> 'moon'"]
    assert serve_trends.main([*market.config, *groups, "--period-days", "4", "--out", str(page)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("10 periods of 4 days from 2026-02-11; users: east 100, west 50\n")
    assert "mean price: 1 of 4 trends are significant" in output
    east_milk, *_ = [line.split() for line in output.splitlines() if line.startswith("  east: milk ")]
    assert float(east_milk[2].strip("%")) / 100 == pytest.approx(0.01 * 365.25 / 1.2, rel=0.03)
    assert "price index: change per year" in page.read_text()


def test_serve_trends_refuses_invalid_groups_and_too_few_periods(
    market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    table, place = ["--groups", market.file("places.csv")], ["--group", "place"]
    for flags, message in (
        ([*table, *place, "--period-days", "4"], "user 'u0' has 2 groups"),
        ([*table, *place, "--where", "place <> 'moon'", "--period-days", "7"], "cover 5 periods of 7 days"),
        ([*table, "--group", "user_id", "--period-days", "4"], "users of the events are in more than 50 groups"),
        (place, "there is no user_segments"),
    ):
        assert serve_trends.main([*market.config, *flags]) == 2
        assert message in capsys.readouterr().err


ROOT = Path(__file__).parent.parent.parent
COLUMNS = (
    "event_id",
    "event_type",
    "event_time",
    "user_id",
    "item_id",
    "order_id",
    "category",
    "quantity",
    "value",
    "price",
)


def _event_column(sql: str, name: str) -> Column:
    return F.expr(sql).cast(tables.EVENTS.schema[name].dataType).alias(name)


@pytest.fixture(scope="module")
def complete_journey(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with the events of Complete Journey, from the expressions of its mapping, without capture."""
    home = tmp_path_factory.mktemp("complete_journey")
    mapping = mappings.load(str(ROOT / "conf" / "sources" / "complete_journey.toml"))
    lines = _session.read.parquet(str(ROOT / "data" / "complete_journey" / "transactions_2017_fifth.parquet"))
    products = _session.read.parquet(str(ROOT / "data" / "complete_journey" / "products.parquet"))
    side_table = products.select(F.struct("*").alias("product"))
    joined = lines.join(side_table, F.col("product_id") == F.col("product.product_id"), "left")
    extra = F.create_map(*[part for name in lines.columns if "disc" in name for part in (F.lit(name), F.col(name))])
    columns = [_event_column(mapping.columns[name], name) for name in COLUMNS]
    is_rejected = " OR ".join(f"coalesce({rule.when}, false)" for rule in mapping.reject.values())
    clean = joined.select(extra.alias("extra"), *columns).where(f"NOT ({is_rejected})")
    events = clean.withColumns(
        {
            "user_id": F.concat(F.lit("complete_journey:"), "user_id"),
            "event_date": F.to_date("event_time"),
            "event_period": F.to_date("event_time"),
            "source": F.lit("complete_journey"),
        }
    )
    events.drop("extra").write.format("delta").save(str(home / "events"))
    return home


@pytest.mark.parametrize(("page", "main"), [("campaigns", serve_campaign.main), ("trends", serve_trends.main)])
def test_documented_commands_print_the_documented_output(
    complete_journey: Path,
    page: str,
    main: Main,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    command = r"python (jobs/serve_\w+\.py --config conf/complete_journey.toml [^\n]*) --out \S+\n"
    example = re.search(command + r".*?```text\n(.*?)```", text, re.S)
    assert example
    monkeypatch.chdir(ROOT)
    assert main([*shlex.split(example[1])[1:], "--set", f"paths.warehouse={complete_journey}"]) == 0
    assert capsys.readouterr().out == example[2]
