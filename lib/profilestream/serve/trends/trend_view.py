"""Trends as text, and as one picture."""

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from profilestream.serve.trends.trend_estimates import ALL, Measure, Periods, Sums, Trend, movers

_COLORS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#b45309", "#0e7490", "#be185d", "#475569")
_WIDEST = 24
_MOVING: tuple[tuple[Measure, str], ...] = (
    ("price", "mean price paid"), ("level", "price of the same items"), ("share", "share of the group's spend")
)  # fmt: skip


def as_text(found: list[Trend], sums: Sums, span: Periods, most: int) -> str:
    """The spend of every group; then what moves the most in prices and shares."""
    users = ", ".join(f"{group} {count:,}" for group, count in sorted(sums.users.items()))
    lines = [f"{span.count} periods of {span.days} days from {span.first}; users: {users}"]
    spends = sorted((one for one in found if one.series.measure == "spend"), key=lambda one: one.series.group)
    lines += ["", "spend a user and period, change a year with its 95 % interval", *map(_told, spends)]
    for measure, title in _MOVING:
        every = [one for one in found if one.series.measure == measure]
        sure = movers(found, measure, len(found))
        lines += ["", f"{title}: {len(sure)} of {len(every)} series move; those that move the most, a year"]
        lines += [_told(one) + (_beside(one, found) if measure == "price" else "") for one in sure[:most]]
    return "\n".join(lines)


def _told(one: Trend) -> str:
    name = one.series.group if one.series.category == ALL else f"{one.series.group}: {one.series.category}"
    return f"  {name:44}  {one.slope:+7.1%}  ({one.low:+.1%} to {one.high:+.1%}){'' if one.moves else '  not sure'}"


def _with(measure: Measure, alike: list[Trend], found: list[Trend]) -> list[Trend]:
    """Trends of a measure, of the groups and categories that others are of."""
    places = {(one.series.group, one.series.category) for one in alike}
    return [o for o in found if o.series.measure == measure and (o.series.group, o.series.category) in places]


def _beside(one: Trend, found: list[Trend]) -> str:
    return "".join(
        f"  the same items {same.slope:+.1%} ({same.low:+.1%} to {same.high:+.1%})"
        for same in _with("level", [one], found)
    )


def picture(found: list[Trend], span: Periods, most: int) -> go.Figure:
    """Spend of every group over time; prices and shares that move the most, with intervals."""
    specs = [[{"colspan": 2}, None], [{}, {}]]
    titles = (
        f"spend a user and {span.days} days",
        "price of the same items: change a year<br><sup>ring: mean price paid</sup>",
        "share of the group's spend: change a year",
    )
    made = make_subplots(
        rows=2, cols=2, specs=specs, subplot_titles=titles, vertical_spacing=0.13, horizontal_spacing=0.22,
        row_heights=[0.42, 0.58],
    )  # fmt: skip
    groups = sorted({one.series.group for one in found})
    colors = {group: _COLORS[n % len(_COLORS)] for n, group in enumerate(groups)}
    for one in sorted(found, key=lambda one: one.series.group):
        if one.series.measure == "spend":
            _draw_line(made, one, span, colors[one.series.group])
    moving = [*movers(found, "level", most), *movers(found, "price", most)]
    _draw_movers(made, _with("level", moving, found), colors, 1)
    paid = _with("price", moving, found)
    rings = {"size": 10, "symbol": "circle-open", "line_width": 2, "color": [colors[one.series.group] for one in paid]}
    made.add_scatter(
        x=[one.slope for one in paid], y=[_short(one) for one in paid], mode="markers", marker=rings, showlegend=False,
        row=2, col=1,
    )  # fmt: skip
    _draw_movers(made, movers(found, "share", most), colors, 2)
    made.layout.annotations[0].update(x=0, xanchor="left")
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"}
    made.update_layout(
        template="plotly_white", height=820, font_size=14, legend=legend, margin={"l": 60, "r": 30, "t": 60, "b": 40}
    )
    return made


def _draw_line(made: go.Figure, one: Trend, span: Periods, color: str) -> None:
    start, slope = one.line
    line = start + slope * np.arange(span.count)
    name = one.series.group
    made.add_scatter(
        x=span.starts, y=one.series.values, name=name, mode="lines+markers", marker={"size": 5},
        line={"color": color, "width": 1}, row=1, col=1,
    )  # fmt: skip
    made.add_scatter(
        x=span.starts, y=line, mode="lines", line={"color": color, "width": 3}, showlegend=False, row=1, col=1
    )
    made.update_yaxes(rangemode="tozero", row=1, col=1)


def _draw_movers(made: go.Figure, moving: list[Trend], colors: dict[str, str], column: int) -> None:
    for group, color in colors.items():
        mine = [one for one in moving if one.series.group == group]
        bars = {
            "type": "data", "symmetric": False, "thickness": 2, "color": color,
            "array": [one.high - one.slope for one in mine], "arrayminus": [one.slope - one.low for one in mine],
        }  # fmt: skip
        names = [_short(one) for one in mine]
        made.add_scatter(
            x=[one.slope for one in mine], y=names, error_x=bars, mode="markers", marker={"size": 10, "color": color},
            showlegend=False, row=2, col=column,
        )  # fmt: skip
    made.add_vline(x=0, line_color="#475569", line_width=1, row=2, col=column)
    made.update_xaxes(tickformat="+.0%", row=2, col=column)
    order = [_short(one) for one in sorted(moving, key=lambda one: one.slope)]
    made.update_yaxes(categoryorder="array", categoryarray=order, row=2, col=column)


def _short(one: Trend) -> str:
    """The category, as long as there is place for; which group it is says the color."""
    return one.series.category.lower()[:_WIDEST]
