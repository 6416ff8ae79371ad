"""Time series of spend, prices and category shares by group of users, from `events`."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.session import broadcast_if_small, materialize
from profilestream.base.settings import UNITS_SQL

Floats = NDArray[np.float64]
TrendMeasure = Literal["mean_price", "price_index", "spend_share", "spend"]

ALL_CATEGORIES = "(all)"
_OTHER_CATEGORIES = "(other)"
MIN_PERIODS = 8
_MAX_GROUPS = 50


@dataclass(frozen=True)
class TrendPeriods:
    """Consecutive periods of equal length.

    Args:
        first: first day of the first period, in the shop time zone.
        days: length of a period.
        count: number of periods.
    """

    first: date
    days: int
    count: int
    timezone: str

    @property
    def starts(self) -> list[date]:
        """First day of each period."""
        return [self.first + timedelta(days=n * self.days) for n in range(self.count)]


@dataclass(frozen=True)
class GroupSeries:
    """Values of a measure by period, for one group and one category (or all categories); NaN: no value in the period.

    `mean_price`: spend per item of the category; it also changes when users buy cheaper or more expensive items.
    `price_index`: spend divided by the cost of the same items at their mean price over all periods, a Paasche index; it
    changes only when the prices of items change. `spend_share`: share of the category in the spend of the group.
    `spend`: spend on all categories per user of the group.
    """

    measure: TrendMeasure
    group: str
    category: str
    values: Floats


@dataclass(frozen=True)
class PurchaseSums:
    """Sums of the purchases by (group, category) and period; each array has one value per period.

    Args:
        users: number of users of each group that have an event.
        spend: money spent.
        units: number of units bought.
        reference_cost: cost of the items at their mean price over all periods.
    """

    users: dict[str, int]
    spend: dict[tuple[str, str], Floats]
    units: dict[tuple[str, str], Floats]
    reference_cost: dict[tuple[str, str], Floats]


def full_periods(events: DataFrame, days: int, timezone: str, since: date | None, until: date | None) -> TrendPeriods:
    """Periods from the first day with events to the last one; days at the end that do not fill a period are left out.

    Args:
        since: first day to use, if it is later than the first day with events.
        until: first day not to use.

    Raises:
        BadSettings: there are fewer than eight periods.
    """
    local = F.to_date(F.from_utc_timestamp("event_time", timezone))
    row = events.agg(F.min(local), F.max(local)).head()
    no_days = (date.min, date.min)
    first_day, last_day = no_days if row is None or row[0] is None else row
    first = max(first_day, since or first_day)
    count = (min(last_day + timedelta(days=1), until or date.max) - first).days // days
    if count < MIN_PERIODS:
        what = f"the events cover {count} periods of {days} days; {MIN_PERIODS} are needed"
        raise BadSettings(what, where="--period-days", do="use shorter periods, or more events")
    return TrendPeriods(first, days, count, timezone)


def sum_purchases(events: DataFrame, groups: DataFrame, periods: TrendPeriods, max_categories: int) -> PurchaseSums:
    """Spend, units and reference cost by group, category and period.

    Args:
        groups: `user_id` and `group`, one row per user; users without events are ignored.
        max_categories: number of categories with the highest spend to keep; all others are combined.

    Raises:
        BadSettings: no user of the events has a group, or there are more than 50 groups.
    """
    users = materialize(groups.join(events.select("user_id"), "user_id", "left_semi"))
    sizes = {row["group"]: row["count"] for row in users.groupBy("group").count().limit(_MAX_GROUPS + 1).collect()}
    if not 0 < len(sizes) <= _MAX_GROUPS:
        what = f"users of the events are in {'no' if not sizes else f'more than {_MAX_GROUPS}'} groups"
        do = "use user ids as in events, including their prefix, and an expression with few values"
        raise BadSettings(what, where="--groups, --group", do=do)
    purchases = _purchases(events, periods)
    mean_prices = purchases.groupBy("item_id").agg((F.sum("spend") / F.sum("units")).alias("mean_price"))
    grouped = purchases.join(broadcast_if_small(users, sum(sizes.values())), "user_id")
    rows = _with_largest_categories(grouped.join(mean_prices, "item_id", "left"), max_categories)
    by_period = rows.groupBy("group", "category", "period").agg(
        F.sum("spend").alias("spend"),
        F.sum("units").alias("units"),
        F.sum(F.col("units") * F.col("mean_price")).alias("reference_cost"),
    )
    sums = PurchaseSums(sizes, {}, {}, {})
    columns = (("spend", sums.spend), ("units", sums.units), ("reference_cost", sums.reference_cost))
    for row in by_period.collect():
        for column, by_category in columns:
            values = by_category.setdefault((row["group"], row["category"]), np.zeros(periods.count))
            values[row["period"]] = row[column] or 0.0
    return sums


def _purchases(events: DataFrame, periods: TrendPeriods) -> DataFrame:
    """Purchases with a value and more than 0 units, with the index of their period."""
    local = F.to_date(F.from_utc_timestamp("event_time", periods.timezone))
    purchases = events.where(f"event_type = 'purchase' AND value IS NOT NULL AND {UNITS_SQL} > 0").select(
        "user_id",
        "item_id",
        F.coalesce("category", F.lit(_OTHER_CATEGORIES)).alias("category"),
        F.floor(F.date_diff(local, F.lit(periods.first)) / periods.days).cast("int").alias("period"),
        F.col("value").alias("spend"),
        F.expr(UNITS_SQL).alias("units"),
    )
    return purchases.where(F.col("period").between(0, periods.count - 1))


def _with_largest_categories(purchases: DataFrame, max_categories: int) -> DataFrame:
    """The purchases; all categories except those with the highest spend are replaced by `(other)`."""
    by_spend = purchases.groupBy("category").agg(F.sum("spend").alias("spend")).orderBy(F.desc("spend"), "category")
    largest = by_spend.limit(max_categories).select("category", F.lit(True).alias("is_large"))
    category = F.when(F.col("is_large"), F.col("category")).otherwise(_OTHER_CATEGORIES)
    return purchases.join(F.broadcast(largest), "category", "left").withColumn("category", category)


def build_series(sums: PurchaseSums) -> Iterator[GroupSeries]:
    """All series of every group with purchases."""
    for group, users in sorted(sums.users.items()):
        spend = {category: values for (name, category), values in sums.spend.items() if name == group}
        if not spend:
            continue
        total = np.sum(list(spend.values()), axis=0)
        yield GroupSeries("spend", group, ALL_CATEGORIES, total / users)
        for category in sorted(spend.keys() - {_OTHER_CATEGORIES}):
            units, cost = sums.units[group, category], sums.reference_cost[group, category]
            yield GroupSeries("mean_price", group, category, _divide(spend[category], units))
            yield GroupSeries("price_index", group, category, _divide(spend[category], cost))
            yield GroupSeries("spend_share", group, category, _divide(spend[category], total))


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
