"""The view of one user: profile, tags, segment and recommendations, as of any time and as known by any time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import SourceMissing
from profilestream.base.finite import finite_items
from profilestream.base.session import materialize
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage, population, profiles
from profilestream.derive.fold import Fold
from profilestream.derive.statistics import Distinct
from profilestream.derive.table_declaration import DerivedTable
from profilestream.serve.users import user_explanations

USER = "user_id"
_MAX_UNUSUAL_DAYS = 5


class Approximate(int):
    """A number that a sketch estimates; a text shows it as `about 436`."""


@dataclass(frozen=True)
class UserView:
    """One user.

    Args:
        as_of: time of all values.
        sections: values by name, in display order. `unusual`: large deviations. `tags`, `groups`, `segment`. The facets
            of the profile, and `newest_event_time` of the user. `vector`: difference to the population in standard
            deviations. `price_level`. `drift` of the vector. `preference_events`: the events behind preferences.
            `scores`: what the user is expected to do, with reasons, by outcome.
            `unusual_days`: the last ones, with reasons, by day.
            `recommendations`, and others by purpose, such as `buy_again`: items with reasons, by rank. A section
            without values is missing.
    """

    user_id: str
    as_of: datetime
    sections: dict[str, Any]


def read(
    spark: SparkSession,
    settings: Settings,
    user_id: str,
    as_of: datetime | None = None,
    known_by: datetime | None = None,
) -> UserView:
    """The view of one user.

    Without times it uses the stored profile, as of the newest event of any user. With a time it computes the profile
    from the user's events before `as_of` that were ingested up to `known_by`. Tags, groups and segment are those at
    `as_of`, from the table versions at `known_by`. Scores, unusual days and recommendations are
    included only without times.

    Raises:
        SourceMissing: the user has no events, or none at those times; suggests similar ids.
        BadSettings: the settings declare no profile table with the key user_id.
    """
    derived = profiles.profile_table(settings)
    fold = Fold(derived)
    is_current = as_of is None and known_by is None
    events = _events(spark, settings, as_of, known_by)
    own_events = materialize(events.where(F.col(USER) == user_id))  # read four times, from one folder per day
    if is_current:
        stored = _stored_profiles(spark, settings, derived)
        row = stored.where(F.col(USER) == user_id)
        time = stored.agg(F.max("as_of")).collect()[0][0]
    else:
        row = fold.partials(own_events)
        time = as_of or events.agg(F.max("event_time")).collect()[0][0]
    profile = materialize(fold.read(row, F.lit(time)))
    profile_rows = profile.collect()
    if not profile_rows:
        raise _unknown_user(spark, settings, user_id, as_of, known_by)
    facets = _with_approximate_counts(
        {k: v for k, v in profile_rows[0].asDict(recursive=True).items() if k != USER}, derived
    )
    facets["newest_event_time"] = facets.pop("as_of")
    stats = _population(spark, settings, derived, time)
    extra = {**_vector(derived, profile, stats), **_price_level(spark, settings, profile, time)}
    extra |= user_explanations.drift(own_events, extra.get("vector"), stats, derived, time)
    extra |= user_explanations.preference_events(own_events, _preferences(facets))
    if is_current:
        extra |= _scores(spark, settings, user_id)
        extra |= _unusual_days(spark, settings, user_id)
        extra |= _recommendations(spark, settings, user_id)
    means = _means(derived, facets)
    labels = {
        **user_explanations.tags(spark, settings, user_id, time, known_by),
        **user_explanations.groups(spark, settings, user_id, time, known_by),
        **user_explanations.segment(spark, settings, user_id, means, time, known_by),
    }
    sections = {**user_explanations.unusual({**labels, **extra}), **labels, **facets, **extra}
    return UserView(user_id, time, sections)


def _with_approximate_counts(facets: dict[str, Any], derived: DerivedTable) -> dict[str, Any]:
    """The values of the profile; distinct counts above the exact limit of their sketch are marked."""
    for path, statistic in derived.statistics.items():
        facet, _, name = path.rpartition(".")
        values = facets.get(facet) if facet else facets
        if isinstance(statistic, Distinct) and values and values[name] > statistic.exact_limit:
            values[name] = Approximate(values[name])
    return facets


def _preferences(facets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Preference weights by value, by the column of `events` that contains the values."""
    preference = facets.get("preference") or {}
    columns = {"items": "item_id", "categories": "category", "brands": "brand"}
    weights = {column: finite_items(preference.get(name)) for name, column in columns.items()}
    return {column: of_column for column, of_column in weights.items() if of_column}


def _means(derived: DerivedTable, facets: dict[str, Any]) -> dict[str, float]:
    """Decayed means of the user's events, by dimension of the profile vector."""
    if derived.population is None:
        return {}
    facet, _, name = derived.population.of.rpartition(".")
    return finite_items(((facets.get(facet) or {}) if facet else facets).get(name))


def _stored_profiles(spark: SparkSession, settings: Settings, derived: DerivedTable) -> DataFrame:
    derived.table.require(spark, settings.paths, do="run jobs/derive_profiles.py first, or name a time: --as-of")
    return derived.table.read(spark, settings.paths)


def _events(spark: SparkSession, settings: Settings, as_of: datetime | None, known_by: datetime | None) -> DataFrame:
    tables.EVENTS.require(spark, settings.paths, do="run jobs/capture_events.py first")
    events = tables.EVENTS.read(spark, settings.paths)
    if as_of is not None:
        events = events.where((F.col("event_time") < as_of) & (F.col("event_date") <= as_of.astimezone(UTC).date()))
    return events if known_by is None else events.where(F.col("ingest_time") <= known_by)


def _population(spark: SparkSession, settings: Settings, derived: DerivedTable, as_of: datetime) -> DataFrame | None:
    """The latest population row at a time; null when no population is declared or stored."""
    if derived.population is None or not derived.population_table.exists(spark, settings.paths):
        return None
    return population.latest(derived.population_table.read(spark, settings.paths).where(F.col("as_of") <= as_of))


def _vector(derived: DerivedTable, profile: DataFrame, stats: DataFrame | None) -> dict[str, Any]:
    """The user's difference to the population; empty without a population row."""
    row = None if stats is None else population.profile_vectors(profile, stats, derived).first()
    return {} if row is None or row["vector"] is None else {"vector": row["vector"]}


def _price_level(spark: SparkSession, settings: Settings, profile: DataFrame, as_of: datetime) -> dict[str, Any]:
    declared = {table.name: table for table in fold_stage.declared_tables(settings).values()}
    by_category = declared.get(profiles.CATEGORY_TILES)
    if by_category is None or not by_category.table.exists(spark, settings.paths):
        return {}
    tiles = by_category.table.read(spark, settings.paths).where(F.col("hour") < as_of)
    row = profiles.price_levels(profile, Fold(by_category).merge_rows(tiles), by_category).first()
    return {} if row is None or row["price_level"] is None else {"price_level": row["price_level"]}


def _recommendations(spark: SparkSession, settings: Settings, user_id: str) -> dict[str, Any]:
    """The user's lists by purpose, `for_you` as `recommendations`: item, its text and the reason, by rank."""
    if not tables.RECOMMENDATIONS.exists(spark, settings.paths):
        return {}
    rows = tables.RECOMMENDATIONS.read(spark, settings.paths).where(F.col(USER) == user_id).collect()
    items = {row["item_id"] for row in rows} | {row["reason_item_id"] for row in rows if row["reason_item_id"]}
    if not items:
        return {}
    texts = item_texts(spark, settings, sorted(items))

    def label(item: str) -> str:
        return f"{item} {texts[item]}" if item in texts else item

    def reason(row: Row) -> str:
        text, item = str(row["reason"]), row["reason_item_id"]
        return text.replace(item, label(item)) if item else text

    lists: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: (row["purpose"] != "for_you", row["purpose"], row["rank"])):
        name = "recommendations" if row["purpose"] == "for_you" else row["purpose"]
        lists.setdefault(name, {})[str(row["rank"])] = f"{label(row['item_id'])}: {reason(row)}"
    return lists


def _scores(spark: SparkSession, settings: Settings, user_id: str) -> dict[str, Any]:
    """The probability or the expected amount of each outcome, and its reasons."""
    if not tables.USER_SCORES.exists(spark, settings.paths):
        return {}
    rows = tables.USER_SCORES.read(spark, settings.paths).where(F.col(USER) == user_id).orderBy("outcome").collect()
    texts = {
        row["outcome"]: "; ".join([
            f"{row['score']:,.2f}" if row["probability"] is None else f"{row['probability']:.1%}",
            *(reason["text"] for reason in row["reasons"]),
        ])
        for row in rows
    }  # fmt: skip
    return {"scores": texts} if texts else {}


def _unusual_days(spark: SparkSession, settings: Settings, user_id: str) -> dict[str, Any]:
    """The reasons of the user's last unusual days."""
    if not tables.UNUSUAL_ACTIVITY.exists(spark, settings.paths):
        return {}
    rows = tables.UNUSUAL_ACTIVITY.read(spark, settings.paths).where(F.col(USER) == user_id).orderBy(F.desc("day"))
    texts = {
        str(row["day"]): "; ".join(reason["text"] for reason in row["reasons"])
        for row in rows.limit(_MAX_UNUSUAL_DAYS).collect()
    }
    return {"unusual_days": texts} if texts else {}


def item_texts(spark: SparkSession, settings: Settings, items: list[str]) -> dict[str, str]:
    """The latest `text` of each item in `events`; items without a text are left out."""
    events = tables.EVENTS.read(spark, settings.paths).where(F.col("item_id").isin(items) & F.col("text").isNotNull())
    rows = events.groupBy("item_id").agg(latest("text").alias("text")).collect()
    return {row["item_id"]: row["text"] for row in rows}


def latest(name: str, not_null: str = "") -> Column:
    """An aggregate of events: the latest value of a column, of those that are not null.

    Args:
        not_null: another column that must not be null instead.
    """
    is_valid = F.col(not_null or name).isNotNull()
    return F.max_by(name, F.when(is_valid, F.struct("event_time", "event_id")))


def _unknown_user(
    spark: SparkSession, settings: Settings, user_id: str, as_of: datetime | None, known_by: datetime | None
) -> SourceMissing:
    events = tables.EVENTS.read(spark, settings.paths).where(F.col(USER).isNotNull())
    is_similar = (F.col(USER) == user_id) | F.col(USER).endswith(f":{user_id}")
    similar_ids = sorted(row[0] for row in events.where(is_similar).select(USER).distinct().limit(5).collect())
    if similar_ids == [user_id]:
        first = events.where(F.col(USER) == user_id).agg(F.min("event_time"), F.min("ingest_time")).collect()[0]
        return SourceMissing(
            f"user {user_id!r} has no profile at that time: first event {first[0]}, ingested at {first[1]}",
            where=f"--as-of {as_of}, --known-by {known_by}",
            do="use later times, or none; without times, run jobs/derive_profiles.py first",
        )
    examples = similar_ids or [row[0] for row in events.select(USER).distinct().orderBy(USER).limit(3).collect()]
    hint = "use" if similar_ids else "user ids look like"
    do = f"{hint} {', '.join(examples)}" if examples else "capture events with user ids first: there are no users yet"
    return SourceMissing(f"there is no user {user_id!r}", where=settings.paths.warehouse, do=do)
