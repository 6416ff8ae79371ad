"""Revenue, orders, customers and items of the shop for the report, from `events` and the tables of the models."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.session import persisted
from profilestream.base.settings import ORDER_SQL, UNITS_SQL, Settings
from profilestream.serve import usual_days
from profilestream.serve.plain_tables import item_names
from profilestream.serve.report import queries_outcomes, time_grains
from profilestream.serve.report.view_outcomes import ScoredUser
from profilestream.serve.report.view_shop import CustomersAtRisk, SalesPeriod, ShopView, ShopWeek, SoldItem
from profilestream.serve.users.all_users import read_or_empty

_PERIOD_WEEKS, _YEAR_WEEKS, _MAX_ITEMS, _MAX_EXAMPLES = 4, 52, 8, 3
# Smallest number of units in the period of a riser.
_MIN_UNITS = 10
_RISK = "churn"
# Prefixes of the names of outcomes with examples of customers; the first one that has scores is used.
_EXAMPLE_OUTCOMES = ("value", "spend", "purchase")
_IS_PURCHASE = "event_type = 'purchase'"
_SIGN = "CASE event_type WHEN 'purchase' THEN 1D WHEN 'return' THEN -1D END"
_EPOCH = date(1970, 1, 1)


def shop(spark: SparkSession, settings: Settings, events: DataFrame, *, has_values: bool) -> ShopView | None:
    """The shop in numbers; null when there are no purchases.

    Reads `events` three times: by week and item, by user and order, and for the names of the items shown.

    Args:
        has_values: whether values of events can be added: there are some, in one currency.
    """
    local = f"from_utc_timestamp(event_time, '{settings.derive.shop_timezone}')"
    dated = events.withColumn("week", F.expr(time_grains.PERIOD_NUMBER_SQL["week"].format(local)))
    with persisted(_item_weeks(dated)) as item_weeks:
        revenue, weeks = _revenue_by_week(item_weeks)
        if not weeks:
            return None
        sales = _sales_period(item_weeks, weeks, has_values)
    year = weeks.stop - _YEAR_WEEKS
    scores = read_or_empty(spark, tables.USER_SCORES, settings)
    outcomes = sorted(row["outcome"] for row in scores.select("outcome").distinct().collect())
    risk = next((name for name in outcomes if name.startswith(_RISK)), None)
    with persisted(_orders(dated, year)) as orders:
        by_week = {
            row["week"]: row["count"] for row in orders.where("week IS NOT NULL").groupBy("week").count().collect()
        }
        segments = read_or_empty(spark, tables.USER_SEGMENTS, settings)
        by_segment = _by_segment(orders, segments, scores.where(F.col("outcome") == F.lit(risk))).collect()
    if not by_week:
        return None
    recommended = _recommended(read_or_empty(spark, tables.RECOMMENDATIONS, settings))
    keys = {item.name for item in (*sales.best, *sales.risers)} | {item for item, _ in recommended}
    names = item_names.item_texts(events, sorted(keys))
    return ShopView(
        weeks=tuple(ShopWeek(_monday(n), revenue.get(n, 0.0), by_week.get(n, 0)) for n in weeks),
        revenue=sum(revenue.values()),
        orders=sum(by_week.values()),
        customers=sum(row["customers"] for row in by_segment),
        repeat_customers=sum(row["repeat_customers"] for row in by_segment),
        year_start=_monday(year),
        sales=replace(sales, best=_named(sales.best, names), risers=_named(sales.risers, names)),
        at_risk=_at_risk(risk, by_segment),
        spent_by_segment={
            row["segment_id"]: row["spent"] or 0.0 for row in by_segment if row["segment_id"] is not None
        },
        recommended=tuple((names.get(item, item), users) for item, users in recommended),
        examples=_examples(scores, outcomes),
    )


def _item_weeks(events: DataFrame) -> DataFrame:
    """Number of events, units and revenue by week and item; units and revenue are null without a sale."""
    return events.groupBy("week", "item_id").agg(
        F.count(F.lit(1)).alias("events"),
        F.sum(F.expr(f"{_SIGN} * {UNITS_SQL}")).alias("units"),
        F.sum(F.expr(f"{_SIGN} * value")).alias("revenue"),
    )


def _revenue_by_week(item_weeks: DataFrame) -> tuple[dict[int, float], range]:
    """Revenue by number of the week, and the numbers of the usual weeks."""
    sums = item_weeks.groupBy("week").agg(F.sum("events").alias("events"), F.sum("revenue").alias("revenue"))
    rows = sorted(sums.collect(), key=lambda row: row["week"])
    if not rows:
        return {}, range(0)
    # A week counts as one day, so that consecutive weeks are consecutive days.
    low, high = usual_days.usual_range([(_EPOCH + timedelta(days=row["week"]), row["events"]) for row in rows])
    return {row["week"]: row["revenue"] or 0.0 for row in rows}, range(rows[low]["week"], rows[high]["week"] + 1)


def _orders(events: DataFrame, year: int) -> DataFrame:
    """One row per user and order of purchases and returns.

    Columns: `user_id`; `week` of the first purchase, null for returns; `spent`: value from the week `year` on, minus
    returns.
    """
    return (
        events.where(F.expr(_SIGN).isNotNull())
        .groupBy("user_id", F.expr(ORDER_SQL).alias("order"))
        .agg(
            F.min(F.expr(f"CASE WHEN {_IS_PURCHASE} THEN week END")).alias("week"),
            F.sum(F.expr(f"CASE WHEN week >= {year} THEN {_SIGN} * value END")).alias("spent"),
        )
    )


def _by_segment(orders: DataFrame, user_segments: DataFrame, risk_scores: DataFrame) -> DataFrame:
    """Sums over the users of each segment, and over those without one; guests are left out."""
    users = orders.where("user_id IS NOT NULL").groupBy("user_id")
    by_user = users.agg(F.count("week").alias("orders"), F.sum("spent").alias("spent"))
    risk = risk_scores.select("user_id", (F.col("probability") > 0.5).alias("is_at_risk"))
    joined = by_user.join(risk, "user_id", "full").join(
        user_segments.select("user_id", "segment_id"), "user_id", "left"
    )
    return joined.groupBy("segment_id").agg(
        F.count_if(F.col("orders") > 0).alias("customers"),
        F.count_if(F.col("orders") > 1).alias("repeat_customers"),
        F.sum("spent").alias("spent"),
        F.count_if("is_at_risk").alias("at_risk"),
        F.sum(F.expr("CASE WHEN is_at_risk THEN spent END")).alias("risk_spent"),
    )


def _at_risk(outcome: str | None, by_segment: list[Any]) -> CustomersAtRisk | None:
    if outcome is None:
        return None
    spent = sum(row["risk_spent"] or 0.0 for row in by_segment)
    return CustomersAtRisk(outcome, sum(row["at_risk"] for row in by_segment), spent)


def _examples(scores: DataFrame, outcomes: list[str]) -> tuple[ScoredUser, ...]:
    """The users with the highest scores of the first outcome that has scores."""
    candidates = (name for prefix in _EXAMPLE_OUTCOMES for name in outcomes if name.startswith(prefix))
    outcome = next(candidates, None)
    if outcome is None:
        return ()
    rows = scores.where(F.col("outcome") == outcome).orderBy(F.desc("score"), "user_id").limit(_MAX_EXAMPLES)
    return tuple(map(queries_outcomes.scored_user, rows.collect()))


def _sales_period(item_weeks: DataFrame, weeks: range, has_values: bool) -> SalesPeriod:
    """Best sellers and risers of the last complete weeks; of the open week if no week is complete."""
    count = min(_PERIOD_WEEKS, len(weeks) - 1)
    last = weeks.stop - 2 if count else weeks.stop - 1
    count = count or 1
    first = last - count + 1
    before = range(first - count, first)
    # The first week of the log may be incomplete, so it is not compared with others.
    has_before = before.start > weeks.start
    in_period = f"week BETWEEN {first} AND {last}"
    sums = (
        item_weeks.where(f"item_id IS NOT NULL AND week BETWEEN {before.start} AND {last}")
        .groupBy("item_id")
        .agg(
            F.sum(F.expr(f"CASE WHEN {in_period} THEN units END")).alias("units"),
            F.sum(F.expr(f"CASE WHEN {in_period} THEN revenue END")).alias("revenue"),
            F.sum(F.expr(f"CASE WHEN NOT {in_period} THEN units END")).alias("units_before"),
        )
        .na.fill(0.0)
    )
    by_size = sums.where("units > 0").orderBy(F.desc("revenue" if has_values else "units"), "item_id")
    rise = F.col("units") - F.col("units_before")
    risers = sums.where((F.col("units") >= _MIN_UNITS) & (rise > 0)).orderBy(F.desc(rise), "item_id")
    return SalesPeriod(
        _monday(first), _monday(last) + timedelta(days=6), _items(by_size), _items(risers) if has_before else ()
    )


def _items(sums: DataFrame) -> tuple[SoldItem, ...]:
    rows = sums.select("item_id", "units", "revenue", "units_before").limit(_MAX_ITEMS).collect()
    return tuple(SoldItem(*row) for row in rows)


def _recommended(recommendations: DataFrame) -> list[tuple[str, int]]:
    """The items that are recommended to the largest number of users."""
    by_item = recommendations.groupBy("item_id").agg(F.count_distinct("user_id").alias("users"))
    rows = by_item.orderBy(F.desc("users"), "item_id").limit(_MAX_ITEMS).collect()
    return [(row["item_id"], row["users"]) for row in rows]


def _named(items: tuple[SoldItem, ...], names: dict[str, str]) -> tuple[SoldItem, ...]:
    return tuple(replace(item, name=names.get(item.name, item.name)) for item in items)


def _monday(week: int) -> date:
    return time_grains.period_start("week", week).date()
