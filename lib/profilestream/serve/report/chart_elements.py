"""What figures are drawn with, as the JSON that plotly.js takes. Pure.

Colors are names that begin with `@`; the page puts those of the reader's scheme, light or dark, in their place
(look.py). Names from data are escaped here, since plotly takes labels for HTML.
"""

import html
from collections.abc import Sequence
from datetime import datetime
from typing import Any

Figure = dict[str, Any]
COLORS = 8
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px", "2px,5px")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")
_LABEL = 40


def color(number: int) -> str:
    """One of the palette, by number; it goes round."""
    return f"@c{number % COLORS}"


def shortened(text: str, most: int = _LABEL) -> str:
    """At most so many letters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def time(moment: datetime) -> str:
    """Of a time in UTC, or on a clock that the axis names."""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def line(name: str, number: int, x: Sequence[Any], y: Sequence[float], said: str) -> Figure:
    """Lines differ in dash and marker too, for those who do not tell colors."""
    few = len(x) <= 30
    return {
        "type": "scatter", "mode": "lines+markers" if few else "lines", "name": html.escape(name),
        "x": list(x), "y": list(y), "hovertemplate": said,
        "line": {"color": color(number), "width": 2.5 if few else 1.8, "dash": _DASHES[number % len(_DASHES)]},
        "marker": {"color": color(number), "size": 7, "symbol": _MARKERS[number % len(_MARKERS)]},
    }  # fmt: skip


def bars(
    names: Sequence[str],
    values: Sequence[float],
    told: Sequence[str],
    its: str | Sequence[str],
    notes: Sequence[str] = (),
) -> Figure:
    """Lying bars, the first on top; above each its name, number and note, which so have the whole width."""
    places = list(range(len(names)))
    notes = notes or [""] * len(names)
    escaped = [html.escape(name, quote=False) for name in names]
    trace = {
        "type": "bar", "orientation": "h", "x": list(values), "y": places, "width": 0.42, "marker": {"color": its},
        "customdata": list(zip(escaped, told, strict=True)),
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    }  # fmt: skip
    labels = [
        {
            "text": f"{html.escape(shortened(name), quote=False)}  <b>{number}</b>{note}", "showarrow": False,
            "x": 0, "xanchor": "left", "y": place - 0.21, "yanchor": "bottom", "font": {"color": "@text"},
        }
        for place, name, number, note in zip(places, names, told, notes, strict=True)
    ]  # fmt: skip
    across = axis() | {"showticklabels": False, "showgrid": False, "rangemode": "tozero"}
    down = {"range": [len(names) - 0.6, -0.8], "visible": False}
    return figure([trace], height=20 + 38 * len(names), xaxis=across, yaxis=down, annotations=labels)


def heat(z: Sequence[Sequence[float | None]], told: Sequence[Sequence[str]] | None, highest: float) -> Figure:
    trace: Figure = {"type": "heatmap", "z": z, "zmin": 0, "zmax": highest, "colorscale": "@heat", "xgap": 1, "ygap": 1}
    return trace if told is None else trace | {"text": told, "texttemplate": "%{text}"}


def colorbar(shape: str) -> Figure:
    return {"thickness": 10, "len": 1, "tickformat": shape, "outlinewidth": 0, "tickfont": {"color": "@muted"}}


def axis(title: str = "") -> Figure:
    return {
        "title": {"text": title, "font": {"size": 12, "color": "@muted"}, "standoff": 8}, "automargin": True,
        "gridcolor": "@grid", "linecolor": "@grid", "zerolinecolor": "@grid", "tickfont": {"color": "@muted"},
    }  # fmt: skip


def times(moments: Sequence[str]) -> Figure:
    """An axis of times; of one time a plain label, since plotly would divide a millisecond around it."""
    return axis() | ({"type": "category"} if len(set(moments)) == 1 else {})


def counted(title: str, most: int) -> Figure:
    """An axis of whole numbers from 1 on."""
    return axis(title) | {"tickformat": ",d", "tick0": 1, "dtick": max(1, -(-most // 8))}


def named(labels: Sequence[str]) -> Figure:
    """An upright axis of places 0, 1, ... from the top, each with a name; names may be equal."""
    told = [html.escape(shortened(label), quote=False) for label in labels]
    places: Figure = {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": told}
    return axis() | places | {"range": [len(labels) - 0.5, -0.5], "showgrid": False, "zeroline": False}


def figure(traces: Sequence[Figure], height: int = 300, **layout: Any) -> Figure:
    common = {
        "height": height, "autosize": True, "margin": {"l": 8, "r": 12, "t": 8, "b": 8}, "separators": ".,",
        "paper_bgcolor": "@clear", "plot_bgcolor": "@clear",
        "font": {"color": "@text", "size": 12, "family": "inherit"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@grid", "font": {"color": "@text"}}, "bargap": 0.25,
        "dragmode": False, "showlegend": len(traces) > 1 and traces[0].get("showlegend", True),
    }  # fmt: skip
    return {"data": list(traces), "layout": common | layout}
