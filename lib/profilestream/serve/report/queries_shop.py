"""Revenue, orders, customers and items of the shop for the report, from `events` and the tables of the models."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.session import persisted
from profilestream.base.settings import Settings
from profilestream.serve.plain_tables import item_names
from profilestream.serve.report import queries_examples, queries_outcomes, queries_sales, sales_slices, time_grains
from profilestream.serve.report.offered import Offered
from profilestream.serve.report.sales_slices import SalesSums
from profilestream.serve.report.view_shop import ShopView
from profilestream.serve.users.all_users import read_or_empty

_YEAR_WEEKS = 52
_RISK = "churn"


def shop(
    spark: SparkSession, settings: Settings, events: DataFrame, *, has_values: bool, offered: Offered | None = None
) -> ShopView | None:
    """The shop in numbers; null when there are no purchases.

    Reads `events` three times: by week and item, by user and order, and for the names of the items shown.

    Args:
        has_values: whether values of events can be added: there are some, in one currency.
        offered: sources and segments to filter by; null: none.
    """
    offered = offered or Offered()
    local = f"from_utc_timestamp(event_time, '{settings.derive.shop_timezone}')"
    dated = events.withColumn("week", F.expr(time_grains.PERIOD_NUMBER_SQL["week"].format(local)))
    user_segments = read_or_empty(spark, tables.USER_SEGMENTS, settings)
    with persisted(queries_sales.item_weeks(dated, user_segments, offered)) as item_weeks:
        weekly = queries_sales.weekly_sums(item_weeks)
        weeks = sales_slices.usual_weeks(weekly)
        if not weeks:
            return None
        periods, lengths = sales_slices.periods(weeks)
        item_lists = queries_sales.item_lists(item_weeks, periods, offered, has_values=has_values)
    year = weeks.stop - _YEAR_WEEKS
    scores = read_or_empty(spark, tables.USER_SCORES, settings)
    outcomes = sorted(row["outcome"] for row in scores.select("outcome").distinct().collect())
    risk = next((name for name in outcomes if name.startswith(_RISK)), None)
    risk_by_user = queries_outcomes.risk_by_user(scores, risk)
    with persisted(queries_sales.orders(dated, offered, year)) as orders:
        weekly_orders = queries_sales.weekly_orders(orders, user_segments, offered)
        by_segment = queries_sales.by_segment(orders, user_segments, risk_by_user, periods)
        examples = queries_examples.examples(orders, scores, outcomes, risk_by_user, weeks, has_risk=risk is not None)
    if not weekly_orders:
        return None
    sums = SalesSums(weeks, periods, lengths, weekly, weekly_orders, by_segment, item_lists, risk)
    slices = sales_slices.slices(sums, offered)
    recommended = _recommended(read_or_empty(spark, tables.RECOMMENDATIONS, settings))
    keys = sales_slices.item_ids(slices) | {item for item, _ in recommended}
    names = item_names.item_texts(events, sorted(keys))
    slices = sales_slices.named(slices, names)
    whole = slices[0].periods[0]
    return ShopView(
        weeks=slices[0].weeks,
        revenue=whole.revenue,
        orders=whole.orders,
        customers=whole.customers,
        repeat_customers=whole.repeat_customers,
        year_start=sales_slices.monday(year),
        sales=whole.items,
        at_risk=slices[0].at_risk,
        spent_by_segment={
            row["segment_id"]: row["spent"] or 0.0
            for row in by_segment
            if row["segment_id"] is not None and row["source"] is None
        },
        recommended=tuple((names.get(item, item), users) for item, users in recommended),
        examples=examples,
        purchases=whole.purchases,
        slices=slices,
    )


def _recommended(recommendations: DataFrame) -> list[tuple[str, int]]:
    """The items that are recommended to the largest number of users."""
    by_item = recommendations.groupBy("item_id").agg(F.count_distinct("user_id").alias("users"))
    rows = by_item.orderBy(F.desc("users"), "item_id").limit(queries_sales.MAX_ITEMS).collect()
    return [(row["item_id"], row["users"]) for row in rows]
