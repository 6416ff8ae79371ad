"""Spans of events and the sessions in them: a batch recomputes the spans that its events touch, from `events`.

A *span* is a maximal run of a user's events without a pause longer than the gap. Sessions never cross the bounds of a
span, so a batch recomputes complete spans. Each session stores the bounds of its span. The bounds depend only on the
events of this batch and of earlier ones. Newer events that `events` already contains may be inside a span, but never
change its bounds.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Sessions
from profilestream.derive import session_paths

DELETE_FLAG = "_is_deleted"
_USER_KEY = ("user_id", "session_id")
_SPAN = (*_USER_KEY, "span_start", "span_end")
_SESSION = (*_SPAN, "session_start")
_EVENT_ORDER = ("event_time", "source", "event_id")


@dataclass(frozen=True)
class Extent:
    """The times and days that a set of spans covers.

    Args:
        start, end: of all spans together, in microseconds; null without spans.
        longest: the duration of the longest span in microseconds.
        days: every UTC day of any span.
    """

    start: int | None
    end: int | None
    longest: int
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
    start, end = (F.unix_micros(name) for name in ("span_start", "span_end"))
    by_days = spans.groupBy(F.to_date("span_start").alias("first"), F.to_date("span_end").alias("last")).agg(
        F.min(start).alias("start"), F.max(end).alias("end"), F.max(end - start).alias("longest")
    )
    days = F.array_distinct(F.flatten(F.collect_list(F.sequence("first", "last"))))
    (row,) = by_days.agg(F.min("start"), F.max("end"), F.coalesce(F.max("longest"), F.lit(0)), days).collect()
    return Extent(*row)


def with_session_id(events: DataFrame, settings: Sessions) -> DataFrame:
    """Events of users, with `session_id` as in `sessions`: empty if the gap separates sessions."""
    session_id = F.coalesce("session_id", F.lit("")) if settings.use_source_session_ids else F.lit("")
    return events.where("user_id IS NOT NULL").withColumn("session_id", session_id)


def event_spans(events: DataFrame) -> DataFrame:
    """Each event as a span with one point in time."""
    return events.select(*_USER_KEY, F.col("event_time").alias("span_start"), F.col("event_time").alias("span_end"))


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
    users = batch_spans.select(*_USER_KEY).distinct()
    candidates = stored.select(*_SPAN, "session_start").where(~_is_split_by_gap() | in_reach)
    return candidates.join(broadcast_if_small(users, count), list(_USER_KEY), "left_semi").select(*_SESSION)


def _is_split_by_gap() -> Column:
    return F.col("session_id") == ""


def touched_spans(batch_spans: DataFrame, old_sessions: DataFrame, settings: Sessions) -> DataFrame:
    """The spans that contain events of the batch, after these created, extended and joined spans."""
    old_spans = old_sessions.select(*_SPAN).distinct()
    spans = batch_spans.withColumn("is_new", F.lit(True)).unionByName(old_spans.withColumn("is_new", F.lit(False)))
    in_order = Window.partitionBy(*_USER_KEY).orderBy("span_start")
    previous_end = F.max("span_end").over(in_order.rowsBetween(Window.unboundedPreceding, -1))
    pause = F.unix_micros("span_start") - F.unix_micros(previous_end)
    is_first = F.when(_is_split_by_gap() & (pause > settings.gap_micros), 1).otherwise(0)
    number = F.sum("is_first").over(in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    return (
        spans.withColumn("is_first", is_first)
        .withColumn("number", number)
        .groupBy(*_USER_KEY, "number")
        .agg(
            F.min("span_start").alias("span_start"),
            F.max("span_end").alias("span_end"),
            F.bool_or("is_new").alias("is_touched"),
        )
        .where("is_touched")
        .select(*_SPAN)
    )


def join_events(events: DataFrame, intervals: DataFrame, start: str, end: str) -> DataFrame:
    """Events inside an interval of the same user and session id, with the columns of the interval.

    Args:
        intervals: user id, session id, and others.
        start, end: columns of the interval, both inclusive.
    """
    # A user may have many spans separated by gaps. Joining by day avoids comparing all of them with all events.
    no_day = F.lit(date(1970, 1, 1))
    days = F.when(_is_split_by_gap(), F.sequence(F.to_date(start), F.to_date(end))).otherwise(F.array(no_day))
    dated_events = events.withColumn("day", F.when(_is_split_by_gap(), F.col("event_date")).otherwise(no_day))
    joined = dated_events.join(intervals.withColumn("day", F.explode(days)), [*_USER_KEY, "day"])
    return joined.where(F.col("event_time").between(F.col(start), F.col(end)))


def session_intervals(spans: DataFrame, events: DataFrame, settings: Sessions, *, has_long: bool) -> DataFrame:
    """Spans cut into sessions, with `session_start` and `session_limit`, the last time that belongs to the session.

    A session ends at the end of its span, or before the first event that is `max_hours` or more after its own first
    event. So the start of the second session of a long span depends on the first one, and the event times of the span
    are processed in order.

    Args:
        has_long: whether any span is as long as `max_hours`.
    """
    start, end = F.unix_micros("span_start"), F.unix_micros("span_end")
    is_long = _is_split_by_gap() & (end - start >= settings.max_micros)
    complete_span = {"session_start": F.col("span_start"), "session_limit": F.col("span_end")}
    if not has_long:
        return spans.withColumns(complete_span)
    times = F.sort_array(F.collect_set(F.unix_micros("event_time")))
    long_span_events = join_events(events, spans.where(is_long), "span_start", "span_end")
    starts = F.aggregate("times", F.array(start), lambda starts, at: _add_start(starts, at, settings.max_micros))
    sessions = F.transform(
        "starts",
        lambda at, n: F.struct(
            F.timestamp_micros(at).alias("session_start"),
            F.timestamp_micros(F.coalesce(F.get("starts", n + 1) - 1, end)).alias("session_limit"),
        ),
    )
    long_spans = long_span_events.groupBy(*_SPAN).agg(times.alias("times")).withColumn("starts", starts)
    cut_spans = long_spans.select(*_SPAN, F.inline(sessions))
    return spans.where(~is_long).withColumns(complete_span).unionByName(cut_spans)


def _add_start(starts: Column, at: Column, max_micros: int) -> Column:
    """The session starts so far, and the time `at` if a session starts there."""
    return F.when(at - F.element_at(starts, -1) >= max_micros, F.concat(starts, F.array(at))).otherwise(starts)


def summarize(events: DataFrame, settings: Sessions) -> DataFrame:
    """Events with their session -> one row per session: all columns of `sessions` except epoch and batch_id.

    Events of the same time are ordered by source and event id.
    """
    is_purchase = F.col("event_type") == "purchase"
    step = F.struct(*_EVENT_ORDER, "event_type", session_paths.category(settings.category))
    # Partitioned by user only, so both aggregations use one shuffle.
    by_type = (
        events.repartition("user_id")
        .groupBy(*_SESSION, "event_type")
        .agg(
            F.count(F.lit(1)).alias("count"),
            F.max("event_time").alias("last_event"),
            F.sum(F.when(is_purchase, F.col("value"))).alias("value"),
            F.collect_set("item_id").alias("items"),
            F.min(_with_order("category")).alias("first"),
            F.max(_with_order("category")).alias("last"),
            F.min(_with_order("device")).alias("device"),
            F.collect_list(step).alias("steps"),
        )
    )
    counts = F.sort_array(F.collect_list(F.struct("event_type", "count")))
    sessions = by_type.groupBy(*_SESSION).agg(
        F.max("last_event").alias("session_end"),
        F.sum("count").alias("events"),
        F.map_from_entries(counts).alias("types"),
        F.coalesce(F.sum("value"), F.lit(0.0)).alias("value"),
        F.size(F.array_distinct(F.flatten(F.collect_list("items")))).cast("bigint").alias("items"),
        F.min("first")["category"].alias("entry_category"),
        F.max("last")["category"].alias("exit_category"),
        F.min("device")["device"].alias("device"),
        (F.sum("count") == 1).alias("is_bounce"),
        F.bool_or(is_purchase).alias("is_converted"),
        F.sort_array(F.flatten(F.collect_list("steps"))).alias("steps"),
    )
    return session_paths.with_transitions(sessions, settings.max_categories)


def _with_order(name: str) -> Column:
    """A struct of the event order and a value; null if the value is null."""
    return F.when(F.col(name).isNotNull(), F.struct(*_EVENT_ORDER, name))


def changes(sessions: DataFrame, old_sessions: DataFrame, spans: DataFrame) -> DataFrame:
    """The new sessions, and with DELETE_FLAG the keys of old sessions in the spans that do not exist anymore."""
    bounds = spans.select(*_USER_KEY, F.col("span_start").alias("new_start"), F.col("span_end").alias("new_end"))
    old = old_sessions.join(bounds, list(_USER_KEY)).where("span_start BETWEEN new_start AND new_end")
    merged = sessions.join(old.select(*_USER_KEY, "session_start"), [*_USER_KEY, "session_start"], "full_outer")
    return merged.withColumn(DELETE_FLAG, F.col("events").isNull())
