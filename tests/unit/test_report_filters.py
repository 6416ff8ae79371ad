"""What the filter of the report offers, and the size of its numbers; no Spark."""

import json
from dataclasses import replace
from datetime import date, timedelta

from profilestream.serve.report import filter_data, filter_form, html_page, offered, sections
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_pipeline import SourceRows
from profilestream.serve.report.view_shop import PeriodSales, SalesPeriod, SalesSlice, ShopWeek, SoldItem
from profilestream.serve.report.view_users import SegmentRow

from tests.unit.test_report import EVIL, FULL, SHOP


def _slice(source: str | None, segment: int | None, weeks: int) -> SalesSlice:
    """Long names, and other items in every list."""
    start = date(2020, 1, 6)
    name = f"{source} {segment} & a long name of an item, which is more than sixty characters long, with its color "
    sales = []
    for length in (0, *offered.PERIOD_WEEKS):
        sold = tuple(SoldItem(f"{length} {n} {name}", 12_345.0, 1_234_567.89, 4_321.0 - n) for n in range(8))
        risers = tuple(replace(item, name=f"{item.name} riser") for item in sold)
        items = SalesPeriod(start, start, sold, risers)
        sales.append(PeriodSales(length, 1_234_567.89, 1_300_000.5, 12_345, 6_789, 2_345, items))
    by_week = tuple(ShopWeek(start + timedelta(weeks=n), 123_456.78 + n, 12_345) for n in range(weeks))
    return SalesSlice(source, segment, by_week, SHOP.at_risk, tuple(sales))


def filtered_view(sources: int, segments: int, weeks: int) -> ReportView:
    """The contents of a page whose filter offers these numbers of sources and segments."""
    offer = offered.offer(
        [(f"source_{n} {EVIL}", 100 - n) for n in range(sources)], [(n, 100 - n) for n in range(segments)]
    )
    slices = [_slice(one, n, weeks) for one in (None, *offer.sources) for n in (None, *offer.segments)]
    rows = tuple(SourceRows(f"source_{n} {EVIL}", "source", 1, 9, 9, 0, 0) for n in range(sources))
    current = tuple(SegmentRow(n, 9, f"{n}: {EVIL}", "", None, None) for n in range(segments))
    assert FULL.segments
    return replace(
        FULL,
        pipeline=replace(FULL.pipeline, sources=rows),
        segments=replace(FULL.segments, current=current),
        shop=replace(SHOP, weeks=slices[0].weeks, slices=tuple(slices)),
    )


def test_the_numbers_of_a_long_log_with_many_sources_and_segments_are_less_than_a_megabyte() -> None:
    filters = filter_data.filters(filtered_view(sources=30, segments=50, weeks=300))
    assert filters is not None
    assert len(filters.data["slices"]) == (1 + offered.MAX_SOURCES) * (1 + offered.MAX_SEGMENTS)
    assert filters.left_out == (
        "The filter offers the 5 largest of 30 sources.", "The filter offers the 8 largest of 50 segments.",
    )  # fmt: skip
    assert len(json.dumps(filters.data, ensure_ascii=False, separators=(",", ":")).encode()) < 1e6
    assert EVIL not in filter_form.form(filters)


def test_a_field_without_a_choice_is_left_out_and_a_page_without_choices_has_no_filter() -> None:
    names = {}
    for sources, segments in ((1, 1), (1, 3), (3, 1)):
        view = filtered_view(sources, segments, weeks=60)
        filters = filter_data.filters(view)
        assert filters is not None and filters.left_out == ()
        names[sources, segments] = list(filters.choices)
    assert names == {(1, 1): ["period"], (1, 3): ["period", "segment"], (3, 1): ["source", "period"]}
    shop = filtered_view(1, 1, weeks=3).shop
    assert shop is not None
    only = replace(shop.slices[0], periods=shop.slices[0].periods[:1])
    assert filter_data.filters(replace(FULL, shop=replace(shop, slices=(only,)))) is None
    assert filter_data.filters(FULL) is None and filter_data.filters(replace(FULL, shop=None)) is None


def test_the_form_is_hidden_without_scripts() -> None:
    view = filtered_view(2, 2, weeks=60)
    filters = filter_data.filters(view)
    page = html_page.page(sections.title(view), sections.lead(view), sections.groups(view), "let Plotly;", filters)
    assert '<form class="filter" id="filter" aria-label="Filter" autocomplete="off" hidden>' in page
    assert page.count(EVIL) == 0
