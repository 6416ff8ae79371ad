"""Contents of the report as plotly figures; no Spark."""

from collections.abc import Mapping, Sequence

from profilestream.base.language import message, translate
from profilestream.serve.report import chart_elements, time_grains
from profilestream.serve.report.chart_elements import Figure
from profilestream.serve.report.time_grains import TimeGrain
from profilestream.serve.report.value_axis import ValueAxis
from profilestream.serve.report.view_model import MetricPoint
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
WEEKDAYS = (
    message("Mon"), message("Tue"), message("Wed"), message("Thu"), message("Fri"), message("Sat"), message("Sun")
)  # fmt: skip


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
        chart_elements.line(translate("active users"), 0, times, [period.active for period in periods], "%{y:,}"),
        chart_elements.line(translate("buyers"), 1, times, [period.buyers for period in periods], "%{y:,}"),
    ]
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.time_axis(times),
        yaxis=chart_elements.limited_axis(translate("users"), limits),
        hovermode=_HOVER_ALL_LINES,
    )


def funnel(steps: Mapping[str, int]) -> Figure:
    """Users by funnel step, with the share of all users."""
    total = max(steps.values())
    notes = [f" · {count / total:.1%}" for count in steps.values()]
    texts = [f"{count:,}" for count in steps.values()]
    return chart_elements.horizontal_bars(list(steps), list(steps.values()), texts, chart_elements.color(0), notes)


def retention(cohorts: Sequence[Cohort], labels: Sequence[str], grain: TimeGrain) -> Figure:
    """Share of each cohort that is active n periods later, as a heatmap."""
    width = max(len(cohort.users) for cohort in cohorts)
    rows = [[count / cohort.users[0] for count in cohort.users] for cohort in cohorts]
    # The first period is 100% by definition; the color scale ends at the largest of the other shares.
    maximum = max((share for row in rows for share in row[1:]), default=1.0) or 1.0
    texts = [["100%", *(f"{share:.0%}" for share in row[1:])] + [""] * (width - len(row)) for row in rows]
    shares: list[list[float | None]] = [[*row, *[None] * (width - len(row))] for row in rows]
    counts = [[*cohort.users, *[None] * (width - len(cohort.users))] for cohort in cohorts]
    hover = translate(
        "cohort {cohort}, {n} {grains} later: {share} ({users} users)",
        cohort="%{y}", n="%{x}", grains=time_grains.plural_name(grain), share="%{z:.1%}", users="%{customdata:,}",
    )  # fmt: skip
    trace = chart_elements.heatmap(shares, texts if width <= _MAX_COHORT_TEXTS else None, maximum) | {
        "x": list(range(width)), "y": list(range(len(cohorts))), "customdata": counts,
        "hovertemplate": f"{hover}<extra></extra>",
        "colorbar": chart_elements.color_bar(".0%"),
    }  # fmt: skip
    return chart_elements.figure(
        [trace],
        height=110 + 26 * len(cohorts),
        xaxis=_integer_axis(translate("{grains} later", grains=time_grains.plural_name(grain)), width),
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
    hover = translate("{day} {hour}:00: {count} events", day="%{y}", hour="%{x}", count="%{z:,}")
    trace = chart_elements.heatmap(z, None, max(map(max, z))) | {
        "x": x, "y": list(range(len(y))), "colorbar": chart_elements.color_bar(",~s"),
        "hovertemplate": f"{hover}<extra></extra>",
    }  # fmt: skip
    return chart_elements.figure(
        [trace],
        height=110 + 30 * len(y),
        xaxis=_integer_axis(translate("hour of the day, {zone}", zone=events.timezone), len(x)),
        yaxis=chart_elements.name_axis([translate(WEEKDAYS[day]) for day in y]) | {"showgrid": False},
    )


def _integer_axis(title: str, width: int) -> Figure:
    ticks = {"dtick": 1} if width <= 8 else {}
    return chart_elements.axis(title) | {"showgrid": False, "tickformat": "d", **ticks}


def segment_sizes(segments: SegmentsView) -> Figure:
    """Users of every segment after each batch, as stacked areas; as bars for a single batch."""
    names = {
        segment_id: translate("others")
        if segment_id == SegmentsView.OTHERS
        else translate("segment {number}", number=segment_id)
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
        yaxis=chart_elements.axis(translate("users")),
        hovermode=_HOVER_ALL_LINES,
    )


def tagged_users(tags: Sequence[TagRow]) -> Figure:
    """Users by tag, with the numbers gained and lost."""
    notes = [" · " + translate("{gained:,} gained, {lost:,} lost", gained=tag.gained, lost=tag.lost) for tag in tags]
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
