"""Derives sessions from events, one row per session. A batch recomputes all sessions that its events change.

So late events are merged exactly. A batch is one commit. Of a large batch, the driver collects only the time range and
the days; all rows stay on the executors.
"""

import json
from dataclasses import replace

from pyspark.sql import DataFrame, SparkSession

from profilestream.base import commits, event_period, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import fold_stage, session_spans

STAGE, NAME = "derive_sessions", "sessions"


def table(settings: Settings) -> Table:
    """`sessions`; the settings determine its key and fingerprint."""
    # Two sessions of a user can start at the same time only if the source provides session ids.
    more_keys = ("session_id",) if settings.derive.sessions.use_source_session_ids else ()
    return replace(
        tables.SESSIONS,
        key=(*tables.SESSIONS.key, *more_keys),
        declaration=fingerprint(_settings_text(settings)),
    )


def _settings_text(settings: Settings) -> str:
    """All settings that change the rows."""
    return json.dumps(settings.derive.sessions.model_dump(exclude={"enabled"}), sort_keys=True)


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the SQL of the settings; writes nothing.

    Raises:
        BadSettings: the SQL is invalid.
    """
    if not settings.derive.sessions.enabled:
        return
    events, where = spark.createDataFrame([], tables.EVENTS.schema), f"{settings.config_file}, derive.sessions.category"
    sql = settings.derive.sessions.category
    sql_type = fold_stage.sql_type(events, sql, where, "the columns of the table events")
    if sql_type != "string":
        raise BadSettings(
            f"derive.sessions.category is a {sql_type}", where=where, do="write SQL that returns a string"
        )


def queries(settings: Settings) -> list[Query]:
    """The query of the stage; empty if the stage is not enabled."""
    if not settings.derive.sessions.enabled:
        return []
    sessions, config = table(settings), settings.derive.sessions

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        return commits.versions(spark, (sessions, tables.EVENTS), settings.paths)

    def write(events: DataFrame, batch: Batch) -> BatchResult:
        stored_sessions, stored_events = (
            source.read(batch.spark, batch.paths, version=batch.plan.versions[source.name])
            for source in (sessions, tables.EVENTS)
        )
        with batch.cached(session_spans.event_spans(session_spans.with_session_id(events, config))) as (
            batch_spans,
            rows,
        ):
            is_small = rows <= batch.local_max_rows
            extent = session_spans.extent(batch_spans)
            nearby = session_spans.nearby_sessions(stored_sessions, batch_spans, rows, extent, config)
            with batch.cached(nearby, is_small=is_small) as (old_sessions, _):
                touched = session_spans.touched_spans(batch_spans, old_sessions, config)
                with batch.cached(touched, is_small=is_small) as (spans, count):
                    _merge(stored_events, old_sessions, spans, count, batch, settings)
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            STAGE,
            appended_rows(tables.EVENTS, "capture_events", settings.paths, settings.derive.max_files_per_trigger),
            (sessions,),
            write,
            settings=_settings_text(settings),
            versions=versions,
        )
    ]


def _merge(
    stored_events: DataFrame, old_sessions: DataFrame, spans: DataFrame, count: int, batch: Batch, settings: Settings
) -> None:
    """Replace the sessions of the touched spans.

    Args:
        count: number of spans.
    """
    config, target, extent = settings.derive.sessions, table(settings), session_spans.extent(spans)
    # Read only the partitions of the days that touched spans cover.
    events = session_spans.with_session_id(stored_events.where(event_period.on_dates(extent.days)), config)
    has_long = extent.longest >= config.max_micros
    small_spans = broadcast_if_small(spans, count)
    intervals = broadcast_if_small(
        session_spans.session_intervals(small_spans, events, config, has_long=has_long), count
    )
    session_events = session_spans.join_events(events, intervals, "session_start", "session_limit")
    sessions = session_spans.summarize(session_events, config)
    changes = session_spans.changes(sessions, old_sessions, small_spans)
    rows = commits.with_batch_columns(changes, target, batch.txn, session_spans.DELETE_FLAG)
    batch.merge(rows, target, count=count, delete_flag=session_spans.DELETE_FLAG, within=extent.sql("t.session_start"))
