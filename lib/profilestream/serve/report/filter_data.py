"""The numbers that the filter of the report shows, as compact JSON values: one entry per source, segment and period.

The script of the page only chooses an entry: all numbers and texts are those of the sections, computed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from profilestream.base.language import translate
from profilestream.serve.report import chart_elements, charts, filter_words, sections_shop
from profilestream.serve.report.chart_elements import BAR_HEIGHT
from profilestream.serve.report.report_elements import Chart, Section
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_shop import PeriodSales, SalesSlice, ShopView, SoldItem
from profilestream.serve.text_width import shorten

_MAX_NAME = 60


@dataclass(frozen=True)
class Option:
    """A value to choose, with its text; the empty value does not filter."""

    value: str
    text: str


@dataclass(frozen=True)
class Filters:
    """What the page can be filtered by.

    Args:
        choices: the options of each field, the first one is chosen at the start; fields without a choice are left out.
        left_out: sentences about what is not offered.
        data: the numbers, as JSON values.
    """

    choices: dict[str, tuple[Option, ...]]
    left_out: tuple[str, ...]
    data: dict[str, Any]


def filters(view: ReportView) -> Filters | None:
    """The choices and the numbers of the filter; null if there is nothing to choose from."""
    if view.shop is None or not view.shop.slices:
        return None
    fields = _choices(view, view.shop)
    choices = {name: options for name, options in fields.items() if len(options) > 1}
    if not choices:
        return None
    names: dict[str, int] = {}
    slices = {_key(one): _slice(view, view.shop, one, names) for one in view.shop.slices}
    data = {
        "slices": slices,
        "names": [shorten(name, _MAX_NAME) for name in names],
        "cuts": [_cut(name) for name in names],
        "words": filter_words.script_texts(),
        "bar_height": BAR_HEIGHT,
    }
    return Filters(choices, _left_out(view, fields), data)


def _cut(name: str) -> int:
    """Number of UTF-16 code units, those of JavaScript, in front of the ellipsis of a label; 0 if it is not cut."""
    short = shorten(name, chart_elements.MAX_LABEL)
    return 0 if short == name else len(short[:-1].encode("utf-16-le")) // 2


def _key(sales: SalesSlice) -> str:
    """The values of the fields `source` and `segment`."""
    return f"{sales.source or ''}|{'' if sales.segment is None else sales.segment}"


def _choices(view: ReportView, shop: ShopView) -> dict[str, tuple[Option, ...]]:
    sources = dict.fromkeys(one.source for one in shop.slices if one.source is not None)
    segments = dict.fromkeys(one.segment for one in shop.slices if one.segment is not None)
    texts = {row.segment_id: row.description for row in view.segments.current} if view.segments else {}
    lengths = [period.weeks for period in shop.slices[0].periods if period.weeks]
    return {
        "source": (
            Option("", translate(filter_words.ALL_SOURCES)),
            *(Option(name, shorten(name, chart_elements.MAX_LABEL)) for name in sources),
        ),
        "period": (
            Option("", translate(filter_words.WHOLE_LOG)),
            *(Option(str(n), filter_words.weeks(n)) for n in lengths),
        ),
        "segment": (
            Option("", translate(filter_words.ALL_USERS)),
            *(Option(str(n), shorten(filter_words.segment(n, texts.get(n, "")), _MAX_NAME)) for n in segments),
        ),
    }


def _left_out(view: ReportView, choices: dict[str, tuple[Option, ...]]) -> tuple[str, ...]:
    """Sentences about sources and segments that the filter does not offer."""
    totals = {
        "source": len({source.source for source in view.pipeline.sources}),
        "segment": len(view.segments.current) if view.segments else 0,
    }
    offered = {name: len(choices[name]) - 1 for name in totals}
    return tuple(
        filter_words.left_out(name, offered[name], total) for name, total in totals.items() if 0 < offered[name] < total
    )


def _slice(view: ReportView, shop: ShopView, sales: SalesSlice, names: dict[str, int]) -> dict[str, Any]:
    """The revenue by week, and the entries of the periods by their number of weeks; "" is the whole log."""
    whole = sales.periods[0]
    chart = _charts(sections_shop.revenue(_view(view, shop, sales, whole)))[0]
    assert chart.table is not None
    bars = chart.figure["data"][0]
    return {
        "y": [round(value, 2) for value in bars["y"]],
        "range": chart.figure["layout"]["yaxis"].get("range"),
        "caption": chart.caption,
        "rows": [row[1:] for row in chart.table.rows],
        "periods": {str(one.weeks or ""): _period(view, shop, sales, one, names) for one in sales.periods},
    }


def _view(view: ReportView, shop: ShopView, sales: SalesSlice, period: PeriodSales) -> ReportView:
    """The contents of the page for an entry; the number of visitors is only known for the complete log."""
    is_all = sales is shop.slices[0] and not period.weeks
    return replace(view, shop=shop.selected(sales, period), users=view.users if is_all else None)


def _period(
    view: ReportView, shop: ShopView, sales: SalesSlice, period: PeriodSales, names: dict[str, int]
) -> dict[str, Any]:
    selected = _view(view, shop, sales, period)
    shown = _charts(sections_shop.items(selected))
    sold = (period.items.best, period.items.risers)
    return {
        "figures": {one.name: [one.value, one.shown, one.note] for one in sections_shop.key_figures(selected)},
        # Position of the first week of the period, which ends before the open week.
        "first": max(0, len(_shown_weeks(sales)) - 1 - period.weeks) if period.weeks else None,
        "lists": [_bars(chart, items, names) for chart, items in zip(shown, sold, strict=False)],
    }


def _shown_weeks(sales: SalesSlice) -> Sequence[Any]:
    return sales.weeks[-charts.MAX_WEEKS :]


def _bars(chart: Chart, items: Sequence[SoldItem], names: dict[str, int]) -> dict[str, Any]:
    """A chart of items: for each the number of its name, value, text, text behind the name, and cells of the table."""
    assert chart.table is not None
    bars, layout = chart.figure["data"][0], chart.figure["layout"]
    rows = [
        [
            names.setdefault(item.name, len(names)),
            round(value, 2),
            text,
            label["text"][label["text"].index("  <b>") :],
            *row[1:],
        ]
        for item, value, (_, text), label, row in zip(
            items, bars["x"], bars["customdata"], layout["annotations"], chart.table.rows, strict=True
        )
    ]
    return {"caption": chart.caption, "range": layout["xaxis"].get("range"), "rows": rows}


def _charts(section: Section) -> list[Chart]:
    return [part for part in section.parts if isinstance(part, Chart)]
