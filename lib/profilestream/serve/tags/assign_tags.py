"""serve_tags: update user_groups and user_tags as of the newest event.

A row of user_tags is an interval: the user has the tag at time t when valid_from <= t < valid_to. A run detects changes
only at its as-of time, the newest event time, and writes that time to `valid_from` and `valid_to`. Changes that were
undone between two runs are not detected.
"""

import uuid

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import commits, locks
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import value_errors_as_bad_settings
from profilestream.base.session import frame_of_dicts, materialize
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.derive.feature_declaration import window_micros
from profilestream.serve.tags import rfm, tag_declaration
from profilestream.serve.tags.rfm import CHANGED, DELETED
from profilestream.serve.tags.tag_declaration import TagDeclaration
from profilestream.serve.users import user_frame
from profilestream.serve.users.user_frame import UserFrame

STEP = "serve_tags"
HAS_TAG = "_has_tag"
# Values of end_reason. LOST: the condition became false, or the rule was removed. EXPIRED: `expires_after` elapsed, and
# the condition has been true in every run since. EXPIRED_RESET: `expires_after` elapsed, and the condition was false in
# some later run, so the user can gain the tag again.
LOST, EXPIRED, EXPIRED_RESET = "lost", "expired", "expired_reset"


def run(spark: SparkSession, settings: Settings) -> None:
    """Update user_groups and user_tags as of the newest event, in one commit each; no commit when no row changes.

    Raises:
        BadSettings: no file declares tags, or an expression fails on the values of a row.
        SourceMissing: as for user_frame.all_users.
    """
    declaration, paths = tag_declaration.from_settings(settings), settings.paths
    value_errors = value_errors_as_bad_settings(
        "an expression fails on a user's row",
        where=settings.serve.tags.file,
        do="use try_cast, try_divide, try_element_at, ..., which return null instead",
    )
    with locks.hold_lock(paths.lock_folder, STEP), value_errors:
        for table in (USER_GROUPS, USER_TAGS):
            table.prepare(spark, paths)
        users = user_frame.all_users(spark, settings)
        if users is None:
            return
        groups = new_groups(users, declaration, settings)
        _merge_changes(groups, USER_GROUPS, settings, delete_flag=DELETED)
        stored = user_frame.read_or_empty(spark, USER_TAGS, settings)
        tags = new_tags(join_groups(users, groups), declaration, stored, users.as_of_micros)
        _merge_changes(tags, USER_TAGS, settings)


def _merge_changes(rows: DataFrame, table: Table, settings: Settings, *, delete_flag: str = "") -> None:
    changed = rows.where(CHANGED).persist()
    if not changed.isEmpty():
        commits.merge(changed, table, settings.paths, Txn(STEP, str(uuid.uuid4()), 0), delete_flag=delete_flag)
    changed.unpersist()


def new_groups(users: UserFrame, declaration: TagDeclaration, settings: Settings) -> DataFrame:
    """New rows of user_groups with `DELETED` and `CHANGED`, as rfm.group_rows returns them; materialized."""
    measures = materialize(rfm.measures(users.rows, declaration.groups))
    stored = user_frame.read_or_empty(measures.sparkSession, USER_GROUPS, settings)
    return materialize(rfm.group_rows(measures, declaration.groups, stored, settings.derive.shop_timezone))


def join_groups(users: UserFrame, groups: DataFrame) -> DataFrame:
    """One row per user with all columns that tag rules may use: those of the user frame, and the struct `groups`.

    Args:
        groups: as `new_groups` returns them.
    """
    return user_frame.join_struct(users.rows, groups.where(~F.col(DELETED)).select(*USER_GROUPS.names), "groups")


def new_tags(rows: DataFrame, declaration: TagDeclaration, stored: DataFrame, as_of_micros: int) -> DataFrame:
    """The latest row of user_tags per user and tag after this run, with the flags `CHANGED` and `HAS_TAG`.

    Args:
        rows: all users, as `join_groups` returns them.
        stored: the current user_tags.
        as_of_micros: time of the newest event.
    """
    latest = F.max_by(F.struct(*USER_TAGS.names), "valid_from").alias("stored")
    stored_tags = stored.groupBy("user_id", "tag").agg(latest)
    rules = F.broadcast(_rule_table(rows.sparkSession, declaration))
    results = _rule_results(rows, declaration)
    joined = results.join(stored_tags, ["user_id", "tag"], "full").join(rules, "tag", "left")
    return _updated_rows(joined, F.timestamp_micros(F.lit(as_of_micros)))


def _rule_results(rows: DataFrame, declaration: TagDeclaration) -> DataFrame:
    """Rules that are true, one row per user and tag.

    Returns:
        `user_id`; `tag`; `enters`: whether `enter_when` is true; `new_evidence`. A rule is left out when neither
        `enter_when` nor `hold_when` is true.
    """

    def result(name: str, enter_when: Column, hold_when: Column, evidence: Column) -> Column:
        enters = F.coalesce(enter_when, F.lit(False))
        holds = enters | F.coalesce(hold_when, F.lit(False))
        fields = F.struct(F.lit(name).alias("tag"), enters.alias("enters"), evidence.alias("new_evidence"))
        return F.when(holds, fields)

    results = [
        result(name, F.expr(tag.enter_when), F.expr(tag.hold_when), F.expr(tag.evidence))
        for name, tag in declaration.tags.items()
    ]
    return rows.select("user_id", F.inline(F.array_compact(F.array(*results))))


def _rule_table(spark: SparkSession, declaration: TagDeclaration) -> DataFrame:
    """One row per rule: `tag`, `version`, `cooldown` and `expires_after` in microseconds."""
    rows = [
        {
            "tag": name,
            "version": tag.version,
            "cooldown": tag.cooldown and window_micros(tag.cooldown),
            "expires_after": tag.expires_after and window_micros(tag.expires_after),
        }
        for name, tag in declaration.tags.items()
    ]
    types = {"tag": T.StringType(), "version": T.StringType(), "cooldown": T.LongType(), "expires_after": T.LongType()}
    return frame_of_dicts(spark, rows, T.StructType([T.StructField(name, kind) for name, kind in types.items()]))


def _updated_rows(joined: DataFrame, now: Column) -> DataFrame:
    """New rows from the rule results and the stored rows.

    Args:
        joined: `user_id`, `tag`; `enters` and `new_evidence` of _rule_results, null when the rule does not hold;
            `stored`: the latest stored row; `version`, `cooldown`, `expires_after` of the rule, null when the rule was
            removed.
    """
    holds = F.col("enters").isNotNull()
    had_tag = F.col("stored.valid_from").isNotNull() & F.col("stored.valid_to").isNull()
    expiry = _plus_micros("stored.valid_from", "expires_after")
    expires = had_tag & F.coalesce(expiry <= now, F.lit(False))
    ends = had_tag & (expires | ~holds)
    rule_changed = had_tag & ~ends & (F.col("stored.rule_version") != F.col("version"))
    cooldown_elapsed = F.coalesce(_plus_micros("stored.valid_to", "cooldown") <= now, F.lit(True))
    was_expired = F.coalesce(F.col("stored.end_reason") == EXPIRED, F.lit(False))
    gains = ~had_tag & F.coalesce(F.col("enters"), F.lit(False)) & cooldown_elapsed & ~was_expired
    resets = ~had_tag & was_expired & ~holds
    takes_evidence = gains | rule_changed
    values = {
        "valid_from": F.when(gains, now).otherwise(F.col("stored.valid_from")),
        # The newest event time decreases when the user with the newest event is deleted.
        "valid_to": F.when(expires, expiry)
        .when(ends, F.greatest(now, "stored.valid_from"))
        .when(resets, F.col("stored.valid_to")),
        "end_reason": F.when(expires & holds, EXPIRED).when(expires | resets, EXPIRED_RESET).when(ends, LOST),
        "evidence": F.when(takes_evidence, F.col("new_evidence")).otherwise(F.col("stored.evidence")),
        "rule_version": F.when(takes_evidence, F.col("version")).otherwise(F.col("stored.rule_version")),
        "as_of": now,
        CHANGED: takes_evidence | ends | resets,
        HAS_TAG: gains | (had_tag & ~ends),
    }
    return joined.select("user_id", "tag", *[value.alias(name) for name, value in values.items()])


def _plus_micros(time: str, micros_column: str) -> Column:
    return F.timestamp_micros(F.unix_micros(time) + F.col(micros_column))


def valid_at(rows: DataFrame, time: Column) -> DataFrame:
    """Rows of user_tags whose interval contains a time."""
    return rows.where((F.col("valid_from") <= time) & (F.col("valid_to").isNull() | (time < F.col("valid_to"))))
