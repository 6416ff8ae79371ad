"""The section about forecast demand."""

from collections.abc import Sequence

from profilestream.base.language import join_sentences, message, translate
from profilestream.serve.report import chart_elements
from profilestream.serve.report.report_elements import Chart, Section, TextTable, missing_data
from profilestream.serve.report.view_demand import DemandRow, DemandView

_MAX_BARS = 6
_TITLES = {
    "item": message("Items: units in the next week"),
    "category": message("Categories: units in the next 7 days"),
}
_LEVELS = {"item": message("item"), "category": message("category")}


def demand(views: Sequence[DemandView], *, is_enabled: bool) -> Section:
    """The largest forecasts of units, with the units of the 7 days before and the error of earlier forecasts."""
    name, title = "demand", translate("Demand of the next week")
    if not views:
        hint = missing_data(
            message("There are no forecasts. {do}, and run jobs/run_pipeline.py."),
            enable=message("Set learn.demand.enabled = true"),
            capture=message("Capture purchases of more weeks"),
            is_enabled=is_enabled,
        )
        return Section(name, title, hint=hint)
    return Section(name, title, tuple(_chart(view) for view in views))


def _chart(view: DemandView) -> Chart:
    caption = translate(
        "Forecast units from {day} on, largest first. The error is the sum of the absolute errors of earlier forecasts "
        "of similar size, divided by the units sold.",
        day=view.first,
    )
    shown = view.rows[:_MAX_BARS]
    notes = [f" · {_note(row)}" for row in shown]
    texts = [f"{row.units:,.0f}" for row in shown]
    figure, outside = chart_elements.bars_with_note(
        [row.name for row in shown], [row.units for row in shown], texts, chart_elements.color(4), notes
    )
    rows = tuple(
        (row.name, f"{row.units:,.1f}", f"{row.last:,.0f}", "–" if row.error is None else f"{row.error:.0%}")
        for row in view.rows
    )
    columns = (
        translate(_LEVELS[view.level]),
        translate("forecast units"),
        translate("7 days before"),
        translate("error"),
    )
    table = TextTable(translate("The {count} largest forecasts", count=len(rows)), columns, rows)
    return Chart(translate(_TITLES[view.level]), join_sentences(caption, outside), figure, table)


def _note(row: DemandRow) -> str:
    if row.error is None:
        return translate("{units:,.0f} in the 7 days before", units=row.last)
    return translate("{units:,.0f} in the 7 days before, error {error:.0%}", units=row.last, error=row.error)
