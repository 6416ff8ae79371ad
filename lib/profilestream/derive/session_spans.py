"""Spans of events and the sessions in them: a batch recomputes the spans that its events touch, from `events`.

A *span* is a maximal run of a user's events without a pause longer than the gap. Sessions never cross the bounds of a
span, so a batch recomputes complete spans. Each session stores the bounds of its span. The bounds depend only on the
events of this batch and of earlier ones. Newer events that `events` already contains may be inside a span, but never
change its bounds.

The rule is in kernels/session_kernels.py, for rows that Spark processes and for those of the driver.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.keyed_rows import StoredRows
from profilestream.base.runner import ByKey, Rows, compute, renamed, with_constant
from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Sessions
from profilestream.base.tables import EVENTS, SESSIONS
from profilestream.base.time_ranges import ALWAYS, TimeRanges, times_as_micros
from profilestream.derive.kernels.session_kernels import DELETE_FLAG, EVENT, SESSION, SPAN, USER_KEY, SessionKernel

SPAN_COLUMNS = (*USER_KEY, "span_start", "span_end")
_SESSION_COLUMNS = (*SPAN_COLUMNS, "session_start")
_EVENT_ORDER = ("event_time", "source", "event_id")
_KERNEL_COLUMNS = (*USER_KEY, *_EVENT_ORDER, "event_type", "item_id", "category", "device", "value")
_SPAN_DDL = "user_id STRING, session_id STRING, span_start TIMESTAMP, span_end TIMESTAMP"
_LONGEST_STATE = 64  # characters


@dataclass(frozen=True)
class Extent:
    """The times and days that a set of spans covers.

    Args:
        start, end: of all spans together, in microseconds; null without spans.
        days: every UTC day of any span.
    """

    start: int | None
    end: int | None
    days: list[date]

    def sql(self, column: str) -> str:
        """A condition on a time column. It consists of literals, so Delta skips files by it."""
        if self.start is None or self.end is None:
            return "false"
        return f"{column} BETWEEN {_literal(self.start)} AND {_literal(self.end)}"


def _literal(micros: int) -> str:
    return f"TIMESTAMP'{datetime(1970, 1, 1) + timedelta(microseconds=micros)}Z'"


def extent(spans: DataFrame) -> Extent:
    """The times and days that all spans together cover."""
    by_days = spans.groupBy(F.to_date("span_start").alias("first"), F.to_date("span_end").alias("last")).agg(
        F.min(F.unix_micros("span_start")).alias("start"), F.max(F.unix_micros("span_end")).alias("end")
    )
    days = F.array_distinct(F.flatten(F.collect_list(F.sequence("first", "last"))))
    (row,) = by_days.agg(F.min("start"), F.max("end"), days).collect()
    return Extent(*row)


def with_session_id(events: DataFrame, settings: Sessions) -> DataFrame:
    """Events of users, with `session_id` as in `sessions`: empty if the gap separates sessions."""
    session_id = F.coalesce("session_id", F.lit("")) if settings.use_source_session_ids else F.lit("")
    return events.where("user_id IS NOT NULL").withColumn("session_id", session_id)


def event_columns(settings: Sessions) -> tuple[str, ...]:
    """The columns of `events` that sessions are computed from, and those that the SQL of the category may use."""
    sql = settings.category.lower()
    return tuple(n for n in EVENTS.names if n in _KERNEL_COLUMNS or "*" in sql or n in sql)


def session_events(events: DataFrame, settings: Sessions) -> DataFrame:
    """Events -> the columns of the kernel; `category_state` is null if the event is not part of the category path."""
    state = F.substring(F.expr(settings.category), 1, _LONGEST_STATE)
    columns = [F.col(name) for name in _KERNEL_COLUMNS if name != "session_id"]
    stated = events.select("*", state.alias("category_state"))
    return with_session_id(stated, settings).select(*columns, "session_id", "category_state")


def event_spans(events: DataFrame) -> DataFrame:
    """Each event as a span with one point in time."""
    return events.select(*USER_KEY, F.col("event_time").alias("span_start"), F.col("event_time").alias("span_end"))


def nearby_sessions(
    stored: DataFrame, batch_spans: DataFrame, count: int, batch_extent: Extent, settings: Sessions
) -> DataFrame:
    """Key and span of the stored sessions that events of the batch may change.

    These are sessions of the same users. If the gap separates them, also only those within a gap of the batch's times.

    Args:
        batch_spans: the events of the batch, from event_spans.
        count: number of rows of batch_spans.
        batch_extent: of batch_spans.
    """
    start = (batch_extent.start or 0) - settings.gap_micros
    end = (batch_extent.end or 0) + settings.gap_micros
    in_reach = F.col("span_end") >= F.timestamp_micros(F.lit(start))
    in_reach &= F.col("span_start") <= F.timestamp_micros(F.lit(end))
    users = batch_spans.select(*USER_KEY).distinct()
    candidates = stored.select(*_SESSION_COLUMNS).where(~_is_split_by_gap() | in_reach)
    return candidates.join(broadcast_if_small(users, count), list(USER_KEY), "left_semi").select(*_SESSION_COLUMNS)


def reach(batch_spans: pa.Table, settings: Sessions) -> TimeRanges:
    """The times of the stored sessions that events of the batch may change, as for nearby_sessions."""
    is_split = pc.equal(batch_spans["session_id"], pa.scalar("")).to_numpy()
    start, end = (times_as_micros(batch_spans[name]) for name in ("span_start", "span_end"))
    starts = np.where(is_split, start - settings.gap_micros, ALWAYS[0])
    ends = np.where(is_split, end + settings.gap_micros, ALWAYS[1])
    return TimeRanges("span_start", "span_end", starts, ends)


def _is_split_by_gap() -> Column:
    return F.col("session_id") == ""


def touched_spans(batch_spans: Rows, old_sessions: Rows, settings: Sessions) -> Rows:
    """The spans that contain events of the batch, after these created, extended and joined spans."""
    own = {name: name for name in SPAN_COLUMNS}
    new = with_constant(renamed(batch_spans, own), "is_new", True)
    old = with_constant(renamed(old_sessions, own), "is_new", False)
    return compute(ByKey(USER_KEY, ("span_start",), _kernel(settings).touched_spans, _SPAN_DDL), new, old)


def in_spans(sessions: StoredRows, spans: pa.Table) -> StoredRows:
    """The stored sessions in the spans of their user and session id."""
    bounds: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for *key, start, end in _span_values(spans):
        bounds.setdefault((key[0], key[1]), []).append((start, end))
    is_inside = [
        any(first <= start <= last for first, last in bounds.get((user, session_id), ()))
        for user, session_id, start, _ in _span_values(sessions.rows)
    ]
    return sessions.where(np.array(is_inside, bool))


def _span_values(rows: pa.Table) -> list[tuple[str, str, int, int]]:
    keys = [rows[name].to_pylist() for name in USER_KEY]
    return list(zip(*keys, *[times_as_micros(rows[name]).tolist() for name in SPAN_COLUMNS[2:]], strict=True))


def join_events(events: DataFrame, spans: DataFrame) -> DataFrame:
    """Events inside a span of the same user and session id, with their columns."""
    # A user may have many spans separated by gaps. Joining by day avoids comparing all of them with all events.
    no_day = F.lit(date(1970, 1, 1))
    days = F.sequence(F.to_date("span_start"), F.to_date("span_end"))
    by_day = spans.withColumn("day", F.explode(F.when(_is_split_by_gap(), days).otherwise(F.array(no_day))))
    dated_events = events.withColumn("day", F.when(_is_split_by_gap(), F.to_date("event_time")).otherwise(no_day))
    joined = dated_events.join(by_day, [*USER_KEY, "day"])
    return joined.where("event_time BETWEEN span_start AND span_end").select(*events.columns)


def session_changes(spans: Rows, old_sessions: Rows, events: Rows, settings: Sessions) -> Rows:
    """The new sessions, and with DELETE_FLAG the keys of old sessions in the spans that do not exist anymore.

    Args:
        spans: of touched_spans.
        old_sessions: of nearby_sessions.
        events: of session_events, at least those in the spans.

    Returns:
        All columns of `sessions` except epoch and batch_id, and DELETE_FLAG.
    """
    key = {name: name for name in USER_KEY}
    span_rows = renamed(spans, key | {"span_start": "event_time", "span_end": "span_end"})
    old_rows = renamed(old_sessions, key | {"session_start": "event_time"})
    parts = [with_constant(rows, "kind", n) for n, rows in ((SPAN, span_rows), (SESSION, old_rows), (EVENT, events))]
    return compute(ByKey(USER_KEY, _EVENT_ORDER, _kernel(settings).sessions, _CHANGES_DDL), *parts)


# In the order of the kernel.
_CHANGES_DDL = ", ".join(
    [
        *(f"{name} STRING" for name in USER_KEY),
        *(f"{one.name} {one.sql_type}" for one in SESSIONS.columns if one.name not in (*USER_KEY, "epoch", "batch_id")),
        f"{DELETE_FLAG} BOOLEAN",
    ]
)


def _kernel(settings: Sessions) -> SessionKernel:
    return SessionKernel(settings.gap_micros, settings.max_micros, settings.max_categories)
