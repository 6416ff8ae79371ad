"""serve_tags: update user_groups and user_tags as of the newest event.

A row of user_tags is an interval: the user has the tag at time t when valid_from <= t < valid_to. A run detects changes
only at its as-of time, the newest event time, and writes that time to `valid_from` and `valid_to`, unless the rule
computes its start from the events (`starts_at`). Changes that were undone between two runs are not detected.

The first run that evaluates a rule cannot know since when its users have the tag: `gained_after` is null then. A
property of the table contains the names of the rules that were evaluated.
"""

import uuid
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import commits, locks
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import value_errors_as_bad_settings
from profilestream.base.session import frame_of_dicts, materialize, persisted
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.derive.feature_declaration import window_micros
from profilestream.serve.tags import rfm, tag_declaration
from profilestream.serve.tags.rfm import CHANGED, DELETED
from profilestream.serve.tags.tag_declaration import TagDeclaration, TagRule
from profilestream.serve.users import all_users
from profilestream.serve.users.all_users import UserFrame

STEP = "serve_tags"
HAS_TAG = "_has_tag"
PROPERTY = "profilestream.evaluated_tags"
# A start is known when it is not further than this after the run that did not find the tag yet.
_KNOWN_WITHIN = timedelta(days=30)
# Values of end_reason. LOST: the condition became false, or the rule was removed. EXPIRED: `expires_after` elapsed, and
# the condition has been true in every run since. EXPIRED_RESET: `expires_after` elapsed, and the condition was false in
# some later run, so the user can gain the tag again.
LOST, EXPIRED, EXPIRED_RESET = "lost", "expired", "expired_reset"


def run(spark: SparkSession, settings: Settings) -> None:
    """Update user_groups and user_tags as of the newest event, in one commit each; no commit when no row changes.

    Raises:
        BadSettings: no file declares tags, or an expression fails on the values of a row.
        SourceMissing: as for all_users.all_users.
    """
    declaration, paths = tag_declaration.from_settings(settings), settings.paths
    value_errors = value_errors_as_bad_settings(
        "an expression fails on a user's row",
        where=settings.serve.tags.file,
        do="use try_cast, try_divide, try_element_at, ..., which return null instead",
    )
    with locks.hold_lock(paths.lock_folder, STEP), value_errors:
        USER_GROUPS.prepare(spark, paths)
        evaluated = _prepare_tags(spark, settings, declaration)
        users = all_users.all_users(spark, settings)
        if users is None:
            return
        with persisted(users.rows) as rows:  # totals, groups and tags read them
            users = join_all_users(replace(users, rows=rows), declaration)
            last_run = last_run_micros(spark, settings)
            groups = new_groups(users, declaration, settings)
            _merge_changes(groups, USER_GROUPS, settings, delete_flag=DELETED)
            stored = all_users.read_or_empty(spark, USER_TAGS, settings)
            grouped = join_groups(users, groups)
            tags = new_tags(grouped, declaration, stored, users.as_of_micros, last_run=last_run, evaluated=evaluated)
            _merge_changes(tags, USER_TAGS, settings)
            _store_evaluated_tags(spark, settings, declaration)


def _prepare_tags(spark: SparkSession, settings: Settings, declaration: TagDeclaration) -> frozenset[str]:
    """Make user_tags ready for writing; returns the names of the rules that an earlier run evaluated."""
    paths, names = settings.paths, ",".join(declaration.tags)
    replace(USER_TAGS, properties={**USER_TAGS.properties, PROPERTY: names}).prepare(spark, paths)
    has_rows = commits.version(spark, USER_TAGS, paths) > 0
    return frozenset((USER_TAGS.property_of(spark, paths, PROPERTY) or "").split(",")) if has_rows else frozenset()


def _store_evaluated_tags(spark: SparkSession, settings: Settings, declaration: TagDeclaration) -> None:
    names = ",".join(declaration.tags)
    if USER_TAGS.property_of(spark, settings.paths, PROPERTY) != names:
        path = USER_TAGS.uri(settings.paths)
        spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('{PROPERTY}' = '{names}')")


def last_run_micros(spark: SparkSession, settings: Settings) -> int | None:
    """Newest event time of the last run that changed user_groups, in microseconds; null before the first one."""
    row = all_users.read_or_empty(spark, USER_GROUPS, settings).agg(F.max(F.unix_micros("as_of"))).head()
    return None if row is None else row[0]


def join_all_users(users: UserFrame, declaration: TagDeclaration) -> UserFrame:
    """The users with the struct `all_users`: the declared aggregates over all of them."""
    if not declaration.all_users:
        return users
    totals = materialize(totals_of(users.rows, declaration))
    return replace(users, rows=users.rows.crossJoin(F.broadcast(totals)))


def totals_of(users: DataFrame, declaration: TagDeclaration) -> DataFrame:
    """One row with the struct `all_users`."""
    values = [F.expr(sql).alias(name) for name, sql in declaration.all_users.items()]
    return users.agg(*values).select(F.struct(*declaration.all_users).alias("all_users"))


def _merge_changes(rows: DataFrame, table: Table, settings: Settings, *, delete_flag: str = "") -> None:
    with persisted(rows.where(CHANGED)) as changed:
        if not changed.isEmpty():
            commits.merge(changed, table, settings.paths, Txn(STEP, str(uuid.uuid4()), 0), delete_flag=delete_flag)


def new_groups(users: UserFrame, declaration: TagDeclaration, settings: Settings) -> DataFrame:
    """New rows of user_groups with `DELETED` and `CHANGED`, as rfm.group_rows returns them; materialized."""
    measures = materialize(rfm.measures(users.rows, declaration.groups))
    stored = all_users.read_or_empty(measures.sparkSession, USER_GROUPS, settings)
    return materialize(rfm.group_rows(measures, declaration.groups, stored, settings.derive.shop_timezone))


def join_groups(users: UserFrame, groups: DataFrame) -> DataFrame:
    """One row per user with all columns that tag rules may use: those of the user frame, and the struct `groups`.

    Args:
        groups: as `new_groups` returns them.
    """
    return all_users.join_struct(users.rows, groups.where(~F.col(DELETED)).select(*USER_GROUPS.names), "groups")


def new_tags(
    rows: DataFrame,
    declaration: TagDeclaration,
    stored: DataFrame,
    as_of_micros: int,
    *,
    last_run: int | None = None,
    evaluated: Collection[str] = (),
) -> DataFrame:
    """The latest row of user_tags per user and tag after this run, with the flags `CHANGED` and `HAS_TAG`.

    Args:
        rows: all users, as `join_groups` returns them.
        stored: the current user_tags.
        as_of_micros: time of the newest event.
        last_run: newest event time of the last run, microseconds; null before the first one.
        evaluated: names of the rules that the last run evaluated.
    """
    if not declaration.tags:
        return stored.withColumns({CHANGED: F.lit(False), HAS_TAG: F.col("valid_to").isNull()})
    latest = F.max_by(F.struct(*USER_TAGS.names), "valid_from").alias("stored")
    stored_tags = stored.groupBy("user_id", "tag").agg(latest)
    last_runs = {name: last_run for name in declaration.tags if name in evaluated}
    rules = F.broadcast(_rule_table(rows.sparkSession, declaration, last_runs))
    results = _rule_results(rows, declaration)
    joined = results.join(stored_tags, ["user_id", "tag"], "full").join(rules, "tag", "left")
    return _updated_rows(joined, F.timestamp_micros(F.lit(as_of_micros)))


def _rule_results(rows: DataFrame, declaration: TagDeclaration) -> DataFrame:
    """Rules that are true, one row per user and tag.

    Returns:
        `user_id`; `tag`; `enters`: whether `enter_when` is true; `new_evidence`; `starts_at`. A rule is left out when
        neither `enter_when` nor `hold_when` is true, and while the log has less than `needs_days` days.
    """

    def result(name: str, tag: TagRule) -> Column:
        enters = F.coalesce(F.expr(tag.enter_when), F.lit(False))
        holds = enters | F.coalesce(F.expr(tag.hold_when), F.lit(False))
        fields = F.struct(
            F.lit(name).alias("tag"),
            enters.alias("enters"),
            F.expr(tag.evidence).alias("new_evidence"),
            F.expr(tag.starts_at).cast("timestamp").alias("starts_at"),
        )
        is_long_enough = F.lit(True) if tag.needs_days is None else F.col("log.days") >= tag.needs_days
        return F.when(is_long_enough & holds, fields)

    results = [result(name, tag) for name, tag in declaration.tags.items()]
    return rows.select("user_id", F.inline(F.array_compact(F.array(*results))))


def _rule_table(spark: SparkSession, declaration: TagDeclaration, last_runs: dict[str, int | None]) -> DataFrame:
    """One row per rule: `tag`, `version`; `cooldown`, `expires_after` and `last_run` in microseconds."""
    rows = [
        {
            "tag": name,
            "version": tag.version,
            "cooldown": tag.cooldown and window_micros(tag.cooldown),
            "expires_after": tag.expires_after and window_micros(tag.expires_after),
            "last_run": last_runs.get(name),
        }
        for name, tag in declaration.tags.items()
    ]
    types: dict[str, T.DataType] = {"tag": T.StringType(), "version": T.StringType()}
    types |= dict.fromkeys(("cooldown", "expires_after", "last_run"), T.LongType())
    return frame_of_dicts(spark, rows, T.StructType([T.StructField(name, kind) for name, kind in types.items()]))


def _updated_rows(joined: DataFrame, now: Column) -> DataFrame:
    """New rows from the rule results and the stored rows.

    Args:
        joined: `user_id`, `tag`; `enters`, `new_evidence` and `starts_at` of _rule_results, null when the rule does not
            hold; `stored`: the latest stored row; `version`, `cooldown`, `expires_after`, `last_run` of the rule, null
            when the rule was removed.
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
    # A start in the events counts only after the last run, which did not find the tag, and until the tag expires.
    last_run = F.timestamp_micros("last_run")
    starts_at, new_expiry = F.col("starts_at"), _plus_micros("starts_at", "expires_after")
    is_start_shown = (starts_at <= now) & F.coalesce(starts_at > F.greatest(last_run, "stored.valid_to"), F.lit(True))
    start = F.when(is_start_shown & F.coalesce(new_expiry > now, F.lit(True)), starts_at)
    values = {
        "valid_from": F.when(gains, F.coalesce(start, now)).otherwise(F.col("stored.valid_from")),
        "gained_after": F.when(gains, F.coalesce(start, F.when(last_run > now, now).otherwise(last_run))).otherwise(
            F.col("stored.gained_after")
        ),
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


def is_start_known(valid_from: Column, gained_after: Column) -> Column:
    """Whether a user gained a tag or tier at most 30 days before `valid_from`; otherwise it holds since at least then.

    Args:
        gained_after: null when no earlier run evaluated the rule.
    """
    distance = F.unix_micros(valid_from) - F.unix_micros(gained_after)
    return F.coalesce(distance <= int(_KNOWN_WITHIN / timedelta(microseconds=1)), F.lit(False))


def valid_at(rows: DataFrame, time: Column) -> DataFrame:
    """Rows of user_tags whose interval contains a time."""
    return rows.where((F.col("valid_from") <= time) & (F.col("valid_to").isNull() | (time < F.col("valid_to"))))
