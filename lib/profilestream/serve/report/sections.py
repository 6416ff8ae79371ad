"""Title, and the groups of key figures and sections of the report in display order; no Spark."""

import math

from profilestream.serve.report import (
    sections_demand,
    sections_examples,
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
    return "No events captured yet" if view.events is None else f"Shop report up to {format_utc(view.events.last)}"


def lead(view: ReportView) -> str:
    """Number, sources and time range of the events, and the time zones of the page."""
    if view.events is None:
        if rows := view.pipeline.total("rows_in"):
            return (
                f"There are no events: none of the {rows:,} captured rows is clean. See the rejected rows at the end."
            )
        return "There are no events. Run jobs/capture_events.py or jobs/run_pipeline.py when the sources have rows."
    sources = ", ".join(dict.fromkeys(source.source for source in view.pipeline.sources))
    events = f"{view.events.events:,} clean events" + (f" from {sources}" if sources else "")
    times = f"{format_utc(view.events.first)} to {format_utc(view.events.last)}"
    zone = f"Days, weeks and hours are in the shop time zone ({view.events.timezone}); all other times are in UTC."
    return f"{events}, {times}. {zone}"


def groups(view: ReportView) -> list[Group]:
    """All sections in display order; a section without data contains a hint."""
    enabled = view.enabled
    return [
        Group(
            "shop",
            "Your shop",
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
            "Customers in detail",
            (),
            (
                sections_users.activity(view.users),
                sections_users.funnel(view.users, view.has_people),
                sections_users.retention(view.users, view.has_people),
                sections_users.hours(view.events),
                sections_users.segments(view.segments, is_enabled="learn_segments" in enabled),
                sections_users.tags(view.tags, is_enabled="serve_tags" in enabled),
                sections_users.preferences(view.preferences),
                sections_outcomes.highest_scores(view.outcomes, is_enabled="learn_outcomes" in enabled),
                sections_users.unusual_days(view.unusual_days, is_enabled="serve_anomalies" in enabled),
            ),
        ),
        Group(
            "data",
            "Data and models",
            data_key_figures(view),
            (
                sections_pipeline.captured_rows(view.pipeline),
                sections_pipeline.stages(view.pipeline),
                sections_outcomes.score_quality(view.outcomes, is_enabled="learn_outcomes" in enabled),
                sections_pipeline.model_quality(view),
                sections_pipeline.published_versions(view),
            ),
        ),
    ]


def data_key_figures(view: ReportView) -> tuple[KeyFigure, ...]:
    """The key figures of the data and models; those without data are left out."""
    figures: list[KeyFigure] = []
    pipeline, events, users = view.pipeline, view.events, view.users
    if pipeline.sources:
        figures += [
            KeyFigure("rows_in", "rows in", pipeline.total("rows_in")),
            KeyFigure("rows_clean", "clean rows", pipeline.total("rows_clean")),
            KeyFigure("rows_rejected", "rejected rows", pipeline.total("rows_rejected")),
            KeyFigure("rows_duplicate", "duplicate rows", pipeline.total("rows_duplicate")),
            KeyFigure("alarms", "alarms", pipeline.alarm_count),
        ]
    if events is not None:
        note = f"{events.guests:,} without a user id" if events.guests else ""
        figures.append(KeyFigure("events", "events", events.events, note=note))
    if users is not None:
        figures.append(KeyFigure("users", "users" if view.has_people else "sessions", max(users.steps.values())))
    if events is not None and events.value is None:
        note = "several currencies and no rates (capture.currency), so there is no sum"
        figures.append(KeyFigure("purchase_value", "purchase value", 0, "–", note))
    elif events is not None and events.value and math.isfinite(events.value):
        note = f"{events.currency or 'currency unknown'}, with returned items"
        figures.append(KeyFigure("purchase_value", "purchase value", events.value, note=note))
    if view.segments is not None:
        note = f"{view.segments.users:,} users"
        figures.append(KeyFigure("segments", "segments", len(view.segments.current), note=note))
    if view.tags is not None:
        assigned = sum(tag.users for tag in view.tags.tags)
        note = f"{len(view.tags.tags)} different tags"
        figures.append(KeyFigure("assigned_tags", "assigned tags", assigned, note=note))
    if view.recall:
        model, recall = sections_pipeline.best_model(view.recall)
        figures.append(KeyFigure("recall_20", "recall@20", recall, f"{recall:.1%}", model))
    return tuple(figures)
