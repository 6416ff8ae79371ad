"""What users do, and which groups they form, as a person reads it."""

from datetime import datetime

from profilestream.serve.report import chart_elements, charts
from profilestream.serve.report.components import Plot, Section, Table
from profilestream.serve.report.view_model import Grain, Log, Numbers, Tags, Users, utc

_NO_USERS = "There are no events of known users: run jobs/capture_events.py."


def activity(users: Users | None) -> Section:
    """Users and buyers over time."""
    name, heading = "activity", "Active users"
    if users is None:
        return Section(name, heading, missing=_NO_USERS)
    most = max(users.periods, key=lambda one: one.active)
    each = _each(users.fine)
    said = (
        f"How many different users did anything, and how many bought, {each}. Most were there in the one that begins "
        f"{_begin(most.begin, users.fine)}: {most.active:,}. The last one may not be over."
    )
    rows = tuple((_begin(one.begin, users.fine), f"{one.active:,}", f"{one.buyers:,}") for one in users.periods)
    table = Table(f"Users {each}", ("begins", "active users", "buyers"), rows)
    return Section(name, heading, (Plot(f"Users {each}", said, charts.periods(users.periods), table),))


def steps(users: Users | None) -> Section:
    """The funnel."""
    name, heading = "funnel", "From the first look to coming back"
    if users is None:
        return Section(name, heading, missing=_NO_USERS)
    said = "Users who ever took a step, in whatever order; steps that the log does not know are left out."
    if "put into the cart" in users.steps:
        carted = users.steps["put into the cart"]
        both = users.bought_carted
        said += f" Of {carted:,} with something in the cart {both:,} bought ({both / carted:.1%})."
    return Section(name, heading, (Plot("Users by step", said, charts.steps(users.steps)),))


def retention(users: Users | None) -> Section:
    """Cohorts."""
    name, heading = "retention", "Do people come back?"
    if users is None:
        return Section(name, heading, missing=_NO_USERS)
    if len(users.cohorts) < 2:
        return Section(name, heading, missing=f"The log has one {users.coarse} only; retention needs a second one.")
    labels = [_begin(one.begin, users.coarse) for one in users.cohorts]
    met = sum(one.users[1] for one in users.cohorts if len(one.users) > 1)
    whole = sum(one.users[0] for one in users.cohorts if len(one.users) > 1)
    said = (
        f"A row is the users who first came in one {users.coarse}; to the right is the share of them that was there so "
        f"many {users.coarse}s later. Over all rows {met / whole:.1%} were there in the next one. "
        "The stronger the color, the more."
    )
    width = max(len(one.users) for one in users.cohorts)
    rows = tuple(
        (label, *(f"{n:,}" for n in one.users), *[""] * (width - len(one.users)))
        for label, one in zip(labels, users.cohorts, strict=True)
    )
    table = Table(f"Users of each cohort, so many {users.coarse}s later", ("first came", *map(str, range(width))), rows)
    plot = Plot(f"Retention by {users.coarse}", said, charts.cohorts(users.cohorts, labels, users.coarse), table)
    return Section(name, heading, (plot,))


def week(log: Log | None) -> Section:
    """Hours of the week."""
    name, heading = "week", "When is the shop busy?"
    if log is None:
        return Section(name, heading, missing="There are no events: run jobs/capture_events.py.")
    (day, hour), most = max(log.by_hour.items(), key=lambda one: one[1])
    said = (
        f"Events by weekday and hour of the shop's clock ({log.zone}). The busiest hour is {charts.DAYS[day]} "
        f"{hour}:00 to {hour + 1}:00 with {most:,} events. Hours before the first and after the last one with an event "
        "are left out."
    )
    return Section(name, heading, (Plot("Events by weekday and hour", said, charts.week(log)),))


def segments(found: Numbers) -> Section:
    """Segments over time, and what they are."""
    name, heading, segments = "segments", "Segments", found.segments
    if segments is None:
        return Section(name, heading, missing="Set learn.segments.enabled = true and run jobs/learn_segments.py.")
    first = segments.now[0]
    when = "after every batch, by event time" if len(segments.as_of) > 1 else f"as of {utc(segments.as_of[0])}"
    said = (
        f"Users in each segment {when}. The largest is segment {first.segment_id} with {first.users:,} users "
        f"({first.users / segments.users:.1%})."
    )
    rows = tuple(
        (str(one.segment_id), f"{one.users:,}", f"{one.users / segments.users:.1%}", one.description, one.rule,
         _share(one.precision), _share(one.recall))
        for one in segments.now
    )  # fmt: skip
    places = {segment: number for number, segment in enumerate(segments.sizes)}
    colors = tuple(chart_elements.color(places.get(one.segment_id, len(places) - 1)) for one in segments.now)
    columns = ("segment", "users", "share", "what sets it apart", "way to it in the tree", "precision", "recall")
    parts: list[Plot | Table] = [
        Plot("Sizes of the segments", said, charts.sizes(segments), is_wide=True),
        Table("Segments of the newest batch", columns, rows, colors),
    ]
    if segments.moves:
        moved = tuple((utc(moment), told) for moment, told in segments.moves)
        parts.append(Table("Newest moves", ("batch up to", "what moved"), moved))
    return Section(name, heading, tuple(parts))


def tags(tags: Tags | None) -> Section:
    """Who is called what, and what changed lately."""
    name, heading = "tags", "Tags"
    if tags is None:
        return Section(
            name, heading, missing="Set serve.tags.enabled = true and serve.tags.file, and run the pipeline."
        )
    days = Tags.LATELY.days
    gained, lost = (sum(getattr(one, column) for one in tags.tags) for column in ("gained", "lost"))
    said = (
        f"Users who hold each tag as of {utc(tags.as_of)}; one may hold several. Gained and lost are meant within the "
        f"{days} days before: {gained:,} and {lost:,} times, all tags together."
    )
    rows = tuple((one.tag, f"{one.users:,}", f"{one.gained:,}", f"{one.lost:,}") for one in tags.tags)
    table = Table("Tags, gained and lost", ("tag", "users", f"gained in {days} days", f"lost in {days} days"), rows)
    return Section(name, heading, (Plot("Users by tag", said, charts.tags(tags.tags), table),))


def tastes(found: Numbers) -> Section:
    """Preferences."""
    name, heading = "preferences", "What users prefer"
    if not found.tastes:
        missing = (
            "Declare preference.categories, brands or items in a file of derive.profiles; run jobs/derive_profiles.py."
        )
        return Section(name, heading, missing=missing)
    plots = tuple(
        Plot(
            of.of.capitalize(),
            f"The mean share in what a user prefers, over {of.users:,} users; each counts once, and newer events count "
            f"more. First is {of.shares[0][0]} with {of.shares[0][1]:.1%}; what is not shown has {of.others:.1%}.",
            charts.taste(of),
            Table(f"Shares of {of.of}", (of.of, "share"), tuple((key, f"{share:.2%}") for key, share in of.shares)),
        )
        for of in found.tastes
    )
    return Section(name, heading, plots)


def _begin(moment: datetime, grain: Grain) -> str:
    shapes = {"ten minutes": "%Y-%m-%d %H:%M", "hour": "%Y-%m-%d %H:%M", "month": "%Y-%m"}
    return moment.strftime(shapes.get(grain, "%Y-%m-%d"))


def _each(grain: Grain) -> str:
    return "in ten minutes" if grain == "ten minutes" else f"a {grain}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
