"""One person: what the profile says, as of any time and as known by any time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import SourceMissing
from profilestream.base.session import materialize
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage, population, profiles
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import Derived
from profilestream.serve.users import user_explanations

USER = "user_id"


@dataclass(frozen=True)
class Person:
    """What is known of a user.

    Args:
        at: the time as of which everything is said.
        said: what is `unusual`; `tags`, `groups` and `segment` (standing.py); facets of the profile; `vector`: how the
            user differs from the population, in standard deviations, and its `drift`; `behind` preferences; and
            `recommended`: what serve_scores says, with the reason, by rank.
    """

    user_id: str
    at: datetime
    said: dict[str, Any]


def of(
    spark: SparkSession,
    settings: Settings,
    user_id: str,
    as_of: datetime | None = None,
    known_by: datetime | None = None,
) -> Person:
    """The person with an id.

    Without times the stored profile is read, as of the newest event of any user. With a time the profile is made again
    from the user's events: those that happened before `as_of` and came in up to `known_by`. Tags, groups and
    segment are those of `as_of` in the tables as they were at `known_by`.

    Raises:
        SourceMissing: no such user, or none at those times; tells ids that are meant perhaps.
        BadSettings: the settings declare no profile table with the key user_id.
    """
    derived = profiles.of_users(settings)
    fold = Fold.of(derived)
    is_now = as_of is None and known_by is None
    events = _events(spark, settings, as_of, known_by)
    mine = materialize(events.where(F.col(USER) == user_id))  # asked four times; `events` lies in a folder a day
    if is_now:
        stored = _stored(spark, settings, derived)
        row = stored.where(F.col(USER) == user_id)
        newest = stored.agg(F.max("as_of")).collect()[0][0]
    else:
        row = fold.partials(mine)
        newest = as_of or events.agg(F.max("event_time")).collect()[0][0]
    said = materialize(fold.read(row, F.lit(newest)))
    found = said.collect()
    if not found:
        raise _unknown(spark, settings, user_id, as_of, known_by)
    facets = {k: v for k, v in found[0].asDict(recursive=True).items() if k != USER}
    stats = _population(spark, settings, derived, newest)
    extra = {**_vector(derived, said, stats), **_price_level(spark, settings, said, newest)}
    extra |= user_explanations.drift(mine, extra.get("vector"), stats, derived, newest)
    extra |= user_explanations.behind(mine, _preferences(facets))
    if is_now:
        extra |= _recommended(spark, settings, user_id)
    means = _means(derived, facets)
    place = {
        **user_explanations.tags(spark, settings, user_id, newest, known_by),
        **user_explanations.groups(spark, settings, user_id, newest, known_by),
        **user_explanations.segment(spark, settings, user_id, means, newest, known_by),
    }
    return Person(user_id, newest, {**user_explanations.unusual({**place, **extra}), **place, **facets, **extra})


def _preferences(facets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What the profile prefers, by the column of `events` that it is told in."""
    preferred = facets.get("preference") or {}
    columns = {"items": "item_id", "categories": "category", "brands": "brand"}
    return {column: preferred[name] for name, column in columns.items() if preferred.get(name)}


def _means(derived: Derived, facets: dict[str, Any]) -> dict[str, float]:
    """The mean of what the user did, by dimension of the profile vector."""
    if derived.population is None:
        return {}
    facet, _, name = derived.population.of.rpartition(".")
    return ((facets.get(facet) or {}) if facet else facets).get(name) or {}


def _stored(spark: SparkSession, settings: Settings, derived: Derived) -> DataFrame:
    derived.table.require(spark, settings.paths, do="run jobs/derive_profiles.py first, or name a time: --as-of")
    return derived.table.read(spark, settings.paths)


def _events(spark: SparkSession, settings: Settings, as_of: datetime | None, known_by: datetime | None) -> DataFrame:
    tables.EVENTS.require(spark, settings.paths, do="run jobs/capture_events.py first")
    events = tables.EVENTS.read(spark, settings.paths)
    if as_of is not None:
        events = events.where((F.col("event_time") < as_of) & (F.col("event_date") <= as_of.astimezone(UTC).date()))
    return events if known_by is None else events.where(F.col("ingest_time") <= known_by)


def _population(spark: SparkSession, settings: Settings, derived: Derived, at: datetime) -> DataFrame | None:
    """The newest population that was known at a time; null when none is kept."""
    if derived.population is None or not derived.population_table.exists(spark, settings.paths):
        return None
    return population.newest(derived.population_table.read(spark, settings.paths).where(F.col("as_of") <= at))


def _vector(derived: Derived, said: DataFrame, stats: DataFrame | None) -> dict[str, Any]:
    """How the user differs from a population; nothing when none is known."""
    row = None if stats is None else population.vectors(said, stats, derived).first()
    return {} if row is None or row["vector"] is None else {"vector": row["vector"]}


def _price_level(spark: SparkSession, settings: Settings, said: DataFrame, at: datetime) -> dict[str, Any]:
    by_category = next((d for d in fold_stage.declared(settings).values() if d.name == profiles.CATEGORY_TILES), None)
    if by_category is None or not by_category.table.exists(spark, settings.paths):
        return {}
    tiles = by_category.table.read(spark, settings.paths).where(F.col("hour") < at)
    row = profiles.price_levels(said, Fold.of(by_category).merged(tiles), by_category).first()
    return {} if row is None or row["price_level"] is None else {"price_level": row["price_level"]}


def _recommended(spark: SparkSession, settings: Settings, user_id: str) -> dict[str, Any]:
    """The user's list, items by id and by what their newest event calls them."""
    if not tables.RECOMMENDATIONS.exists(spark, settings.paths):
        return {}
    rows = tables.RECOMMENDATIONS.read(spark, settings.paths).where(F.col(USER) == user_id).orderBy("rank").collect()
    wanted = sorted({row["item_id"] for row in rows} | {row["because"] for row in rows if row["because"]})
    if not wanted:
        return {}
    called_by = texts(spark, settings, wanted)

    def called(item: str) -> str:
        return f"{item} {called_by[item]}" if item in called_by else item

    def reason(row: Row) -> str:
        said = str(row["reason"])
        return said.replace(row["because"], called(row["because"])) if row["because"] else said

    return {"recommended": {str(row["rank"]): f"{called(row['item_id'])}: {reason(row)}" for row in rows}}


def texts(spark: SparkSession, settings: Settings, items: list[str]) -> dict[str, str]:
    """What the newest event of each of some items calls it; those without a text are left out."""
    events = tables.EVENTS.read(spark, settings.paths).where(F.col("item_id").isin(items) & F.col("text").isNotNull())
    found = events.groupBy("item_id").agg(F.max_by("text", F.struct("event_time", "event_id")).alias("text")).collect()
    return {row["item_id"]: row["text"] for row in found}


def _unknown(
    spark: SparkSession, settings: Settings, user_id: str, as_of: datetime | None, known_by: datetime | None
) -> SourceMissing:
    events = tables.EVENTS.read(spark, settings.paths).where(F.col(USER).isNotNull())
    like = (F.col(USER) == user_id) | F.col(USER).endswith(f":{user_id}")
    meant = sorted(row[0] for row in events.where(like).select(USER).distinct().limit(5).collect())
    if meant == [user_id]:
        seen = events.where(F.col(USER) == user_id).agg(F.min("event_time"), F.min("ingest_time")).collect()[0]
        return SourceMissing(
            f"user {user_id!r} is not known at that time: first event {seen[0]}, which came in at {seen[1]}",
            where=f"--as-of {as_of}, --known-by {known_by}",
            do="name later times, or none; if none is named, run jobs/derive_profiles.py",
        )
    examples = meant or [row[0] for row in events.select(USER).distinct().orderBy(USER).limit(3).collect()]
    return SourceMissing(
        f"no user is called {user_id!r}",
        where=settings.paths.warehouse,
        do=f"{'name' if meant else 'ids here look like'} {', '.join(examples) or '(there are no users yet)'}",
    )
