"""Key figures and sections for the merchant."""

import math

from profilestream.learn.segments import segment_rules
from profilestream.serve.report import chart_elements, charts, value_axis
from profilestream.serve.report.report_elements import Chart, KeyFigure, Section, TextTable
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_shop import SoldItem
from profilestream.serve.report.view_users import SegmentRow, SegmentsView

_NO_PURCHASES = "There are no purchases yet: map the event type purchase and run jobs/run_pipeline.py."


def key_figures(view: ReportView) -> tuple[KeyFigure, ...]:
    """The key figures of the shop; those without data are left out."""
    shop = view.shop
    if shop is None:
        return ()
    who = "customers" if view.has_people else "sessions with a purchase"
    note = f"of {max(view.users.steps.values()):,} visitors with an id" if view.users else ""
    figures = [KeyFigure("customers", who, shop.customers, note=note)] if shop.customers else []
    if (unit := _currency(view)) is not None:
        figures.append(KeyFigure("revenue", "revenue minus returns", shop.revenue, note=unit))
        if len(shop.weeks) > 1:
            last = len(shop.weeks) - 2
            week, change = shop.weeks[last], shop.change(last)
            against = "" if change is None else f"{change:+.1%} against the week before"
            label = f"revenue, week of {week.start:%Y-%m-%d}"
            figures.append(KeyFigure("revenue_week", label, week.revenue, note=against))
    last_orders = f"{shop.weeks[-2].orders:,} in that week" if len(shop.weeks) > 1 else ""
    figures.append(KeyFigure("orders", "orders", shop.orders, note=last_orders))
    if unit is not None and shop.orders:
        value = shop.purchases / shop.orders
        figures.append(KeyFigure("order_value", "average order", value, f"{value:,.2f}", unit))
    if view.has_people and shop.customers:
        rate = shop.repeat_customers / shop.customers
        figures.append(KeyFigure("repeat_rate", "customers with two orders or more", rate, f"{rate:.1%}"))
    if view.has_people and shop.at_risk is not None:
        days = shop.at_risk.outcome.rpartition("_")[2].removesuffix("d")
        note = f"probably no purchase in {days} days"
        figures.append(KeyFigure("at_risk", "customers at risk", shop.at_risk.customers, note=note))
        if unit is not None:
            label, note = "spent by customers at risk", f"{unit} since {shop.year_start:%Y-%m-%d}"
            figures.append(KeyFigure("at_risk_spent", label, shop.at_risk.spent, note=note))
    return tuple(figure for figure in figures if math.isfinite(figure.value))


def _currency(view: ReportView) -> str | None:
    """The currency of the revenue, or that it is unknown; null if the values of the log have no sum."""
    if view.events is None or not view.events.value or not math.isfinite(view.events.value):
        return None
    return view.events.currency or "currency unknown"


def revenue(view: ReportView) -> Section:
    """Revenue or, for a log without values, orders by week."""
    unit = _currency(view)
    name, title = "revenue", "Orders by week" if unit is None else "Revenue by week"
    if view.shop is None:
        return Section(name, title, hint=_NO_PURCHASES)
    weeks = view.shop.weeks[-charts.MAX_WEEKS :]
    values = [float(week.orders) if unit is None else week.revenue for week in weeks]
    texts = [f"{value:,.0f}" for value in values]
    starts = [f"{week.start:%Y-%m-%d}" for week in weeks]
    axis = value_axis.choose_axis(values)
    what = "Orders" if unit is None else f"Value of the purchases minus that of the returns ({unit})"
    caption = (
        f"{what}, weeks from Monday on. The last week is open: it is hatched, and has no change."
        f"{value_axis.note(axis, starts, texts)}"
    )
    changes = [view.shop.change(len(view.shop.weeks) - len(weeks) + n) for n in range(len(weeks))]
    rows = tuple(
        (start, *(() if unit is None else (text, "–" if change is None else f"{change:+.1%}")), f"{week.orders:,}")
        for start, text, change, week in zip(starts, texts, changes, weeks, strict=True)
    )
    columns = ("week of", "orders") if unit is None else ("week of", "revenue", "change", "orders")
    figure = charts.weekly_bars(starts, values, unit or "orders", axis)
    chart_title = "Purchases by week" if unit is None else "Purchases minus returns"
    return Section(name, title, (Chart(chart_title, caption, figure, TextTable("All weeks", columns, rows[::-1])),))


def items(view: ReportView) -> Section:
    """Best sellers, and the items whose sales have risen most."""
    name, title = "items", "Best sellers and risers"
    if view.shop is None or not view.shop.sales.best:
        return Section(name, title, hint=_NO_PURCHASES)
    sales, unit = view.shop.sales, _currency(view)
    period = f"{sales.first:%Y-%m-%d} to {sales.last:%Y-%m-%d}"
    by = "units" if unit is None else f"revenue ({unit})"
    best = [item.units if unit is None else item.revenue for item in sales.best]
    notes = ["" if unit is None else f" · {item.units:,.0f} units" for item in sales.best]
    parts = [
        _item_chart("Best sellers", f"By {by} minus returns, {period}.", sales.best, best, notes, unit, 0),
    ]
    if sales.risers:
        rises = [item.units - item.units_before for item in sales.risers]
        notes = [f" more · {item.units:,.0f} units" for item in sales.risers]
        caption = f"Largest increase of units minus returns, {period}, against the period of equal length before."
        parts.append(_item_chart("Risers", caption, sales.risers, rises, notes, unit, 2))
    return Section(name, title, tuple(parts))


def _item_chart(
    title: str, caption: str, sold: tuple[SoldItem, ...], values: list[float], notes: list[str], unit: str | None,
    color: int,
) -> Chart:  # fmt: skip
    names, texts = [item.name for item in sold], [f"{value:,.0f}" for value in values]
    figure, outside = chart_elements.bars_with_note(names, values, texts, chart_elements.color(color), notes)
    revenue = () if unit is None else ("revenue",)
    rows = tuple(
        (
            item.name,
            f"{item.units:,.0f}",
            f"{item.units_before:,.0f}",
            *(() if unit is None else (f"{item.revenue:,.0f}",)),
        )
        for item in sold
    )
    return Chart(title, caption + outside, figure, TextTable(title, ("item", "units", "units before", *revenue), rows))


def segments(view: ReportView) -> Section:
    """The segments with their size, value and direction."""
    name, title, segments = "groups", "Customer segments", view.segments
    if segments is None:
        return Section(name, title, hint="There are no segments yet: run jobs/learn_segments.py.")
    spent = {} if view.shop is None or _currency(view) is None else view.shop.spent_by_segment
    rows = tuple(_segment_row(row, segments, spent) for row in segments.current)
    compared = segments.compared
    columns = ["segment", "users" if view.has_people else "sessions", "share"]
    if spent and view.shop is not None:
        columns += [f"spent since {view.shop.year_start:%Y-%m-%d}", "each"]
    if compared is not None:
        columns.append(f"change since {segments.as_of[compared]:%Y-%m-%d}")
    return Section(name, title, (TextTable("Groups with similar behavior", (*columns, "who is in it"), rows),))


def _segment_row(row: SegmentRow, segments: SegmentsView, spent: dict[int, float]) -> tuple[str, ...]:
    cells = [row.description or f"segment {row.segment_id}", f"{row.users:,}", f"{row.users / segments.users:.1%}"]
    if spent:
        value = spent.get(row.segment_id, 0.0)
        cells += [f"{value:,.0f}", f"{value / row.users:,.0f}" if row.users else "–"]
    if segments.compared is not None:
        sizes = segments.sizes.get(row.segment_id)
        cells.append("–" if sizes is None else f"{row.users - sizes[segments.compared]:+,}")
    return (*cells, row.rule_in_words or segment_rules.NO_RULE)


def recommended(view: ReportView, *, is_enabled: bool) -> Section:
    """The items that are recommended to most users."""
    name, title = "recommended", "Recommended most"
    if view.shop is None or not view.shop.recommended:
        do = "Capture more events" if is_enabled else "Set serve.scores.enabled = true"
        return Section(name, title, hint=f"There are no recommendations. {do}, and run jobs/run_pipeline.py.")
    names, users = zip(*view.shop.recommended, strict=True)
    texts = [f"{count:,}" for count in users]
    figure, outside = chart_elements.bars_with_note(names, users, texts, chart_elements.color(3))
    caption = f"Items by the number of users whose lists contain them.{outside}"
    table = TextTable("Items and users", ("item", "users"), tuple(zip(names, texts, strict=True)))
    return Section(name, title, (Chart("Items in the lists of most users", caption, figure, table),))
