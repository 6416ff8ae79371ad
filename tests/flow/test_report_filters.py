"""The filter of the report: all numbers that its script shows equal those of the events, for every choice."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import polars as pl
import pytest
from playwright.sync_api import Browser, Page
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
from profilestream.base import tables
from profilestream.serve.report import filter_data, html_page, queries_shop, sections
from profilestream.serve.report.offered import Offered
from profilestream.serve.report.view_pipeline import PipelineView, SourceRows
from profilestream.serve.report.view_shop import ShopView
from profilestream.serve.report.view_users import EventsView, SegmentRow, SegmentsView
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.builders import Shop
from tests.unit.test_report import EMPTY

MONDAY, WEEKS = datetime(2025, 1, 6, tzinfo=UTC), 60
LAST = WEEKS - 1  # number of the open week
SOURCES, SEGMENTS, PERIODS = ("", "web", "store"), ("", "0", "2"), ("", "4", "13", "52")
OFFERED = Offered(("web", "store"), (0, 2), 9)
# u9 has no segment, and segment 1 is not offered.
SEGMENT_OF = {f"u{n}": n % 3 for n in range(9)}
# Scores of u0 to u11; 70 is the limit.
VALUES = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 70.0, 70.0, 55.0, 70.0)
AT_RISK = ("u1", "u4", "u6")
TYPES = (
    "event_id string, event_type string, event_time timestamp, source string, user_id string, item_id string, "
    "order_id string, quantity double, value double"
)


def _events() -> list[tuple[Any, ...]]:
    """Purchases, returns, views and guests of 60 weeks from three sources; orders over two sources and two weeks."""
    rows: list[tuple[Any, ...]] = [
        ("stray", "purchase", MONDAY.replace(year=2035), "web", "u1", "i1", "far", 1.0, 5.0),
        ("guest", "purchase", MONDAY + timedelta(weeks=LAST), "store", None, None, None, None, 1.0),
    ]
    # Two new customers.
    for new in ("u10", "u11"):
        rows.append((new, "purchase", MONDAY + timedelta(weeks=LAST - 1), "web", new, "i1", None, None, 3.0))
    for n in range(900):
        time = MONDAY + timedelta(hours=10 + n * 11)
        kind = "return" if n % 13 == 5 else "view" if n % 17 == 3 else "purchase"
        user = None if n % 19 == 7 else f"u{(n * 7) % 10}"
        order = None if n % 5 == 2 else f"o{n // 4}"
        source = "app" if n % 23 == 4 else ("web", "store", "web")[n % 3]
        item = f"i{(n * n + n // 150) % 31}"
        rows.append((f"e{n}", kind, time, source, user, item, order, None if n % 7 else 1.0 + n % 11, 10.0 + n % 37))
    return rows


def _expected(source: str, segment: str, period: str) -> dict[str, Any]:
    """What the page shows, computed by Polars."""
    events = pl.DataFrame(_events(), schema=[column.split()[0] for column in TYPES.split(", ")], orient="row")
    week = (pl.col("event_time") - MONDAY).dt.total_days() // 7
    sign = pl.when(event_type="purchase").then(1.0).when(event_type="return").then(-1.0)
    order = pl.coalesce("o:" + pl.col("order_id"), pl.col("event_id"))
    sales = events.with_columns(week=week, sign=sign, order=order).drop_nulls("sign")
    sales = sales.with_columns(revenue=sign * pl.col("value"), units=sign * pl.col("quantity").fill_null(1.0))
    sales = sales.filter(pl.col("source") == source) if source else sales
    users = [user for user, number in SEGMENT_OF.items() if segment == str(number)]
    sales = sales.filter(pl.col("user_id").is_in(users)) if segment else sales
    orders = sales.filter(event_type="purchase").group_by("user_id", "order").agg(pl.col("week").min())
    length = int(period or 0)
    in_period = pl.col("week").is_between(LAST - length, LAST - 1) if period else pl.lit(True)
    chosen, its_orders = sales.filter(in_period), orders.filter(in_period)
    by_user = its_orders.drop_nulls("user_id").group_by("user_id").len()["len"]
    weekly = {
        name: _by_week(frame) for name, frame in (("revenue", sales), ("orders", orders.with_columns(revenue=1.0)))
    }
    at_risk = sales.filter(pl.col("user_id").is_in(AT_RISK))
    recent = at_risk.filter(pl.col("week") > LAST - 52)
    return {
        "customers": len(by_user),
        "revenue": chosen["revenue"].sum(),
        "revenue_week": weekly["revenue"][LAST - 1],
        "orders": its_orders.height,
        "order_value": chosen.filter(event_type="purchase")["value"].sum() / its_orders.height,
        "repeat_rate": (by_user > 1).sum() / len(by_user),
        "at_risk": at_risk["user_id"].n_unique(),
        "at_risk_spent": recent["revenue"].sum(),
        "y": weekly["revenue"][:WEEKS],
        "orders_by_week": weekly["orders"][:WEEKS],
        **_items(sales, length or 4),
        "bright": [n for n in range(WEEKS) if not period or LAST - length <= n < LAST],
    }


def _by_week(sales: pl.DataFrame) -> list[float]:
    sums = dict(sales.group_by("week").agg(pl.col("revenue").sum()).rows())
    return [sums.get(n, 0.0) for n in range(WEEKS)]


def _items(sales: pl.DataFrame, length: int) -> dict[str, list[tuple[str, float]]]:
    """Best sellers and risers, with their revenue or their rise."""

    def total(column: str, first: int) -> pl.Expr:
        return pl.col(column).filter(pl.col("week").is_between(first, first + length - 1)).sum().fill_null(0.0)

    start = LAST - length
    units = total("units", start).alias("units")
    sums = sales.drop_nulls("item_id").group_by("item_id").agg(
        units, total("revenue", start).alias("revenue"), rise=total("units", start) - total("units", start - length)
    )  # fmt: skip
    best = sums.filter(pl.col("units") > 0).select("item_id", "revenue").rows()
    risers = sums.filter(pl.col("units") >= 10, pl.col("rise") > 0).select("item_id", "rise").rows()
    # The week before the 52 weeks would be the first one, which may be incomplete.
    lists = {"items-0": best, "items-1": risers if start - length > 0 else []}
    return {name: sorted(rows, key=lambda row: (-row[1], row[0]))[:8] for name, rows in lists.items()}


@pytest.fixture(scope="module")
def shop_view(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> ShopView:
    settings = Shop(tmp_path_factory.mktemp("filters")).settings()
    as_of = MONDAY + timedelta(weeks=WEEKS)
    segments = [(user, n, 0.5, [0.1], as_of, as_of, "s", 1) for user, n in SEGMENT_OF.items()]
    reasons, versions = [("orders", 2.0, 0.5, "orders 2; raises the score")], (as_of, 1, None, 1, as_of, "linear")
    scores: list[tuple[Any, ...]] = []
    for n in range(12):
        scores.append((f"u{n}", "churn_60d", 0.0, 0.9 if f"u{n}" in AT_RISK else 0.1, reasons, *versions))
        scores.append((f"u{n}", "value_180d", VALUES[n], None, reasons, *versions))
    for table, rows in ((tables.USER_SEGMENTS, segments), (tables.USER_SCORES, scores)):
        frame = _session.createDataFrame(rows, table.schema)
        frame.write.format("delta").save(f"{settings.paths.warehouse}/{table.name}")
    events = _session.createDataFrame(_events(), TYPES).withColumn("text", F.concat(F.lit("<"), "item_id", F.lit(">")))
    view = queries_shop.shop(_session, settings, events, has_values=True, offered=OFFERED)
    assert view is not None
    return view


@pytest.fixture(scope="module")
def page(browser: Browser, shop_view: ShopView, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    rows = (SourceRows(name, "source", 1, 10, 10, 0, 0) for name in ("web", "store", "app"))
    segments = tuple(SegmentRow(n, 3, f"{n}: buys <b>", "", None, None) for n in range(3))
    view = replace(
        EMPTY,
        pipeline=PipelineView(tuple(rows), (), (), (), (), 0),
        events=EventsView(MONDAY, MONDAY, {(0, 9): 1}, {"purchase": 1}, 0, 1.0, "EUR", "UTC"),
        segments=SegmentsView(segments, (MONDAY,), {0: (3,)}, ()),
        shop=shop_view,
    )
    file = tmp_path_factory.mktemp("page") / "report.html"
    groups, filters = sections.groups(view), filter_data.filters(view)
    assert filters and filters.left_out == (
        "The filter offers the 2 largest of 3 sources.", "The filter offers the 2 largest of 3 segments.",
    )  # fmt: skip
    file.write_text(html_page.page("Shop", "", groups, get_plotlyjs(), filters))
    tab = browser.new_page()
    tab.goto(f"file://{file}")
    yield tab
    tab.close()


READ = """async ([source, period, segment]) => {
  const changed = new Promise((done) => window.addEventListener("hashchange", done, { once: true }));
  location.hash = `source=${source}&period=${period}&segment=${segment}&n=${Math.random()}`;
  await changed;
  const shown = {};
  for (const { dataset } of document.querySelectorAll("#shop-figures li")) shown[dataset.name] = Number(dataset.value);
  const plot = (id) => document.getElementById(id).data[0];
  const rows = (id) => [...document.querySelectorAll(`#${id} ~ details tbody tr`)];
  const cells = (id, n) => rows(id).map((row) => row.cells[n].textContent);
  shown.y = plot("revenue-0").y;
  shown.orders_by_week = cells("revenue-0", 3).reverse().map((text) => Number(text.replace(",", "")));
  shown.bright = plot("revenue-0").marker.opacity.flatMap((opacity, n) => (opacity === 1 ? [n] : []));
  for (const id of ["items-0", "items-1"]) {
    shown[id] = cells(id, 0).map((name, n) => [name.slice(1, -1), plot(id).x[n]]);
  }
  return shown;
}"""


def test_every_choice_shows_the_numbers_of_the_events(page: Page) -> None:
    for source, segment, period in product(SOURCES, SEGMENTS, PERIODS):
        shown = page.evaluate(READ, [source, period, segment])
        expected = _expected(source, segment, period)
        for name, value in expected.items():
            at = f"{name} of source {source!r}, segment {segment!r}, period {period!r}"
            if name.startswith("items"):
                assert [row[0] for row in shown[name]] == [row[0] for row in value], at
                assert [row[1] for row in shown[name]] == pytest.approx([row[1] for row in value]), at
            else:
                assert shown[name] == pytest.approx(value), at


def test_the_examples_are_a_valuable_customer_at_risk_a_new_one_and_a_typical_one(shop_view: ShopView) -> None:
    """u11 is new too, but has a score at the limit; u5 has the median of the scores."""
    spent = _spent()
    valuable = max(AT_RISK, key=lambda user: spent[user])
    expected = [("at_risk", valuable), ("new", "u10"), ("typical", "u5")]
    assert [(one.kind, one.user.user_id) for one in shop_view.examples] == expected
    assert [one.spent for one in shop_view.examples] == pytest.approx([spent[user] for _, user in expected])


def _spent() -> dict[str, float]:
    """Purchases minus returns of the last 52 weeks by user."""
    totals: dict[str, float] = {}
    for _, kind, time, _, user, *_, value in _events():
        if user and kind != "view" and time >= MONDAY + timedelta(weeks=LAST - 51):
            totals[user] = totals.get(user, 0.0) + (value if kind == "purchase" else -value)
    return totals
