"""Clusters of events and the sessions in them: those that a batch touches, made again from `events`.

A *cluster* is a user's events with no pause longer than the gap: between two clusters nothing is shared, so a batch
touches whole clusters. Each session knows the ends of its cluster, and these are made of the events of this batch and
of those before it alone. What `events` holds beyond the batch may fill a cluster, but never moves its ends.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import Sessions
from profilestream.derive import session_paths

GONE = "_gone"
_OF = ("user_id", "session_id")
_CLUSTER = (*_OF, "cluster_start", "cluster_end")
_SESSION = (*_CLUSTER, "session_start")
_ORDER = ("event_time", "source", "event_id")


@dataclass(frozen=True)
class Extent:
    """What a set of clusters covers, in numbers that fit the driver; times in microseconds, null when there are none.

    Args:
        longest: the length of the longest one.
        days: every UTC day of any of them.
    """

    since: int | None
    until: int | None
    longest: int
    days: list[date]

    def sql(self, column: str) -> str:
        """A condition on a time; literals, so that Delta passes over files by it."""
        if self.since is None or self.until is None:
            return "false"
        return f"{column} BETWEEN {_literal(self.since)} AND {_literal(self.until)}"


def _literal(micros: int) -> str:
    return f"TIMESTAMP'{datetime(1970, 1, 1) + timedelta(microseconds=micros)}Z'"


def extent(clusters: DataFrame) -> Extent:
    """What the clusters cover, all together."""
    start, end = (F.unix_micros(name) for name in ("cluster_start", "cluster_end"))
    by_days = clusters.groupBy(F.to_date("cluster_start").alias("first"), F.to_date("cluster_end").alias("last")).agg(
        F.min(start).alias("since"), F.max(end).alias("until"), F.max(end - start).alias("longest")
    )
    days = F.array_distinct(F.flatten(F.collect_list(F.sequence("first", "last"))))
    (row,) = by_days.agg(F.min("since"), F.max("until"), F.coalesce(F.max("longest"), F.lit(0)), days).collect()
    return Extent(*row)


def keyed(events: DataFrame, made: Sessions) -> DataFrame:
    """Events of users, with `session_id` as in `sessions`: empty when the gap decides."""
    own = F.coalesce("session_id", F.lit("")) if made.use_source_session_ids else F.lit("")
    return events.where("user_id IS NOT NULL").withColumn("session_id", own)


def moments(events: DataFrame) -> DataFrame:
    """Each event as a cluster of one moment."""
    return events.select(*_OF, F.col("event_time").alias("cluster_start"), F.col("event_time").alias("cluster_end"))


def near(stored: DataFrame, points: DataFrame, count: int, around: Extent, made: Sessions) -> DataFrame:
    """Key and cluster of stored sessions of the points' users; of clusters by the gap those that a point may reach.

    Args:
        count: of the points.
        around: what they cover.
    """
    since, until = (around.since or 0) - made.gap_micros, (around.until or 0) + made.gap_micros
    in_reach = F.col("cluster_end") >= F.timestamp_micros(F.lit(since))
    in_reach &= F.col("cluster_start") <= F.timestamp_micros(F.lit(until))
    users = points.select(*_OF).distinct()
    few = stored.select(*_CLUSTER, "session_start").where(~_by_gap() | in_reach)
    return few.join(broadcast_if_small(users, count), list(_OF), "left_semi").select(*_SESSION)


def _by_gap() -> Column:
    return F.col("session_id") == ""


def touched(points: DataFrame, old: DataFrame, made: Sessions) -> DataFrame:
    """The clusters that hold a point, after the points have made, widened and joined clusters."""
    known = old.select(*_CLUSTER).distinct()
    both = points.withColumn("is_new", F.lit(True)).unionByName(known.withColumn("is_new", F.lit(False)))
    in_order = Window.partitionBy(*_OF).orderBy("cluster_start")
    reached = F.max("cluster_end").over(in_order.rowsBetween(Window.unboundedPreceding, -1))
    pause = F.unix_micros("cluster_start") - F.unix_micros(reached)
    begins = F.when(_by_gap() & (pause > made.gap_micros), 1).otherwise(0)
    number = F.sum("begins").over(in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    return (
        both.withColumn("begins", begins)
        .withColumn("number", number)
        .groupBy(*_OF, "number")
        .agg(
            F.min("cluster_start").alias("cluster_start"),
            F.max("cluster_end").alias("cluster_end"),
            F.bool_or("is_new").alias("is_touched"),
        )
        .where("is_touched")
        .select(*_CLUSTER)
    )


def inside(events: DataFrame, spans: DataFrame, start: str, end: str) -> DataFrame:
    """Events that lie in a span of their user and session id, with the span's columns.

    By the gap a user may have many spans, so these are joined by day too: otherwise all of them would meet all events.
    """
    no_day = F.lit(date(1970, 1, 1))
    days = F.when(_by_gap(), F.sequence(F.to_date(start), F.to_date(end))).otherwise(F.array(no_day))
    dated = events.withColumn("day", F.when(_by_gap(), F.col("event_date")).otherwise(no_day))
    joined = dated.join(spans.withColumn("day", F.explode(days)), [*_OF, "day"])
    return joined.where(F.col("event_time").between(F.col(start), F.col(end)))


def cut(clusters: DataFrame, events: DataFrame, made: Sessions, *, has_long: bool) -> DataFrame:
    """Clusters as sessions: `session_start` and `until`, the last moment at which an event belongs to it.

    A session ends where its cluster does, or before the first event at the cap or later after its own first one. So
    where the second session of a long cluster begins depends on the first: its moments are gone through in order.

    Args:
        has_long: whether any cluster reaches the cap.
    """
    start, end = F.unix_micros("cluster_start"), F.unix_micros("cluster_end")
    is_long = _by_gap() & (end - start >= made.most_micros)
    whole = {"session_start": F.col("cluster_start"), "until": F.col("cluster_end")}
    if not has_long:
        return clusters.withColumns(whole)
    times = F.sort_array(F.collect_set(F.unix_micros("event_time")))
    long = inside(events, clusters.where(is_long), "cluster_start", "cluster_end")
    starts = F.aggregate("times", F.array(start), lambda found, at: _with_start(found, at, made.most_micros))
    parts = F.transform(
        "starts",
        lambda at, n: F.struct(
            F.timestamp_micros(at).alias("session_start"),
            F.timestamp_micros(F.coalesce(F.get("starts", n + 1) - 1, end)).alias("until"),
        ),
    )
    cuts = long.groupBy(*_CLUSTER).agg(times.alias("times")).withColumn("starts", starts)
    return clusters.where(~is_long).withColumns(whole).unionByName(cuts.select(*_CLUSTER, F.inline(parts)))


def _with_start(found: Column, at: Column, most_micros: int) -> Column:
    """The starts of sessions, and a moment if it is one too."""
    return F.when(at - F.element_at(found, -1) >= most_micros, F.concat(found, F.array(at))).otherwise(found)


def summed(events: DataFrame, made: Sessions) -> DataFrame:
    """Events with their session -> a row a session, all but epoch and batch. Equal times go by source and event id."""
    is_purchase = F.col("event_type") == "purchase"
    # By user alone, so that both aggregations go over one shuffle.
    by_type = (
        events.repartition("user_id")
        .groupBy(*_SESSION, "event_type")
        .agg(
            F.count(F.lit(1)).alias("count"),
            F.max("event_time").alias("newest"),
            F.sum(F.when(is_purchase, F.col("value"))).alias("value"),
            F.collect_set("item_id").alias("items"),
            F.min(_placed("category")).alias("first"),
            F.max(_placed("category")).alias("last"),
            F.min(_placed("device")).alias("device"),
            F.collect_list(F.struct(*_ORDER, "event_type", session_paths.category(made.category))).alias("steps"),
        )
    )
    of_types = F.sort_array(F.collect_list(F.struct("event_type", "count")))
    sessions = by_type.groupBy(*_SESSION).agg(
        F.max("newest").alias("session_end"),
        F.sum("count").alias("events"),
        F.map_from_entries(of_types).alias("types"),
        F.coalesce(F.sum("value"), F.lit(0.0)).alias("value"),
        F.size(F.array_distinct(F.flatten(F.collect_list("items")))).cast("bigint").alias("items"),
        F.min("first")["category"].alias("entry_category"),
        F.max("last")["category"].alias("exit_category"),
        F.min("device")["device"].alias("device"),
        (F.sum("count") == 1).alias("is_bounce"),
        F.bool_or(is_purchase).alias("is_converted"),
        F.sort_array(F.flatten(F.collect_list("steps"))).alias("steps"),
    )
    return session_paths.with_transitions(sessions, made.most_categories)


def _placed(name: str) -> Column:
    """A value after its place in the order of events; null when it is null."""
    return F.when(F.col(name).isNotNull(), F.struct(*_ORDER, name))


def changes(found: DataFrame, old: DataFrame, clusters: DataFrame) -> DataFrame:
    """Sessions that were found, and the keys of old ones in their clusters that are no more, told by `GONE`."""
    around = clusters.select(*_OF, F.col("cluster_start").alias("since"), F.col("cluster_end").alias("until"))
    was = old.join(around, list(_OF)).where("cluster_start BETWEEN since AND until").select(*_OF, "session_start")
    both = found.join(was, [*_OF, "session_start"], "full_outer")
    return both.withColumn(GONE, F.col("events").isNull())
