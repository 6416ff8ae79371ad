"""Contents of the sections about capture and the stages as plotly figures; no Spark."""

import html
from collections.abc import Sequence

from profilestream.base.language import message, translate
from profilestream.serve.report import chart_elements
from profilestream.serve.report.chart_elements import Figure
from profilestream.serve.report.value_axis import ValueAxis
from profilestream.serve.report.view_pipeline import CaptureBatch, RejectedByRule, StageDurations

_ROW_PARTS = {
    "rows_clean": message("clean"),
    "rows_rejected": message("rejected"),
    "rows_duplicate": message("duplicate"),
}


def lateness_unit(seconds: float) -> tuple[str, float]:
    """Unit for a lateness, and its length in seconds: days from 96 hours on, else hours."""
    return (message("days"), 86_400.0) if seconds >= 96 * 3_600 else (message("hours"), 3_600.0)


def batch_name(batch: CaptureBatch) -> str:
    """A batch of capture for readers."""
    return translate("{source} batch {number}", source=batch.source, number=batch.batch_id)


def capture_rows(batches: Sequence[CaptureBatch], limits: ValueAxis | None) -> Figure:
    """Clean, rejected and duplicate rows of every batch as stacked bars."""
    parts = {translate(part): field for field, part in _ROW_PARTS.items()}
    positions = list(range(1, len(batches) + 1))
    names = [html.escape(batch_name(batch)) for batch in batches]
    traces = [
        {
            "type": "bar", "name": part, "x": positions, "y": [getattr(batch, field) for batch in batches],
            "text": names, "textposition": "none", "marker": {"color": chart_elements.color(number)},
            "hovertemplate": "%{text}<br>%{y:,} " + html.escape(part) + "<extra></extra>",
        }
        for number, (part, field) in enumerate(parts.items())
    ]  # fmt: skip
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.count_axis(translate("batch, in order of capture"), len(batches)),
        yaxis=chart_elements.limited_axis(translate("rows"), limits),
        barmode="stack",
    )


def rejected_rows(rejected: Sequence[RejectedByRule]) -> Figure:
    """Rejected rows by rule."""
    names = [translate("{text} ({label})", text=entry.rule, label=entry.source) for entry in rejected]
    texts = [f"{entry.rows:,}" for entry in rejected]
    return chart_elements.horizontal_bars(names, [entry.rows for entry in rejected], texts, chart_elements.color(1))


def lateness(batches: Sequence[CaptureBatch], limits: ValueAxis | None) -> Figure:
    """Lateness of every batch, one line per source.

    Args:
        limits: in the unit of `lateness_unit`.
    """
    unit, seconds = lateness_unit(max((batch.lateness or 0 for batch in batches), default=0))
    unit = translate(unit)
    points = [(n, batch.source, batch.lateness) for n, batch in enumerate(batches, 1) if batch.lateness is not None]
    traces = [
        chart_elements.line(
            source,
            number,
            [position for position, name, _ in points if name == source],
            [value / seconds for _, name, value in points if name == source],
            "%{y:,.1f} " + unit,
        )
        for number, source in enumerate(dict.fromkeys(name for _, name, _ in points))
    ]
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.count_axis(translate("batch, in order of capture"), len(batches)),
        yaxis=chart_elements.limited_axis(unit, limits),
    )


def stage_durations(stages: Sequence[StageDurations]) -> Figure:
    """Duration of the newest batches of every stage, one dot per batch, on a logarithmic scale."""
    seconds = translate("{seconds} s", seconds="%{x:,.1f}")
    traces = [
        {
            "type": "scatter", "mode": "markers", "name": stage.stage, "showlegend": False,
            "x": list(stage.newest), "y": [position] * len(stage.newest),
            "marker": {"size": 9, "opacity": 0.65, "color": chart_elements.color(0)},
            "hovertemplate": f"{html.escape(stage.stage)}<br>{seconds}<extra></extra>",
        }
        for position, stage in enumerate(stages)
    ]  # fmt: skip
    ticks = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
    x_axis = chart_elements.axis(translate("seconds per batch")) | {
        "type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks],
    }  # fmt: skip
    y_axis = chart_elements.name_axis([stage.stage for stage in stages])
    return chart_elements.figure(traces, height=90 + 28 * len(stages), xaxis=x_axis, yaxis=y_axis)
