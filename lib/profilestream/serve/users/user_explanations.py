"""Explanations of one user's view: segment and its rule, groups, tags, events behind preferences."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import language
from profilestream.base.delta_table import Table
from profilestream.base.errors import SourceMissing
from profilestream.base.finite import finite_items
from profilestream.base.language import join_list, message, translate
from profilestream.base.settings import Settings
from profilestream.base.tables import SEGMENT_DESCRIPTIONS, USER_GROUPS, USER_TAGS
from profilestream.learn.segments import rule_words, segment_rules
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.tags import assign_tags
from profilestream.serve.users.value_text import events_text

_MAX_PREFERENCES = 3
_QUINTILES = {
    "recency": message("recency {quintile}"),
    "frequency": message("frequency {quintile}"),
    "monetary": message("monetary {quintile}"),
}
_PREFERENCE_COLUMNS = {"items": "item_id", "categories": "category", "brands": "brand"}


def read_version_at(
    spark: SparkSession, table: Table, settings: Settings, known_by: datetime | None
) -> DataFrame | None:
    """A table in its latest version committed at `known_by` or before; null when there is none.

    Raises:
        SourceMissing: maintenance has removed the versions of that time.
    """
    if not table.exists(spark, settings.paths):
        return None
    if known_by is None:
        return table.read(spark, settings.paths)
    history = DeltaTable.forPath(spark, table.uri(settings.paths)).history()
    version_at = F.max(F.when(F.col("timestamp") <= known_by, F.col("version")))
    (row,) = history.agg(version_at, F.min("version"), F.min("timestamp")).collect()
    if row[0] is None and row[1] > 0:
        raise SourceMissing(
            f"versions of {table.name} before {row[2]:%Y-%m-%d %H:%M} were removed",
            where=f"--known-by {known_by}",
            do="use a later time; maintain.keep_hours sets how long versions are stored",
        )
    return None if row[0] is None else table.read(spark, settings.paths, version=row[0])


def segment(
    spark: SparkSession,
    settings: Settings,
    user_id: str,
    means: Mapping[str, float],
    as_of: datetime,
    known_by: datetime | None,
) -> dict[str, Any]:
    """The user's segment; empty when the user entered it after `as_of`, because earlier segments are not stored.

    Args:
        means: decayed means of the user's events, by dimension of the profile vector.
    """  # fmt: skip
    rows = read_version_at(spark, SegmentsSpec(settings).users_table, settings, known_by)
    row = None if rows is None else rows.where((F.col("user_id") == user_id) & (F.col("valid_from") <= as_of)).first()
    if row is None:
        return {}
    fields = {"name": str(row["segment_id"]), "member_since": row["valid_from"], "distance_to_center": row["distance"]}
    states = read_version_at(spark, SegmentsSpec(settings).table, settings, known_by)
    own_states = None if states is None else states.where(F.col("segment_id") == row["segment_id"])
    cost = None if own_states is None else own_states.agg(F.max_by("cost", "as_of")).first()
    if cost is not None and cost[0] is not None:
        fields["typical_distance"] = float(cost[0]) ** 0.5
    descriptions = read_version_at(spark, SEGMENT_DESCRIPTIONS, settings, known_by)
    description = None if descriptions is None else descriptions.where(F.col("segment_id") == row["segment_id"]).first()
    if description is None:
        return {"segment": fields}
    profile = SegmentsSpec(settings).profile
    text = rule_words.translate_description(description["description"], profile)
    fields["name"] = translate("{number}: {description}", number=row["segment_id"], description=text)
    conditions = segment_rules.simplify_path(segment_rules.decision_path(json.loads(description["tree"]), means))
    if conditions:
        rule = segment_rules.AND.join(map(str, conditions))
        words = {} if profile.population is None else profile.population.words_in(language.current())
        fields["rule"] = rule_words.rule_in_words(rule, words, profile.vector.dimensions)
    fields["size"] = translate(
        "{users:,} users, {share:.0%} of all", users=description["users"], share=description["share"]
    )
    return {"segment": fields}


def groups(
    spark: SparkSession, settings: Settings, user_id: str, as_of: datetime, known_by: datetime | None
) -> dict[str, Any]:
    """RFM segment and quintiles, loyalty tier and cohort; empty when the stored row is newer than `as_of`."""
    rows = read_version_at(spark, USER_GROUPS, settings, known_by)
    is_known = assign_tags.is_start_known(F.col("loyalty_tier_from"), F.col("loyalty_tier_after"))
    own = None if rows is None else rows.where((F.col("user_id") == user_id) & (F.col("as_of") <= as_of))
    row = None if own is None else own.withColumn("is_start_known", is_known).first()
    if row is None:
        return {}
    quintiles = {name: row[f"{name}_quintile"] for name in _QUINTILES}
    values = [translate(_QUINTILES[name], quintile=one) for name, one in quintiles.items() if one is not None]
    since = row["loyalty_tier"] and _since(row["loyalty_tier_from"], row["is_start_known"])
    fields = {
        "rfm_segment": row["rfm_segment"],
        "rfm_quintiles": join_list(values) or None,
        "loyalty_tier": since and translate("{tier} {since}", tier=row["loyalty_tier"], since=since),
        "cohort": row["cohort"],
    }
    return {"groups": fields}


def tags(
    spark: SparkSession, settings: Settings, user_id: str, as_of: datetime, known_by: datetime | None
) -> dict[str, Any]:
    """Tags that the user has at a time, with start date and evidence; the most recent first."""
    rows = read_version_at(spark, USER_TAGS, settings, known_by)
    if rows is None:
        return {}
    own = assign_tags.valid_at(rows.where(F.col("user_id") == user_id), F.lit(as_of))
    is_known = assign_tags.is_start_known(F.col("valid_from"), F.col("gained_after"))
    own = own.withColumn("is_start_known", is_known).orderBy(F.desc("valid_from"), "tag")
    texts = {
        row["tag"]: translate(
            "{since}: {evidence}",
            since=_since(row["valid_from"], row["is_start_known"]),
            evidence=row["evidence"] or translate("no evidence"),
        )
        for row in own.collect()
    }
    return {"tags": texts} if texts else {}


def _since(start: datetime, is_known: bool) -> str:
    return translate(message("since {day}") if is_known else message("since at least {day}"), day=start.date())


def preference_events(events: DataFrame, preference: Mapping[str, Any] | None) -> dict[str, Any]:
    """Events behind the strongest preferences: their number by type, and the date of the last one.

    Args:
        events: of the user.
        preference: the facet of the profile: weight by value, by name of the preference.
    """
    weights_of = {column: finite_items((preference or {}).get(name)) for name, column in _PREFERENCE_COLUMNS.items()}
    texts: dict[str, Any] = {}
    for column, weights in weights_of.items():
        if not weights:
            continue
        top = sorted(weights, key=lambda value: (-weights[value], value))[:_MAX_PREFERENCES]
        rows = events.where(F.col(column).isin(top)).groupBy(F.col(column).alias("value"), "event_type")
        counts = rows.agg(F.count(F.lit(1)).alias("n"), F.max("event_time").alias("last")).collect()
        for value in top:
            of_value = sorted(
                (row for row in counts if row["value"] == value), key=lambda row: (-row["n"], row["event_type"])
            )
            if of_value:
                last = max(row["last"] for row in of_value).astimezone(UTC)
                types = events_text((row["event_type"], row["n"]) for row in of_value)
                texts[value] = translate("{types}, last {day}", types=types, day=last.date())
    return {"preference_events": texts} if texts else {}
