"""Contents of the report as plotly figures; no Spark."""

import html
from collections.abc import Mapping, Sequence

from profilestream.serve.report import chart_elements
from profilestream.serve.report.chart_elements import Figure
from profilestream.serve.report.value_axis import ValueAxis
from profilestream.serve.report.view_model import MetricPoint
from profilestream.serve.report.view_pipeline import CaptureBatch, RejectedByRule, StageDurations
from profilestream.serve.report.view_users import (
    ActivePeriod,
    Cohort,
    EventsView,
    PreferencesView,
    SegmentsView,
    TagRow,
)

_HOVER_ALL_LINES = "x unified"
_MAX_COHORT_TEXTS = 14
MAX_WEEKS = 104
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def lateness_unit(seconds: float) -> tuple[str, float]:
    """Unit for a lateness, and its length in seconds: days from 96 hours on, else hours."""
    return ("days", 86_400.0) if seconds >= 96 * 3_600 else ("hours", 3_600.0)


def capture_rows(batches: Sequence[CaptureBatch], limits: ValueAxis | None) -> Figure:
    """Clean, rejected and duplicate rows of every batch as stacked bars."""
    parts = {"clean": "rows_clean", "rejected": "rows_rejected", "duplicate": "rows_duplicate"}
    positions = list(range(1, len(batches) + 1))
    names = [html.escape(f"{batch.source} batch {batch.batch_id}") for batch in batches]
    traces = [
        {
            "type": "bar", "name": part, "x": positions, "y": [getattr(batch, field) for batch in batches],
            "text": names, "textposition": "none", "marker": {"color": chart_elements.color(number)},
            "hovertemplate": "%{text}<br>%{y:,} " + part + "<extra></extra>",
        }
        for number, (part, field) in enumerate(parts.items())
    ]  # fmt: skip
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.count_axis("batch, in order of capture", len(batches)),
        yaxis=chart_elements.limited_axis("rows", limits),
        barmode="stack",
    )


def rejected_rows(rejected: Sequence[RejectedByRule]) -> Figure:
    """Rejected rows by rule."""
    names = [f"{entry.rule} ({entry.source})" for entry in rejected]
    texts = [f"{entry.rows:,}" for entry in rejected]
    return chart_elements.horizontal_bars(names, [entry.rows for entry in rejected], texts, chart_elements.color(1))


def lateness(batches: Sequence[CaptureBatch], limits: ValueAxis | None) -> Figure:
    """Lateness of every batch, one line per source.

    Args:
        limits: in the unit of `lateness_unit`.
    """
    unit, seconds = lateness_unit(max((batch.lateness or 0 for batch in batches), default=0))
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
        xaxis=chart_elements.count_axis("batch, in order of capture", len(batches)),
        yaxis=chart_elements.limited_axis(unit, limits),
    )


def stage_durations(stages: Sequence[StageDurations]) -> Figure:
    """Duration of the newest batches of every stage, one dot per batch, on a logarithmic scale."""
    traces = [
        {
            "type": "scatter", "mode": "markers", "name": stage.stage, "showlegend": False,
            "x": list(stage.newest), "y": [position] * len(stage.newest),
            "marker": {"size": 9, "opacity": 0.65, "color": chart_elements.color(0)},
            "hovertemplate": html.escape(stage.stage) + "<br>%{x:,.1f} s<extra></extra>",
        }
        for position, stage in enumerate(stages)
    ]  # fmt: skip
    ticks = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
    x_axis = chart_elements.axis("seconds per batch") | {
        "type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks],
    }  # fmt: skip
    y_axis = chart_elements.name_axis([stage.stage for stage in stages])
    return chart_elements.figure(traces, height=90 + 28 * len(stages), xaxis=x_axis, yaxis=y_axis)


def weekly_bars(starts: Sequence[str], values: Sequence[float], title: str, limits: ValueAxis | None) -> Figure:
    """A value by week; the bar of the last week, which is open, is hatched."""
    shapes = [""] * (len(values) - 1) + ["/"]
    trace = {
        "type": "bar", "x": list(starts), "y": list(values), "hovertemplate": "%{x}<br>%{y:,.0f}<extra></extra>",
        "marker": {
            "color": chart_elements.color(0),
            "pattern": {"shape": shapes, "fillmode": "replace", "size": 6, "solidity": 0.4},
            "line": {"width": [0] * (len(values) - 1) + [1], "color": chart_elements.color(0)},
        },
    }  # fmt: skip
    return chart_elements.figure(
        [trace], xaxis=chart_elements.time_axis(starts), yaxis=chart_elements.limited_axis(title, limits)
    )


def active_users(periods: Sequence[ActivePeriod], limits: ValueAxis | None = None) -> Figure:
    """Active users and buyers over time."""
    times = [chart_elements.format_time(period.start) for period in periods]
    traces = [
        chart_elements.line("active users", 0, times, [period.active for period in periods], "%{y:,} users"),
        chart_elements.line("buyers", 1, times, [period.buyers for period in periods], "%{y:,} buyers"),
    ]
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.time_axis(times),
        yaxis=chart_elements.limited_axis("users", limits),
        hovermode=_HOVER_ALL_LINES,
    )


def funnel(steps: Mapping[str, int]) -> Figure:
    """Users by funnel step, with the share of all users."""
    total = max(steps.values())
    notes = [f" · {count / total:.1%}" for count in steps.values()]
    texts = [f"{count:,}" for count in steps.values()]
    return chart_elements.horizontal_bars(list(steps), list(steps.values()), texts, chart_elements.color(0), notes)


def retention(cohorts: Sequence[Cohort], labels: Sequence[str], period: str) -> Figure:
    """Share of each cohort that is active n periods later, as a heatmap."""
    width = max(len(cohort.users) for cohort in cohorts)
    rows = [[count / cohort.users[0] for count in cohort.users] for cohort in cohorts]
    # The first period is 100% by definition; the color scale ends at the largest of the other shares.
    maximum = max((share for row in rows for share in row[1:]), default=1.0) or 1.0
    texts = [["100%", *(f"{share:.0%}" for share in row[1:])] + [""] * (width - len(row)) for row in rows]
    shares: list[list[float | None]] = [[*row, *[None] * (width - len(row))] for row in rows]
    counts = [[*cohort.users, *[None] * (width - len(cohort.users))] for cohort in cohorts]
    trace = chart_elements.heatmap(shares, texts if width <= _MAX_COHORT_TEXTS else None, maximum) | {
        "x": list(range(width)), "y": list(range(len(cohorts))), "customdata": counts,
        "hovertemplate": f"cohort %{{y}}, {period} %{{x}}: %{{z:.1%}} (%{{customdata:,}} users)<extra></extra>",
        "colorbar": chart_elements.color_bar(".0%"),
    }  # fmt: skip
    return chart_elements.figure(
        [trace],
        height=110 + 26 * len(cohorts),
        xaxis=_integer_axis(f"{period}s later", width),
        yaxis=chart_elements.name_axis(labels) | {"showgrid": False},
    )


def events_by_hour(events: EventsView) -> Figure:
    """Events by weekday and hour, as a heatmap from the first to the last hour with events.

    Weekdays without events are left out when the events cover less than 6 days.
    """
    hours = [hour for _, hour in events.by_hour]
    days = {day for day, _ in events.by_hour} if (events.last - events.first).days < 6 else set(range(7))
    x, y = list(range(min(hours), max(hours) + 1)), sorted(days)
    z = [[events.by_hour.get((day, hour), 0) for hour in x] for day in y]
    trace = chart_elements.heatmap(z, None, max(map(max, z))) | {
        "x": x, "y": list(range(len(y))), "colorbar": chart_elements.color_bar(",~s"),
        "hovertemplate": "%{y} %{x}:00: %{z:,} events<extra></extra>",
    }  # fmt: skip
    return chart_elements.figure(
        [trace],
        height=110 + 30 * len(y),
        xaxis=_integer_axis(f"hour of the day, {events.timezone}", len(x)),
        yaxis=chart_elements.name_axis([WEEKDAYS[day] for day in y]) | {"showgrid": False},
    )


def _integer_axis(title: str, width: int) -> Figure:
    ticks = {"dtick": 1} if width <= 8 else {}
    return chart_elements.axis(title) | {"showgrid": False, "tickformat": "d", **ticks}


def segment_sizes(segments: SegmentsView) -> Figure:
    """Users of every segment after each batch, as stacked areas; as bars for a single batch."""
    names = {
        segment_id: "others" if segment_id == SegmentsView.OTHERS else f"segment {segment_id}"
        for segment_id in segments.sizes
    }
    colors = [chart_elements.color(number) for number in range(len(names))]
    if len(segments.as_of) == 1:
        users = [count for (count,) in segments.sizes.values()]
        notes = [f" · {count / segments.users:.1%}" for count in users]
        texts = [f"{count:,}" for count in users]
        return chart_elements.horizontal_bars(list(names.values()), users, texts, colors, notes)
    times = [chart_elements.format_time(time) for time in segments.as_of]
    traces = [
        {
            "type": "scatter", "name": names[segment_id], "x": times, "y": list(counts), "stackgroup": "users",
            "mode": "lines", "line": {"width": 1, "color": color}, "fillcolor": color, "hovertemplate": "%{y:,}",
        }
        for color, (segment_id, counts) in zip(colors, segments.sizes.items(), strict=True)
    ]  # fmt: skip
    return chart_elements.figure(
        traces,
        height=380,
        xaxis=chart_elements.time_axis(times),
        yaxis=chart_elements.axis("users"),
        hovermode=_HOVER_ALL_LINES,
    )


def tagged_users(tags: Sequence[TagRow]) -> Figure:
    """Users by tag, with the numbers gained and lost."""
    notes = [f" · {tag.gained:,} gained, {tag.lost:,} lost" for tag in tags]
    texts = [f"{tag.users:,}" for tag in tags]
    users = [tag.users for tag in tags]
    return chart_elements.horizontal_bars([tag.tag for tag in tags], users, texts, chart_elements.color(2), notes)


def preference_shares(preferences: PreferencesView) -> Figure:
    """The largest mean shares of the users' preferences."""
    names, shares = zip(*preferences.shares, strict=True)
    return chart_elements.horizontal_bars(names, shares, [f"{share:.1%}" for share in shares], chart_elements.color(3))


def metric_lines(points: Sequence[MetricPoint], title: str, limits: ValueAxis | None = None) -> Figure:
    """A metric over event time: one line per model; with several epochs, one line per model and epoch."""
    epochs = {point.epoch for point in points}
    lines: dict[tuple[str, str], list[MetricPoint]] = {}
    for point in points:
        lines.setdefault((point.model, point.epoch), []).append(point)
    models = sorted({point.model for point in points})
    traces = [
        chart_elements.line(
            model if len(epochs) == 1 else f"{model} ({epoch[:4]})",
            models.index(model),
            [chart_elements.format_time(point.state_as_of) for point in line],
            [point.value for point in line],
            "%{y:.4f}",
        )
        for (model, epoch), line in sorted(lines.items())
    ]
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.time_axis([chart_elements.format_time(point.state_as_of) for point in points]),
        yaxis=chart_elements.limited_axis(title, limits),
        hovermode=_HOVER_ALL_LINES,
    )
