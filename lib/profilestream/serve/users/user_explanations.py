"""Explanations of one user's view: segment and its rule, groups, tags, drift, events behind preferences, deviations."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.delta_table import Table
from profilestream.base.errors import SourceMissing
from profilestream.base.finite import finite_items
from profilestream.base.settings import Settings
from profilestream.base.tables import SEGMENT_DESCRIPTIONS, USER_GROUPS, USER_TAGS
from profilestream.derive import population
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.segments import segment_rules
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.tags import assign_tags

# A dimension is unusual from this many standard deviations of the population, and drifts from this many per period.
_UNUSUAL_DEVIATIONS, _DRIFT_DEVIATIONS = 2.0, 0.5
# A user is far from the segment center above this multiple of the typical distance.
_FAR_DISTANCE = 2.0
_DRIFT_DAYS = (7, 30)
_NO_DRIFT = "unchanged"
_MAX_PREFERENCES = 3


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
    fields["name"] = f"{row['segment_id']}: {description['description']}"
    conditions = segment_rules.simplify_path(segment_rules.decision_path(json.loads(description["tree"]), means))
    fields["rule"] = " and ".join(f"{one} (is {means.get(one.dimension, 0.0):.4g})" for one in conditions)
    fields["size"] = f"{description['users']:,} users, {description['share']:.0%} of all"
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
    quintiles = [row[f"{name}_quintile"] for name in ("recency", "frequency", "monetary")]
    names = ("recency", "frequency", "monetary")
    values = [f"{name} {quintile}" for name, quintile in zip(names, quintiles, strict=True) if quintile is not None]
    fields = {
        "rfm_segment": row["rfm_segment"],
        "rfm_quintiles": ", ".join(values) or None,
        "loyalty_tier": row["loyalty_tier"]
        and f"{row['loyalty_tier']} {_since(row['loyalty_tier_from'], row['is_start_known'])}",
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
        row["tag"]: f"{_since(row['valid_from'], row['is_start_known'])}: {row['evidence'] or 'no evidence'}"
        for row in own.collect()
    }
    return {"tags": texts} if texts else {}


def _since(start: datetime, is_known: bool) -> str:
    return f"since {'' if is_known else 'at least '}{start:%Y-%m-%d}"


def drift(
    events: DataFrame,
    vector: Mapping[str, float] | None,
    stats: DataFrame | None,
    derived: DerivedTable,
    as_of: datetime,
) -> dict[str, Any]:
    """Change of the profile vector in 7 and 30 days, in standard deviations of the population; empty for a new user.

    Args:
        events: of the user.
        vector: at `as_of`.
        stats: the row of population_stats that the vector was computed from.
    """
    if not vector or stats is None or derived.population is None:
        return {}
    fold = Fold(derived).for_statistic(derived.population.of)
    drifts: dict[str, Any] = {}
    for days in _DRIFT_DAYS:
        earlier = events.where(F.col("event_time") < as_of - timedelta(days=days))
        row = population.profile_vectors(fold.read(fold.partials(earlier)), stats, derived).first()
        if row is None or row["vector"] is None:
            continue
        changes = finite_items({name: vector[name] - before for name, before in row["vector"].items()})
        large = sorted(
            (name for name in changes if abs(changes[name]) >= _DRIFT_DEVIATIONS), key=lambda name: -abs(changes[name])
        )
        drifts[f"{days} days"] = ", ".join(f"{name} {changes[name]:+.2g}" for name in large) or _NO_DRIFT
    return {"drift": drifts} if drifts else {}


def preference_events(events: DataFrame, preferences: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Events behind the strongest preferences: their number by type, and the date of the last one.

    Args:
        events: of the user.
        preferences: weight by value, by column of `events` (`item_id`, `category`, `brand`).
    """
    texts: dict[str, Any] = {}
    for column, weights in preferences.items():
        top = sorted(weights, key=lambda value: (-weights[value], value))[:_MAX_PREFERENCES]
        rows = events.where(F.col(column).isin(top)).groupBy(F.col(column).alias("value"), "event_type")
        counts = rows.agg(F.count(F.lit(1)).alias("n"), F.max("event_time").alias("last")).collect()
        for value in top:
            of_value = sorted(
                (row for row in counts if row["value"] == value), key=lambda row: (-row["n"], row["event_type"])
            )
            if of_value:
                last = max(row["last"] for row in of_value).astimezone(UTC)
                types = ", ".join(f"{row['n']} {row['event_type']}" for row in of_value)
                texts[value] = f"{types}, last {last:%Y-%m-%d}"
    return {"preference_events": texts} if texts else {}


def unusual(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Large deviations: from all users (largest first), from the user's segment, and within the last 30 days."""
    vector = finite_items(sections.get("vector"))
    names = [name for name in vector if abs(vector[name]) >= _UNUSUAL_DEVIATIONS]
    texts = {
        name: f"{abs(vector[name]):.1f} standard deviations {'above' if vector[name] > 0 else 'below'} all users"
        for name in sorted(names, key=lambda name: -abs(vector[name]))
    }
    segment = sections.get("segment", {})
    if segment.get("typical_distance"):
        ratio = segment["distance_to_center"] / segment["typical_distance"]
        if _FAR_DISTANCE < ratio < math.inf:
            texts["segment"] = f"distance to the center is {ratio:.1f} times the typical distance"
    changes = sections.get("drift", {}).get(f"{_DRIFT_DAYS[-1]} days")
    if changes and changes != _NO_DRIFT:
        texts["drift"] = f"in {_DRIFT_DAYS[-1]} days {changes}"
    return {"unusual": texts} if texts else {}
