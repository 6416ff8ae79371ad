"""The shipped mappings on the shipped logs: every count is explained by the data quality section of the README."""

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from profilestream.base import settings, tables
from profilestream.base.settings import Alarms
from profilestream.capture import alarms
from profilestream.capture.alarms import Measure
from profilestream.steward import demo_files
from pyspark.sql import Row, SparkSession

from tests import naive_counts
from tests.builders import Shop

ROOT = Path(__file__).resolve().parents[2]


def captured(spark: SparkSession, home: Path, name: str) -> tuple[Shop, Row]:
    """Capture the input files in one batch with the shipped mapping; returns the shop and its batch row."""
    shop = Shop(home, mapping=(ROOT / "conf" / "sources" / f"{name}.toml").read_text(), name=name)
    shop = replace(shop, overrides=[f"capture.sources.{name}.max_files_per_trigger=100"])
    shop.capture(spark)
    (batch,) = shop.read(spark, tables.CAPTURE_BATCHES).collect()
    return shop, batch


def not_zero(counts: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if n}


def test_every_line_of_a_year_of_online_retail_is_accounted_for(spark: SparkSession, tmp_path: Path) -> None:
    sample = ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet"
    assert demo_files.split_sample(sample, tmp_path / "input" / "online_retail", period="month") == 13
    shop, batch = captured(spark, tmp_path, "online_retail")

    # Of 541,909 lines, 2,995 are not products. Of the others, 1,324 are stock corrections; of the remaining ones, 1,161
    # have a price that is not positive. 5,257 usable lines are exact copies of another line.
    assert (batch.files, batch.rows_in, batch.rows_clean, batch.rows_duplicate) == (13, 541_909, 531_172, 5_257)
    assert not_zero(batch.rejected_by_rule) == {
        "not_a_product": 2_995, "stock_adjustment": 1_324, "price_not_positive": 1_161,
    }  # fmt: skip
    assert batch.rows_rejected == 5_480
    events = shop.read(spark, tables.EVENTS)
    # Returns are the clean lines of C invoices. A fourth of the lines have no CustomerID.
    counts = events.selectExpr(
        "count(*) AS clean", "count_if(event_type = 'return') AS clean_returns",
        "count_if(user_id IS NULL) AS clean_anonymous",
    ).collect()[0].asDict()  # fmt: skip
    assert counts == {"clean": 531_172, "clean_returns": 8_668, "clean_anonymous": 131_516}

    naive = naive_counts.online_retail()
    assert (naive["rows_in"], naive["duplicate"]) == (batch.rows_in, batch.rows_duplicate)
    assert naive["rejected"] == not_zero(batch.rejected_by_rule)
    assert {name: naive[name] for name in counts} == counts
    names = ("volume", "reject_share", "null_user_id", "price_level")
    measures = {name: batch.measures[name].value for name in names}
    days = naive_counts.online_retail_days()
    expected = {measure.name: measure.natural_value for measure in measures_of(days)}
    assert measures == pytest.approx(expected, rel=1e-9)


def measures_of(days: list[naive_counts.Counts], files: int = 13) -> list[Measure]:
    """The measures of days that are captured as one batch."""
    rows, rejected, anonymous = (sum(day[name] for day in days) for name in ("rows", "rejected", "anonymous"))
    good = rows - rejected
    return [
        alarms.volume(rows, files, "file"),
        alarms.reject_share(rejected, rows),
        alarms.null_share("user_id", anonymous, good),
        alarms.level("price", sum(day["logarithms"] for day in days), good),
    ]


def raised_alarms(days: list[naive_counts.Counts], files: int, settings: Alarms) -> list[tuple[str, str]]:
    """Day and measure of every alarm, if a batch has this number of daily files."""
    trends: dict[str, alarms.Trend] = {}
    raised = []
    for first in range(0, len(days), files):
        batch = days[first : first + files]
        newest = int(datetime.fromisoformat(f"{batch[-1]['last']}+00:00").timestamp() * 1e6)
        batch_alarms, trends = alarms.evaluate(measures_of(batch, len(batch)), trends, newest, settings)
        raised += [(batch[-1]["last"][:10], alarm.measure) for alarm in batch_alarms]
    return raised


def test_a_year_of_online_retail_raises_the_alarms_that_running_md_explains() -> None:
    days = naive_counts.online_retail_days()
    assert len(days) == 305
    raised = raised_alarms(days, 1, Alarms())
    assert raised == [
        ("2010-12-19", "volume"), ("2010-12-22", "volume"), ("2010-12-22", "reject_share"),
        ("2011-08-30", "null_user_id"),
    ]  # fmt: skip
    explained = (ROOT / "docs" / "running.md").read_text()
    assert all(f"| {day} | `{measure}` |" in explained for day, measure in raised)
    demo = settings.load(str(ROOT / "conf" / "demo.toml"), [])
    files_per_batch = demo.capture.sources["online_retail"].max_files_per_trigger or 0
    assert raised_alarms(days, files_per_batch, demo.capture.alarms) == []


def test_two_weeks_of_complete_journey_are_captured_with_products_and_households(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weeks with every data quality issue, around the switch to summer time. Side tables have paths relative to ROOT.
    monkeypatch.chdir(ROOT)
    weeks = range(11, 13)
    lines = pq.read_table(ROOT / "data" / "complete_journey" / "transactions_2017_fifth.parquet")
    folder = tmp_path / "input" / "complete_journey"
    folder.mkdir(parents=True)
    pq.write_table(lines.filter(pc.is_in(lines["week"], pa.array(weeks))), folder / "transactions.parquet")
    shop, batch = captured(spark, tmp_path, "complete_journey")

    naive = naive_counts.complete_journey(weeks)
    assert (batch.rows_in, batch.rows_clean, batch.rows_duplicate) == (11_053, 11_001, 0)
    assert not_zero(batch.rejected_by_rule) == {"not_a_product": 2, "nothing_sold": 46, "nothing_paid": 4}
    assert (naive["rows_in"], naive["clean"]) == (batch.rows_in, batch.rows_clean)
    assert naive["rejected"] == not_zero(batch.rejected_by_rule)
    assert naive["warned"] == not_zero(batch.warned_by_rule)

    events = shop.read(spark, tables.EVENTS)
    totals = events.selectExpr(
        "count(DISTINCT user_id) AS users", "sum(bigint(round(100 * value))) AS cents",
        "sum(IF(array_contains(warnings, 'fuel_in_gallons'), bigint(round(1000 * quantity)), 0)) AS fuel",
        "count_if(abs(price * quantity - value) > 1e-9) AS inconsistent_prices",
    ).collect()[0].asDict()  # fmt: skip
    assert totals == {name: naive[name] for name in ("users", "cents", "fuel")} | {"inconsistent_prices": 0}
    for column, expected in (("category", naive["categories"]), ("brand", naive["brands"])):
        assert {row[0]: row[1] for row in events.groupBy(column).count().collect()} == expected
    attributes = events.selectExpr("explode(attributes)").groupBy("key", "value").count().collect()
    assert {(row["key"], row["value"]): row["count"] for row in attributes} == naive["attributes"]


def test_a_year_of_complete_journey_has_the_counts_of_its_readme() -> None:
    naive = naive_counts.complete_journey(range(1, 54))
    assert (naive["rows_in"], naive["clean"], naive["users"], naive["cents"]) == (291_501, 289_712, 493, 92_517_391)
    assert naive["rejected"] == {"nothing_sold": 1_676, "not_a_product": 97, "nothing_paid": 16}
    assert naive["warned"] == {"free": 413, "fuel_in_gallons": 3_075, "fuel_prepaid": 302, "product_unknown": 7}


def test_every_line_of_the_head_of_rees46_is_accounted_for(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "input" / "rees46"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "rees46" / "2019-Oct_first17434.csv.gz", folder)
    shop, batch = captured(spark, tmp_path, "rees46")

    # 17,434 complete lines, 5 of them copies, and a last line that is truncated in its user id.
    assert (batch.rows_in, batch.rows_clean, batch.rows_rejected, batch.rows_duplicate) == (17_435, 17_429, 1, 5)
    assert not_zero(batch.rejected_by_rule) == {"unparseable": 1}
    (truncated,) = shop.read(spark, tables.REJECTED_EVENTS).collect()
    assert (truncated.position, truncated.reason) == ("2019-Oct_first17434.csv.gz:17436", "not a CSV line of 9 cells")
    assert truncated.payload.count(",") == 7 and truncated.payload_header.count(",") == 8
    events = shop.read(spark, tables.EVENTS)
    by_type = {row["event_type"]: row["count"] for row in events.groupBy("event_type").count().collect()}
    # The copies are 4 of 17,055 views and 1 of 165 carts.
    assert by_type == {"view": 17_051, "cart": 164, "purchase": 214}
    counts = events.selectExpr(
        "count(DISTINCT user_id) AS users", "count_if(user_id IS NULL) AS user_id_empty",
        "count_if(price = 0) AS price_zero",
        "count_if(array_contains(warnings, 'no_brand')) AS brand_empty",
        "count_if(array_contains(warnings, 'category_without_name')) AS category_code_empty",
    ).collect()[0].asDict()  # fmt: skip

    naive = naive_counts.rees46()
    assert (naive["rows_in"], naive["clean"], naive["truncated"], naive["duplicate"]) == (17_435, 17_429, 1, 5)
    assert naive["clean_by_type"] == by_type
    assert {name: naive[name] for name in counts} == counts
    assert (batch.warned_by_rule["no_brand"], batch.warned_by_rule["category_without_name"]) == (
        naive["brand_empty"], naive["category_code_empty"],
    )  # fmt: skip


def test_otto_sessions_become_one_event_per_element(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "input" / "otto"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "otto" / "train_20sessions.jsonl", folder)
    shop, batch = captured(spark, tmp_path, "otto")

    # 20 sessions with 862 events, without bad lines and copies.
    assert (batch.rows_in, batch.rows_clean, batch.rows_rejected, batch.rows_duplicate) == (862, 862, 0, 0)
    events = shop.read(spark, tables.EVENTS)
    by_type = {row["event_type"]: row["count"] for row in events.groupBy("event_type").count().collect()}
    assert by_type == {"click": 800, "cart": 52, "purchase": 10}
    counts = events.selectExpr("count(DISTINCT user_id) AS sessions", "count(DISTINCT item_id) AS products").collect()[
        0
    ]
    first = events.where("position = 'train_20sessions.jsonl:1#1'").collect()[0]
    assert (first.user_id, first.item_id, first.session_id) == ("otto:session-0", "otto:1517085", "0")
    assert int(first.event_time.timestamp() * 1000) == 1_659_304_800_025

    naive = naive_counts.otto()
    assert (naive["rows_in"], naive["clean"], naive["duplicate"]) == (862, 862, 0)
    assert naive["clean_by_type"] == {"clicks": 800, "carts": 52, "orders": 10}
    assert (naive["sessions"], naive["products"]) == (counts.sessions, counts.products) == (20, 510)
