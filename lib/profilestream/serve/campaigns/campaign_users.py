"""Users of a campaign study: covariates as of the start of the campaign, and outcomes, from `events`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings
from profilestream.base.session import frame_of_arrow, materialize
from profilestream.base.settings import Settings
from profilestream.derive import population, profiles
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable
from profilestream.serve.campaigns import campaign_effect
from profilestream.serve.campaigns.campaign_effect import Campaign, CampaignStudy, OutcomeWindow, StudyUsers
from profilestream.serve.campaigns.matching import Floats, MatchingConfig

_SPEND_SQL = "CASE event_type WHEN 'purchase' THEN value WHEN 'return' THEN -value END"
_HISTORY = ("earlier_spend", "earlier_orders")
_DAY = timedelta(days=1)
_NEVER = datetime.fromtimestamp(0, UTC) + _DAY


def profile_table(settings: Settings) -> DerivedTable:
    """The declared profile table.

    Raises:
        BadSettings: no profile table is declared, or it has no profile vector.
    """
    derived = profiles.profile_table(settings)
    if derived.population is None:
        do = "declare its [population], as conf/derive/user_profiles.toml does"
        raise BadSettings(f"the profile table {derived.name} has no vector", where="derive.profiles", do=do)
    return derived


def study_campaign(
    events: DataFrame,
    treated: DataFrame,
    campaign: Campaign,
    derived: DerivedTable,
    config: MatchingConfig,
    max_users: int,
) -> tuple[CampaignStudy, CampaignStudy | None]:
    """The study of the campaign, and of its placebo; no placebo if events start less than two lengths before it.

    Args:
        events: rows of `events`.
        treated: `user_id` of the users whom the campaign reached.
        derived: the profile table; its vector is computed again as of the start.
        max_users: maximum number of treated users, and of untreated users; sampled by a hash of the user id.

    Raises:
        BadSettings: the events do not cover the campaign and the same length before it, or there are too few users.
    """
    first, last = _time_range(events)
    if first > campaign.boundary(-1) or last < campaign.boundary(1):
        what = f"events from {first + _DAY} to {last - _DAY} do not cover the campaign and the same length before it"
        what = "there are no events" if first == _NEVER else what
        do = "use a campaign that the events cover, or a part of it"
        raise BadSettings(what, where=f"--start {campaign.start}, --end", do=do)
    windows: tuple[OutcomeWindow, ...] = ("during", "after") if last >= campaign.boundary(2) else ("during",)
    study = _study(events, treated, campaign, derived, config, max_users, windows)
    if first > campaign.boundary(-2):
        return study, None
    return study, _study(events, treated, campaign.placebo, derived, config, max_users, ("during",))


def _time_range(events: DataFrame) -> tuple[datetime, datetime]:
    """Time of the first and last event, extended by a day: a log without an event on its first day still covers it."""
    row = events.agg(F.min("event_time"), F.max("event_time")).head()
    if row is None or row[0] is None:
        return _NEVER, _NEVER
    first, last = (time.astimezone(UTC) for time in row)
    return first - _DAY, last + _DAY


def _study(
    events: DataFrame,
    treated: DataFrame,
    campaign: Campaign,
    derived: DerivedTable,
    config: MatchingConfig,
    max_users: int,
    windows: Sequence[OutcomeWindow],
) -> CampaignStudy:
    states = materialize(user_states(events, treated, campaign, derived, max_users, config.seed))
    users = _collect(states, user_outcomes(events, states, campaign), campaign)
    return campaign_effect.run_study(users, campaign, config, windows)


def user_states(
    events: DataFrame, treated: DataFrame, campaign: Campaign, derived: DerivedTable, max_users: int, seed: int
) -> DataFrame:
    """Users as of the start of the campaign, from earlier events only.

    Returns:
        `user_id`; `is_treated`; `vector`: the profile vector, null without a value; `earlier_spend` and
        `earlier_orders`: totals of all events before the window that the campaign is compared with.
    """
    user_events = _before(events, campaign.boundary(0)).where("user_id IS NOT NULL")
    history = materialize(_history(user_events, campaign))
    users = materialize(_sample(history, treated, max_users, seed))
    vectors = _vectors(user_events.join(users.select("user_id"), "user_id", "left_semi"), campaign, derived)
    return users.join(vectors, "user_id", "left").select("user_id", "is_treated", "vector", *_HISTORY)


def _history(user_events: DataFrame, campaign: Campaign) -> DataFrame:
    """Earlier spend and orders of every user."""
    is_earlier = F.col("event_time") < campaign.boundary(-1)
    spend = F.sum(F.when(is_earlier, F.expr(_SPEND_SQL)))
    orders = F.count_distinct(F.when(is_earlier, _order(campaign.timezone)))
    return user_events.groupBy("user_id").agg(
        F.coalesce(spend, F.lit(0.0)).alias("earlier_spend"), orders.cast("double").alias("earlier_orders")
    )


def _sample(users: DataFrame, treated: DataFrame, max_users: int, seed: int) -> DataFrame:
    """At most `max_users` treated and as many untreated users, with the column `is_treated`."""
    samples = [
        users.join(treated.select("user_id"), "user_id", join_type)
        .orderBy(F.xxhash64("user_id", F.lit(seed)), "user_id")
        .limit(max_users)
        .withColumn("is_treated", F.lit(join_type == "left_semi"))
        for join_type in ("left_semi", "left_anti")
    ]
    return samples[0].unionByName(samples[1])


def _vectors(user_events: DataFrame, campaign: Campaign, derived: DerivedTable) -> DataFrame:
    """Profile vectors as of the start of the campaign, relative to the population of these users."""
    assert derived.population is not None
    fold = Fold(derived).for_statistic(derived.population.of)
    rows = materialize(fold.partials(user_events))
    row = population.change(rows, rows.limit(0), derived).row(derived, Txn("", "", 0))
    start_population = frame_of_arrow(user_events.sparkSession, row)
    return population.profile_vectors(fold.read(rows, F.lit(campaign.boundary(0))), start_population, derived)


def user_outcomes(events: DataFrame, users: DataFrame, campaign: Campaign) -> DataFrame:
    """Spend and orders of the users in the windows before, during and after the campaign.

    Returns:
        `user_id`; `spend`: map from the number of the interval to money; `orders`: map from the number of the window to
        the number of orders. Values of 0 are left out of the maps.
    """
    start = campaign.boundary(-1)
    is_in_windows = (F.col("event_time") >= start) & (F.col("event_date") >= start.date())
    events_of_users = (
        _before(events, campaign.boundary(2)).where(is_in_windows).join(users.select("user_id"), "user_id", "left_semi")
    )
    local = F.to_date(F.from_utc_timestamp("event_time", campaign.timezone))
    day = F.date_diff(local, F.lit(campaign.placebo.start))
    days, intervals = campaign.length.days, campaign.intervals
    numbered = events_of_users.select(
        "user_id",
        F.floor(day * intervals / days).cast("int").alias("interval"),
        F.floor(day / days).cast("int").alias("window"),
        F.expr(_SPEND_SQL).alias("spend"),
        _order(campaign.timezone).alias("order"),
    )
    spend = numbered.groupBy("user_id", "interval").agg(F.sum("spend").alias("value")).where("value IS NOT NULL")
    orders = numbered.groupBy("user_id", "window").agg(F.count_distinct("order").alias("value"))
    return _as_map(spend, "interval", "spend").join(_as_map(orders, "window", "orders"), "user_id", "full")


def _as_map(rows: DataFrame, key: str, name: str) -> DataFrame:
    """One row per user with a map from the key to `value`."""
    return rows.groupBy("user_id").agg(F.map_from_entries(F.collect_list(F.struct(key, "value"))).alias(name))


def _collect(states: DataFrame, outcomes: DataFrame, campaign: Campaign) -> StudyUsers:
    """Collect the sampled users on the driver; covariates without variance are left out."""
    rows = states.join(outcomes, "user_id", "left").orderBy("user_id").collect()
    dimensions = sorted({name for row in rows for name in row["vector"] or {}})
    vectors = np.array([[(row["vector"] or {}).get(name, 0.0) for name in dimensions] for row in rows], float)
    history = np.array([[row[name] for name in _HISTORY] for row in rows], float).reshape(len(rows), -1)
    deviation = history.std(axis=0, keepdims=True)
    history = (history - history.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    covariates = np.hstack([vectors, history])
    varies = covariates.std(axis=0) > 0

    def values(column: str, width: int) -> Floats:
        return np.array([[(row[column] or {}).get(n, 0.0) for n in range(width)] for row in rows], float)

    return StudyUsers(
        ids=[row["user_id"] for row in rows],
        is_treated=np.array([row["is_treated"] for row in rows], bool),
        covariate_names=[name for name, is_used in zip([*dimensions, *_HISTORY], varies, strict=True) if is_used],
        covariates=covariates[:, varies],
        spend=values("spend", 3 * campaign.intervals),
        orders=values("orders", 3),
    )


def _before(events: DataFrame, end: datetime) -> DataFrame:
    """Events before a time. The condition on event_date lets Delta skip partitions."""
    return events.where((F.col("event_time") < end) & (F.col("event_date") <= end.date()))


def _order(timezone: str) -> Column:
    """The order of a purchase, or its day if the event has no order id; null for other events."""
    day = F.to_date(F.from_utc_timestamp("event_time", timezone)).cast("string")
    return F.when(F.col("event_type") == "purchase", F.coalesce("order_id", day))
