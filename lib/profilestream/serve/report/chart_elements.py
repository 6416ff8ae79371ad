"""Building blocks of the charts, as JSON for plotly.js; no Spark.

Colors are names that start with `@`. The page replaces them by colors of the light or dark color scheme (assets.py).
Names from the data are escaped here because plotly interprets labels as HTML.
"""

import html
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from profilestream.serve.report import assets, value_axis
from profilestream.serve.report.value_axis import ValueAxis
from profilestream.serve.text_width import isolate, shorten

Figure = dict[str, Any]
COLORS = 8
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px", "2px,5px")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")
# ISO 8601 in all languages, by the interval of the ticks: hours, days, months, years.
_DAY_MILLISECONDS = 86_400_000
_TICK_FORMATS = [
    {"dtickrange": [None, _DAY_MILLISECONDS - 1], "value": "%H:%M\n%Y-%m-%d"},
    {"dtickrange": [_DAY_MILLISECONDS, 27 * _DAY_MILLISECONDS], "value": "%m-%d\n%Y"},
    {"dtickrange": ["M1", "M11"], "value": "%Y-%m"},
    {"dtickrange": ["M12", None], "value": "%Y"},
]
MAX_LABEL = 40  # columns of the screen (text_width.py)
# Height of a horizontal bar with its label, in pixels.
BAR_HEIGHT = 38


def color(number: int) -> str:
    """Color of the palette by number; numbers beyond the palette repeat it."""
    return f"@c{number % COLORS}"


def label(name: str) -> str:
    """A name from the data for plotly, cut to the maximum width."""
    return html.escape(isolate(shorten(name, MAX_LABEL)), quote=False)


def format_time(time: datetime) -> str:
    """A time as plotly expects it; in UTC, or in the zone that the axis names."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def line(name: str, number: int, x: Sequence[Any], y: Sequence[float], hover: str) -> Figure:
    """A line whose dash and marker also depend on the number, so that lines differ without color."""
    has_markers = len(x) <= 30
    return {
        "type": "scatter", "mode": "lines+markers" if has_markers else "lines", "name": html.escape(name),
        "x": list(x), "y": list(y), "hovertemplate": hover,
        "line": {
            "color": color(number), "width": 2.5 if has_markers else 1.8, "dash": _DASHES[number % len(_DASHES)],
        },
        "marker": {"color": color(number), "size": 7, "symbol": _MARKERS[number % len(_MARKERS)]},
    }  # fmt: skip


def horizontal_bars(
    names: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    colors: str | Sequence[str],
    notes: Sequence[str] = (),
    limit: float | None = None,
) -> Figure:
    """Horizontal bars, the first at the top, with name, value and note above each bar to use the full width.

    Args:
        texts: the values as text.
        notes: text after each value.
        limit: end of the axis; null: the largest value.
    """
    positions = list(range(len(names)))
    notes = notes or [""] * len(names)
    escaped = [html.escape(name, quote=False) for name in names]
    trace = {
        "type": "bar", "orientation": "h", "x": list(values), "y": positions, "width": 0.42,
        "marker": {"color": colors}, "customdata": list(zip(escaped, texts, strict=True)),
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    }  # fmt: skip
    labels = [
        {
            "text": f"{label(name)}  <b>{text}</b>{note}", "showarrow": False,
            "x": 0, "xanchor": "left", "y": position - 0.21, "yanchor": "bottom", "font": {"color": "@text"},
        }
        for position, name, text, note in zip(positions, names, texts, notes, strict=True)
    ]  # fmt: skip
    x_axis = axis() | {"showticklabels": False, "showgrid": False, "rangemode": "tozero"}
    if limit is not None:
        x_axis["range"] = [min(0.0, *values), limit]
    y_axis = {"range": [len(names) - 0.6, -0.8], "visible": False}
    return figure([trace], height=20 + BAR_HEIGHT * len(names), xaxis=x_axis, yaxis=y_axis, annotations=labels)


def bars_with_note(
    names: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    colors: str | Sequence[str],
    notes: Sequence[str] = (),
) -> tuple[Figure, str]:
    """Horizontal bars, of which those that would hide the others are cut, and a sentence about them."""
    axis = value_axis.choose_axis(values)
    bars = horizontal_bars(names, values, texts, colors, notes, None if axis is None else axis.high)
    return bars, value_axis.note(axis, names, texts)


def heatmap(z: Sequence[Sequence[float | None]], texts: Sequence[Sequence[str]] | None, maximum: float) -> Figure:
    """A heatmap with a color scale from 0 to the maximum.

    Args:
        texts: text of each cell; null: no texts.
    """
    trace: Figure = {
        "type": "heatmap", "z": z, "zmin": 0, "zmax": maximum, "colorscale": "@heat", "xgap": 1, "ygap": 1,
    }  # fmt: skip
    return trace if texts is None else trace | {"text": texts, "texttemplate": "%{text}"}


def color_bar(tick_format: str) -> Figure:
    """The legend of a heatmap's color scale."""
    return {"thickness": 10, "len": 1, "tickformat": tick_format, "outlinewidth": 0, "tickfont": {"color": "@muted"}}


def axis(title: str = "") -> Figure:
    """An axis with a title."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": "@muted"}, "standoff": 8}, "automargin": True,
        "gridcolor": "@grid", "linecolor": "@grid", "zerolinecolor": "@grid", "tickfont": {"color": "@muted"},
    }  # fmt: skip


def limited_axis(title: str, limits: ValueAxis | None) -> Figure:
    """A vertical axis from 0, or with a range that leaves a few values out."""
    return axis(title) | ({"rangemode": "tozero"} if limits is None else {"range": [limits.low, limits.high]})


def time_axis(times: Sequence[str]) -> Figure:
    """A time axis. A single time becomes a category: plotly would show a range of one millisecond around it."""
    if len(set(times)) == 1:
        return axis() | {"type": "category"}
    are_days = all(len(time) == len("2025-01-31") or time.endswith("00:00:00") for time in times)
    return axis() | {"tickformatstops": _TICK_FORMATS, "hoverformat": "%Y-%m-%d" if are_days else "%Y-%m-%d %H:%M"}


def count_axis(title: str, maximum: int) -> Figure:
    """An axis of integers from 1."""
    return axis(title) | {"tickformat": ",d", "tick0": 1, "dtick": max(1, -(-maximum // 8))}


def name_axis(labels: Sequence[str]) -> Figure:
    """A vertical axis of the positions 0, 1, ... from the top, each with a label; labels may repeat."""
    texts = [label(name) for name in labels]
    ticks: Figure = {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": texts}
    return axis() | ticks | {"range": [len(labels) - 0.5, -0.5], "showgrid": False, "zeroline": False}


def figure(traces: Sequence[Figure], height: int = 300, **layout: Any) -> Figure:
    """A figure with the common layout of all charts; a legend only for several traces."""
    common = {
        # With `inherit` as font, plotly measures labels in another font than it draws them in.
        "height": height, "autosize": True, "margin": {"l": 8, "r": 12, "t": 8, "b": 8}, "separators": ".,",
        "paper_bgcolor": "@clear", "plot_bgcolor": "@clear",
        "font": {"color": "@text", "size": 12, "family": assets.FONT_FAMILY},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@grid", "font": {"color": "@text"}}, "bargap": 0.25,
        "dragmode": False, "showlegend": len(traces) > 1 and traces[0].get("showlegend", True),
    }  # fmt: skip
    return {"data": list(traces), "layout": common | layout}
