"""Key figures and sections for the merchant."""

import math

from profilestream.base.language import join_sentences, message, translate
from profilestream.learn.segments import segment_rules
from profilestream.serve.report import chart_elements, charts, value_axis
from profilestream.serve.report.report_elements import Chart, KeyFigure, Section, TextTable
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_shop import SoldItem
from profilestream.serve.report.view_users import SegmentRow, SegmentsView

_NO_PURCHASES = message("There are no purchases yet: map the event type purchase and run jobs/run_pipeline.py.")


def key_figures(view: ReportView) -> tuple[KeyFigure, ...]:
    """The key figures of the shop; those without data are left out."""
    shop = view.shop
    if shop is None:
        return ()
    who = translate("customers") if view.has_people else translate("sessions with a purchase")
    note = ""
    if view.users:
        note = translate("of {count:,} visitors with an id", count=max(view.users.steps.values()))
    figures = [KeyFigure("customers", who, shop.customers, note=note)] if shop.customers else []
    if (unit := _currency(view)) is not None:
        figures.append(KeyFigure("revenue", translate("revenue minus returns"), shop.revenue, note=unit))
        if len(shop.weeks) > 1:
            last = len(shop.weeks) - 2
            week, change = shop.weeks[last], shop.change(last)
            against = ""
            if change is not None:
                against = translate("{change:+.1%} against the week before", change=change)
            label = translate("revenue, week of {day}", day=week.start)
            figures.append(KeyFigure("revenue_week", label, week.revenue, note=against))
    last_orders = translate("{orders:,} in that week", orders=shop.weeks[-2].orders) if len(shop.weeks) > 1 else ""
    figures.append(KeyFigure("orders", translate("orders"), shop.orders, note=last_orders))
    if unit is not None and shop.orders:
        value = shop.purchases / shop.orders
        figures.append(KeyFigure("order_value", translate("average order"), value, f"{value:,.2f}", unit))
    if view.has_people and shop.customers:
        rate = shop.repeat_customers / shop.customers
        label = translate("customers with two orders or more")
        figures.append(KeyFigure("repeat_rate", label, rate, f"{rate:.1%}"))
    if view.has_people and shop.at_risk is not None:
        days = shop.at_risk.outcome.rpartition("_")[2].removesuffix("d")
        note = translate("probably no purchase in {days} days", days=days)
        figures.append(KeyFigure("at_risk", translate("customers at risk"), shop.at_risk.customers, note=note))
        if unit is not None:
            label = translate("spent by customers at risk")
            note = translate("{currency} since {day}", currency=unit, day=shop.year_start)
            figures.append(KeyFigure("at_risk_spent", label, shop.at_risk.spent, note=note))
    return tuple(figure for figure in figures if math.isfinite(figure.value))


def _currency(view: ReportView) -> str | None:
    """The currency of the revenue, or that it is unknown; null if the values of the log have no sum."""
    if view.events is None or not view.events.value or not math.isfinite(view.events.value):
        return None
    return view.events.currency or translate("currency unknown")


def revenue(view: ReportView) -> Section:
    """Revenue or, for a log without values, orders by week."""
    unit = _currency(view)
    name, title = "revenue", translate("Orders by week") if unit is None else translate("Revenue by week")
    if view.shop is None:
        return Section(name, title, hint=translate(_NO_PURCHASES))
    weeks = view.shop.weeks[-charts.MAX_WEEKS :]
    values = [float(week.orders) if unit is None else week.revenue for week in weeks]
    texts = [f"{value:,.0f}" for value in values]
    starts = [f"{week.start:%Y-%m-%d}" for week in weeks]
    axis = value_axis.choose_axis(values)
    what = translate("Orders, weeks from Monday on.")
    if unit is not None:
        what = translate(
            "Value of the purchases minus that of the returns ({currency}), weeks from Monday on.", currency=unit
        )
    open_week = translate("The last week is open: it is hatched, and has no change.")
    caption = join_sentences(what, open_week, value_axis.note(axis, starts, texts))
    changes = [view.shop.change(len(view.shop.weeks) - len(weeks) + n) for n in range(len(weeks))]
    rows = tuple(
        (start, *(() if unit is None else (text, "–" if change is None else f"{change:+.1%}")), f"{week.orders:,}")
        for start, text, change, week in zip(starts, texts, changes, weeks, strict=True)
    )
    of_values = () if unit is None else (translate("revenue"), translate("change"))
    columns = (translate("week of"), *of_values, translate("orders"))
    figure = charts.weekly_bars(starts, values, unit or translate("orders"), axis)
    chart_title = translate("Purchases by week") if unit is None else translate("Purchases minus returns")
    table = TextTable(translate("All weeks"), columns, rows[::-1])
    return Section(name, title, (Chart(chart_title, caption, figure, table),))


def items(view: ReportView) -> Section:
    """Best sellers, and the items whose sales have risen most."""
    name, title = "items", translate("Best sellers and risers")
    if view.shop is None or not view.shop.sales.best:
        return Section(name, title, hint=translate(_NO_PURCHASES))
    sales, unit = view.shop.sales, _currency(view)
    days = {"first": sales.first, "last": sales.last}
    caption = translate("By units minus returns, {first} to {last}.", **days)
    if unit is not None:
        caption = translate("By revenue ({currency}) minus returns, {first} to {last}.", currency=unit, **days)
    best = [item.units if unit is None else item.revenue for item in sales.best]
    notes = ["" if unit is None else f" · {_units(item)}" for item in sales.best]
    parts = [_item_chart(translate("Best sellers"), caption, sales.best, best, notes, unit, 0)]
    if sales.risers:
        rises = [item.units - item.units_before for item in sales.risers]
        notes = [" " + translate("more · {units}", units=_units(item)) for item in sales.risers]
        caption = translate(
            "Largest increase of units minus returns, {first} to {last}, against the period of equal length before.",
            **days,
        )
        parts.append(_item_chart(translate("Risers"), caption, sales.risers, rises, notes, unit, 2))
    return Section(name, title, tuple(parts))


def _units(item: SoldItem) -> str:
    return translate("{units:,.0f} units", units=item.units)


def _item_chart(
    title: str, caption: str, sold: tuple[SoldItem, ...], values: list[float], notes: list[str], unit: str | None,
    color: int,
) -> Chart:  # fmt: skip
    names, texts = [item.name for item in sold], [f"{value:,.0f}" for value in values]
    figure, outside = chart_elements.bars_with_note(names, values, texts, chart_elements.color(color), notes)
    revenue = () if unit is None else (translate("revenue"),)
    columns = (translate("item"), translate("units"), translate("units before"), *revenue)
    rows = tuple(
        (
            item.name,
            f"{item.units:,.0f}",
            f"{item.units_before:,.0f}",
            *(() if unit is None else (f"{item.revenue:,.0f}",)),
        )
        for item in sold
    )
    return Chart(title, join_sentences(caption, outside), figure, TextTable(title, columns, rows))


def segments(view: ReportView) -> Section:
    """The segments with their size, value and direction."""
    name, title, segments = "groups", translate("Customer segments"), view.segments
    if segments is None:
        return Section(name, title, hint=translate("There are no segments yet: run jobs/learn_segments.py."))
    spent = {} if view.shop is None or _currency(view) is None else view.shop.spent_by_segment
    rows = tuple(_segment_row(row, segments, spent) for row in segments.current)
    compared = segments.compared
    users = translate("users") if view.has_people else translate("sessions")
    columns = [translate("segment"), users, translate("share")]
    if spent and view.shop is not None:
        columns += [translate("spent since {day}", day=view.shop.year_start), translate("each")]
    if compared is not None:
        columns.append(translate("change since {day}", day=segments.as_of[compared].date()))
    columns.append(translate("who is in it"))
    return Section(name, title, (TextTable(translate("Groups with similar behavior"), tuple(columns), rows),))


def _segment_row(row: SegmentRow, segments: SegmentsView, spent: dict[int, float]) -> tuple[str, ...]:
    cells = [
        row.description or translate("segment {number}", number=row.segment_id),
        f"{row.users:,}",
        f"{row.users / segments.users:.1%}",
    ]
    if spent:
        value = spent.get(row.segment_id, 0.0)
        cells += [f"{value:,.0f}", f"{value / row.users:,.0f}" if row.users else "–"]
    if segments.compared is not None:
        sizes = segments.sizes.get(row.segment_id)
        cells.append("–" if sizes is None else f"{row.users - sizes[segments.compared]:+,}")
    return (*cells, row.rule_in_words or translate(segment_rules.NO_RULE))


def recommended(view: ReportView, *, is_enabled: bool) -> Section:
    """The items that are recommended to most users."""
    name, title = "recommended", translate("Recommended most")
    if view.shop is None or not view.shop.recommended:
        do = translate("Capture more events") if is_enabled else translate("Set serve.scores.enabled = true")
        hint = translate("There are no recommendations. {do}, and run jobs/run_pipeline.py.", do=do)
        return Section(name, title, hint=hint)
    names, users = zip(*view.shop.recommended, strict=True)
    texts = [f"{count:,}" for count in users]
    figure, outside = chart_elements.bars_with_note(names, users, texts, chart_elements.color(3))
    caption = join_sentences(translate("Items by the number of users whose lists contain them."), outside)
    columns, rows = (translate("item"), translate("users")), tuple(zip(names, texts, strict=True))
    table = TextTable(translate("Items and users"), columns, rows)
    return Section(name, title, (Chart(translate("Items in the lists of most users"), caption, figure, table),))
