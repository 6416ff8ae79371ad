"""Sections about user activity."""

from datetime import datetime

from profilestream.base.language import join_sentences, message, translate, translate_count
from profilestream.serve.report import charts, time_grains, value_axis
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.time_grains import TimeGrain
from profilestream.serve.report.view_users import (
    OTHER_DAY,
    EventsView,
    UsersView,
)

_NO_USERS = message(
    "There are no events with a user id: run jobs/capture_events.py. For a log without users, map the session to "
    'user_id and set serve.user_ids = "sessions".'
)
_SESSIONS_ONLY = message(
    'Left out, because the user ids are sessions (serve.user_ids = "sessions"); a session does not return.'
)


def activity(users: UsersView | None) -> Section:
    """Active users and buyers over time."""
    name, title = "activity", translate("Active users")
    if users is None:
        return Section(name, title, hint=translate(_NO_USERS))
    grain = time_grains.name(users.period_grain)
    peak = max(users.periods, key=lambda period: period.active)
    axis = value_axis.choose_axis([period.active for period in users.periods])
    labels = [_period_label(period.start, users.period_grain) for period in users.periods]
    outside = value_axis.note(axis, labels, [f"{period.active:,}" for period in users.periods])
    caption = translate(
        "Users with at least one event, and users with a purchase, per {grain}. The maximum is {peak:,} users (period "
        "starting {start}). The last period may be incomplete.",
        grain=grain,
        peak=peak.active,
        start=_period_label(peak.start, users.period_grain),
    )
    caption = join_sentences(caption, outside, _outside(users))
    rows = tuple(
        (label, f"{period.active:,}", f"{period.buyers:,}") for label, period in zip(labels, users.periods, strict=True)
    )
    chart_title = translate("Users per {grain}", grain=grain)
    table = TextTable(chart_title, (translate("start"), translate("active users"), translate("buyers")), rows)
    return Section(name, title, (Chart(chart_title, caption, charts.active_users(users.periods, axis), table),))


def funnel(users: UsersView | None, has_people: bool = True) -> Section:
    """Users by funnel step.

    Args:
        has_people: whether user ids are people; sessions have no purchase on another day.
    """
    name, title = "funnel", translate("Purchase funnel")
    if users is None:
        return Section(name, title, hint=translate(_NO_USERS))
    caption = translate("Users who took each step at least once, in any order. Steps without users are not shown.")
    if "added to cart" in users.steps:
        cart_users = users.steps["added to cart"]
        of_cart = translate(
            "{buyers:,} of {users:,} users with a cart also purchased ({share:.1%}).",
            buyers=users.cart_buyers,
            users=cart_users,
            share=users.cart_buyers / cart_users,
        )
        caption = join_sentences(caption, of_cart)
    steps = {translate(step): count for step, count in users.steps.items() if has_people or step != OTHER_DAY}
    return Section(name, title, (Chart(translate("Users by step"), caption, charts.funnel(steps)),))


def retention(users: UsersView | None, has_people: bool = True) -> Section:
    """Retention by cohort.

    Args:
        has_people: whether user ids are people, and not sessions.
    """
    name, title = "retention", translate("Retention")
    if not has_people:
        return Section(name, title, hint=translate(_SESSIONS_ONLY))
    if users is None:
        return Section(name, title, hint=translate(_NO_USERS))
    grain, grains = time_grains.name(users.cohort_grain), time_grains.plural_name(users.cohort_grain)
    if len(users.cohorts) < 2:
        hint = translate("All users have their first event in the same {grain}; two are needed.", grain=grain)
        return Section(name, title, hint=join_sentences(hint, _outside(users)))
    labels = [_period_label(cohort.start, users.cohort_grain) for cohort in users.cohorts]
    followed = [cohort.users for cohort in users.cohorts if len(cohort.users) > 1]
    caption = translate(
        "One row per cohort: the users with their first event in the same {grain}. Column n contains the share of the "
        "cohort that is active n {grains} later. Over all cohorts, {share:.1%} are active in the next {grain}.",
        grain=grain,
        grains=grains,
        share=sum(counts[1] for counts in followed) / sum(counts[0] for counts in followed),
    )
    caption = join_sentences(caption, _outside(users))
    width = max(len(cohort.users) for cohort in users.cohorts)
    rows = tuple(
        (label, *(f"{count:,}" for count in cohort.users), *[""] * (width - len(cohort.users)))
        for label, cohort in zip(labels, users.cohorts, strict=True)
    )
    heading = translate("Active users of each cohort, n {grains} later", grains=grains)
    table = TextTable(heading, (translate("cohort"), *map(str, range(width))), rows)
    figure = charts.retention(users.cohorts, labels, users.cohort_grain)
    chart = Chart(translate("Retention by {grain}", grain=grain), caption, figure, table)
    return Section(name, title, (chart,))


def _outside(users: UsersView) -> str:
    """A sentence about the events outside of the time axis; empty when there are none."""
    axis = users.axis
    before = translate_count(
        "{number} event before {day}", "{number} events before {day}", axis.before, day=axis.first_day
    )
    after = translate_count("{number} event after {day}", "{number} events after {day}", axis.after, day=axis.last_day)
    if not axis.before and not axis.after:
        return ""
    events = before if axis.before else after
    if axis.before and axis.after:
        events = translate("{before} and {after}", before=before, after=after)
    return translate("Not on the time axis, far from all others: {events}.", events=events)


def hours(events: EventsView | None) -> Section:
    """Events by hour of the week."""
    name, title = "hours", translate("Busiest hours")
    if events is None:
        return Section(name, title, hint=translate("There are no events: run jobs/capture_events.py."))
    (day, hour), maximum = max(events.by_hour.items(), key=lambda item: item[1])
    caption = translate(
        "In the shop time zone ({zone}). The maximum is {maximum:,} events, {weekday} {hour}:00 to {end}:00. Hours "
        "without events at the start and end of the day are not shown.",
        zone=events.timezone,
        maximum=maximum,
        weekday=translate(charts.WEEKDAYS[day]),
        hour=hour,
        end=hour + 1,
    )
    return Section(
        name, title, (Chart(translate("Events by weekday and hour"), caption, charts.events_by_hour(events)),)
    )


def _period_label(start: datetime, grain: TimeGrain) -> str:
    formats = {"ten minutes": "%Y-%m-%d %H:%M", "hour": "%Y-%m-%d %H:%M", "month": "%Y-%m"}
    return start.strftime(formats.get(grain, "%Y-%m-%d"))
