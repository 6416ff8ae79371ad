"""The section about forecast demand."""

from collections.abc import Sequence

from profilestream.serve.report import chart_elements
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.view_demand import DemandRow, DemandView

_MAX_BARS = 6
_TITLES = {"item": "Items: units in the next week", "category": "Categories: units in the next 7 days"}


def demand(views: Sequence[DemandView], *, is_enabled: bool) -> Section:
    """The largest forecasts of units, with the units of the 7 days before and the error of earlier forecasts."""
    name, title = "demand", "Demand of the next week"
    if not views:
        do = "Capture purchases of more weeks" if is_enabled else "Set learn.demand.enabled = true"
        return Section(name, title, hint=f"There are no forecasts. {do}, and run jobs/run_pipeline.py.")
    return Section(name, title, tuple(_chart(view) for view in views))


def _chart(view: DemandView) -> Chart:
    caption = (
        f"Forecast units from {view.first:%Y-%m-%d} on, largest first. The error is the sum of the absolute errors of "
        "earlier forecasts of similar size, divided by the units sold."
    )
    shown = view.rows[:_MAX_BARS]
    notes = [f" · {row.last:,.0f} in the 7 days before{_error(row)}" for row in shown]
    texts = [f"{row.units:,.0f}" for row in shown]
    figure, outside = chart_elements.bars_with_note(
        [row.name for row in shown], [row.units for row in shown], texts, chart_elements.color(4), notes
    )
    rows = tuple(
        (row.name, f"{row.units:,.1f}", f"{row.last:,.0f}", "–" if row.error is None else f"{row.error:.0%}")
        for row in view.rows
    )
    table = TextTable(
        f"The {len(view.rows)} largest forecasts", (view.level, "forecast units", "7 days before", "error"), rows
    )
    return Chart(_TITLES[view.level], caption + outside, figure, table)


def _error(row: DemandRow) -> str:
    return "" if row.error is None else f", error {row.error:.0%}"
