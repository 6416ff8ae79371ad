"""Reads the contents of the report. Spark aggregates the tables; the driver collects a bounded number of rows.

A table that does not exist, or has no rows, gives an empty or null value.
"""

from pyspark.sql import SparkSession

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.learn.learners import LEARNERS
from profilestream.serve.report import (
    offered,
    queries_demand,
    queries_events,
    queries_models,
    queries_outcomes,
    queries_pipeline,
    queries_shop,
    queries_users,
)
from profilestream.serve.report.offered import Offered
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_pipeline import PipelineView
from profilestream.serve.report.view_users import SegmentsView
from profilestream.serve.scores import recommend, unusual_activity
from profilestream.serve.tags import assign_tags
from profilestream.serve.users.all_users import read_or_empty


def read(spark: SparkSession, settings: Settings) -> ReportView:
    """The contents of the report."""
    events = read_or_empty(spark, tables.EVENTS, settings)
    metrics = read_or_empty(spark, tables.MODEL_METRICS, settings)
    reporting = settings.capture.currency.reporting if settings.capture.currency else ""
    totals = queries_events.totals(events, settings.derive.shop_timezone, reporting)
    pipeline, segments = queries_pipeline.pipeline(spark, settings), queries_users.segments(spark, settings)
    versions, cards = queries_models.published(spark, settings, metrics)
    return ReportView(
        pipeline=pipeline,
        events=totals,
        users=None if totals is None else queries_events.users(events, totals),
        segments=segments,
        tags=queries_users.tags(spark, settings),
        preferences=queries_users.preferences(spark, settings),
        outcomes=queries_outcomes.outcomes(spark, settings),
        demand=queries_demand.demand(spark, settings),
        unusual_days=queries_users.unusual_days(spark, settings),
        shop=queries_shop.shop(
            spark, settings, events, has_values=bool(totals and totals.value), offered=_offered(pipeline, segments)
        ),
        recall=queries_models.metric_points(metrics, "recall_20"),
        cost=queries_models.metric_points(metrics, "cost"),
        versions=versions,
        cards=cards,
        enabled=_enabled(settings),
        has_people=settings.serve.user_ids == "people",
    )


def _offered(pipeline: PipelineView, segments: SegmentsView | None) -> Offered:
    """What the filter offers."""
    rows: dict[str, int] = {}
    for source in pipeline.sources:
        rows[source.source] = rows.get(source.source, 0) + source.rows_clean
    users = [(row.segment_id, row.users) for row in segments.current] if segments else []
    return offered.offer(list(rows.items()), users)


def _enabled(settings: Settings) -> frozenset[str]:
    is_enabled = {
        **{learner.stage_name(): learner(settings).config.enabled for learner in LEARNERS},
        assign_tags.STEP: settings.serve.tags.enabled,
        recommend.STEP: settings.serve.scores.enabled,
        unusual_activity.STEP: settings.serve.anomalies.enabled,
    }
    return frozenset(name for name, enabled in is_enabled.items() if enabled)
