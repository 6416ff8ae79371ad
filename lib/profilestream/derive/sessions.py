"""Events -> sessions: one row a session, exact under late events; what a batch touches is recomputed from `events`.

A batch is one MERGE. Rows stay with the executors; to the driver come its ends in time and the days it touches.
"""

import json

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.errors import BadSettings
from profilestream.base.queries import Batch, BatchResult, Query, appended_rows, stage_query
from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Settings, fingerprint
from profilestream.base.tables import Table
from profilestream.derive import fold_stage, session_spans

STAGE, NAME = "derive_sessions", "sessions"


def table(settings: Settings) -> Table:
    """`sessions`: a row a user and session; `session_id` is empty where the gap made it."""
    return Table(
        name=NAME,
        ddl="""
            user_id STRING NOT NULL,
            session_start TIMESTAMP NOT NULL,
            session_end TIMESTAMP NOT NULL,
            session_id STRING NOT NULL,
            events BIGINT NOT NULL,
            types MAP<STRING, BIGINT> NOT NULL,
            value DOUBLE NOT NULL,
            items BIGINT NOT NULL,
            entry_category STRING,
            exit_category STRING,
            device STRING,
            is_bounce BOOLEAN NOT NULL,
            is_converted BOOLEAN NOT NULL,
            transitions ARRAY<STRUCT<level: STRING, from_state: STRING, to_state: STRING, count: BIGINT>> NOT NULL,
            cluster_start TIMESTAMP NOT NULL,
            cluster_end TIMESTAMP NOT NULL,
            epoch STRING NOT NULL,
            batch_id BIGINT NOT NULL
        """,
        # Two sessions of a user may begin at once only if the log tells them apart.
        key=("user_id", "session_start", *(["session_id"] if settings.derive.sessions.use_source_session_ids else [])),
        schema_version=2,
        properties={
            "delta.enableDeletionVectors": "true",
            "delta.enableChangeDataFeed": "true",
            "delta.dataSkippingStatsColumns": "session_start,cluster_start,cluster_end",
        },
        declaration=fingerprint(_said(settings)),
    )


def _said(settings: Settings) -> str:
    """All that changes the rows, in readable form."""
    return json.dumps(settings.derive.sessions.model_dump(exclude={"enabled"}), sort_keys=True)


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the SQL of the settings, and that no declared table has the name of this one; writes nothing.

    Raises:
        BadSettings: one has, or the SQL is not understood.
    """
    if not settings.derive.sessions.enabled:
        return
    fold_stage.check_names(STAGE, (table(settings),), settings)
    events, where = spark.createDataFrame([], tables.EVENTS.schema), f"{settings.config_file}, derive.sessions.category"
    kind = fold_stage.understood(events, settings.derive.sessions.category, where, "the columns of the table events")
    if kind != "string":
        raise BadSettings(f"derive.sessions.category is a {kind}", where=where, do="write SQL that gives a string")


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when it is not enabled."""
    if not settings.derive.sessions.enabled:
        return []
    sessions, made = table(settings), settings.derive.sessions

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        return {one.name: commits.version(spark, one, settings.paths) for one in (sessions, tables.EVENTS)}

    def write(events: DataFrame, batch: Batch) -> BatchResult:
        stored, log = (
            one.read(batch.spark, batch.paths, version=batch.plan.versions[one.name])
            for one in (sessions, tables.EVENTS)
        )
        points = session_spans.moments(session_spans.keyed(events, made))
        with batch.cached(points) as rows:
            around = session_spans.extent(points)
            old = session_spans.near(stored, points, rows, around, made)
            with batch.cached(old), batch.cached(spans := session_spans.touched(points, old, made)) as count:
                _merge(log, old, spans, count, batch, settings)
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            STAGE,
            appended_rows(tables.EVENTS, "capture_events", settings.paths, settings.derive.max_files_per_trigger),
            (sessions,),
            write,
            settings=_said(settings),
            versions=versions,
        )
    ]


def _merge(log: DataFrame, old: DataFrame, spans: DataFrame, count: int, batch: Batch, settings: Settings) -> None:
    """Put the sessions of the touched clusters in place of those that were there."""
    made, sessions, whole = settings.derive.sessions, table(settings), session_spans.extent(spans)

    # Only folders of the days that a touched cluster covers are read.
    events = session_spans.keyed(log.where(F.col("event_date").isin(whole.days)), made)
    parts = session_spans.cut(
        broadcast_if_small(spans, count), events, made, has_long=whole.longest >= made.most_micros
    )
    found = session_spans.summed(
        session_spans.inside(events, broadcast_if_small(parts, count), "session_start", "until"), made
    )
    rows = commits.stamped(
        session_spans.changes(found, old, broadcast_if_small(spans, count)), sessions, batch.txn, session_spans.GONE
    )
    batch.merge(rows, sessions, gone=session_spans.GONE, within=whole.sql("t.session_start"))
