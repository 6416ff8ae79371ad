"""serve_report over the shipped REES46 sample: its numbers are those of the tables, and a browser shows it as meant."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.learn import segments
from profilestream.serve.report import queries, view_model, write_report
from profilestream.serve.report.view_model import Numbers
from pyspark.sql import DataFrame, SparkSession

from jobs import serve_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), "")
AT = datetime(2019, 10, 1, 2, tzinfo=UTC)
BOUGHT = pl.col("event_type") == "purchase"


@pytest.fixture(scope="module")
def shop(_session: SparkSession, rees46: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The sample's tables, and a few rows of those that later stages would write."""
    home = tmp_path_factory.mktemp("report")
    shutil.copytree(rees46.paths.warehouse, home / "warehouse")
    paths = rees46.paths.model_copy(update={"warehouse": f"{home}/warehouse"})
    derive = rees46.derive.model_copy(update={"shop_timezone": "Asia/Kolkata"})
    settings = rees46.model_copy(update={"paths": paths, "derive": derive})

    def write(name: str, frame: DataFrame) -> None:
        frame.coalesce(1).write.format("delta").save(f"{home}/warehouse/{name}")

    judged = [(one, n) for n in (1, 2) for one in ("blend", "popularity")]
    quality: list[tuple[object, ...]] = [
        ("factors", one, "e", n, AT, 10, None, 0.1 * n, *[None] * 6) for one, n in judged
    ]
    quality += [("segments", "kmeans", "s", 1, AT, 10, *[None] * 7, 2.5)]
    alarm = [("rees46", "e", 0, AT, AT, "volume", 10.0, 1.0, 9.0, "warn", "ten times the rows")]
    write("capture_alarms", _session.createDataFrame(alarm, tables.CAPTURE_ALARMS.schema))
    write("model_metrics", _session.createDataFrame(quality, tables.MODEL_METRICS.schema))
    kept = ["segment_id", "users", "parent", "absorbed", "as_of", "epoch", "batch_id"]
    kinds = ", ".join(
        f"{f.name} {f.dataType.simpleString()}" for f in segments.table(settings).schema if f.name in kept
    )
    rows = [(1, 30, None, [], AT, "s", 0), (1, 31, None, [3], AT, "s", 1), (2, 12, 1, [], AT, "s", 1)]
    write("segments", _session.createDataFrame(rows, kinds))
    said = [(n, "buys <script>alert(1)</script>", "cart > 0.5", 0.9, 0.8, 30, 0.7, "", AT, "s", 1) for n in (1, 2)]
    write("segment_descriptions", _session.createDataFrame(said, segments.descriptions_table().schema))
    month = timedelta(days=31)
    held = [("a", "vip", AT, None), ("b", "vip", AT - month, None), ("c", "vip", AT - month, AT), ("a", "new", AT, AT)]
    kinds = "user_id string, tag string, since timestamp, until timestamp"
    write("user_tags", _session.createDataFrame(held, kinds))
    write("user_groups", _session.createDataFrame([(user, AT) for user in "abc"], "user_id string, as_of timestamp"))
    maps = "struct<weights: map<string, double>, rest: double>"
    none: tuple[dict[str, float], float] = ({}, 0.0)
    likes = [
        ("a", (({"x": 3.0, "<script>alert(1)</script>": 1.0}, 0.0), none, none)),
        ("b", (({"x": 1.0, "y": -2.0}, 0.0), none, ({"i": 1.0}, 0.0))),
    ]
    kinds = f"user_id string, preference struct<categories: {maps}, brands: {maps}, items: {maps}>"
    write("user_profiles", _session.createDataFrame(likes, kinds))
    return settings


@pytest.fixture(scope="module")
def found(_session: SparkSession, shop: Settings) -> Numbers:
    return queries.read(_session, shop)


@pytest.fixture(scope="module")
def made(_session: SparkSession, shop: Settings, found: Numbers) -> str:
    """The path of the page; its numbers are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "read", lambda *_: found)
        return write_report.run(_session, shop)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("there is no chromium on PATH")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def _table(shop: Settings, name: str) -> pl.LazyFrame:
    return pl.scan_delta(f"{shop.paths.warehouse}/{name}")


def _expected(shop: Settings) -> dict[str, float]:
    """The key figures by Polars."""
    batches = _table(shop, "capture_batches").select(pl.col("^rows_(in|clean|rejected|duplicate)$").sum()).collect()
    events = _table(shop, "events").collect()
    return {
        **batches.row(0, named=True),
        "alarms": _table(shop, "capture_alarms").collect().height,
        "events": events.height,
        "known_users": events["user_id"].drop_nulls().n_unique(),
        "buyers": events.filter(BOUGHT)["user_id"].drop_nulls().n_unique(),
        "value": events.filter(BOUGHT)["value"].sum(),
        "segments": 2,
        "tags_held": 2,
        "recall_20": 0.15,
    }


def test_the_key_figures_are_those_of_the_tables(browser: Browser, made: str, shop: Settings) -> None:
    page = browser.new_page()
    page.goto(f"file://{made}")
    told = page.eval_on_selector_all(".tiles li", "all => all.map(li => [li.dataset.name, Number(li.dataset.value)])")
    page.close()
    assert dict(told) == pytest.approx(_expected(shop)) and len(told) > 10


def test_it_asks_for_nothing_and_complains_of_nothing(browser: Browser, made: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(f"file://{made}")
    plots = page.eval_on_selector_all(".plot", "all => all.map(one => one.querySelectorAll('.main-svg').length)")
    page.close()
    assert (asked, said) == ([f"file://{made}"], [])
    assert len(plots) >= 10 and all(plots)
    assert Path(made).stat().st_size < 6e6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, made: str, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"file://{made}")
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    page.close()
    assert widths == [390, 390]


def test_plots_change_their_colors_with_the_readers_scheme(browser: Browser, made: str) -> None:
    page = browser.new_page(color_scheme="light")
    page.goto(f"file://{made}")
    light = _colors(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-scheme=dark]")
    dark = _colors(page)
    page.close()
    assert [one == other for one, other in zip(light, dark, strict=True)] == [False, False, False]


def _colors(page: Page) -> list[str]:
    """Of the page, of a line of a plot, and of its text."""
    return [
        page.eval_on_selector("body", "one => getComputedStyle(one).backgroundColor"),
        page.eval_on_selector("#activity-0 .js-line", "one => one.style.stroke"),
        page.eval_on_selector("#activity-0 .xtick text", "one => one.style.fill"),
    ]


def test_users_over_time_cohorts_and_hours_equal_the_events(found: Numbers, shop: Settings) -> None:
    assert found.users and found.log
    local = pl.col("event_time").dt.convert_time_zone("Asia/Kolkata").dt.replace_time_zone(None)
    events = _table(shop, "events").with_columns(local=local).collect()
    known = events.filter(pl.col("user_id").is_not_null())
    by_period = known.group_by(pl.col("local").dt.truncate("10m")).agg(
        active=pl.col("user_id").n_unique(), buyers=pl.col("user_id").filter(BOUGHT).n_unique()
    )
    told = [(one.begin, one.active, one.buyers) for one in found.users.periods]
    assert told == sorted(by_period.rows()) and (found.users.fine, found.users.coarse) == ("ten minutes", "hour")
    by_hour = events.group_by(
        events["local"].dt.weekday().cast(int) - 1, events["local"].dt.hour().cast(int).alias("h")
    )
    assert found.log.by_hour == {(day, hour): count for day, hour, count in by_hour.len().rows()}
    hours = known.select("user_id", hour=pl.col("local").dt.truncate("1h")).unique()
    firsts = hours.with_columns(first=pl.col("hour").min().over("user_id"))
    counts = firsts.group_by("first", "hour").len()
    expected = {(first, hour): count for first, hour, count in counts.rows()}
    cohorts = {
        (one.begin, one.begin + timedelta(hours=later)): count
        for one in found.users.cohorts
        for later, count in enumerate(one.users)
    }
    assert {key: count for key, count in cohorts.items() if count} == expected


def test_what_users_prefer_and_the_tags_they_hold_are_counted_by_user(found: Numbers) -> None:
    (taste,) = found.tastes
    assert (taste.of, taste.users, taste.others) == ("categories", 2, 0.0)
    assert taste.shares == (("x", 0.875), ("<script>alert(1)</script>", 0.125))
    assert found.tags == view_model.Tags(
        reading_time(AT), (view_model.Tag("vip", 2, 1, 1), view_model.Tag("new", 0, 1, 1)), 3
    )


def reading_time(moment: datetime) -> datetime:
    """As Spark hands times over: of this machine's clock, without a zone."""
    return moment.astimezone().replace(tzinfo=None)


def test_periods_begin_where_their_numbers_say(spark: SparkSession) -> None:
    days = spark.range(0, 5000, 37).selectExpr("timestamp'2004-12-30 23:59:59' + make_interval(0, 0, 0, id) AS moment")
    told = days.selectExpr(
        "moment", *[f"{sql.format('moment')} AS `{one}`" for one, sql in view_model.NUMBERED.items()]
    )
    cuts = {"hour": "HOUR", "day": "DAY", "week": "WEEK", "month": "MONTH"}
    rows = told.selectExpr("*", *[f"date_trunc('{cut}', moment) AS cut_{cut}" for cut in cuts.values()]).collect()
    for row in rows:
        for grain, cut in cuts.items():
            assert view_model.begin(grain, row[grain]) == row[f"cut_{cut}"]  # type: ignore[arg-type]


def test_the_job_makes_the_page_where_it_is_told_to_and_a_page_of_nothing_too(
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
    assert serve_report.main(["--config", str(config), "--out", f"{tmp_path}/there/page.html"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"open in a browser: {tmp_path}/{name}" for name in ("report.html", "there/page.html")]
    texts = [(tmp_path / name).read_text() for name in ("report.html", "there/page.html")]
    assert texts[0] == texts[1] and "Nothing was captured yet" in texts[0]
