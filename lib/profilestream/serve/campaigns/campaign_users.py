"""Users as of a campaign's start, and what they did then: the frames behind campaigns.py."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings
from profilestream.base.session import materialize
from profilestream.base.settings import Settings
from profilestream.derive import population, profiles
from profilestream.derive.fold import WAS, Fold
from profilestream.derive.table_declaration import Derived
from profilestream.serve.campaigns import campaign_effect
from profilestream.serve.campaigns.campaign_effect import Campaign, Study, Users, Window
from profilestream.serve.campaigns.matching import Floats, Matching

SPENT = "CASE event_type WHEN 'purchase' THEN value WHEN 'return' THEN -value END"
_HISTORY = ("spend_earlier", "visits_earlier")
_A_DAY = timedelta(days=1)
_NEVER = datetime.fromtimestamp(0, UTC) + _A_DAY


def profile(settings: Settings) -> Derived:
    """The declared profile table, which has a vector.

    Raises:
        BadSettings: there is none, or it has none.
    """
    derived = profiles.of_users(settings)
    if derived.population is None:
        do = "declare its [population], as conf/derive/user_profiles.toml does"
        raise BadSettings(f"the profile table {derived.name} has no vector", where="derive.profiles", do=do)
    return derived


def studied(
    events: DataFrame, treated: DataFrame, campaign: Campaign, derived: Derived, how: Matching, most: int
) -> tuple[Study, Study | None]:
    """The campaign, and its placebo when the log reaches back by two lengths before the start.

    Args:
        events: rows of `events`.
        treated: `user_id`, those whom the campaign reached.
        derived: the profile table; what is known of users is its vector.
        most: treated users, and untreated ones, drawn by a hash, at most.

    Raises:
        BadSettings: the log does not hold what is needed, or too few users.
    """
    first, last = _reach(events)
    if first > campaign.moment(-1) or last < campaign.moment(1):
        what = f"the log, {first + _A_DAY} to {last - _A_DAY}, does not hold the campaign and as long before it"
        do = "name a campaign that lies further inside the log, or a shorter part of it"
        raise BadSettings(what, where=f"--start {campaign.start}, --end", do=do)
    windows: tuple[Window, ...] = ("during", "after") if last >= campaign.moment(2) else ("during",)
    real = _studied(events, treated, campaign, derived, how, most, windows)
    if first > campaign.moment(-2):
        return real, None
    return real, _studied(events, treated, campaign.placebo, derived, how, most, ("during",))


def _reach(events: DataFrame) -> tuple[datetime, datetime]:
    """Times that the log holds whole, to a day: from the first event on to the last; none when there is none."""
    row = events.agg(F.min("event_time"), F.max("event_time")).head()
    if row is None or row[0] is None:
        return _NEVER, _NEVER
    first, last = (one.astimezone(UTC) for one in row)
    return first - _A_DAY, last + _A_DAY


def _studied(
    events: DataFrame,
    treated: DataFrame,
    campaign: Campaign,
    derived: Derived,
    how: Matching,
    most: int,
    windows: Sequence[Window],
) -> Study:
    state = materialize(states(events, treated, campaign, derived, most, how.seed))
    return campaign_effect.compared(
        _collected(state, outcomes(events, state, campaign), campaign), campaign, how, windows
    )


def states(
    events: DataFrame, treated: DataFrame, campaign: Campaign, derived: Derived, most: int, seed: int
) -> DataFrame:
    """Users as of the campaign's start, by earlier events alone: `user_id`, `is_treated`, `vector`, what they spent.

    `spend_earlier` and `visits_earlier` are of all the time before the one that the campaign is compared with.
    """
    assert derived.population is not None
    start = campaign.moment(0)
    known = _until(events, start).where("user_id IS NOT NULL")
    is_earlier = F.col("event_time") < campaign.moment(-1)
    history = materialize(
        known.groupBy("user_id").agg(
            F.coalesce(F.sum(F.when(is_earlier, F.expr(SPENT))), F.lit(0.0)).alias("spend_earlier"),
            F.count_distinct(F.when(is_earlier, _visit(campaign.zone))).cast("double").alias("visits_earlier"),
        )
    )
    drawn = [
        history.join(treated.select("user_id"), "user_id", side)
        .orderBy(F.xxhash64("user_id", F.lit(seed)), "user_id")
        .limit(most)
        .withColumn("is_treated", F.lit(side == "left_semi"))
        for side in ("left_semi", "left_anti")
    ]
    users = materialize(drawn[0].unionByName(drawn[1]))
    fold = Fold.of(derived).alone(derived.population.of)
    rows = materialize(fold.partials(known.join(users.select("user_id"), "user_id", "left_semi")))
    nobody = events.sparkSession.createDataFrame([], derived.population_table.schema)
    all_new = rows.withColumn(WAS, F.lit(None).cast(derived.vector.ddl))
    as_of_start = population.after_batch(nobody, all_new, derived, Txn("", "", 0))
    vectors = population.vectors(fold.read(rows, F.lit(start)), as_of_start, derived)
    return users.join(vectors, "user_id", "left").select("user_id", "is_treated", "vector", *_HISTORY)


def outcomes(events: DataFrame, users: DataFrame, campaign: Campaign) -> DataFrame:
    """What users did from as long before the campaign as it lasts to as long after it: `user_id`, `spend`, `visits`.

    `spend` maps a step to money, `visits` a window to a number; what is 0 is not in it.
    """
    since = campaign.moment(-1)
    in_reach = (F.col("event_time") >= since) & (F.col("event_date") >= since.date())
    mine = _until(events, campaign.moment(2)).where(in_reach).join(users.select("user_id"), "user_id", "left_semi")
    local = F.to_date(F.from_utc_timestamp("event_time", campaign.zone))
    day = F.date_diff(local, F.lit(campaign.placebo.start))
    days, steps = campaign.length.days, campaign.steps
    dated = mine.select(
        "user_id",
        F.floor(day * steps / days).cast("int").alias("step"),
        F.floor(day / days).cast("int").alias("window"),
        F.expr(SPENT).alias("spent"),
        _visit(campaign.zone).alias("visit"),
    )
    spend = dated.groupBy("user_id", "step").agg(F.sum("spent").alias("sum")).where("sum IS NOT NULL")
    visits = dated.groupBy("user_id", "window").agg(F.count_distinct("visit").alias("number"))
    spends = spend.groupBy("user_id").agg(F.map_from_entries(F.collect_list(F.struct("step", "sum"))).alias("spend"))
    numbers = visits.groupBy("user_id").agg(
        F.map_from_entries(F.collect_list(F.struct("window", "number"))).alias("visits")
    )
    return spends.join(numbers, "user_id", "full")


def _collected(state: DataFrame, came: DataFrame, campaign: Campaign) -> Users:
    """At most so many users as were drawn; covariates that do not vary are left out."""
    rows = state.join(came, "user_id", "left").orderBy("user_id").collect()
    dimensions = sorted({name for row in rows for name in row["vector"] or {}})
    vectors = np.array([[(row["vector"] or {}).get(name, 0.0) for name in dimensions] for row in rows], float)
    history = np.array([[row[name] for name in _HISTORY] for row in rows], float).reshape(len(rows), -1)
    spread = history.std(axis=0, keepdims=True)
    history = (history - history.mean(axis=0)) / np.where(spread > 0, spread, 1)
    covariates = np.hstack([vectors, history])
    varies = covariates.std(axis=0) > 0

    def table(column: str, width: int) -> Floats:
        return np.array([[(row[column] or {}).get(n, 0.0) for n in range(width)] for row in rows], float)

    return Users(
        ids=[row["user_id"] for row in rows],
        treated=np.array([row["is_treated"] for row in rows], bool),
        names=[name for name, is_kept in zip([*dimensions, *_HISTORY], varies, strict=True) if is_kept],
        covariates=covariates[:, varies],
        spend=table("spend", 3 * campaign.steps),
        visits=table("visits", 3),
    )


def _until(events: DataFrame, end: datetime) -> DataFrame:
    """Events before a time; the day too, since events lie in folders by day."""
    return events.where((F.col("event_time") < end) & (F.col("event_date") <= end.date()))


def _visit(zone: str) -> Column:
    """What a purchase belongs to: its order, or its day where the log has no orders; null of any other event."""
    day = F.to_date(F.from_utc_timestamp("event_time", zone)).cast("string")
    return F.when(F.col("event_type") == "purchase", F.coalesce("order_id", day))
