"""serve_tags: user_groups, and user_tags, which user has which tag since when, and why; as of the newest event.

A row of user_tags is an interval: a user has the tag at a time t when since <= t < until. What happens between two runs
is not seen; `since` and `until` are the newest event times of the runs that found a change.
"""

import uuid

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import commits, locks
from profilestream.base.commits import Txn
from profilestream.base.errors import naming
from profilestream.base.session import frame_of_dicts, materialize
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS, Table
from profilestream.derive.feature_declaration import micros
from profilestream.serve.tags import rfm, tag_declaration
from profilestream.serve.tags.rfm import CHANGED, GONE
from profilestream.serve.tags.tag_declaration import Tags
from profilestream.serve.users import user_frame
from profilestream.serve.users.user_frame import People

STAGE = "serve_tags"
HAS = "_has"
# Why an interval ended: the condition is no longer true; its time was up, and the condition has been true since, or was
# false once.
LOST, EXPIRED, OVER = "lost", "expired", "over"


def run(spark: SparkSession, settings: Settings) -> None:
    """Bring user_groups and user_tags to the newest event, in one commit each; none where no row changes.

    Raises:
        BadSettings: no tags are declared, or an expression fails on a row.
        SourceMissing: as for people.known.
    """
    declared, paths = tag_declaration.named(settings), settings.paths
    do = "write try_cast, try_divide, try_element_at, ... which give null instead"
    told = naming("an expression fails on a user's row", where=settings.serve.tags.file, do=do)
    with locks.held(paths.lock_folder, STAGE), told:
        for table in (USER_GROUPS, USER_TAGS):
            table.create(spark, paths)
            table.check_stored(spark, paths)
            table.register(spark, paths)
        known = user_frame.known(spark, settings)
        if known is None:
            return
        grouped = grouping(known, declared, settings)
        _commit(grouped, USER_GROUPS, settings, gone=GONE)
        stored = user_frame.stored(spark, USER_TAGS, settings)
        _commit(decided(with_groups(known, grouped), declared, stored, known.at), USER_TAGS, settings)


def _commit(rows: DataFrame, table: Table, settings: Settings, *, gone: str = "") -> None:
    changed = rows.where(CHANGED).persist()
    if not changed.isEmpty():
        commits.merge(changed, table, settings.paths, Txn(STAGE, str(uuid.uuid4()), 0), gone=gone)
    changed.unpersist()


def grouping(known: People, declared: Tags, settings: Settings) -> DataFrame:
    """Rows of user_groups as they are to be, as groups.told gives them; computed."""
    measured = materialize(rfm.measured(known.rows, declared.groups))
    stored = user_frame.stored(measured.sparkSession, USER_GROUPS, settings)
    return materialize(rfm.told(measured, declared.groups, stored, settings.derive.shop_timezone))


def with_groups(known: People, grouped: DataFrame) -> DataFrame:
    """All that SQL may name: the users' rows, each with its row of user_groups, as `grouping` gives them."""
    return user_frame.joined(known.rows, grouped.where(~F.col(GONE)).select(*USER_GROUPS.columns), "groups")


def decided(rows: DataFrame, declared: Tags, stored: DataFrame, at: int) -> DataFrame:
    """Of each user and tag the newest row of user_tags as it is to be, whether that is a change, and whether it `HAS`.

    Args:
        rows: all users, as with_groups gives them.
        stored: user_tags as it is.
        at: microseconds of the newest event.
    """
    was = F.max_by(F.struct(*USER_TAGS.columns), "since").alias("was")
    newest = stored.groupBy("user_id", "tag").agg(was)
    rules = F.broadcast(_rules(rows.sparkSession, declared))
    both = _holding(rows, declared).join(newest, ["user_id", "tag"], "full").join(rules, "tag", "left")
    return _next(both, F.timestamp_micros(F.lit(at)))


def _holding(rows: DataFrame, declared: Tags) -> DataFrame:
    """`user_id`, `tag`, whether its `where` is true, and the evidence: of each tag that is true or would be kept."""

    def entry(name: str, where: Column, stays: Column, evidence: Column) -> Column:
        holds = F.coalesce(where, F.lit(False))
        keeps = holds | F.coalesce(stays, F.lit(False))
        told = F.struct(F.lit(name).alias("tag"), holds.alias("holds"), evidence.alias("told"))
        return F.when(keeps, told)

    entries = [entry(n, F.expr(t.where), F.expr(t.stays), F.expr(t.evidence)) for n, t in declared.tags.items()]
    return rows.select("user_id", F.inline(F.array_compact(F.array(*entries))))


def _rules(spark: SparkSession, declared: Tags) -> DataFrame:
    rows = [
        {
            "tag": name,
            "version": tag.version,
            "cool_down": tag.cool_down and micros(tag.cool_down),
            "expires": tag.expires and micros(tag.expires),
        }
        for name, tag in declared.tags.items()
    ]
    kinds = {"tag": T.StringType(), "version": T.StringType(), "cool_down": T.LongType(), "expires": T.LongType()}
    return frame_of_dicts(spark, rows, T.StructType([T.StructField(name, kind) for name, kind in kinds.items()]))


def _next(both: DataFrame, now: Column) -> DataFrame:
    """The rows that follow from what holds and what was.

    Args:
        both: `user_id`, `tag`; `holds` and `told` as _holding gives them, null where the tag would not be kept; `was`,
            the newest row; `version`, `cool_down`, `expires` of the rule, null for a tag that is no more.
    """
    keeps = F.col("holds").isNotNull()
    had = F.col("was.since").isNotNull() & F.col("was.until").isNull()
    expiry = _later("was.since", "expires")
    is_up = had & F.coalesce(expiry <= now, F.lit(False))
    ends = had & (is_up | ~keeps)
    renewed = had & ~ends & (F.col("was.rule_version") != F.col("version"))
    cooled = F.coalesce(_later("was.until", "cool_down") <= now, F.lit(True))
    was_expired = F.coalesce(F.col("was.ended") == EXPIRED, F.lit(False))
    gains = ~had & F.coalesce(F.col("holds"), F.lit(False)) & cooled & ~was_expired
    is_over = ~had & was_expired & ~keeps
    anew = gains | renewed
    ended = F.when(is_up & keeps, EXPIRED).when(is_up | is_over, OVER).when(ends, LOST)
    values = {
        "since": F.when(gains, now).otherwise(F.col("was.since")),
        # The newest event time falls when the newest user is forgotten.
        "until": F.when(is_up, expiry).when(ends, F.greatest(now, "was.since")).when(is_over, F.col("was.until")),
        "ended": ended,
        "evidence": F.when(anew, F.col("told")).otherwise(F.col("was.evidence")),
        "rule_version": F.when(anew, F.col("version")).otherwise(F.col("was.rule_version")),
        "as_of": now,
        CHANGED: anew | ends | is_over,
        HAS: gains | (had & ~ends),
    }
    return both.select("user_id", "tag", *[value.alias(name) for name, value in values.items()])


def _later(time: str, micros_later: str) -> Column:
    return F.timestamp_micros(F.unix_micros(time) + F.col(micros_later))


def held(rows: DataFrame, at: Column) -> DataFrame:
    """Rows of user_tags that hold at a time."""
    return rows.where((F.col("since") <= at) & (F.col("until").isNull() | (at < F.col("until"))))
