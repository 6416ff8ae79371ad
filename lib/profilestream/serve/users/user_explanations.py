"""Where one user stands: segment and why, groups, tags with evidence, drift, events behind preferences, what is odd."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS, Table
from profilestream.derive import population
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import Derived
from profilestream.learn import segment_rules, segments

# In standard deviations: of all users; of a user's own change; of the usual distance in a segment.
_ODD, _DRIFTS, _FAR = 2.0, 0.5, 2.0
_BACK = (7, 30)
_SHOWN = 3


def as_known(spark: SparkSession, table: Table, settings: Settings, known_by: datetime | None) -> DataFrame | None:
    """A table as it was at a time, by the commits until then; null when it was not there."""
    if not table.exists(spark, settings.paths):
        return None
    if known_by is None:
        return table.read(spark, settings.paths)
    history = DeltaTable.forPath(spark, table.uri(settings.paths)).history()
    row = history.where(F.col("timestamp") <= known_by).agg(F.max("version")).first()
    return None if row is None or row[0] is None else table.read(spark, settings.paths, version=row[0])


def segment(
    spark: SparkSession,
    settings: Settings,
    user_id: str,
    means: Mapping[str, float],
    at: datetime,
    known_by: datetime | None,
) -> dict[str, Any]:
    """The segment, unless the user came into it after `at`: which it was before is not kept.

    Args:
        means: of what the user did, by dimension of the profile vector.
    """  # fmt: skip
    rows = as_known(spark, segments.users_table(settings), settings, known_by)
    row = None if rows is None else rows.where((F.col("user_id") == user_id) & (F.col("since") <= at)).first()
    if row is None:
        return {}
    found = {"segment": str(row["segment_id"]), "since": row["since"], "distance": row["distance"]}
    states = as_known(spark, segments.table(settings), settings, known_by)
    its = None if states is None else states.where(F.col("segment_id") == row["segment_id"])
    cost = None if its is None else its.agg(F.max_by("cost", "as_of")).first()
    if cost is not None and cost[0] is not None:
        found["usual_distance"] = float(cost[0]) ** 0.5
    told = as_known(spark, segments.descriptions_table(), settings, known_by)
    description = None if told is None else told.where(F.col("segment_id") == row["segment_id"]).first()
    if description is None:
        return {"segment": found}
    found["segment"] = f"{row['segment_id']}: {description['description']}"
    way = segment_rules.shortened(segment_rules.way_of(json.loads(description["tree"]), means))
    found["because"] = " and ".join(f"{step} (is {means.get(step.dimension, 0.0):.4g})" for step in way)
    found["users_in_it"] = f"{description['users']:,}, {description['share']:.0%} of all"
    return {"segment": found}


def groups(
    spark: SparkSession, settings: Settings, user_id: str, at: datetime, known_by: datetime | None
) -> dict[str, Any]:
    """Groups by recency, frequency and money, loyalty and cohort, unless they were told of a later time than `at`."""
    rows = as_known(spark, USER_GROUPS, settings, known_by)
    row = None if rows is None else rows.where((F.col("user_id") == user_id) & (F.col("as_of") <= at)).first()
    if row is None:
        return {}
    fifths = [row[f"{name}_fifth"] for name in ("recency", "frequency", "money")]
    loyalty = row["loyalty"] and f"{row['loyalty']} since {row['loyalty_since']:%Y-%m-%d}"
    known = {
        "rfm": row["rfm"],
        "fifths": None if None in fifths else "recency {}, frequency {}, money {}".format(*fifths),
    }
    return {"groups": {**known, "loyalty": loyalty, "cohort": row["cohort"]}}


def tags(
    spark: SparkSession, settings: Settings, user_id: str, at: datetime, known_by: datetime | None
) -> dict[str, Any]:
    """Tags that the user has at a time, the newest first, with dates and evidence."""
    rows = as_known(spark, USER_TAGS, settings, known_by)
    if rows is None:
        return {}
    holds = (F.col("since") <= at) & (F.col("until").isNull() | (F.col("until") > at))
    found = rows.where((F.col("user_id") == user_id) & holds).orderBy(F.desc("since"), "tag").collect()
    told = {row["tag"]: f"since {row['since']:%Y-%m-%d}: {row['evidence'] or 'no evidence told'}" for row in found}
    return {"tags": told} if told else {}


def drift(
    events: DataFrame, vector: Mapping[str, float] | None, stats: DataFrame | None, derived: Derived, at: datetime
) -> dict[str, Any]:
    """How the profile vector moved in 7 and 30 days, in standard deviations of the population; nothing of a new user.

    Args:
        events: of the user.
        vector: at `at`.
        stats: the row of population_stats that the vector was read by.
    """
    if not vector or stats is None or derived.population is None:
        return {}
    fold = Fold.of(derived).alone(derived.population.of)
    found: dict[str, Any] = {}
    for days in _BACK:
        earlier = events.where(F.col("event_time") < at - timedelta(days=days))
        row = population.vectors(fold.read(fold.partials(earlier)), stats, derived).first()
        if row is None or row["vector"] is None:
            continue
        apart = {name: vector[name] - was for name, was in row["vector"].items()}
        moved = sorted((name for name in apart if abs(apart[name]) >= _DRIFTS), key=lambda name: -abs(apart[name]))
        found[f"{days} days"] = ", ".join(f"{name} {apart[name]:+.2g}" for name in moved) or "as before"
    return {"drift": found} if found else {}


def behind(events: DataFrame, preferences: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The events behind the heaviest preferences: how many of each type, and when the last one was.

    Args:
        events: of the user.
        preferences: weights, by column of `events` (`item_id`, `category`, `brand`).
    """
    found: dict[str, Any] = {}
    for column, weights in preferences.items():
        top = sorted(weights, key=lambda value: (-weights[value], value))[:_SHOWN]
        rows = events.where(F.col(column).isin(top)).groupBy(F.col(column).alias("value"), "event_type")
        counted = rows.agg(F.count(F.lit(1)).alias("n"), F.max("event_time").alias("last")).collect()
        for value in top:
            mine = sorted(
                (row for row in counted if row["value"] == value), key=lambda row: (-row["n"], row["event_type"])
            )
            if mine:
                last = max(row["last"] for row in mine).astimezone(UTC)
                types = ", ".join(f"{row['n']} {row['event_type']}" for row in mine)
                found[value] = f"{types}, last {last:%Y-%m-%d}"
    return {"behind": found} if found else {}


def unusual(said: Mapping[str, Any]) -> dict[str, Any]:
    """What stands out, most first: far from all users, far from the segment, and moved within 30 days."""
    vector = said.get("vector") or {}
    odd = sorted((name for name in vector if abs(vector[name]) >= _ODD), key=lambda name: -abs(vector[name]))
    told = {
        name: f"{abs(vector[name]):.1f} deviations {'above' if vector[name] > 0 else 'below'} all users" for name in odd
    }
    place = said.get("segment", {})
    if place.get("usual_distance") and place["distance"] > _FAR * place["usual_distance"]:
        times = place["distance"] / place["usual_distance"]
        told["segment"] = f"{times:.1f} times as far from the middle of its segment as is usual there"
    moved = said.get("drift", {}).get(f"{_BACK[-1]} days")
    if moved and moved != "as before":
        told["drift"] = f"in {_BACK[-1]} days {moved}"
    return {"unusual": told} if told else {}
