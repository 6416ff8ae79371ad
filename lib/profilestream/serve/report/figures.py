"""Numbers to plotly figures. Pure."""

import html
from collections.abc import Mapping, Sequence

from profilestream.serve.report import drawing
from profilestream.serve.report.drawing import Figure
from profilestream.serve.report.numbers import Captured, Cohort, Judged, Log, Pace, Period, Rejects, Segments, Taste
from profilestream.serve.report.numbers import Tag as HeldTag

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
            "text": names, "textposition": "none", "marker": {"color": drawing.colour(place)},
            "hovertemplate": "%{text}<br>%{y:,} " + part + "<extra></extra>",
        }
        for place, (part, field) in enumerate(parts.items())
    ]  # fmt: skip
    return drawing.figure(
        traces,
        xaxis=drawing.counted("batch, in order of capture", len(captured)),
        yaxis=drawing.axis("rows"),
        barmode="stack",
    )


def rejects(rows: Sequence[Rejects]) -> Figure:
    """Rejected rows by rule."""
    names = [f"{one.rule} ({one.source})" for one in rows]
    return drawing.bars(names, [one.rows for one in rows], [f"{one.rows:,}" for one in rows], drawing.colour(1))


def lateness(captured: Sequence[Captured]) -> Figure:
    """How late the oldest event of every batch came in, a line a source."""
    unit, size = unit_of(max((one.lateness or 0 for one in captured), default=0))
    known = [(place, one) for place, one in enumerate(captured, 1) if one.lateness is not None]
    traces = [
        drawing.line(
            source,
            number,
            [place for place, one in known if one.source == source],
            [(one.lateness or 0) / size for _, one in known if one.source == source],
            "%{y:,.1f} " + unit,
        )
        for number, source in enumerate(dict.fromkeys(one.source for _, one in known))
    ]
    return drawing.figure(
        traces,
        xaxis=drawing.counted("batch, in order of capture", len(captured)),
        yaxis=drawing.axis(unit) | {"rangemode": "tozero"},
    )


def paces(rows: Sequence[Pace]) -> Figure:
    """Seconds of the newest batches of every stage, a dot each."""
    traces = [
        {
            "type": "scatter", "mode": "markers", "name": one.stage, "showlegend": False,
            "x": list(one.newest), "y": [place] * len(one.newest),
            "marker": {"size": 9, "opacity": 0.65, "color": drawing.colour(0)},
            "hovertemplate": html.escape(one.stage) + "<br>%{x:,.1f} s<extra></extra>",
        }
        for place, one in enumerate(rows)
    ]  # fmt: skip
    ticks = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
    told = [f"{tick:,g}" for tick in ticks]
    seconds = drawing.axis("seconds a batch") | {
        "type": "log",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": told,
    }
    return drawing.figure(
        traces, height=90 + 28 * len(rows), xaxis=seconds, yaxis=drawing.named([one.stage for one in rows])
    )


def periods(rows: Sequence[Period]) -> Figure:
    """Users and buyers over time."""
    times = [drawing.time(one.begin) for one in rows]
    traces = [
        drawing.line("active users", 0, times, [one.active for one in rows], "%{y:,} users"),
        drawing.line("buyers", 1, times, [one.buyers for one in rows], "%{y:,} buyers"),
    ]
    return drawing.figure(
        traces, xaxis=drawing.times(times), yaxis=drawing.axis("users") | {"rangemode": "tozero"}, hovermode=_AT_ONCE
    )


def steps(users: Mapping[str, int]) -> Figure:
    """How many users took each step."""
    whole = max(users.values())
    notes = [f" · {count / whole:.1%}" for count in users.values()]
    return drawing.bars(
        list(users), list(users.values()), [f"{count:,}" for count in users.values()], drawing.colour(0), notes
    )


def cohorts(rows: Sequence[Cohort], labels: Sequence[str], period: str) -> Figure:
    """Of those who first came in a period, the share that was there so many periods later."""
    width = max(len(one.users) for one in rows)
    shares = [[count / one.users[0] for count in one.users] + [None] * (width - len(one.users)) for one in rows]
    # The first period is 100 % by definition and would take the range of colours.
    told = [["100%", *(f"{share:.0%}" for share in row[1:] if share is not None)] for row in shares]
    told = [row + [""] * (width - len(row)) for row in told]
    counts = [list(one.users) + [None] * (width - len(one.users)) for one in rows]
    highest = max((share for row in shares for share in row[1:] if share is not None), default=1.0)
    trace = drawing.heat(shares, told if width <= 14 else None, highest or 1.0) | {
        "x": list(range(width)), "y": list(range(len(rows))), "customdata": counts,
        "hovertemplate": f"first came %{{y}}, {period} %{{x}}: %{{z:.1%}} (%{{customdata:,}} users)<extra></extra>",
        "colorbar": drawing.colourbar(".0%"),
    }  # fmt: skip
    return drawing.figure(
        [trace],
        height=110 + 26 * len(rows),
        xaxis=drawing.axis(f"{period}s later")
        | {"showgrid": False, "tickformat": "d", **({"dtick": 1} if width <= 8 else {})},
        yaxis=drawing.named(labels) | {"showgrid": False},
    )


def week(log: Log) -> Figure:
    """Events by weekday and hour; hours before the first and after the last that had any are left out."""
    hours = [hour for _, hour in log.by_hour]
    days = {day for day, _ in log.by_hour} if (log.last - log.first).days < 6 else set(range(7))
    x, y = list(range(min(hours), max(hours) + 1)), sorted(days)
    z = [[log.by_hour.get((day, hour), 0) for hour in x] for day in y]
    trace = drawing.heat(z, None, max(map(max, z))) | {
        "x": x, "y": list(range(len(y))), "colorbar": drawing.colourbar(",~s"),
        "hovertemplate": "%{y} %{x}:00: %{z:,} events<extra></extra>",
    }  # fmt: skip
    return drawing.figure(
        [trace],
        height=110 + 30 * len(y),
        xaxis=drawing.axis(f"hour of the day, {log.zone}")
        | {"showgrid": False, "tickformat": "d", **({"dtick": 1} if len(x) <= 8 else {})},
        yaxis=drawing.named([DAYS[day] for day in y]) | {"showgrid": False},
    )


def sizes(segments: Segments) -> Figure:
    """Users of every segment after every batch, one on the other; bars when there is one batch."""
    names = {one: "others" if one == Segments.OTHERS else f"segment {one}" for one in segments.sizes}
    colours = [drawing.colour(number) for number in range(len(names))]
    if len(segments.as_of) == 1:
        users = [users for (users,) in segments.sizes.values()]
        notes = [f" · {count / segments.users:.1%}" for count in users]
        return drawing.bars(list(names.values()), users, [f"{count:,}" for count in users], colours, notes)
    times = [drawing.time(moment) for moment in segments.as_of]
    traces = [
        {
            "type": "scatter", "name": names[one], "x": times, "y": list(users), "stackgroup": "users", "mode": "lines",
            "line": {"width": 1, "color": its}, "fillcolor": its, "hovertemplate": "%{y:,}",
        }
        for its, (one, users) in zip(colours, segments.sizes.items(), strict=True)
    ]  # fmt: skip
    return drawing.figure(
        traces, height=380, xaxis=drawing.times(times), yaxis=drawing.axis("users"), hovermode=_AT_ONCE
    )


def tags(rows: Sequence[HeldTag]) -> Figure:
    """Users who hold each tag."""
    notes = [f" · {one.gained:,} gained, {one.lost:,} lost" for one in rows]
    users = [one.users for one in rows]
    return drawing.bars([one.tag for one in rows], users, [f"{count:,}" for count in users], drawing.colour(2), notes)


def taste(of: Taste) -> Figure:
    """The greatest shares of what users prefer."""
    names, shares = zip(*of.shares, strict=True)
    return drawing.bars(names, shares, [f"{share:.1%}" for share in shares], drawing.colour(3))


def judged(rows: Sequence[Judged], title: str) -> Figure:
    """A measure over time, a line a candidate; learners that were begun anew have a line an epoch."""
    epochs = {row.epoch for row in rows}
    lines: dict[tuple[str, str], list[Judged]] = {}
    for row in rows:
        lines.setdefault((row.candidate, row.epoch), []).append(row)
    candidates = sorted({row.candidate for row in rows})
    traces = [
        drawing.line(
            candidate if len(epochs) == 1 else f"{candidate} ({epoch[:4]})",
            candidates.index(candidate),
            [drawing.time(row.as_of) for row in line],
            [row.value for row in line],
            "%{y:.4f}",
        )
        for (candidate, epoch), line in sorted(lines.items())
    ]
    return drawing.figure(
        traces,
        xaxis=drawing.times([drawing.time(row.as_of) for row in rows]),
        yaxis=drawing.axis(title) | {"rangemode": "tozero"},
        hovermode=_AT_ONCE,
    )
