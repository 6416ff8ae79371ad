"""Segments, tags and preferences for the report."""

from itertools import groupby
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import language, tables
from profilestream.base.errors import BadSettings
from profilestream.base.language import join_clauses, join_list, translate
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.segments import rule_words
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.plain_tables import item_names
from profilestream.serve.reason_texts import translate_reason
from profilestream.serve.report.view_users import (
    PreferencesView,
    SegmentRow,
    SegmentsView,
    TagRow,
    TagsView,
    UnusualDay,
)
from profilestream.serve.tags import assign_tags
from profilestream.serve.users.all_users import read_or_empty

_MAX_BATCHES, _MAX_MOVES, _MAX_SEGMENTS, _MAX_SHARES, _MAX_TAGS, _MAX_UNUSUAL = 300, 20, 7, 12, 200, 10


def segments(spark: SparkSession, settings: Settings) -> SegmentsView | None:
    """The segments of the newest epoch and their sizes after its newest batches; null when there are none."""
    if _profile_table(settings) is None:
        return None
    rows = read_or_empty(spark, SegmentsSpec(settings).table, settings)
    newest = rows.agg(F.max_by(F.struct("epoch", "batch_id"), F.struct("as_of", "batch_id"))).first()
    if newest is None or newest[0] is None:
        return None
    epoch, last = newest[0]
    batches = rows.where((F.col("epoch") == epoch) & (F.col("batch_id") > last - _MAX_BATCHES))
    current = batches.where(F.col("batch_id") == last).select("segment_id", "users").collect()
    current.sort(key=lambda row: (-row["users"], row["segment_id"]))
    largest = [row["segment_id"] for row in current[:_MAX_SEGMENTS]]
    descriptions = _descriptions(read_or_empty(spark, tables.SEGMENT_DESCRIPTIONS, settings), settings)
    no_description = ("", "", None, None, "")
    as_of, sizes = _sizes(batches, largest)
    return SegmentsView(
        current=tuple(SegmentRow(*row, *descriptions.get(row["segment_id"], no_description)) for row in current),
        as_of=as_of,
        sizes=sizes,
        moves=_moves(batches),
    )


def _descriptions(table: DataFrame, settings: Settings) -> dict[int, tuple[Any, ...]]:
    """Description, rule, precision, recall, and rule in words by segment id."""
    profile = SegmentsSpec(settings).profile
    words = {} if profile.population is None else profile.population.words_in(language.current())
    rows = table.select("segment_id", "description", "rule", "precision", "recall").collect()
    return {
        row["segment_id"]: (
            rule_words.translate_description(row["description"], profile),
            *row[2:],
            rule_words.rule_in_words(row["rule"], words, profile.vector.dimensions),
        )
        for row in rows
    }


def _sizes(batches: DataFrame, largest: list[int]) -> tuple[tuple[Any, ...], dict[int, tuple[int, ...]]]:
    """As-of times of the batches, and users after each batch by segment; all but the largest segments are summed."""
    segment = F.when(F.col("segment_id").isin(largest), F.col("segment_id")).otherwise(SegmentsView.OTHERS)
    sums = batches.groupBy("batch_id", segment.alias("segment")).agg(F.max("as_of").alias("as_of"), F.sum("users"))
    rows = sorted(sums.collect(), key=lambda row: row["batch_id"])
    by_batch = [list(group) for _, group in groupby(rows, lambda row: row["batch_id"])]
    users = [{row["segment"]: row[3] for row in group} for group in by_batch]
    as_of = tuple(max(row["as_of"] for row in group) for group in by_batch)
    ids = [*largest, *({SegmentsView.OTHERS} & {segment_id for batch in users for segment_id in batch})]
    return as_of, {segment_id: tuple(batch.get(segment_id, 0) for batch in users) for segment_id in ids}


def _moves(batches: DataFrame) -> tuple[tuple[Any, str], ...]:
    moved = batches.where("parent_id IS NOT NULL OR size(merged_ids) > 0").orderBy(F.desc("batch_id"), "segment_id")
    rows = moved.limit(_MAX_MOVES).select("as_of", "segment_id", "parent_id", "merged_ids").collect()
    return tuple((row["as_of"], _move_text(row)) for row in rows)


def _move_text(row: Any) -> str:
    segment, parent, merged = row["segment_id"], row["parent_id"], join_list(map(str, row["merged_ids"] or ()))
    split_text = translate("{segment} was split from {parent}", segment=segment, parent=parent)
    merged_text = translate("{segments} merged into {segment}", segments=merged, segment=segment)
    return join_clauses([split_text if parent is not None else "", merged_text if merged else ""])


def tags(spark: SparkSession, settings: Settings) -> TagsView | None:
    """Users per tag as of the latest evaluation of the tag rules, most users first; null when there was none."""
    groups = read_or_empty(spark, tables.USER_GROUPS, settings)
    evaluated = groups.agg(F.max("as_of").alias("as_of"), F.count("user_id").alias("users")).first()
    if evaluated is None or evaluated["as_of"] is None:
        return None
    as_of = evaluated["as_of"]
    end, start = F.lit(as_of), F.lit(as_of - TagsView.CHANGE_PERIOD)

    def count_changes(time: Column) -> Column:
        return F.count_if((time > start) & (time <= end))

    valid_from, valid_to = F.col("valid_from"), F.col("valid_to")
    is_known = assign_tags.is_start_known(valid_from, F.col("gained_after"))
    is_valid = (valid_from <= end) & (valid_to.isNull() | (valid_to > end))
    counts = (
        read_or_empty(spark, tables.USER_TAGS, settings)
        .groupBy("tag")
        .agg(
            F.count_if(is_valid).alias("users"),
            count_changes(F.when(is_known, valid_from)).alias("gained"),
            count_changes(valid_to).alias("lost"),
            F.count_if(is_valid & ~is_known).alias("unknown_start"),
        )
    )
    rows = counts.orderBy(F.desc("users"), "tag").limit(_MAX_TAGS).collect()
    return TagsView(as_of, tuple(TagRow(*row) for row in rows), evaluated["users"])


def unusual_days(spark: SparkSession, settings: Settings) -> tuple[UnusualDay, ...]:
    """The days that differ most from the earlier days of their users."""
    rows = read_or_empty(spark, tables.UNUSUAL_ACTIVITY, settings).orderBy(F.desc("score"), "user_id", "day")
    return tuple(
        UnusualDay(
            row["user_id"],
            row["day"],
            row["share_of_days"],
            tuple(translate_reason(reason["text"]) for reason in row["reasons"]),
        )
        for row in rows.limit(_MAX_UNUSUAL).collect()
    )


def preferences(spark: SparkSession, settings: Settings) -> tuple[PreferencesView, ...]:
    """Mean preference shares over users, for categories and brands; for items when the users have neither.

    Every user has the same weight, whatever the number of events. Preferences below 0 (returned or disliked items)
    and infinite ones are ignored.
    """
    profile = _profile_table(settings)
    statistics = {} if profile is None else profile.statistics
    attributes = [name for name in ("categories", "brands", "items") if f"preference.{name}" in statistics]
    if profile is None or not attributes:
        return ()
    shares = _shares(read_or_empty(spark, profile.table, settings), attributes)
    rows = shares.where(F.col("position") <= _MAX_SHARES).orderBy("position").collect()
    by_attribute = {name: [row for row in rows if row["attribute"] == name] for name in attributes}
    shown = [name for name in ("categories", "brands") if by_attribute.get(name)]
    shown = shown or [name for name in ("items",) if by_attribute.get(name)]
    return tuple(_preferences_view(spark, settings, name, by_attribute[name]) for name in shown)


def _shares(profile_rows: DataFrame, attributes: list[str]) -> DataFrame:
    """Columns `attribute`, `key`, `share` (sum over users), `users`, and `position` by share within the attribute."""
    weights = [
        F.struct(F.lit(name).alias("attribute"), F.col("preference")[name].alias("weights")) for name in attributes
    ]
    by_user = profile_rows.select(F.inline(F.array(*weights))).select(
        "attribute",
        F.filter("weights", lambda one: (one["weight"] > 0) & (one["weight"] < float("inf"))).alias("weights"),
    )
    total = F.aggregate("weights", F.lit(0.0), lambda accumulated, one: accumulated + one["weight"])
    keys = by_user.withColumn("total", total).select("attribute", "total", F.inline("weights"))
    by_key = keys.groupBy("attribute", "key").agg(F.sum(F.col("weight") / F.col("total")).alias("share"))
    attribute = Window.partitionBy("attribute")
    position = F.row_number().over(attribute.orderBy(F.desc("share"), "key"))
    # The shares of a user sum to 1, so their sum is the number of users.
    return by_key.withColumns({"users": F.sum("share").over(attribute), "position": position})


def _profile_table(settings: Settings) -> DerivedTable | None:
    try:
        return profiles.profile_table(settings)
    except BadSettings:
        return None


def _preferences_view(spark: SparkSession, settings: Settings, attribute: str, rows: list[Any]) -> PreferencesView:
    users = rows[0]["users"]
    keys = [row["key"] for row in rows]
    texts = item_names.item_texts(read_or_empty(spark, tables.EVENTS, settings), keys) if attribute == "items" else {}
    shares = tuple((texts.get(row["key"], row["key"]), row["share"] / users) for row in rows)
    return PreferencesView(attribute, round(users), shares, max(0.0, 1 - sum(share for _, share in shares)))
