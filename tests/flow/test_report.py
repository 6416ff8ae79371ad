"""serve_report on the REES46 sample: its numbers equal those of the tables, and Chromium displays it."""

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from playwright.sync_api import Browser, Page
from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.report import (
    queries_events,
    queries_shop,
    report_queries,
    sections_users,
    time_grains,
    write_report,
)
from profilestream.serve.report.report_elements import Chart
from profilestream.serve.report.time_grains import TimeGrain
from profilestream.serve.report.view_demand import DemandRow
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_users import TagRow, TagsView
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import serve_report

AS_OF = datetime(2019, 10, 1, 2, tzinfo=UTC)
IS_PURCHASE = pl.col("event_type") == "purchase"
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def shop(_session: SparkSession, rees46: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A copy of the sample's warehouse, with a few rows in the tables of later stages and steps."""
    home = tmp_path_factory.mktemp("report")
    shutil.copytree(rees46.paths.warehouse, home / "warehouse")
    paths = rees46.paths.model_copy(update={"warehouse": f"{home}/warehouse"})
    derive = rees46.derive.model_copy(update={"shop_timezone": "Asia/Kolkata"})
    settings = rees46.model_copy(update={"paths": paths, "derive": derive})
    for name, frame in {**_learned_tables(_session, settings), **_user_tables(_session)}.items():
        writer = frame.coalesce(1).write.format("delta").mode("overwrite").option("overwriteSchema", True)
        writer.save(f"{home}/warehouse/{name}")
    return settings


def _learned_tables(spark: SparkSession, settings: Settings) -> dict[str, DataFrame]:
    """Rows of capture_alarms, model_metrics, segments and segment_descriptions, by table name."""
    recall = [("factors", "e", n, model, "recall_20", 0.1 * n) for n in (1, 2) for model in ("blend", "popularity")]
    metrics = [*recall, ("factors", "e", 1, "all", "late_rows", 3.0), ("segments", "s", 1, "kmeans", "cost", 2.5)]
    state_as_of = AS_OF - timedelta(hours=1)
    metric_rows = [(*metric, 10.0, state_as_of, AS_OF, AS_OF) for metric in metrics]
    alarms = [("rees46", "e", 0, AS_OF, AS_OF, "volume", 10.0, 1.0, 9.0, "warn", "ten times the rows")]
    segment_columns = ["segment_id", "users", "parent_id", "merged_ids", "as_of", "epoch", "batch_id"]
    segment_ddl = ", ".join(
        f"{field.name} {field.dataType.simpleString()}"
        for field in SegmentsSpec(settings).table.schema
        if field.name in segment_columns
    )
    segment_rows = [
        (1, 30, None, [], AS_OF, "s", 0),
        (1, 31, None, [3], AS_OF, "s", 1),
        (2, 12, 1, [], AS_OF, "s", 1),
    ]
    descriptions = [(n, f"buys {EVIL}", "cart > 0.5", 0.9, 0.8, 30, 0.7, "", AS_OF, "s", 1) for n in (1, 2)]
    return {
        "capture_alarms": spark.createDataFrame(alarms, tables.CAPTURE_ALARMS.schema),
        "model_metrics": spark.createDataFrame(metric_rows, tables.MODEL_METRICS.schema),
        "segments": spark.createDataFrame(segment_rows, segment_ddl),
        "segment_descriptions": spark.createDataFrame(descriptions, tables.SEGMENT_DESCRIPTIONS.schema),
        **_demand_tables(spark),
        **_score_tables(spark, settings),
    }


def _demand_tables(spark: SparkSession) -> dict[str, DataFrame]:
    """Rows of demand_units and demand_forecasts: two items, and one category on two days."""
    monday = date(2019, 9, 30)
    units = [
        ("item", "a", [monday - timedelta(weeks=2), monday - timedelta(weeks=1)], [9.0, 4.0], AS_OF, "d", 0),
        ("category", "x", [monday - timedelta(days=8), monday - timedelta(days=1)], [5.0, 3.0], AS_OF, "d", 0),
    ]
    forecasts = [
        ("item", "a", 1, monday, 6.5, 0.5, AS_OF, "d", 0),
        ("item", "b", 1, monday, 8.0, None, AS_OF, "d", 0),
        ("category", "x", 1, monday, 1.5, 0.25, AS_OF, "d", 0),
        ("category", "x", 2, monday + timedelta(days=1), 2.0, 0.25, AS_OF, "d", 0),
    ]
    return {
        "demand_units": spark.createDataFrame(units, tables.DEMAND_UNITS.schema),
        "demand_forecasts": spark.createDataFrame(forecasts, tables.DEMAND_FORECASTS.schema),
    }


def _score_tables(spark: SparkSession, settings: Settings) -> dict[str, DataFrame]:
    """Rows of user_segments, user_scores and recommendations for five buyers, by table name."""
    purchases = _table(settings, "events").filter(IS_PURCHASE, pl.col("user_id").is_not_null())
    buyers = purchases.select(pl.col("user_id").unique().sort()).collect()["user_id"].to_list()[:5]
    segments = [(user, 1 + n % 2, 0.5, [0.1], AS_OF, AS_OF, "s", 1) for n, user in enumerate(buyers)]
    reasons = [("orders", 2.0, 0.5, "orders 2; raises the score")]
    versions = (AS_OF, 1, None, 1, AS_OF, "linear")
    scores: list[tuple[Any, ...]] = []
    for n, user in enumerate(buyers):
        scores += [
            (user, "churn_60d", n - 2.0, 0.3 + 0.1 * n, reasons, *versions),
            (user, "churn_90d", 2.0, 0.9, reasons, *versions),
            (user, "value_180d", 10.0 * n, None, reasons, *versions),
        ]
    lists = [
        (user, purpose, rank, item, 1.0, "blend", None, "popular", None, "1", None, AS_OF)
        for n, user in enumerate(buyers)
        for purpose in ("for_you", "next_basket")
        for rank, item in enumerate(("i", f"j{n % 2}"), 1)
    ]
    return {
        "user_segments": spark.createDataFrame(segments, tables.USER_SEGMENTS.schema),
        "user_scores": spark.createDataFrame(scores, tables.USER_SCORES.schema),
        "recommendations": spark.createDataFrame(lists, tables.RECOMMENDATIONS.schema),
    }


def _user_tables(spark: SparkSession) -> dict[str, DataFrame]:
    """Rows of user_tags, user_groups and user_profiles, by table name."""
    before = AS_OF - timedelta(days=31)
    tags = [
        ("a", "vip", AS_OF, before + timedelta(days=2), None),
        ("b", "vip", before, before, None),
        ("c", "vip", before, before, AS_OF),
        ("d", "vip", AS_OF, None, None),
        ("a", "new", AS_OF, AS_OF, AS_OF),
    ]
    weights = "array<struct<key: string, weight: double>>"
    profiles: list[tuple[str, Any]] = [
        ("a", ([("x", 3.0), (EVIL, 1.0)], [], [])),
        ("b", ([("x", 1.0), ("y", -2.0)], [], [("i", 1.0)])),
    ]
    profile_ddl = f"user_id string, preference struct<categories: {weights}, brands: {weights}, items: {weights}>"
    tag_ddl = "user_id string, tag string, valid_from timestamp, gained_after timestamp, valid_to timestamp"
    return {
        "user_tags": spark.createDataFrame(tags, tag_ddl),
        "user_groups": spark.createDataFrame([(user, AS_OF) for user in "abc"], "user_id string, as_of timestamp"),
        "user_profiles": spark.createDataFrame(profiles, profile_ddl),
    }


@pytest.fixture(scope="module")
def view(_session: SparkSession, shop: Settings) -> ReportView:
    return report_queries.read(_session, shop)


@pytest.fixture(scope="module")
def report(_session: SparkSession, shop: Settings, view: ReportView) -> str:
    """The path of the page. The tables are read once, for `view`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_queries, "read", lambda *_: view)
        return write_report.run(_session, shop)


def _table(shop: Settings, name: str) -> pl.LazyFrame:
    return pl.scan_delta(f"{shop.paths.warehouse}/{name}")


def _sales(shop: Settings) -> pl.DataFrame:
    """Purchases and returns with their `order` and `revenue`."""
    sign = pl.when(IS_PURCHASE).then(1.0).when(pl.col("event_type") == "return").then(-1.0)
    columns = {"order": pl.coalesce("order_id", "event_id"), "sign": sign, "revenue": sign * pl.col("value")}
    return _table(shop, "events").with_columns(**columns).filter(pl.col("sign").is_not_null()).collect()


def _at_risk(shop: Settings) -> set[str]:
    scores = _table(shop, "user_scores").filter(outcome="churn_60d").filter(pl.col("probability") > 0.5)
    return set(scores.collect()["user_id"])


def _expected_key_figures(shop: Settings) -> dict[str, float]:
    """The key figures, computed by Polars."""
    batches = _table(shop, "capture_batches").select(pl.col("^rows_(in|clean|rejected|duplicate)$").sum()).collect()
    events = _table(shop, "events").collect()
    sales = _sales(shop)
    purchases = sales.filter(IS_PURCHASE)
    orders = purchases.select("user_id", "order").unique()
    by_user = orders.drop_nulls("user_id").group_by("user_id").len()
    at_risk = _at_risk(shop)
    return {
        "customers": by_user.height,
        "revenue": sales["revenue"].sum(),
        "orders": orders.height,
        "order_value": purchases["value"].sum() / orders.height,
        "repeat_rate": by_user.filter(pl.col("len") > 1).height / by_user.height,
        "at_risk": len(at_risk),
        "at_risk_spent": sales.filter(pl.col("user_id").is_in(list(at_risk)))["revenue"].sum(),
        **batches.row(0, named=True),
        "alarms": _table(shop, "capture_alarms").collect().height,
        "events": events.height,
        "users": events["user_id"].drop_nulls().n_unique(),
        "purchase_value": events.filter(IS_PURCHASE)["value"].sum(),
        "segments": 2,
        "assigned_tags": 3,
        "recall_20": 0.15,
    }


def test_key_figures_equal_the_tables(browser: Browser, report: str, shop: Settings) -> None:
    page = browser.new_page()
    page.goto(f"file://{report}")
    script = "items => items.map(item => [item.dataset.name, Number(item.dataset.value)])"
    values = page.eval_on_selector_all(".key-figures li", script)
    page.close()
    assert dict(values) == pytest.approx(_expected_key_figures(shop)) and len(values) > 10


def test_items_segments_recommendations_and_examples_equal_the_tables(view: ReportView, shop: Settings) -> None:
    """The sample has one day, so its only week is open, and no item can rise."""
    assert view.shop is not None
    sales = _sales(shop).with_columns(units=pl.col("sign") * pl.col("quantity").fill_null(1.0))
    by_item = sales.group_by("item_id").agg(pl.col("units", "revenue").sum()).sort("revenue", "item_id")
    best = sorted(by_item.rows(), key=lambda row: (-row[2], row[0]))[:8]
    shown = [(item.name, item.units, item.revenue) for item in view.shop.sales.best]
    assert [(name, units) for name, units, _ in shown] == [(name, units) for name, units, _ in best]
    assert [revenue for *_, revenue in shown] == pytest.approx([revenue for *_, revenue in best])
    assert (view.shop.sales.first, view.shop.sales.last) == (date(2019, 9, 30), date(2019, 10, 6))
    assert view.shop.sales.risers == () and view.shop.change(0) is None
    segments = sales.join(_table(shop, "user_segments").collect(), "user_id")
    by_segment = dict(segments.group_by("segment_id").agg(pl.col("revenue").sum()).rows())
    assert view.shop.spent_by_segment == pytest.approx(by_segment) and len(by_segment) == 2
    assert view.shop.recommended == (("i", 5), ("j0", 3), ("j1", 2))
    spent = sales.filter(pl.col("user_id").is_in(list(_at_risk(shop)))).group_by("user_id").agg(pl.col("revenue").sum())
    best_at_risk = max(spent.rows(), key=lambda row: row[1])
    at_risk, new = view.shop.examples
    assert (at_risk.kind, at_risk.user.user_id) == ("at_risk", best_at_risk[0])
    assert at_risk.spent == pytest.approx(best_at_risk[1])
    # All customers are new; of those not at risk, this one has the highest score.
    assert (new.kind, new.user.outcome, new.user.score) == ("new", "value_180d", 20.0)


def test_weeks_changes_and_risers_equal_the_events(spark: SparkSession, shop: Settings) -> None:
    """Eleven weeks of purchases and returns from a Wednesday on, and a purchase with a wrong year."""
    monday = datetime(2026, 1, 5, tzinfo=UTC)
    rows: list[tuple[Any, ...]] = [("x", "purchase", monday.replace(year=2031), "u1", "a", "o", 1.0, 5.0)]
    for day in range(2, 75):
        user, item, kind = f"u{day % 7}", "abc"[day % 3], "return" if day % 10 == 9 else "purchase"
        quantity = 1.0 + day if item == "c" else None
        order = None if day % 4 else f"o{day // 8}"
        rows.append((f"e{day}", kind, monday + timedelta(days=day), user, item, order, quantity, 10.0 + day))
    rows.append(("g", "purchase", monday + timedelta(days=74), None, None, None, None, 1.0))
    columns = "event_id event_type event_time user_id item_id order_id quantity value".split()
    kinds = "event_id string, event_type string, event_time timestamp, user_id string, item_id string, "
    frame = spark.createDataFrame(rows, f"{kinds} order_id string, quantity double, value double")
    frame = frame.withColumn("text", F.lit(None).cast("string"))
    derive = shop.derive.model_copy(update={"shop_timezone": "UTC"})
    view = queries_shop.shop(spark, shop.model_copy(update={"derive": derive}), frame, has_values=True)
    assert view is not None
    events = pl.DataFrame(rows, schema=columns, orient="row")
    week = ((pl.col("event_time") - monday).dt.total_days() // 7).alias("week")
    is_sold = IS_PURCHASE.cast(float) * 2 - 1
    units = (is_sold * pl.col("quantity").fill_null(1.0)).alias("units")
    user_order = pl.struct("user_id", pl.coalesce("order_id", "event_id"))
    sold = events.with_columns(week, units, user_order.alias("order"), revenue=is_sold * pl.col("value"))
    revenue = dict(sold.group_by("week").agg(pl.col("revenue").sum()).rows())
    first = sold.filter(IS_PURCHASE).group_by("order").agg(pl.col("week").min())
    orders = dict(first.group_by("week").len().rows())
    assert [one.start for one in view.weeks] == [(monday + timedelta(weeks=n)).date() for n in range(11)]
    assert [one.revenue for one in view.weeks] == pytest.approx([revenue[n] for n in range(11)])
    assert [one.orders for one in view.weeks] == [orders[n] for n in range(11)]
    assert view.change(9) == pytest.approx(revenue[9] / revenue[8] - 1)
    assert (view.change(1), view.change(10)) == (None, None)
    assert view.orders == first.height and view.revenue == pytest.approx(sum(revenue.values()))
    last, before = (
        dict(sold.filter(pl.col("week").is_between(low, low + 3)).group_by("item_id").agg(pl.col("units").sum()).rows())
        for low in (6, 2)
    )
    rises = {item: last[item] - before[item] for item in "abc" if last[item] >= 10 and last[item] > before[item]}
    assert [item.name for item in view.sales.risers] == sorted(rises, key=lambda item: -rises[item]) != []
    assert {item.name: (item.units, item.units_before) for item in view.sales.best} == {
        item: (last[item], before[item]) for item in "abc" if last[item] > 0
    }


def test_the_page_sends_no_request_and_logs_no_error(browser: Browser, report: str) -> None:
    page = browser.new_page()
    requests: list[str] = []
    messages: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.goto(f"file://{report}")
    script = "plots => plots.map(plot => plot.querySelectorAll('.main-svg').length)"
    drawings = page.eval_on_selector_all(".plot", script)
    page.close()
    assert (requests, messages) == ([f"file://{report}"], [])
    assert len(drawings) >= 10 and all(drawings)
    assert Path(report).stat().st_size < 6e6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_screen_of_a_phone(browser: Browser, report: str, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"file://{report}")
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    page.close()
    assert widths == [390, 390]


def test_charts_follow_the_color_scheme_of_the_browser(browser: Browser, report: str) -> None:
    page = browser.new_page(color_scheme="light")
    page.goto(f"file://{report}")
    light = _colors(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-scheme=dark]")
    dark = _colors(page)
    page.close()
    assert [before == after for before, after in zip(light, dark, strict=True)] == [False, False, False]


def _colors(page: Page) -> list[str]:
    """Colors of the page background, of a line, and of an axis label."""
    return [
        page.eval_on_selector("body", "element => getComputedStyle(element).backgroundColor"),
        page.eval_on_selector("#activity-0 .js-line", "element => element.style.stroke"),
        page.eval_on_selector("#activity-0 .xtick text", "element => element.style.fill"),
    ]


def test_users_per_period_cohorts_and_hours_equal_the_events(view: ReportView, shop: Settings) -> None:
    assert view.users and view.events
    local = pl.col("event_time").dt.convert_time_zone("Asia/Kolkata").dt.replace_time_zone(None)
    events = _table(shop, "events").with_columns(local=local).collect()
    user_events = events.filter(pl.col("user_id").is_not_null())
    by_period = user_events.group_by(pl.col("local").dt.truncate("10m")).agg(
        active=pl.col("user_id").n_unique(), buyers=pl.col("user_id").filter(IS_PURCHASE).n_unique()
    )
    assert (view.users.period_grain, view.users.cohort_grain) == ("ten minutes", "hour")
    assert [(period.start, period.active, period.buyers) for period in view.users.periods] == sorted(by_period.rows())
    by_hour = events.group_by(
        events["local"].dt.weekday().cast(int) - 1, events["local"].dt.hour().cast(int).alias("hour")
    )
    assert view.events.by_hour == {(day, hour): count for day, hour, count in by_hour.len().rows()}
    hours = user_events.select("user_id", hour=pl.col("local").dt.truncate("1h")).unique()
    first_hours = hours.with_columns(first=pl.col("hour").min().over("user_id"))
    expected = {(first, hour): count for first, hour, count in first_hours.group_by("first", "hour").len().rows()}
    cohorts = {
        (cohort.start, cohort.start + timedelta(hours=later)): count
        for cohort in view.users.cohorts
        for later, count in enumerate(cohort.users)
    }
    assert {key: count for key, count in cohorts.items() if count} == expected


def test_forecasts_are_shown_with_the_units_of_the_seven_days_before(view: ReportView) -> None:
    items, categories = view.demand
    assert items.rows == (DemandRow("b", 8.0, 0.0, None), DemandRow("a", 6.5, 4.0, 0.5))
    assert categories.rows == (DemandRow("x", 3.5, 3.0, 0.25),)
    assert items.first == categories.first == date(2019, 9, 30)


def test_preferences_and_tags_are_counted_per_user(view: ReportView) -> None:
    (preferences,) = view.preferences
    assert (preferences.attribute, preferences.users, preferences.others) == ("categories", 2, 0.0)
    assert preferences.shares == (("x", 0.875), (EVIL, 0.125))
    assert view.tags == TagsView(collected(AS_OF), (TagRow("vip", 3, 1, 1, 1), TagRow("new", 0, 1, 1)), 3)


def collected(time: datetime) -> datetime:
    """The time as `collect` returns it: in the zone of this machine, without zone information."""
    return time.astimezone().replace(tzinfo=None)


@pytest.mark.parametrize("stray_day", [-75, 60, None])
def test_one_event_far_from_the_others_changes_neither_axes_nor_cohorts(
    spark: SparkSession, stray_day: int | None
) -> None:
    """Nine days with 20 users each, and one event of another user on the stray day."""
    days = [(day, f"u{(3 * day + n) % 40}") for day in range(9) for n in range(20)]
    stray = [] if stray_day is None else [(stray_day, "stray")]
    rows = [(f"2026-01-01T10:{n % 60:02}:00Z", day, user) for n, (day, user) in enumerate([*days, *stray])]
    time = "timestamp(at) + make_dt_interval(day) AS event_time"
    others = ("'view' AS event_type", "1.0D AS value", "'EUR' AS currency")
    events = spark.createDataFrame(rows, "at string, day int, user_id string").selectExpr("user_id", time, *others)
    totals = queries_events.totals(events, "UTC")
    assert totals
    users = queries_events.users(events, totals)
    assert users and users.steps["any event"] == 40 + len(stray)
    assert (users.period_grain, users.cohort_grain) == ("day", "day")
    assert [period.start for period in users.periods] == [datetime(2026, 1, 1 + day) for day in range(9)]
    assert users.cohorts[0] and users.cohorts[0].start == datetime(2026, 1, 1)
    assert sum(cohort.users[0] for cohort in users.cohorts) == 40
    assert (users.axis.before, users.axis.after) == (int(stray_day == -75), int(stray_day == 60))
    note = {-75: "1 event before 2026-01-01", 60: "1 event after 2026-01-09"}.get(stray_day or 0, "")
    (chart,) = sections_users.activity(users).parts
    assert isinstance(chart, Chart) and note in chart.caption


def test_starts_of_numbered_periods_equal_date_trunc(spark: SparkSession) -> None:
    times = spark.range(0, 5000, 37).selectExpr("timestamp'2004-12-30 23:59:59' + make_interval(0, 0, 0, id) AS time")
    numbers = [f"{sql.format('time')} AS `{grain}`" for grain, sql in time_grains.PERIOD_NUMBER_SQL.items()]
    units: dict[TimeGrain, str] = {"hour": "HOUR", "day": "DAY", "week": "WEEK", "month": "MONTH"}
    starts = [f"date_trunc('{unit}', time) AS start_{unit}" for unit in units.values()]
    for row in times.selectExpr(*numbers, *starts).collect():
        for grain, unit in units.items():
            assert time_grains.period_start(grain, row[grain]) == row[f"start_{unit}"]


def test_the_job_writes_the_page_to_the_default_path_and_to_out_also_without_tables(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{tmp_path}/warehouse"\ncheckpoints = "{tmp_path}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{tmp_path}"\nmapping = "none.toml"\n'
    )
    assert serve_report.main(["--config", str(config), "--check"]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"shop.toml"}
    assert serve_report.main(["--config", str(config)]) == 0
    assert serve_report.main(["--config", str(config), "--out", f"{tmp_path}/other/page.html"]) == 0
    names = ("report.html", "other/page.html")
    assert capsys.readouterr().out.splitlines() == [f"open in a browser: {tmp_path}/{name}" for name in names]
    pages = [(tmp_path / name).read_text() for name in names]
    assert pages[0] == pages[1] and "No events captured yet" in pages[0]
    assert serve_report.main(["--config", str(config), "--language", "zh"]) == 0
    page = (tmp_path / names[0]).read_text()
    assert '<html lang="zh">' in page and "尚未采集到行为事件" in page
