"""Trends as text and as one plotly figure."""

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from profilestream.serve.trends.purchase_series import ALL_CATEGORIES, PurchaseSums, TrendMeasure, TrendPeriods
from profilestream.serve.trends.trend_estimates import SeriesTrend, largest_trends

_COLORS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#b45309", "#0e7490", "#be185d", "#475569")
_ZERO_LINE = "#475569"
_MAX_LABEL = 24
_TITLES: dict[TrendMeasure, str] = {
    "mean_price": "mean price",
    "price_index": "price index (same items)",
    "spend_share": "share of the group's spend",
}


def as_text(trends: list[SeriesTrend], sums: PurchaseSums, periods: TrendPeriods, max_trends: int) -> str:
    """Trend of the spend of every group, then the largest significant trends of prices and shares."""
    users = ", ".join(f"{group} {count:,}" for group, count in sorted(sums.users.items()))
    lines = [f"{periods.count} periods of {periods.days} days from {periods.first}; users: {users}"]
    lines += ["", "spend per user and period: change per year with 95% interval"]
    by_group = sorted(_of_measure(trends, "spend"), key=lambda trend: trend.series.group)
    lines += [_trend_line(trend) for trend in by_group]
    for measure, title in _TITLES.items():
        series = _of_measure(trends, measure)
        significant = largest_trends(trends, measure, len(trends))
        lines += ["", f"{title}: {len(significant)} of {len(series)} trends are significant; largest changes per year"]
        for trend in significant[:max_trends]:
            lines.append(_trend_line(trend) + (_price_index_text(trend, trends) if measure == "mean_price" else ""))
    return "\n".join(lines)


def _of_measure(trends: list[SeriesTrend], measure: TrendMeasure) -> list[SeriesTrend]:
    return [trend for trend in trends if trend.series.measure == measure]


def _trend_line(trend: SeriesTrend) -> str:
    series = trend.series
    name = series.group if series.category == ALL_CATEGORIES else f"{series.group}: {series.category}"
    note = "" if trend.is_significant else "  not significant"
    return f"  {name:44}  {trend.slope:+7.1%}  ({trend.low:+.1%} to {trend.high:+.1%}){note}"


def _counterparts(measure: TrendMeasure, trends: list[SeriesTrend], all_trends: list[SeriesTrend]) -> list[SeriesTrend]:
    """Trends of another measure for the same groups and categories."""
    keys = {(trend.series.group, trend.series.category) for trend in trends}
    candidates = _of_measure(all_trends, measure)
    return [trend for trend in candidates if (trend.series.group, trend.series.category) in keys]


def _price_index_text(trend: SeriesTrend, all_trends: list[SeriesTrend]) -> str:
    return "".join(
        f"  price index {index.slope:+.1%} ({index.low:+.1%} to {index.high:+.1%})"
        for index in _counterparts("price_index", [trend], all_trends)
    )


def trends_figure(trends: list[SeriesTrend], periods: TrendPeriods, max_trends: int) -> go.Figure:
    """Spend of every group over time, and the largest trends of prices and shares with intervals."""
    specs = [[{"colspan": 2}, None], [{}, {}]]
    titles = (
        f"spend per user and {periods.days} days",
        "price index: change per year<br><sup>ring: mean price</sup>",
        "share of the group's spend: change per year",
    )
    figure = make_subplots(
        rows=2, cols=2, specs=specs, subplot_titles=titles, vertical_spacing=0.13, horizontal_spacing=0.22,
        row_heights=[0.42, 0.58],
    )  # fmt: skip
    groups = sorted({trend.series.group for trend in trends})
    colors = {group: _COLORS[n % len(_COLORS)] for n, group in enumerate(groups)}
    for trend in sorted(_of_measure(trends, "spend"), key=lambda trend: trend.series.group):
        _draw_spend(figure, trend, periods, colors[trend.series.group])
    _draw_prices(figure, trends, colors, max_trends)
    _draw_trends(figure, largest_trends(trends, "spend_share", max_trends), colors, 2)
    figure.layout.annotations[0].update(x=0, xanchor="left")
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"}
    figure.update_layout(
        template="plotly_white", height=820, font_size=14, legend=legend, margin={"l": 60, "r": 30, "t": 60, "b": 40}
    )
    return figure


def _draw_spend(figure: go.Figure, trend: SeriesTrend, periods: TrendPeriods, color: str) -> None:
    intercept, slope = trend.line
    figure.add_scatter(
        x=periods.starts, y=trend.series.values, name=trend.series.group, mode="lines+markers", marker={"size": 5},
        line={"color": color, "width": 1}, row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=periods.starts, y=intercept + slope * np.arange(periods.count), mode="lines",
        line={"color": color, "width": 3}, showlegend=False, row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(rangemode="tozero", row=1, col=1)


def _draw_prices(figure: go.Figure, trends: list[SeriesTrend], colors: dict[str, str], max_trends: int) -> None:
    """Price indices with intervals, and mean prices as rings, of the largest trends of either measure."""
    largest = [
        *largest_trends(trends, "price_index", max_trends),
        *largest_trends(trends, "mean_price", max_trends),
    ]
    _draw_trends(figure, _counterparts("price_index", largest, trends), colors, 1)
    mean_prices = _counterparts("mean_price", largest, trends)
    ring_colors = [colors[trend.series.group] for trend in mean_prices]
    figure.add_scatter(
        x=[trend.slope for trend in mean_prices], y=[_label(trend) for trend in mean_prices], mode="markers",
        marker={"size": 10, "symbol": "circle-open", "line_width": 2, "color": ring_colors}, showlegend=False,
        row=2, col=1,
    )  # fmt: skip


def _draw_trends(figure: go.Figure, trends: list[SeriesTrend], colors: dict[str, str], column: int) -> None:
    for group, color in colors.items():
        of_group = [trend for trend in trends if trend.series.group == group]
        intervals = {
            "type": "data", "symmetric": False, "thickness": 2, "color": color,
            "array": [trend.high - trend.slope for trend in of_group],
            "arrayminus": [trend.slope - trend.low for trend in of_group],
        }  # fmt: skip
        figure.add_scatter(
            x=[trend.slope for trend in of_group], y=[_label(trend) for trend in of_group], error_x=intervals,
            mode="markers", marker={"size": 10, "color": color}, showlegend=False, row=2, col=column,
        )  # fmt: skip
    figure.add_vline(x=0, line_color=_ZERO_LINE, line_width=1, row=2, col=column)
    figure.update_xaxes(tickformat="+.0%", row=2, col=column)
    order = [_label(trend) for trend in sorted(trends, key=lambda trend: trend.slope)]
    figure.update_yaxes(categoryorder="array", categoryarray=order, row=2, col=column)


def _label(trend: SeriesTrend) -> str:
    """The category, cut to the space of the axis; the color identifies the group."""
    return trend.series.category.lower()[:_MAX_LABEL]
