"""Market questions end to end, on a small shop with a planted campaign and planted prices; nothing later leaks in."""

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
from tests.builders import Shop
from tests.naive_windows import DAY, Event, Log, arrive

PROFILES = """
name = "user_profiles"
write = "merge"
where = "user_id IS NOT NULL"
[keys]
user_id = { of = "user_id" }
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
Main = Callable[[list[str]], int]
FIRST, DAYS, USERS = datetime(2026, 2, 11, tzinfo=UTC), 40, 150
SPRING = Campaign(date(2026, 3, 9), date(2026, 3, 16), "UTC")
GIVEN = 10.0


@dataclass
class Market:
    """A shop whose dear customers got a campaign, and the files that say so."""

    spark: SparkSession
    shop: Shop
    log: Log
    treated: list[str]

    @property
    def config(self) -> list[str]:
        return ["--config", str(self.shop.config())]

    def file(self, name: str) -> str:
        return str(self.shop.home / name)

    def states(self, events: DataFrame) -> DataFrame:
        """Users as of the start of the campaign."""
        treated = self.spark.createDataFrame([(user,) for user in self.treated], "user_id string")
        derived = campaign_users.profile(self.shop.settings())
        return campaign_users.states(events, treated, SPRING, derived, 1000, 0).orderBy("user_id")


def _log(treated: set[int]) -> Log:
    """Bread and milk every other day; a gift in the campaign for who was treated. In the east milk becomes dearer."""
    start, found = int(FIRST.timestamp()) * 1_000_000, []
    rng = np.random.default_rng(0)
    for user in range(USERS):
        level = _level(user)
        for day in range(user % 2, DAYS, 2):
            bought = {"bread": level + rng.normal(0, 0.3), "milk": 0.5 + (0.005 * day if user % 3 else 0)}
            if user in treated and day == 26 + user % 2:
                bought["gift"] = GIVEN
            at = start + day * DAY + user * 60_000_000
            found += [
                Event(at, f"{user}-{day}-{what}", "purchase", f"u{user}", what, what, None, f"{user}-{day}", cost, cost)
                for what, cost in bought.items()
            ]
    return found


def _level(user: int) -> float:
    return 4 + 2 * ((user * 37) % USERS) / USERS


@pytest.fixture(scope="module")
def market(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Market:
    home = tmp_path_factory.mktemp("market")
    (home / "profiles.toml").write_text(PROFILES)
    shop = Shop(home, extra_settings=f'[derive]\nprofiles = ["{home}/profiles.toml"]\n')
    draws = np.random.default_rng(3).random(USERS)
    treated = [user for user in range(USERS) if draws[user] < (_level(user) - 3.6) / 2.8]
    log = _log(set(treated))
    arrive(_session, log, shop.settings())
    (home / "reached.csv").write_text("\n".join(["who,wave", *[f"{user},1" for user in treated], "0,2"]))
    places = [f"u{user},{'east' if user % 3 else 'west'}" for user in range(USERS + 9)]
    (home / "places.csv").write_text("\n".join(["user_id,place", *places, "u0,moon"]))
    return Market(_session, shop, log, [f"u{user}" for user in treated])


def test_a_campaign_is_told_with_its_placebo_and_a_page(market: Market, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--users", market.file("reached.csv"), "--user-id", "concat('u', who)", "--where", "wave = '1'"]
    days = ["--start", "2026-03-09", "--end", "2026-03-15"]
    page = market.shop.home / "campaign.html"
    assert serve_campaign.main([*market.config, *asked, *days, "--draws", "200", "--out", str(page)]) == 0
    told = capsys.readouterr().out
    count = len(market.treated)
    assert f"users known before it: {count} treated, {USERS - count} untreated\n" in told
    spends = [line.split() for line in told.splitlines() if line.startswith("  spend ")]
    assert [words[1] for words in spends] == ["during", "after", "during"]
    (low, high), *nothing = [(float(words[3][1:]), float(words[5][:-1])) for words in spends]
    assert GIVEN - 1 < low < GIVEN < high < GIVEN + 1
    assert all(below < 0 < above for below, above in nothing)
    assert float(spends[0][-1]) > high, "the plain difference is not the effect"
    html = page.read_text()
    assert "unmatched difference" in html and 'src="http' not in html

    for flags, words in (
        ([*asked, "--start", "2026-03-09", "--end", "2026-03-08"], "2026-03-09 is after the last day"),
        ([*asked, "--start", "2026-03-09", "--end", "2026-03-30"], "the log, 2026-02-11"),
        (["--users", "nobody.csv", *days], "there is no nobody.csv"),
        ([*asked[:2], "--user-id", "name", *days], "reached.csv = 'name' is not understood"),
    ):
        assert serve_campaign.main([*market.config, *flags]) == 2
        assert words in capsys.readouterr().err


def test_whom_a_user_is_matched_to_hangs_on_nothing_from_the_start_on(market: Market) -> None:
    events = tables.EVENTS.read(market.spark, market.shop.settings().paths)
    start = F.unix_micros("event_time") >= int(SPRING.moment(0).timestamp()) * 1_000_000
    later = events.where(start).withColumns({"value": F.lit(1e6), "price": F.lit(1e6)})
    found = market.states(events).collect()
    assert found == market.states(events.where(~start)).collect() == market.states(events.unionByName(later)).collect()

    before = int(SPRING.moment(-1).timestamp()) * 1_000_000
    earlier = {
        f"u{user}": [e for e in market.log if e.user_id == f"u{user}" and e.at < before] for user in range(USERS)
    }
    assert {row["user_id"]: row["is_treated"] for row in found} == {user: user in market.treated for user in earlier}
    visits = {user: len({e.order_id for e in log}) for user, log in earlier.items()}
    assert {row["user_id"]: row["visits_earlier"] for row in found} == visits
    spent = {user: pytest.approx(sum(e.value or 0 for e in log)) for user, log in earlier.items()}
    assert {row["user_id"]: row["spend_earlier"] for row in found} == spent
    prices = np.array([row["vector"]["price"] for row in found])
    assert (prices.mean(), prices.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))


def test_planted_prices_are_told_by_group(market: Market, capsys: pytest.CaptureFixture[str]) -> None:
    page = market.shop.home / "trends.html"
    asked = ["--groups", market.file("places.csv"), "--group", "place", "--every", "4"]
    on_earth = ["--where", "place <> 'moon'"]
    assert serve_trends.main([*market.config, *asked, *on_earth, "--out", str(page)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("10 periods of 4 days from 2026-02-11; users: east 100, west 50\n")
    assert "mean price paid: 1 of 4 series move" in told
    east, *_ = [line.split() for line in told.splitlines() if line.startswith("  east: milk ")]
    assert float(east[2].strip("%")) / 100 == pytest.approx(0.01 * 365.25 / 1.2, rel=0.03)
    assert "price of the same items: change a year" in page.read_text()

    for flags, words in (
        (asked, "user 'u0' has 2 groups"),
        ([*asked[:4], *on_earth, "--every", "7"], "5 periods of 7 days"),
        ([*asked[:2], "--group", "user_id", "--every", "4"], "users of the log are in more than 50 groups"),
        (["--group", "place"], "there is no user_segments"),
    ):
        assert serve_trends.main([*market.config, *flags]) == 2
        assert words in capsys.readouterr().err


ROOT = Path(__file__).parent.parent.parent
MAPPED = (
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


def _mapped(sql: str, name: str) -> Column:
    return F.expr(sql).cast(tables.EVENTS.schema[name].dataType).alias(name)


@pytest.fixture(scope="module")
def journey(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with the events of Complete Journey, as its mapping says; capture itself is tested elsewhere."""
    home = tmp_path_factory.mktemp("journey")
    mapping = mappings.load(str(ROOT / "conf" / "sources" / "complete_journey.toml"))
    lines = _session.read.parquet(str(ROOT / "data" / "complete_journey" / "transactions_2017_fifth.parquet"))
    products = _session.read.parquet(str(ROOT / "data" / "complete_journey" / "products.parquet"))
    side = products.select(F.struct("*").alias("product"))
    joined = lines.join(side, F.col("product_id") == F.col("product.product_id"), "left")
    extra = F.create_map(*[part for name in lines.columns if "disc" in name for part in (F.lit(name), F.col(name))])
    rows = joined.select(extra.alias("extra"), *[_mapped(mapping.columns[name], name) for name in MAPPED])
    rejected = " OR ".join(f"coalesce({rule.when}, false)" for rule in mapping.reject.values())
    clean = rows.where(f"NOT ({rejected})").withColumns(
        {
            "user_id": F.concat(F.lit("complete_journey:"), "user_id"),
            "event_date": F.to_date("event_time"),
            "source": F.lit("complete_journey"),
        }
    )
    clean.drop("extra").write.format("delta").save(str(home / "events"))
    return home


@pytest.mark.parametrize(("page", "main"), [("campaigns", serve_campaign.main), ("trends", serve_trends.main)])
def test_pages_show_what_the_shipped_log_gives(
    journey: Path, page: str, main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    command = r"python (jobs/serve_\w+\.py --config conf/complete_journey.toml [^\n]*) --out \S+\n"
    told = re.search(command + r".*?```text\n(.*?)```", text, re.S)
    assert told
    monkeypatch.chdir(ROOT)
    assert main([*shlex.split(told[1])[1:], "--set", f"paths.warehouse={journey}"]) == 0
    assert capsys.readouterr().out == told[2]
