"""user_groups: one row per user with RFM quintiles, RFM segment, loyalty tier and cohort.

The quintile thresholds are quantiles over all users, of values that are rounded within 2 %. They depend neither on the
order of users nor on their partitions. A value that is rounded to the same number as a threshold is not above it.
"""

import math
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.tables import USER_GROUPS
from profilestream.serve.tags.tag_declaration import GroupDeclaration, LoyaltyTier

QUINTILES = {"recency_quintile": "recency_days", "frequency_quintile": "frequency", "monetary_quintile": "monetary"}
_MEASURES = tuple(QUINTILES.values())
DELETED, CHANGED = "_deleted", "_changed"
# Neighboring rounded values have this difference of their logarithms: 2 % up and 2 % down.
_LOG_STEP = math.log(1.02 / 0.98)


def measures(users: DataFrame, declaration: GroupDeclaration) -> DataFrame:
    """`user_id`, `at`, `log`, and the declared measures; null where a value cannot be cast."""
    values = [F.expr(sql).try_cast(kind).alias(name) for name, (sql, kind) in declaration.measures.items()]
    return users.select("user_id", "at", "log", *values)


def with_quintiles(rows: DataFrame) -> DataFrame:
    """Rows of `measures` with a quintile (1 to 5, 5 is best) of each measure; null for a user without a recency."""
    quintiles = {column: _quintile(name, descending=name == "recency_days") for column, name in QUINTILES.items()}
    return rows.crossJoin(F.broadcast(_thresholds(rows))).withColumns(quintiles)


def _thresholds(rows: DataFrame) -> DataFrame:
    """One row: per measure, an array of the four thresholds between quintiles of the users with a recency."""
    buyers = rows.where("recency_days IS NOT NULL").select(*[rounded(F.col(name)).alias(name) for name in _MEASURES])
    return buyers.agg(*[_quantiles(name).alias(f"_{name}") for name in _MEASURES])


def _quantiles(name: str) -> Column:
    return F.expr(f"percentile_disc(array(0.2D, 0.4D, 0.6D, 0.8D)) WITHIN GROUP (ORDER BY {name})")


def rounded(value: Column, log_step: float = _LOG_STEP) -> Column:
    """A number within 2 % of the value; null for NaN and infinite values.

    Args:
        log_step: difference of the logarithms of neighboring rounded values.
    """
    size = F.abs(value)
    nearest = F.signum(value) * F.exp(F.round(F.log(size) / log_step) * log_step)
    return F.when(value == 0, 0.0).when(size < float("inf"), nearest)


def _quintile(name: str, *, descending: bool) -> Column:
    value = rounded(F.col(name))
    below = F.size(F.filter(F.col(f"_{name}"), lambda threshold: threshold < value))
    is_defined = F.col("recency_days").isNotNull() & F.col(name).isNotNull()
    return F.when(is_defined, F.lit(5) - below if descending else F.lit(1) + below)


def rfm_segment(conditions: dict[str, str]) -> Column:
    """The first segment whose condition is true; null when none is, and without a recency."""
    branches = reversed([(F.expr(sql), name) for name, sql in conditions.items()])
    none = F.lit(None).cast("string")
    first = reduce(lambda otherwise, branch: F.when(branch[0], branch[1]).otherwise(otherwise), branches, none)
    return F.when(F.col("recency_quintile").isNotNull(), first)


def loyalty_tier(points: Column, previous: Column, tiers: dict[str, LoyaltyTier]) -> Column:
    """The highest tier that the user enters, or had reached before and does not leave; null below all tiers.

    Args:
        previous: tier of the stored row.
        tiers: from the lowest to the highest.
    """
    names, highest = list(tiers), F.lit(None).cast("string")
    for rank, (name, tier) in enumerate(tiers.items()):
        holds = previous.isin(names[rank:]) & (points >= tier.leave_below)
        highest = F.when((points >= tier.enter_at) | holds, name).otherwise(highest)
    return highest


def group_rows(rows: DataFrame, declaration: GroupDeclaration, stored: DataFrame, timezone: str) -> DataFrame:
    """New rows of `user_groups`, with `DELETED` for users without a profile and `CHANGED` for all that must be written.

    Args:
        rows: as `measures` returns them.
        stored: the current table; contains the previous loyalty tiers.
        timezone: of the cohort months.
    """
    previous = stored.select("user_id", F.struct(*USER_GROUPS.names).alias("_stored"))
    last_run = F.broadcast(stored.agg(F.max("as_of").alias("_last_run")))
    rows = with_quintiles(rows).join(previous, "user_id", "full").crossJoin(last_run)
    tier = loyalty_tier(F.col("points"), F.col("_stored.loyalty_tier"), declaration.loyalty.tiers)
    rows = rows.withColumns({"rfm_segment": rfm_segment(declaration.rfm_segments), "loyalty_tier": tier})
    is_same_tier = F.col("loyalty_tier") == F.col("_stored.loyalty_tier")
    new_from = F.when(F.col("loyalty_tier").isNotNull(), F.col("at"))
    tier_from = F.when(is_same_tier, F.col("_stored.loyalty_tier_from")).otherwise(new_from)
    last_run_before = F.when(F.col("_last_run") > F.col("at"), F.col("at")).otherwise(F.col("_last_run"))
    new_after = F.when(F.col("loyalty_tier").isNotNull(), last_run_before)
    tier_after = F.when(is_same_tier, F.col("_stored.loyalty_tier_after")).otherwise(new_after)
    cohort = F.date_format(F.from_utc_timestamp("first_event_time", timezone), "yyyy-MM")
    rows = rows.withColumns(
        {"loyalty_tier_from": tier_from, "loyalty_tier_after": tier_after, "cohort": cohort, "as_of": F.col("at")}
    )
    is_same = F.struct(*USER_GROUPS.names).eqNullSafe(F.col("_stored"))
    return rows.select(*USER_GROUPS.names, F.col("at").isNull().alias(DELETED), (~is_same).alias(CHANGED))
