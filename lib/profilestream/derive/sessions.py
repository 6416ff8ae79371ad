"""Derives sessions from events, one row per session. A batch recomputes all sessions that its events change.

So late events are merged exactly. A batch is one commit. Of a large batch, the driver collects only the time range and
the days; all rows stay on the executors. A small batch is processed by the driver.
"""

import json
from dataclasses import replace

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from profilestream.base import commits, event_period, local_appends, tables
from profilestream.base.appended_rows import AppendedRows
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings
from profilestream.base.queries import Batch, BatchResult, Query, Stored, appended_rows, stage_query
from profilestream.base.session import broadcast_if_small, frame_of_arrow
from profilestream.base.settings import Settings, fingerprint
from profilestream.base.time_ranges import TimeRanges, times_as_micros
from profilestream.derive import fold_stage, session_spans
from profilestream.derive.kernels.session_kernels import DELETE_FLAG

STAGE, NAME = "derive_sessions", "sessions"


def table(settings: Settings) -> Table:
    """`sessions`; the settings determine its key and fingerprint."""
    # Two sessions of a user can start at the same time only if the source provides session ids.
    more_keys = ("session_id",) if settings.derive.sessions.use_source_session_ids else ()
    return replace(
        tables.SESSIONS,
        key=(*tables.SESSIONS.key, *more_keys),
        found_by=("user_id", *more_keys),
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

    stored = _StoredTables(settings)

    def write(events: DataFrame, batch: Batch) -> BatchResult:
        batch_events = session_spans.event_spans(session_spans.with_session_id(events, config))
        with batch.cached(batch_events, tables=[sessions] if stored.follow_events() else []) as (batch_spans, rows):
            if isinstance(batch_spans, DataFrame):
                _write_frames(batch_spans, rows, batch, settings)
            else:
                stored.write_few(batch_spans, batch)
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


def _write_frames(batch_spans: DataFrame, count: int, batch: Batch, settings: Settings) -> None:
    """Replace the sessions of the spans that the batch touches.

    Args:
        count: number of rows of batch_spans.
    """
    config, target = settings.derive.sessions, table(settings)
    stored_sessions, stored_events = (
        source.read(batch.spark, batch.paths, version=batch.plan.versions[source.name])
        for source in (target, tables.EVENTS)
    )
    is_small = count <= batch.local_max_rows
    extent = session_spans.extent(batch_spans)
    nearby = session_spans.nearby_sessions(stored_sessions, batch_spans, count, extent, config)
    with batch.cached(nearby, is_small=is_small) as (old_sessions, _):
        touched = session_spans.touched_spans(batch_spans, old_sessions, config)
        with batch.cached(touched, is_small=is_small) as (spans, span_count):
            extent = session_spans.extent(spans)
            # Read only the partitions of the days that touched spans cover.
            on_days = stored_events.where(event_period.on_dates(extent.days))
            events = session_spans.join_events(
                session_spans.session_events(on_days, config), broadcast_if_small(spans, span_count)
            )
            changes = session_spans.session_changes(spans, old_sessions, events, config)
            rows = commits.with_batch_columns(changes, target, batch.txn, DELETE_FLAG)
            batch.merge(rows, target, count=span_count, delete_flag=DELETE_FLAG, within=extent.sql("t.session_start"))


class _StoredTables:
    """`events` and `sessions`, read and written by the driver's process during a run."""

    def __init__(self, settings: Settings) -> None:
        self._config, self._table, paths = settings.derive.sessions, table(settings), settings.paths
        self._events: AppendedRows | None = None
        if local_appends.is_possible(tables.EVENTS, paths):
            self._events = AppendedRows(tables.EVENTS, paths, session_spans.event_columns(self._config))

    def follow_events(self) -> bool:
        """Whether the driver can read the latest rows of `events`."""
        return self._events is not None and self._events.refresh()

    def write_few(self, batch_spans: pa.Table, batch: Batch) -> None:
        """As _write_frames, for few rows."""
        assert self._events is not None
        config, index = self._config, batch.indexes[self._table.name]
        with batch.phase("read rows"):
            users = batch_spans.select(list(self._table.found_by))
            nearby = index.find(users, ranges=session_spans.reach(batch_spans, config))
            spans = session_spans.touched_spans(batch_spans, nearby.rows, config)
            old_sessions = session_spans.in_spans(nearby, spans)
            start, end = (times_as_micros(spans[name]) for name in ("span_start", "span_end"))
            rows = self._events.find("user_id", spans["user_id"], TimeRanges("event_time", "event_time", start, end))
        with batch.phase("evaluate"):
            events = session_spans.session_events(frame_of_arrow(batch.spark, rows), config).toArrow()
        with batch.phase("fold"):
            changes = session_spans.session_changes(spans, old_sessions.rows, events, config)
        found = Stored(
            old_sessions.rows, {"index": index, "before": old_sessions, "read_version": old_sessions.version}
        )
        rows = commits.with_batch_columns(changes, self._table, batch.txn, DELETE_FLAG)
        batch.merge(rows, self._table, stored=found, delete_flag=DELETE_FLAG)
