"""Title, and the groups of key figures and sections of the report in display order; no Spark."""

import math

from profilestream.base.language import join_list, join_sentences, translate
from profilestream.serve.report import (
    sections_demand,
    sections_examples,
    sections_groups,
    sections_models,
    sections_outcomes,
    sections_pipeline,
    sections_shop,
    sections_users,
)
from profilestream.serve.report.report_elements import Group, KeyFigure
from profilestream.serve.report.view_model import ReportView, format_utc
from profilestream.serve.scores import recommend


def title(view: ReportView) -> str:
    """Title of the page, with the time of the newest event."""
    if view.events is None:
        return translate("No events captured yet")
    return translate("Shop report up to {time}", time=format_utc(view.events.last))


def lead(view: ReportView) -> str:
    """Number, sources and time range of the events, and the time zones of the page."""
    if view.events is None:
        if rows := view.pipeline.total("rows_in"):
            return translate(
                "There are no events: none of the {rows:,} captured rows is clean. See the rejected rows at the end.",
                rows=rows,
            )
        return translate(
            "There are no events. Run jobs/capture_events.py or jobs/run_pipeline.py when the sources have rows."
        )
    sources = join_list(dict.fromkeys(source.source for source in view.pipeline.sources))
    events = translate("{count:,} clean events", count=view.events.events)
    if sources:
        events = translate("{count:,} clean events from {sources}", count=view.events.events, sources=sources)
    first, last = format_utc(view.events.first), format_utc(view.events.last)
    return join_sentences(
        translate("{events}, {first} to {last}.", events=events, first=first, last=last),
        translate(
            "Days, weeks and hours are in the shop time zone ({zone}); all other times are in UTC.",
            zone=view.events.timezone,
        ),
    )


def groups(view: ReportView) -> list[Group]:
    """All sections in display order; a section without data contains a hint."""
    enabled = view.enabled
    return [
        Group(
            "shop",
            translate("Your shop"),
            sections_shop.key_figures(view),
            (
                sections_shop.revenue(view),
                sections_shop.items(view),
                sections_demand.demand(view.demand, is_enabled="learn_demand" in enabled),
                sections_shop.segments(view),
                sections_shop.recommended(view, is_enabled=recommend.STEP in enabled),
                sections_examples.examples(view, is_enabled="learn_outcomes" in enabled),
            ),
        ),
        Group(
            "customers",
            translate("Customers in detail"),
            (),
            (
                sections_users.activity(view.users),
                sections_users.funnel(view.users, view.has_people),
                sections_users.retention(view.users, view.has_people),
                sections_users.hours(view.events),
                sections_groups.segments(view.segments, is_enabled="learn_segments" in enabled),
                sections_groups.tags(view.tags, is_enabled="serve_tags" in enabled),
                sections_groups.preferences(view.preferences),
                sections_outcomes.highest_scores(view.outcomes, is_enabled="learn_outcomes" in enabled),
                sections_groups.unusual_days(view.unusual_days, is_enabled="serve_anomalies" in enabled),
            ),
        ),
        Group(
            "data",
            translate("Data and models"),
            data_key_figures(view),
            (
                sections_pipeline.captured_rows(view.pipeline),
                sections_pipeline.stages(view.pipeline),
                sections_outcomes.score_quality(view.outcomes, is_enabled="learn_outcomes" in enabled),
                sections_models.model_quality(view),
                sections_models.published_versions(view),
            ),
        ),
    ]


def data_key_figures(view: ReportView) -> tuple[KeyFigure, ...]:
    """The key figures of the data and models; those without data are left out."""
    figures: list[KeyFigure] = []
    pipeline, events, users = view.pipeline, view.events, view.users
    if pipeline.sources:
        figures += [
            KeyFigure("rows_in", translate("rows in"), pipeline.total("rows_in")),
            KeyFigure("rows_clean", translate("clean rows"), pipeline.total("rows_clean")),
            KeyFigure("rows_rejected", translate("rejected rows"), pipeline.total("rows_rejected")),
            KeyFigure("rows_duplicate", translate("duplicate rows"), pipeline.total("rows_duplicate")),
            KeyFigure("alarms", translate("alarms"), pipeline.alarm_count),
        ]
    if events is not None:
        note = translate("{count:,} without a user id", count=events.guests) if events.guests else ""
        figures.append(KeyFigure("events", translate("events"), events.events, note=note))
    if users is not None:
        label = translate("users") if view.has_people else translate("sessions")
        figures.append(KeyFigure("users", label, max(users.steps.values())))
    if events is not None and events.value is None:
        note = translate("several currencies and no rates (capture.currency), so there is no sum")
        figures.append(KeyFigure("purchase_value", translate("purchase value"), 0, "–", note))
    elif events is not None and events.value and math.isfinite(events.value):
        currency = events.currency or translate("currency unknown")
        note = translate("{currency}, with returned items", currency=currency)
        figures.append(KeyFigure("purchase_value", translate("purchase value"), events.value, note=note))
    if view.segments is not None:
        note = translate("{count:,} users", count=view.segments.users)
        figures.append(KeyFigure("segments", translate("segments"), len(view.segments.current), note=note))
    if view.tags is not None:
        assigned = sum(tag.users for tag in view.tags.tags)
        note = translate("{count} different tags", count=len(view.tags.tags))
        figures.append(KeyFigure("assigned_tags", translate("assigned tags"), assigned, note=note))
    if view.recall:
        model, recall = sections_models.best_model(view.recall)
        figures.append(KeyFigure("recall_20", translate("recall@20"), recall, f"{recall:.1%}", model))
    return tuple(figures)
