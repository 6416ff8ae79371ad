"""The HTML page of the report: valid plotly figures, escaped texts, and hints in sections without data; no Spark."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from profilestream.learn.kernels.batch_intervals import Interval
from profilestream.learn.model_card import CardMetric, ModelCard
from profilestream.serve.report import (
    html_page,
    report_elements,
    sections,
    sections_users,
    time_axis,
    time_grains,
    value_axis,
)
from profilestream.serve.report.time_axis import DayEvents, TimeAxis
from profilestream.serve.report.view_demand import DemandRow, DemandView
from profilestream.serve.report.view_model import MetricPoint, PublishedVersion, ReportView
from profilestream.serve.report.view_outcomes import OutcomesView, ScoredOutcome, ScoredUser, ScoreGroup
from profilestream.serve.report.view_pipeline import (
    AlarmRow,
    CaptureBatch,
    PipelineView,
    RejectedByRule,
    SourceRows,
    StageDurations,
)
from profilestream.serve.report.view_shop import (
    CustomersAtRisk,
    ExampleCustomer,
    SalesPeriod,
    ShopView,
    ShopWeek,
    SoldItem,
)
from profilestream.serve.report.view_users import (
    ActivePeriod,
    Cohort,
    EventsView,
    PreferencesView,
    SegmentRow,
    SegmentsView,
    TagRow,
    TagsView,
    UnusualDay,
    UsersView,
)

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
DAY = [datetime(2025, 1, day, 12, tzinfo=UTC) for day in range(1, 29)]
CARD = ModelCard(
    model="factors",
    number=1,
    published="blend",
    data_from=DAY[0],
    data_to=DAY[1],
    row_count=1_234,
    batches=2,
    metrics=(
        CardMetric("recall_20", "share, 0 to 1", "blend", Interval(0.1, 0.05, 0.15), None),
        CardMetric("recall_20", "share, 0 to 1", EVIL, Interval(0.08, 0.04, 0.1), Interval(0.02, 0.01, 0.03)),
    ),
    parameters='{"k": 8}',
    limits=(f"A limit of {EVIL}.",),
)
CHURN = ScoredOutcome(
    name="churn_60d",
    question=f"Does the customer buy nothing? {EVIL}",
    horizon_days=60,
    is_amount=False,
    rows=4_000,
    mean=0.45,
    metrics={"auc": 0.76, "ece": 0.02, "lift_10": 1.7},
    groups=tuple(ScoreGroup(n / 20, n / 25) for n in range(20)),
    gains=((0.0, 0.0), (0.1, 0.17), (1.0, 1.0)),
)
SPEND = replace(CHURN, name="spend_28d", is_amount=True, mean=80.5, metrics={"bias": 1.1, "relative_mae": 0.9})
OUTCOMES = OutcomesView(
    outcomes=(CHURN, SPEND),
    users=(
        ScoredUser("churn_60d", f"shop:{EVIL}", 0.912, True, ("days since the last order 80; raises the score",)),
        ScoredUser("spend_28d", "shop:2", 1_234.5, False, ()),
    ),
    weeks=4,
    as_of=DAY[27],
)
SHOP = ShopView(
    weeks=tuple(
        ShopWeek(date(2025, 1, 6) + timedelta(weeks=n), revenue, 10 * n)
        for n, revenue in enumerate((1_000.0, 4_000.0, 5_000.5, 700.0))
    ),
    revenue=9_000.5,
    orders=90,
    customers=45,
    repeat_customers=30,
    year_start=date(2024, 2, 5),
    sales=SalesPeriod(
        date(2025, 1, 6),
        date(2025, 2, 2),
        (SoldItem(f"cup {EVIL}", 90.0, 1_234.5, 80.0), SoldItem("mug", 40.0, 400.0, 50.0)),
        (SoldItem(f"cup {EVIL}", 90.0, 1_234.5, 80.0),),
    ),
    at_risk=CustomersAtRisk("churn_60d", 12, 1_234.5),
    spent_by_segment={0: 500.0, 1: 99.0},
    recommended=((EVIL, 40), ("mug", 12)),
    examples=(
        ExampleCustomer(
            "new",
            ScoredUser("value_180d", f"shop:{EVIL}", 812.5, False, ("orders in 28 days 4; raises the score",)),
            9.0,
        ),
    ),
    purchases=9_876.5,
)
EMPTY = ReportView(
    PipelineView((), (), (), (), (), 0), None, None, None, None, (), None, (), (), (), (), (), (), frozenset()
)
FULL = ReportView(
    pipeline=PipelineView(
        sources=(
            SourceRows("shop", "source", 2, 1_234, 1_200, 30, 4),
            SourceRows("shop", "reprocess", 1, 5, 5, 0, 0),
        ),
        rejected=(RejectedByRule("shop", "not_a_product", f"the code is {EVIL}", 30),),
        capture_batches=tuple(CaptureBatch("shop", n, DAY[n], 600, 15, 2, 3_600.0 * n) for n in range(2)),
        stages=(StageDurations("capture_events", 2, 1_234, 20.0, 10.0, (12.0, 8.0), 21.44, 88_100_000.0),),
        alarms=(AlarmRow("shop", 1, DAY[1], "volume", f"ten times {EVIL}"),),
        alarm_count=1,
    ),
    events=EventsView(
        first=DAY[0],
        last=DAY[27],
        by_hour={(0, 9): 700, (4, 17): 500},
        by_type={"view": 1_000, "purchase": 200},
        guests=50,
        value=9_876.5,
        currency="EUR",
        timezone="UTC",
    ),
    users=UsersView(
        period_grain="day",
        cohort_grain="week",
        periods=tuple(ActivePeriod(day.replace(tzinfo=None), n, n // 2) for n, day in enumerate(DAY)),
        cohorts=(Cohort(datetime(2024, 12, 30), (100, 40, 20)), Cohort(datetime(2025, 1, 6), (80, 20))),
        steps={"any event": 180, "viewed an item": 170, "added to cart": 60, "purchased": 45},
        cart_buyers=40,
        axis=TimeAxis(DAY[0].date(), DAY[27].date(), DAY[0], DAY[27]),
    ),
    segments=SegmentsView(
        current=tuple(SegmentRow(n, 100 - n, f"group {n} {EVIL}", "weekend > 0.5", 0.8, 0.7) for n in range(9)),
        as_of=(DAY[0], DAY[1]),
        sizes={**{n: (90, 100 - n) for n in range(7)}, SegmentsView.OTHERS: (180, 185)},
        moves=((DAY[1], "8 was split from 3"),),
    ),
    tags=TagsView(DAY[27], (TagRow(f"vip {EVIL}", 12, 3, 1), TagRow("at_risk", 7, 0, 2)), 18),
    preferences=(PreferencesView("categories", 150, ((EVIL, 0.5), ("a" * 40 + "1", 0.2), ("a" * 40 + "2", 0.1)), 0.2),),
    outcomes=OUTCOMES,
    demand=(
        DemandView(
            "item", date(2025, 2, 3), (DemandRow(EVIL, 1_204.4, 1_100.0, 0.35), DemandRow("cup", 9.0, 0.0, None))
        ),
    ),
    unusual_days=(UnusualDay("shop:7", date(2025, 1, 27), 0.0004, (f"49 events, usually 3 {EVIL}",)),),
    recall=tuple(MetricPoint("factors", name, "e1", n, DAY[n], 10, 0.1) for n in range(2) for name in ("blend", EVIL)),
    cost=tuple(MetricPoint("segments", "kmeans", "e2", n, DAY[n], 10, 2.5) for n in range(2)),
    shop=SHOP,
    versions=(PublishedVersion("factors", 1, ("champion",), "recall_20 of blend", 0.1, DAY[1], True),),
    cards=(CARD,),
    enabled=frozenset(
        {"learn_factors", "learn_segments", "learn_demand", "learn_outcomes", "serve_tags", "serve_anomalies"}
    ),
)


class PageParser(HTMLParser):
    """Collects the elements with their attributes, and the texts of the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def render(view: ReportView) -> str:
    return html_page.page(sections.title(view), sections.lead(view), sections.groups(view), "let Plotly;")


def sections_of(view: ReportView) -> list[report_elements.Section]:
    return [section for group in sections.groups(view) for section in group.sections]


def figures_of(view: ReportView) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(PageParser(render(view)).scripts[1])
    return figures


def test_texts_of_the_data_cannot_become_elements_or_scripts() -> None:
    elements = PageParser(render(FULL)).elements
    script_types = [attributes.get("type") for name, attributes in elements if name == "script"]
    assert script_types == [None, "application/json", None]
    assert [name for name, _ in elements if name in ("img", "iframe")] == []
    labels = json.dumps(figures_of(FULL))
    # plotly interprets labels as HTML; these elements are from the report itself.
    assert set(re.findall(r"</?(\w+)", labels)) == {"b", "br", "extra"} and "alert(1)" in labels


def test_a_text_in_a_figure_cannot_end_its_script() -> None:
    chart = report_elements.Chart("", "", {"data": [], "layout": {"title": EVIL}})
    group = report_elements.Group("all", "", (), (report_elements.Section("one", "", (chart,)),))
    parser = PageParser(html_page.page("", "", [group], "let Plotly;"))
    assert json.loads(parser.scripts[1]) == {"one-0": chart.figure}


def test_every_figure_is_valid_for_plotly() -> None:
    from plotly import graph_objects  # type: ignore[import-untyped]

    text = json.dumps(figures_of(FULL)).replace('"@heat"', '"Blues"')
    figures = json.loads(re.sub(r'"@\w+"', '"#123456"', text))
    assert len(figures) == 20
    for figure in figures.values():
        graph_objects.Figure(figure)


def test_a_single_batch_is_shown_as_bars_and_not_as_a_line() -> None:
    assert FULL.segments
    sizes = {segment_id: users[1:] for segment_id, users in FULL.segments.sizes.items()}
    one_batch = replace(FULL.segments, as_of=FULL.segments.as_of[1:], sizes=sizes)
    figures = figures_of(replace(FULL, segments=one_batch, cost=FULL.cost[:1]))
    assert [trace["type"] for trace in figures["segments-0"]["data"]] == ["bar"]
    assert figures["segments-0"]["data"][0]["x"] == [100, 99, 98, 97, 96, 95, 94, 185]
    assert figures["quality-1"]["layout"]["xaxis"]["type"] == "category"


def test_key_figures_have_exact_values_for_programs_and_formatted_values_for_readers() -> None:
    elements = PageParser(render(FULL)).elements
    values = {
        attributes["data-name"]: attributes["data-value"] for _, attributes in elements if "data-name" in attributes
    }
    assert values == {
        "customers": "45", "revenue": "9000.5", "revenue_week": "5000.5", "orders": "90",
        "order_value": "109.7388888888889", "repeat_rate": "0.6666666666666666", "at_risk": "12",
        "at_risk_spent": "1234.5",
        "rows_in": "1234", "rows_clean": "1200", "rows_rejected": "30", "rows_duplicate": "4", "alarms": "1",
        "events": "1200", "users": "180", "purchase_value": "9876.5", "segments": "9",
        "assigned_tags": "19", "recall_20": "0.1",
    }  # fmt: skip
    for text in ("<b>1,234</b>", "<b>9,876</b>", "<b>10.0%</b>"):
        assert text in render(FULL)


def test_a_report_without_data_contains_a_hint_in_every_section() -> None:
    empty_sections = sections_of(EMPTY)
    assert [section.name for section in empty_sections if not section.hint or section.parts] == []
    assert all("run" in section.hint for section in empty_sections)
    assert figures_of(EMPTY) == {}
    assert "No events captured yet" in render(EMPTY)


def test_only_sections_without_data_contain_a_hint() -> None:
    by_name = {
        section.name: section
        for section in sections_of(replace(FULL, segments=None, outcomes=None, demand=(), unusual_days=()))
    }
    assert [name for name, section in by_name.items() if section.hint] == [
        "demand",
        "groups",
        "segments",
        "outcomes",
        "unusual",
        "scores",
    ]


def test_the_scores_of_outcomes_are_shown_in_their_units() -> None:
    page = render(FULL)
    for text in ("91.2%", "1,234.50", "45.0%", "80.50", "0.04%", "days since the last order 80; raises the score"):
        assert text in page


def test_a_hint_names_a_setting_only_if_it_is_not_set() -> None:
    none = replace(
        FULL,
        segments=None,
        tags=None,
        outcomes=None,
        demand=(),
        unusual_days=(),
        recall=(),
        cost=(),
        enabled=frozenset(),
    )
    all_enabled = replace(none, enabled=FULL.enabled)
    for view, is_expected in ((none, True), (all_enabled, False)):
        hints = {section.name: section.hint for section in sections_of(view)}
        names = {
            "segments": "learn.segments.enabled", "tags": "serve.tags.enabled", "quality": "learn.factors.enabled",
            "outcomes": "serve.outcomes.enabled", "demand": "learn.demand.enabled",
            "unusual": "serve.anomalies.enabled",
        }  # fmt: skip
        assert {name: setting in hints[name] for name, setting in names.items()} == dict.fromkeys(names, is_expected)


@pytest.mark.parametrize(
    ("stage", "rows", "enabled", "hint"),
    [
        ("learn_factors", 10, {"learn_factors", "learn_segments"}, "evaluated from the second batch on"),
        ("learn_factors", 10, {"learn_factors"}, "learn.max_files_per_trigger"),
        ("learn_segments", 10, {"learn_segments"}, "stream.max_files_per_trigger"),
        ("learn_factors", 0, {"learn_factors", "learn_segments"}, "No events were learned yet"),
        ("capture_events", 10, {"learn_factors"}, "No events were learned yet"),
        ("capture_events", 10, {"serve_tags"}, "Set learn.factors.enabled"),
    ],
)
def test_the_hint_about_model_quality_states_why_no_batch_was_evaluated(
    stage: str, rows: int, enabled: set[str], hint: str
) -> None:
    pipeline = replace(FULL.pipeline, stages=(StageDurations(stage, 1, rows, 1.0, 1.0, (1.0,)),))
    view = replace(FULL, pipeline=pipeline, recall=(), cost=(), enabled=frozenset(enabled))
    assert hint in {section.name: section.hint for section in sections_of(view)}["quality"]


def test_the_stages_have_their_cost_per_million_rows_or_a_dash_without_one() -> None:
    stage = FULL.pipeline.stages[0]
    unknown = replace(stage, cpu_per_million=None, bytes_per_million=None)
    pipeline = replace(FULL.pipeline, stages=(stage, unknown))
    (section,) = [one for one in sections_of(replace(FULL, pipeline=pipeline)) if one.name == "stages"]
    (chart,) = section.parts
    assert isinstance(chart, report_elements.Chart) and chart.table is not None
    assert [row[-2:] for row in chart.table.rows] == [("21.4", "88.1"), ("–", "–")]


def test_a_page_without_clean_events_states_that_all_rows_were_rejected() -> None:
    pipeline = replace(FULL.pipeline, sources=(SourceRows("shop", "source", 1, 7, 0, 7, 0),))
    assert "none of the 7 captured rows is clean" in sections.lead(replace(EMPTY, pipeline=pipeline))
    assert "jobs/capture_events.py" in sections.lead(EMPTY)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_not_on_the_page(value: float) -> None:
    assert FULL.events and FULL.users
    cost = (replace(FULL.cost[0], value=value), *FULL.cost)
    figures = figures_of(replace(FULL, events=replace(FULL.events, value=value), cost=cost))
    assert figures["quality-1"]["data"][0]["y"][0] is None
    groups = sections.groups(replace(FULL, events=replace(FULL.events, value=value)))
    names = {figure.name for group in groups for figure in group.key_figures}
    assert names.isdisjoint({"purchase_value", "revenue", "revenue_week", "order_value", "at_risk_spent"})


def _days(*counts: tuple[int, int]) -> list[DayEvents]:
    """Events at noon: pairs of day number and number of events."""
    days = [(date(2026, 1, 1) + timedelta(days=day), events) for day, events in counts]
    noons = [datetime(day.year, day.month, day.day, 12, tzinfo=UTC) for day, _ in days]
    return [DayEvents(day, events, noon, noon) for (day, events), noon in zip(days, noons, strict=True)]


@pytest.mark.parametrize(
    ("counts", "range_and_outside"),
    [
        ([(0, 1), *[(day, 100) for day in range(75, 84)]], (75, 83, 1, 0)),
        ([(0, 1), (40, 2), *[(day, 100) for day in range(75, 84)], (300, 3)], (75, 83, 3, 3)),
        ([(0, 1), *[(day, 2) for day in range(75, 84)]], (75, 83, 1, 0)),
        ([(0, 1), (3, 500)], (3, 3, 1, 0)),
        # A share of 10 % of the events is not a mistake, nor are single events of a short log.
        ([(0, 100), *[(day, 100) for day in range(75, 84)]], (0, 83, 0, 0)),
        ([(0, 1), (30, 1), (300, 1)], (0, 300, 0, 0)),
        # A shop that grows: few events in the first years.
        ([(day, 1 + day // 100) for day in range(0, 4000, 7)], (0, 3997, 0, 0)),
        ([(day, 2**day) for day in range(0, 20)], (0, 19, 0, 0)),
        ([(0, 5)], (0, 0, 0, 0)),
        ([(0, 5000)], (0, 0, 0, 0)),
        # Two seasons of the same size, a year apart.
        ([*[(day, 50) for day in range(10)], *[(day, 50) for day in range(365, 375)]], (0, 374, 0, 0)),
    ],
)
def test_the_time_axis_leaves_out_a_few_events_that_are_far_from_all_others(
    counts: list[tuple[int, int]], range_and_outside: tuple[int, int, int, int]
) -> None:
    days = _days(*counts)
    axis = time_axis.choose_axis(days)
    first, last, before, after = range_and_outside
    assert [(axis.first_day - days[0].day).days + counts[0][0], (axis.last_day - days[0].day).days] == [first, last]
    assert (axis.before, axis.after) == (before, after)
    assert (axis.first.date(), axis.last.date()) == (axis.first_day, axis.last_day)


def test_events_outside_of_the_time_axis_are_counted_below_the_charts() -> None:
    assert FULL.users
    users = replace(FULL.users, axis=replace(FULL.users.axis, before=1, after=1_234))
    for section in (sections_users.activity(users), sections_users.retention(users)):
        (chart,) = section.parts
        assert isinstance(chart, report_elements.Chart)
        assert "1 event before 2025-01-01 and 1,234 events after 2025-01-28" in chart.caption
    one_cohort = replace(users, cohorts=users.cohorts[:1])
    assert "1 event before 2025-01-01" in sections_users.retention(one_cohort).hint
    assert "Not on the time axis" not in render(FULL)


def test_the_start_of_tags_that_the_first_run_finds_is_not_counted_as_gained() -> None:
    tags = TagsView(DAY[27], (TagRow("vip", 12, 0, 0, 12), TagRow("new", 3, 3, 0)), 18)
    page = render(replace(FULL, tags=tags))
    assert "users gained 3 and lost 0 tags. 12 tags may be older: no earlier run evaluated their rules." in page
    assert "may be older" not in render(FULL)


def test_a_segment_without_a_rule_says_so() -> None:
    assert FULL.segments
    segments = replace(FULL.segments, current=(SegmentRow(1, 5, "few views", "", None, None),))
    assert "no rule: the segment is the largest in no leaf of the tree" in render(replace(FULL, segments=segments))


def test_sections_that_need_people_are_left_out_when_user_ids_are_sessions() -> None:
    assert FULL.users
    steps = {**FULL.users.steps, "purchased on another day": 7}
    people = replace(FULL, users=replace(FULL.users, steps=steps))
    sessions = replace(people, has_people=False)
    hints = [{one.name: one.hint for one in sections_of(view)}["retention"] for view in (people, sessions)]
    assert hints[0] == "" and hints[1].startswith("Left out, because the user ids are sessions")
    texts = [json.dumps(figures_of(view)) for view in (people, sessions)]
    assert ["purchased on another day" in text for text in texts] == [True, False]


def test_names_that_are_equal_after_shortening_keep_separate_bars() -> None:
    figure = figures_of(FULL)["preferences-0"]
    assert figure["data"][0]["y"] == [0, 1, 2]
    labels = [label["text"].split("  ")[0] for label in figure["layout"]["annotations"]]
    assert labels[1] == labels[2] == "a" * 39 + "…"
    assert [name[-1] for name, _ in figure["data"][0]["customdata"][1:3]] == ["1", "2"]


def test_the_report_states_whether_the_row_accounting_is_balanced() -> None:
    unbalanced = replace(FULL.pipeline, sources=(SourceRows("shop", "source", 1, 10, 7, 1, 1),))
    assert "1 rows are missing" in render(replace(FULL, pipeline=unbalanced))
    assert "Row accounting is balanced: rows in = clean + rejected + duplicate" in render(FULL)


@pytest.mark.parametrize(
    ("days", "period_grain", "cohort_grain"),
    [
        (0.2, "ten minutes", "hour"),
        (3, "hour", "day"),
        (20, "day", "day"),
        (374, "week", "month"),
        (9e3, "month", "month"),
    ],
)
def test_periods_are_longer_for_longer_time_ranges(days: float, period_grain: str, cohort_grain: str) -> None:
    last = datetime.fromtimestamp(DAY[0].timestamp() + days * 86_400, UTC)
    assert time_grains.choose_grains(DAY[0], last) == (period_grain, cohort_grain)


@pytest.mark.parametrize(
    ("values", "outside"),
    [
        ([10, 11, 12, 9, 10, 500], (5,)),
        ([-300, 5, 6, 7, 8, 9], (0,)),
        ([*range(1, 40), 900, 200], (39, 40)),
        # Values that grow, values near each other, and few values.
        ([1, 2, 4, 8, 16, 32], ()),
        ([10, 11, 12, 9, 10, 40], ()),
        ([1, 1, 900], ()),
        ([0, 0, 0, 0, 0, 7], ()),
        ([1, 2, 3, 4, math.inf], ()),
    ],
)
def test_the_value_axis_leaves_out_a_few_values_that_hide_all_others(values: list[float], outside: tuple[int]) -> None:
    axis = value_axis.choose_axis(values)
    assert (() if axis is None else axis.outside) == outside
    assert axis is None or all(axis.low <= value <= axis.high for n, value in enumerate(values) if n not in outside)


def test_a_week_that_hides_all_others_is_not_on_the_axis_and_is_named_in_the_caption() -> None:
    weeks = tuple(replace(SHOP.weeks[0], start=date(2025, 1, 6) + timedelta(weeks=n)) for n in range(9))
    weeks = (*weeks[:4], replace(weeks[4], revenue=168_470.0), *weeks[5:])
    view = replace(FULL, shop=replace(SHOP, weeks=weeks))
    figure = figures_of(view)["revenue-0"]
    assert figure["layout"]["yaxis"]["range"] == [0.0, 1_150.0] and max(figure["data"][0]["y"]) == 168_470.0
    assert "Beyond the end of the axis: 168,470 (2025-02-03)." in render(view)
    assert "Beyond the end" not in render(FULL)


def test_the_open_week_is_hatched_and_has_no_change() -> None:
    page = render(FULL)
    bars = figures_of(FULL)["revenue-0"]["data"][0]
    assert bars["marker"]["pattern"]["shape"] == ["", "", "", "/"]
    assert "+25.0% against the week before" in page
    assert SHOP.change(2) == pytest.approx(0.250125)
    assert [SHOP.change(n) for n in (0, 1, 3)] == [None, None, None]


def test_a_log_without_prices_shows_orders_and_units() -> None:
    assert FULL.events
    view = replace(FULL, events=replace(FULL.events, value=0.0))
    page = render(view)
    names = [figure.name for figure in sections.groups(view)[0].key_figures]
    assert names == ["customers", "orders", "repeat_rate", "at_risk"]
    assert "Orders by week" in page and "Revenue" not in page and "spent" not in page
    assert figures_of(view)["items-0"]["data"][0]["x"] == [90.0, 40.0]


def test_a_log_of_one_week_or_of_sessions_or_guests_only_has_no_key_figures_that_need_more() -> None:
    one_week = replace(SHOP, weeks=SHOP.weeks[-1:], sales=replace(SHOP.sales, risers=()), at_risk=None)
    views = {
        "week": replace(FULL, shop=one_week),
        "sessions": replace(FULL, has_people=False),
        "guests": replace(FULL, users=None, segments=None, shop=replace(SHOP, customers=0, repeat_customers=0)),
    }
    names = {name: {one.name for one in sections.groups(view)[0].key_figures} for name, view in views.items()}
    assert names["week"] == {"customers", "revenue", "orders", "order_value", "repeat_rate"}
    assert names["sessions"] == {"customers", "revenue", "revenue_week", "orders", "order_value"}
    assert "repeat_rate" not in names["guests"]
    for view in views.values():
        assert "Revenue by week" in render(view)
    assert "sessions with a purchase" in render(views["sessions"])


def test_segments_have_their_value_and_direction_and_a_rule_in_words() -> None:
    assert FULL.segments
    current = tuple(replace(row, rule_in_words="at weekends (weekend over 50%)") for row in FULL.segments.current)
    view = replace(FULL, segments=replace(FULL.segments, current=current))
    by_name = {section.name: section for section in sections_of(view)}
    (table,) = by_name["groups"].parts
    assert isinstance(table, report_elements.TextTable)
    assert table.columns[3:6] == ("spent since 2024-02-05", "each", "change since 2025-01-01")
    assert table.rows[0][1:] == ("100", "11.6%", "500", "5", "+10", "at weekends (weekend over 50%)")
    assert table.rows[8][3:6] == ("0", "0", "–")
    visible = [part for part in by_name["segments"].parts if isinstance(part, report_elements.TextTable)]
    assert not any("weekend > 0.5" in cell for part in [table, *visible] for row in part.rows for cell in row)
    assert "weekend &gt; 0.5" in render(view)


def test_sizes_are_compared_with_the_last_batch_at_least_four_weeks_before() -> None:
    days = (DAY[0], DAY[10], DAY[27] + timedelta(weeks=2), DAY[27] + timedelta(weeks=3))
    for as_of, position in ((days, 1), (days[:2], 0), (days[:1], None)):
        assert SegmentsView((), as_of, {}, ()).compared == position
