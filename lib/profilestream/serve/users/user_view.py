"""The view of one user: profile, tags, segment and recommendations, as of any time and as known by any time."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession
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
from profilestream.serve.plain_tables import item_names
from profilestream.serve.users import user_changes, user_explanations, user_predictions, user_summary, user_timeline
from profilestream.serve.users.user_changes import VectorWords
from profilestream.serve.users.value_text import Approximate

USER = "user_id"


@dataclass(frozen=True)
class UserView:
    """One user.

    Args:
        as_of: time of all values.
        sections: values by name, in display order; a section without values is missing. `summary`: who the user is, in
            sentences. `unusual`: large deviations; `drift`: what changed. `scores`: what the user is expected to do,
            with reasons, by outcome. `lists`: items with reasons, by purpose. `timeline`: the last days. `tags`,
            `groups`, `segment`. The facets of the profile, and `newest_event_time` of the user. `vector`: difference to
            the population in standard deviations. `price_level`. `preference_events`: the events behind preferences.
        item_names: of the item ids in the sections; items without a name are left out.
        timezone: of the days.
        currency: of all amounts; empty: unknown; null: the user's events have several, so they are not added.
    """

    user_id: str
    as_of: datetime
    sections: dict[str, Any]
    item_names: dict[str, str] = field(default_factory=dict)
    timezone: str = "UTC"
    currency: str | None = ""


@dataclass(frozen=True)
class _Request:
    """The user and the times of a view, and the events that it may use."""

    spark: SparkSession
    settings: Settings
    user_id: str
    as_of: datetime | None
    known_by: datetime | None

    @property
    def is_current(self) -> bool:
        return self.as_of is None and self.known_by is None

    @property
    def events(self) -> DataFrame:
        return _events(self.spark, self.settings, self.as_of, self.known_by)


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
    `as_of`, from the table versions at `known_by`. Scores, lists and unusual days are included only without times.

    Raises:
        SourceMissing: the user has no events, or none at those times; suggests similar ids.
        BadSettings: the settings declare no profile table with the key user_id.
    """
    derived = profiles.profile_table(settings)
    request = _Request(spark, settings, user_id, as_of, known_by)
    own_events = materialize(request.events.where(F.col(USER) == user_id))  # read many times, from one folder per day
    profile, time = _profile(request, derived, own_events)
    if profile.isEmpty():
        raise _unknown_user(spark, settings, user_id, as_of, known_by)
    ids = own_events.agg(*[F.collect_set(name) for name in ("currency", "item_id", "target_user_id")]).collect()[0]
    currency, timezone = user_summary.currency_of(settings, ids[0]), settings.derive.shop_timezone
    sections = _sections(request, derived, profile, own_events, time, has_values=currency is not None)
    summary = user_summary.sentences(sections, time, timezone, currency)
    sections = ({"summary": summary} if summary else {}) | sections
    listed = {one["item_id"] for items in sections.get("lists", {}).values() for one in items}
    items = item_names.ids_in(sections, {*ids[1], *listed} - {*ids[2]})  # those of other users are no items
    names = item_names.item_texts(request.events, sorted(items))
    return UserView(user_id, time, sections, names, timezone, currency)


def _sections(
    request: _Request, derived: DerivedTable, profile: DataFrame, own_events: DataFrame, time: datetime, *,
    has_values: bool,
) -> dict[str, Any]:  # fmt: skip
    """All sections but the summary, in display order."""
    facets = {name: value for name, value in profile.collect()[0].asDict(recursive=True).items() if name != USER}
    facets = _with_approximate_counts(facets, derived)
    facets["newest_event_time"] = facets.pop("as_of")
    compared = _comparisons(request, derived, profile, own_events, time)
    labels = _labels(request, _means(derived, facets), time)
    user = (request.spark, request.settings, request.user_id)
    return {
        **user_changes.unusual({**labels, **compared.values}, compared.words),
        **compared.drift,
        **(user_predictions.scores(*user) | user_predictions.lists(*user) if request.is_current else {}),
        **_timeline(request, own_events, time, has_values=has_values),
        **labels,
        **facets,
        **compared.values,
        **user_explanations.preference_events(own_events, facets.get("preference")),
    }


def _profile(request: _Request, derived: DerivedTable, own_events: DataFrame) -> tuple[DataFrame, datetime]:
    """The row of the profile, and the time of its values; no row for a user without events."""
    fold = Fold(derived)
    if request.is_current:
        stored = _stored_profiles(request.spark, request.settings, derived)
        row = stored.where(F.col(USER) == request.user_id)
        time = stored.agg(F.max("as_of")).collect()[0][0]
    else:
        row = fold.partials(own_events)
        time = request.as_of or request.events.agg(F.max("event_time")).collect()[0][0]
    return materialize(fold.read(row, F.lit(time))), time


@dataclass(frozen=True)
class _Comparisons:
    """The user compared with all users, `vector` and `price_level`, and with the time before."""

    values: dict[str, Any]
    drift: dict[str, Any]
    words: VectorWords | None


def _comparisons(
    request: _Request, derived: DerivedTable, profile: DataFrame, own_events: DataFrame, time: datetime
) -> _Comparisons:
    stats = _population(request.spark, request.settings, derived, time)
    words = VectorWords.read(derived, stats)
    vector = _vector(derived, profile, stats if words else None)
    drift = user_changes.drift(own_events, vector.get("vector"), stats, words, time)
    return _Comparisons(vector | _price_level(request.spark, request.settings, profile, time), drift, words)


def _timeline(request: _Request, own_events: DataFrame, time: datetime, *, has_values: bool) -> dict[str, Any]:
    spark, settings, timezone = request.spark, request.settings, request.settings.derive.shop_timezone
    tags = user_explanations.read_version_at(spark, tables.USER_TAGS, settings, request.known_by)
    own_tags = None if tags is None else tags.where(F.col(USER) == request.user_id)
    return user_timeline.timeline(
        user_timeline.event_days(own_events, timezone, has_values=has_values),
        user_timeline.tag_days(own_tags, time, timezone),
        user_timeline.unusual_days(spark, settings, request.user_id) if request.is_current else {},
    )


def _labels(request: _Request, means: dict[str, float], time: datetime) -> dict[str, Any]:
    """Tags, groups and segment at a time."""
    spark, settings, user_id, known_by = request.spark, request.settings, request.user_id, request.known_by
    return {
        **user_explanations.tags(spark, settings, user_id, time, known_by),
        **user_explanations.groups(spark, settings, user_id, time, known_by),
        **user_explanations.segment(spark, settings, user_id, means, time, known_by),
    }


def _with_approximate_counts(facets: dict[str, Any], derived: DerivedTable) -> dict[str, Any]:
    """The values of the profile; distinct counts above the exact limit of their sketch are marked."""
    for path, statistic in derived.statistics.items():
        facet, _, name = path.rpartition(".")
        values = facets.get(facet) if facet else facets
        if isinstance(statistic, Distinct) and values and values[name] > statistic.exact_limit:
            values[name] = Approximate(values[name])
    return facets


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
