"""Sections about user activity, segments, tags and preferences."""

from datetime import datetime

from profilestream.learn.segments import segment_rules
from profilestream.serve.report import chart_elements, charts, value_axis
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.time_grains import TimeGrain
from profilestream.serve.report.view_model import format_utc
from profilestream.serve.report.view_users import (
    OTHER_DAY,
    EventsView,
    PreferencesView,
    SegmentsView,
    TagsView,
    UnusualDay,
    UsersView,
)

_NO_USERS = (
    "There are no events with a user id: run jobs/capture_events.py. For a log without users, map the session to "
    'user_id and set serve.user_ids = "sessions".'
)
_SESSIONS_ONLY = 'Left out, because the user ids are sessions (serve.user_ids = "sessions"); a session does not return.'


def activity(users: UsersView | None) -> Section:
    """Active users and buyers over time."""
    name, title = "activity", "Active users"
    if users is None:
        return Section(name, title, hint=_NO_USERS)
    grain = users.period_grain
    peak = max(users.periods, key=lambda period: period.active)
    axis = value_axis.choose_axis([period.active for period in users.periods])
    labels = [_period_label(period.start, grain) for period in users.periods]
    outside = value_axis.note(axis, labels, [f"{period.active:,}" for period in users.periods])
    caption = (
        f"Users with at least one event, and users with a purchase, per {grain}. The maximum is {peak.active:,} users "
        f"(period starting {_period_label(peak.start, grain)}). The last period may be incomplete."
        f"{outside}{_outside(users)}"
    )
    rows = tuple(
        (_period_label(period.start, grain), f"{period.active:,}", f"{period.buyers:,}") for period in users.periods
    )
    chart_title = f"Users per {grain}"
    table = TextTable(chart_title, ("start", "active users", "buyers"), rows)
    return Section(name, title, (Chart(chart_title, caption, charts.active_users(users.periods, axis), table),))


def funnel(users: UsersView | None, has_people: bool = True) -> Section:
    """Users by funnel step.

    Args:
        has_people: whether user ids are people; sessions have no purchase on another day.
    """
    name, title = "funnel", "Purchase funnel"
    if users is None:
        return Section(name, title, hint=_NO_USERS)
    caption = "Users who took each step at least once, in any order. Steps without users are not shown."
    if "added to cart" in users.steps:
        cart_users = users.steps["added to cart"]
        share = users.cart_buyers / cart_users
        caption += f" {users.cart_buyers:,} of {cart_users:,} users with a cart also purchased ({share:.1%})."
    steps = {step: count for step, count in users.steps.items() if has_people or step != OTHER_DAY}
    return Section(name, title, (Chart("Users by step", caption, charts.funnel(steps)),))


def retention(users: UsersView | None, has_people: bool = True) -> Section:
    """Retention by cohort.

    Args:
        has_people: whether user ids are people, and not sessions.
    """
    name, title = "retention", "Retention"
    if not has_people:
        return Section(name, title, hint=_SESSIONS_ONLY)
    if users is None:
        return Section(name, title, hint=_NO_USERS)
    grain = users.cohort_grain
    if len(users.cohorts) < 2:
        hint = f"All users have their first event in the same {grain}; two are needed.{_outside(users)}"
        return Section(name, title, hint=hint)
    labels = [_period_label(cohort.start, grain) for cohort in users.cohorts]
    followed = [cohort.users for cohort in users.cohorts if len(cohort.users) > 1]
    share = sum(counts[1] for counts in followed) / sum(counts[0] for counts in followed)
    caption = (
        f"One row per cohort: the users with their first event in the same {grain}. Column n contains the share of the "
        f"cohort that is active n {grain}s later. Over all cohorts, {share:.1%} are active in the next {grain}."
        f"{_outside(users)}"
    )
    width = max(len(cohort.users) for cohort in users.cohorts)
    rows = tuple(
        (label, *(f"{count:,}" for count in cohort.users), *[""] * (width - len(cohort.users)))
        for label, cohort in zip(labels, users.cohorts, strict=True)
    )
    table = TextTable(f"Active users of each cohort, n {grain}s later", ("cohort", *map(str, range(width))), rows)
    chart = Chart(f"Retention by {grain}", caption, charts.retention(users.cohorts, labels, grain), table)
    return Section(name, title, (chart,))


def _outside(users: UsersView) -> str:
    """A sentence about the events outside of the time axis; empty when there are none."""
    axis = users.axis
    counts = [(axis.before, "before", axis.first_day), (axis.after, "after", axis.last_day)]
    parts = [f"{_events(count)} {where} {day:%Y-%m-%d}" for count, where, day in counts if count]
    return f" Not on the time axis, far from all others: {' and '.join(parts)}." if parts else ""


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def hours(events: EventsView | None) -> Section:
    """Events by hour of the week."""
    name, title = "hours", "Busiest hours"
    if events is None:
        return Section(name, title, hint="There are no events: run jobs/capture_events.py.")
    (day, hour), maximum = max(events.by_hour.items(), key=lambda item: item[1])
    caption = (
        f"In the shop time zone ({events.timezone}). The maximum is {maximum:,} events, {charts.WEEKDAYS[day]} "
        f"{hour}:00 to {hour + 1}:00. Hours without events at the start and end of the day are not shown."
    )
    return Section(name, title, (Chart("Events by weekday and hour", caption, charts.events_by_hour(events)),))


def segments(segments: SegmentsView | None, *, is_enabled: bool) -> Section:
    """Sizes of the segments over time, descriptions, and split/merge moves."""
    name, title = "segments", "Segments"
    if segments is None:
        do = "Capture events with a user id" if is_enabled else "Set learn.segments.enabled = true"
        return Section(name, title, hint=f"There are no segments. {do}, and run jobs/learn_segments.py.")
    largest = segments.current[0]
    time = "after each batch, by event time" if len(segments.as_of) > 1 else f"as of {format_utc(segments.as_of[0])}"
    caption = (
        f"Users per segment {time}. The largest is segment {largest.segment_id} with {largest.users:,} users "
        f"({largest.users / segments.users:.1%})."
    )
    parts: list[Chart | TextTable] = [
        Chart("Segment sizes", caption, charts.segment_sizes(segments), _segment_rules(segments), is_wide=True),
        _current_segments(segments),
    ]
    if segments.moves:
        moves = tuple((format_utc(time), text) for time, text in segments.moves)
        parts.append(TextTable("Newest split/merge moves", ("batch as of", "move"), moves))
    return Section(name, title, tuple(parts))


def _segment_rules(segments: SegmentsView) -> TextTable:
    rows = tuple(
        (
            str(segment.segment_id),
            segment.rule or segment_rules.NO_RULE,
            _percent(segment.precision),
            _percent(segment.recall),
        )
        for segment in segments.current
    )
    columns = ("segment", "decision tree rule", "precision", "recall")
    return TextTable("Rules of the segments", columns, rows)


def _current_segments(segments: SegmentsView) -> TextTable:
    rows = tuple(
        (
            str(segment.segment_id),
            f"{segment.users:,}",
            f"{segment.users / segments.users:.1%}",
            segment.description,
            segment.rule_in_words or segment_rules.NO_RULE,
        )
        for segment in segments.current
    )
    numbers = {segment_id: number for number, segment_id in enumerate(segments.sizes)}
    others = len(numbers) - 1
    colors = tuple(chart_elements.color(numbers.get(segment.segment_id, others)) for segment in segments.current)
    columns = ("segment", "users", "share", "description", "who is in it")
    return TextTable("Segments after the newest batch", columns, rows, colors)


def tags(tags: TagsView | None, *, is_enabled: bool) -> Section:
    """Users by tag, and recent changes."""
    name, title = "tags", "Tags"
    if tags is None:
        do = "Capture events with a user id" if is_enabled else "Set serve.tags.enabled = true and serve.tags.file"
        return Section(name, title, hint=f"No user has tags. {do}, and run jobs/run_pipeline.py.")
    days = TagsView.CHANGE_PERIOD.days
    gained, lost = sum(tag.gained for tag in tags.tags), sum(tag.lost for tag in tags.tags)
    unknown_start = sum(tag.unknown_start for tag in tags.tags)
    caption = (
        f"As of {format_utc(tags.as_of)}; a user can have several tags. In the {days} days before, users gained "
        f"{gained:,} and lost {lost:,} tags."
    )
    if unknown_start:
        caption += f" {unknown_start:,} tags may be older: no earlier run evaluated their rules."
    rows = tuple((tag.tag, f"{tag.users:,}", f"{tag.gained:,}", f"{tag.lost:,}") for tag in tags.tags)
    columns = ("tag", "users", f"gained in {days} days", f"lost in {days} days")
    chart = Chart("Users by tag", caption, charts.tagged_users(tags.tags), TextTable("Tags and changes", columns, rows))
    return Section(name, title, (chart,))


def unusual_days(days: tuple[UnusualDay, ...], *, is_enabled: bool) -> Section:
    """The days of users that differ most from their earlier days, with reasons."""
    name, title = "unusual", "Unusual activity"
    if not days:
        do = "Capture more days of users" if is_enabled else "Set serve.anomalies.enabled = true"
        return Section(name, title, hint=f"No day is unusual. {do}, and run jobs/run_pipeline.py.")
    rows = tuple((day.user_id, f"{day.day:%Y-%m-%d}", f"{day.share:.2%}", "; ".join(day.reasons)) for day in days)
    columns = ("user", "day", "share of all days that differ as much", "reasons")
    return Section(name, title, (TextTable("Days that differ most from the earlier days of the user", columns, rows),))


def preferences(preferences: tuple[PreferencesView, ...]) -> Section:
    """Mean preference shares over users."""
    name, title = "preferences", "Preferences"
    if not preferences:
        hint = (
            "Declare preference.categories, brands or items in a file of derive.profiles and run "
            "jobs/derive_profiles.py."
        )
        return Section(name, title, hint=hint)
    return Section(name, title, tuple(_preference_chart(view) for view in preferences))


def _preference_chart(view: PreferencesView) -> Chart:
    (largest, share), *_ = view.shares
    caption = (
        f"Mean share of a user's preferences. All {view.users:,} users have equal weight; newer events have more "
        f"weight. The largest share is {share:.1%} ({largest}). Values that are not shown have {view.others:.1%}."
    )
    rows = tuple((value, f"{share:.2%}") for value, share in view.shares)
    table = TextTable(f"Shares of {view.attribute}", (view.attribute, "share"), rows)
    return Chart(view.attribute.capitalize(), caption, charts.preference_shares(view), table)


def _period_label(start: datetime, grain: TimeGrain) -> str:
    formats = {"ten minutes": "%Y-%m-%d %H:%M", "hour": "%Y-%m-%d %H:%M", "month": "%Y-%m"}
    return start.strftime(formats.get(grain, "%Y-%m-%d"))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
