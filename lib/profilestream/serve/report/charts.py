"""Numbers to plotly figures. Pure."""

import html
from collections.abc import Mapping, Sequence

from profilestream.serve.report import chart_elements
from profilestream.serve.report.chart_elements import Figure
from profilestream.serve.report.view_model import Captured, Cohort, Judged, Log, Pace, Period, Rejects, Segments, Taste
from profilestream.serve.report.view_model import Tag as HeldTag

_AT_ONCE = "x unified"  # all lines at the time that is pointed at
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def unit_of(seconds: float) -> tuple[str, float]:
    """In which unit such a time is told, and how many seconds it has."""
    return ("days", 86_400.0) if seconds >= 96 * 3_600 else ("hours", 3_600.0)


def batches(captured: Sequence[Captured]) -> Figure:
    """Rows of every batch, by what became of them."""
    parts = {"clean": "rows_clean", "rejected": "rows_rejected", "duplicate": "rows_duplicate"}
    places = list(range(1, len(captured) + 1))
    names = [html.escape(f"{one.source} batch {one.batch_id}") for one in captured]
    traces = [
        {
            "type": "bar", "name": part, "x": places, "y": [getattr(one, field) for one in captured],
            "text": names, "textposition": "none", "marker": {"color": chart_elements.color(place)},
            "hovertemplate": "%{text}<br>%{y:,} " + part + "<extra></extra>",
        }
        for place, (part, field) in enumerate(parts.items())
    ]  # fmt: skip
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.counted("batch, in order of capture", len(captured)),
        yaxis=chart_elements.axis("rows"),
        barmode="stack",
    )


def rejects(rows: Sequence[Rejects]) -> Figure:
    """Rejected rows by rule."""
    names = [f"{one.rule} ({one.source})" for one in rows]
    return chart_elements.bars(
        names, [one.rows for one in rows], [f"{one.rows:,}" for one in rows], chart_elements.color(1)
    )


def lateness(captured: Sequence[Captured]) -> Figure:
    """How late the oldest event of every batch came in, a line a source."""
    unit, size = unit_of(max((one.lateness or 0 for one in captured), default=0))
    known = [(place, one) for place, one in enumerate(captured, 1) if one.lateness is not None]
    traces = [
        chart_elements.line(
            source,
            number,
            [place for place, one in known if one.source == source],
            [(one.lateness or 0) / size for _, one in known if one.source == source],
            "%{y:,.1f} " + unit,
        )
        for number, source in enumerate(dict.fromkeys(one.source for _, one in known))
    ]
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.counted("batch, in order of capture", len(captured)),
        yaxis=chart_elements.axis(unit) | {"rangemode": "tozero"},
    )


def paces(rows: Sequence[Pace]) -> Figure:
    """Seconds of the newest batches of every stage, a dot each."""
    traces = [
        {
            "type": "scatter", "mode": "markers", "name": one.stage, "showlegend": False,
            "x": list(one.newest), "y": [place] * len(one.newest),
            "marker": {"size": 9, "opacity": 0.65, "color": chart_elements.color(0)},
            "hovertemplate": html.escape(one.stage) + "<br>%{x:,.1f} s<extra></extra>",
        }
        for place, one in enumerate(rows)
    ]  # fmt: skip
    ticks = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
    told = [f"{tick:,g}" for tick in ticks]
    seconds = chart_elements.axis("seconds a batch") | {
        "type": "log",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": told,
    }
    return chart_elements.figure(
        traces, height=90 + 28 * len(rows), xaxis=seconds, yaxis=chart_elements.named([one.stage for one in rows])
    )


def periods(rows: Sequence[Period]) -> Figure:
    """Users and buyers over time."""
    times = [chart_elements.time(one.begin) for one in rows]
    traces = [
        chart_elements.line("active users", 0, times, [one.active for one in rows], "%{y:,} users"),
        chart_elements.line("buyers", 1, times, [one.buyers for one in rows], "%{y:,} buyers"),
    ]
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.times(times),
        yaxis=chart_elements.axis("users") | {"rangemode": "tozero"},
        hovermode=_AT_ONCE,
    )


def steps(users: Mapping[str, int]) -> Figure:
    """How many users took each step."""
    whole = max(users.values())
    notes = [f" · {count / whole:.1%}" for count in users.values()]
    return chart_elements.bars(
        list(users), list(users.values()), [f"{count:,}" for count in users.values()], chart_elements.color(0), notes
    )


def cohorts(rows: Sequence[Cohort], labels: Sequence[str], period: str) -> Figure:
    """Of those who first came in a period, the share that was there so many periods later."""
    width = max(len(one.users) for one in rows)
    shares = [[count / one.users[0] for count in one.users] + [None] * (width - len(one.users)) for one in rows]
    # The first period is 100 % by definition and would take the range of colors.
    told = [["100%", *(f"{share:.0%}" for share in row[1:] if share is not None)] for row in shares]
    told = [row + [""] * (width - len(row)) for row in told]
    counts = [list(one.users) + [None] * (width - len(one.users)) for one in rows]
    highest = max((share for row in shares for share in row[1:] if share is not None), default=1.0)
    trace = chart_elements.heat(shares, told if width <= 14 else None, highest or 1.0) | {
        "x": list(range(width)), "y": list(range(len(rows))), "customdata": counts,
        "hovertemplate": f"first came %{{y}}, {period} %{{x}}: %{{z:.1%}} (%{{customdata:,}} users)<extra></extra>",
        "colorbar": chart_elements.colorbar(".0%"),
    }  # fmt: skip
    return chart_elements.figure(
        [trace],
        height=110 + 26 * len(rows),
        xaxis=chart_elements.axis(f"{period}s later")
        | {"showgrid": False, "tickformat": "d", **({"dtick": 1} if width <= 8 else {})},
        yaxis=chart_elements.named(labels) | {"showgrid": False},
    )


def week(log: Log) -> Figure:
    """Events by weekday and hour; hours before the first and after the last that had any are left out."""
    hours = [hour for _, hour in log.by_hour]
    days = {day for day, _ in log.by_hour} if (log.last - log.first).days < 6 else set(range(7))
    x, y = list(range(min(hours), max(hours) + 1)), sorted(days)
    z = [[log.by_hour.get((day, hour), 0) for hour in x] for day in y]
    trace = chart_elements.heat(z, None, max(map(max, z))) | {
        "x": x, "y": list(range(len(y))), "colorbar": chart_elements.colorbar(",~s"),
        "hovertemplate": "%{y} %{x}:00: %{z:,} events<extra></extra>",
    }  # fmt: skip
    return chart_elements.figure(
        [trace],
        height=110 + 30 * len(y),
        xaxis=chart_elements.axis(f"hour of the day, {log.zone}")
        | {"showgrid": False, "tickformat": "d", **({"dtick": 1} if len(x) <= 8 else {})},
        yaxis=chart_elements.named([DAYS[day] for day in y]) | {"showgrid": False},
    )


def sizes(segments: Segments) -> Figure:
    """Users of every segment after every batch, one on the other; bars when there is one batch."""
    names = {one: "others" if one == Segments.OTHERS else f"segment {one}" for one in segments.sizes}
    colors = [chart_elements.color(number) for number in range(len(names))]
    if len(segments.as_of) == 1:
        users = [users for (users,) in segments.sizes.values()]
        notes = [f" · {count / segments.users:.1%}" for count in users]
        return chart_elements.bars(list(names.values()), users, [f"{count:,}" for count in users], colors, notes)
    times = [chart_elements.time(moment) for moment in segments.as_of]
    traces = [
        {
            "type": "scatter", "name": names[one], "x": times, "y": list(users), "stackgroup": "users", "mode": "lines",
            "line": {"width": 1, "color": its}, "fillcolor": its, "hovertemplate": "%{y:,}",
        }
        for its, (one, users) in zip(colors, segments.sizes.items(), strict=True)
    ]  # fmt: skip
    return chart_elements.figure(
        traces, height=380, xaxis=chart_elements.times(times), yaxis=chart_elements.axis("users"), hovermode=_AT_ONCE
    )


def tags(rows: Sequence[HeldTag]) -> Figure:
    """Users who hold each tag."""
    notes = [f" · {one.gained:,} gained, {one.lost:,} lost" for one in rows]
    users = [one.users for one in rows]
    return chart_elements.bars(
        [one.tag for one in rows], users, [f"{count:,}" for count in users], chart_elements.color(2), notes
    )


def taste(of: Taste) -> Figure:
    """The greatest shares of what users prefer."""
    names, shares = zip(*of.shares, strict=True)
    return chart_elements.bars(names, shares, [f"{share:.1%}" for share in shares], chart_elements.color(3))


def judged(rows: Sequence[Judged], title: str) -> Figure:
    """A measure over time, a line a ranker; learners that were begun anew have a line an epoch."""
    epochs = {row.epoch for row in rows}
    lines: dict[tuple[str, str], list[Judged]] = {}
    for row in rows:
        lines.setdefault((row.ranker, row.epoch), []).append(row)
    rankers = sorted({row.ranker for row in rows})
    traces = [
        chart_elements.line(
            ranker if len(epochs) == 1 else f"{ranker} ({epoch[:4]})",
            rankers.index(ranker),
            [chart_elements.time(row.as_of) for row in line],
            [row.value for row in line],
            "%{y:.4f}",
        )
        for (ranker, epoch), line in sorted(lines.items())
    ]
    return chart_elements.figure(
        traces,
        xaxis=chart_elements.times([chart_elements.time(row.as_of) for row in rows]),
        yaxis=chart_elements.axis(title) | {"rangemode": "tozero"},
        hovermode=_AT_ONCE,
    )
