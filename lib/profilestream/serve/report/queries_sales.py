"""Sales by week, item, source and segment for the report, as two aggregates of `events`; and the sums of them.

The label of a source is its name, "" for one that the filter does not offer, and null for all sources. That of a
segment is its id, -1 for users without an offered one and for guests, and null for all of them.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.base.session import broadcast_if_small
from profilestream.base.settings import ORDER_SQL, UNITS_SQL
from profilestream.serve.report.offered import Offered

OTHER_SOURCE, OTHER_SEGMENT = "", -1
MAX_ITEMS = 8
# Smallest number of units in the period of a riser.
_MIN_UNITS = 10
# Sums of a period, by item.
_SUMS = ("units", "revenue", "units_before")
_IS_PURCHASE = "event_type = 'purchase'"
_SIGN = "CASE event_type WHEN 'purchase' THEN 1D WHEN 'return' THEN -1D END"


def item_weeks(events: DataFrame, user_segments: DataFrame, offered: Offered) -> DataFrame:
    """Number of events, units, revenue and value of the purchases by week, item, source and segment.

    All events of a week that are no sale are one row, with null for the other keys and sums.

    Args:
        events: with the number of the `week`.
    """
    is_sale = F.expr(f"{_SIGN} IS NOT NULL")
    sales = events.select(
        "week",
        *(F.when(is_sale, F.col(key)).alias(key) for key in ("item_id", "user_id")),
        F.when(is_sale, _source(offered)).alias("source"),
        F.expr(f"{_SIGN} * {UNITS_SQL}").alias("units"),
        F.expr(f"{_SIGN} * value").alias("revenue"),
        F.expr(f"CASE WHEN {_IS_PURCHASE} THEN value END").alias("purchases"),
    )
    return (
        _with_segment(sales, user_segments, offered)
        .groupBy("week", "item_id", "source", "segment")
        .agg(
            F.count(F.lit(1)).alias("events"),
            *(F.sum(name).alias(name) for name in ("units", "revenue", "purchases")),
        )
    )


def _source(offered: Offered) -> Column:
    if not offered.sources:
        return F.lit(OTHER_SOURCE)
    return F.when(F.col("source").isin(list(offered.sources)), F.col("source")).otherwise(OTHER_SOURCE)


def _with_segment(rows: DataFrame, user_segments: DataFrame, offered: Offered) -> DataFrame:
    """Rows with the label `segment`."""
    if not offered.segments:
        return rows.withColumn("segment", F.lit(OTHER_SEGMENT))
    labels = user_segments.where(F.col("segment_id").isin(list(offered.segments)))
    labels = labels.select("user_id", F.col("segment_id").alias("segment"))
    joined = rows.join(broadcast_if_small(labels, offered.users), "user_id", "left")
    return joined.withColumn("segment", F.coalesce("segment", F.lit(OTHER_SEGMENT)))


def weekly_sums(item_weeks: DataFrame) -> list[Any]:
    """Rows of events, revenue and value of the purchases by week, source and segment."""
    sums = (F.sum(name).alias(name) for name in ("events", "revenue", "purchases"))
    return item_weeks.groupBy("week", "source", "segment").agg(*sums).collect()


def item_lists(
    item_weeks: DataFrame, periods: Sequence[range], offered: Offered, *, has_values: bool
) -> dict[tuple[str | None, int | None, int], tuple[list[Any], list[Any]]]:
    """Best sellers, and items with the largest increase of units, by source, segment and number of the period.

    Args:
        periods: weeks; each is compared with as many weeks before.
        has_values: whether the best sellers are those with the highest revenue, else with the most units.
    """
    sums = [one for n, weeks in enumerate(periods) for one in _period_sums(n, weeks)]
    keys = [F.col(name) for name in ("item_id", "source", "segment")]
    sets = [keys[:1], *([keys[:2]] if offered.sources else []), *([keys[::2]] if offered.segments else [])]
    sets += [keys] if offered.sources and offered.segments else []
    first = min(2 * weeks.start - weeks.stop for weeks in periods)
    in_time = item_weeks.where(F.col("item_id").isNotNull() & F.col("week").between(first, periods[0].stop - 1))
    grouped = in_time.groupingSets(sets, *keys).agg(*sums)
    is_offered = (F.col("source").isNull() | (F.col("source") != OTHER_SOURCE)) & (
        F.col("segment").isNull() | (F.col("segment") != OTHER_SEGMENT)
    )
    entries = F.array(
        *(
            F.struct(F.lit(n).alias("period"), *(F.coalesce(f"{name}_{n}", F.lit(0.0)).alias(name) for name in _SUMS))
            for n in range(len(periods))
        )
    )
    rows = grouped.where(is_offered).select(*keys, F.inline(entries))
    return _ranked(rows, has_values)


def _period_sums(number: int, weeks: range) -> tuple[Column, ...]:
    """Units and revenue of the period, and units of as many weeks before it."""
    is_in, is_before = _is_in(weeks), _is_in(range(weeks.start - len(weeks), weeks.start))
    conditions = ((is_in, "units"), (is_in, "revenue"), (is_before, "units"))
    return tuple(
        F.sum(F.when(condition, F.col(column))).alias(f"{name}_{number}")
        for (condition, column), name in zip(conditions, _SUMS, strict=True)
    )


def _ranked(rows: DataFrame, has_values: bool) -> dict[tuple[str | None, int | None, int], tuple[list[Any], list[Any]]]:
    rise = F.col("units") - F.col("units_before")
    sizes = {
        "best": F.when(F.col("units") > 0, F.col("revenue" if has_values else "units")),
        "rising": F.when((F.col("units") >= _MIN_UNITS) & (rise > 0), rise),
    }
    keys = ("source", "segment", "period")
    for name, size in sizes.items():
        rank = F.row_number().over(Window.partitionBy(*keys).orderBy(F.desc_nulls_last(size), "item_id"))
        rows = rows.withColumn(name, F.when(size.isNotNull(), rank))
    is_shown = reduce(Column.__or__, (F.col(name) <= MAX_ITEMS for name in sizes))
    lists: dict[tuple[str | None, int | None, int], tuple[list[Any], list[Any]]] = {}
    for row in rows.where(is_shown).collect():
        for position, name in enumerate(sizes):
            if row[name] is not None and row[name] <= MAX_ITEMS:
                lists.setdefault(tuple(row[key] for key in keys), ([], []))[position].append(row)
    for best, rising in lists.values():
        best.sort(key=lambda row: row["best"])
        rising.sort(key=lambda row: row["rising"])
    return lists


def orders(events: DataFrame, offered: Offered, year: int) -> DataFrame:
    """One row per user and order of purchases and returns, for all sources, and for each source of the order.

    Columns: `user_id`; `source`; `week` of the first purchase, null for returns; `spent`: value from the week `year`
    on, minus returns.
    """
    sources = [F.lit(None).cast("string"), *([_source(offered)] if offered.sources else [])]
    return (
        events.where(F.expr(_SIGN).isNotNull())
        .withColumn("source", F.explode(F.array(*sources)))
        .groupBy("user_id", F.expr(ORDER_SQL).alias("order"), "source")
        .agg(
            F.min(F.expr(f"CASE WHEN {_IS_PURCHASE} THEN week END")).alias("week"),
            F.sum(F.expr(f"CASE WHEN week >= {year} THEN {_SIGN} * value END")).alias("spent"),
        )
    )


def weekly_orders(orders: DataFrame, user_segments: DataFrame, offered: Offered) -> list[Any]:
    """Rows of the number of orders by week, source and segment."""
    labeled = _with_segment(orders.where("week IS NOT NULL"), user_segments, offered)
    return labeled.groupBy("week", "source", "segment").agg(F.count(F.lit(1)).alias("orders")).collect()


def by_segment(
    orders: DataFrame, user_segments: DataFrame, risk_by_user: DataFrame, periods: Sequence[range]
) -> list[Any]:
    """Rows of sums over the users of each segment id, and over those without one, by source; guests are left out.

    Columns: `customers`, `repeat_customers`; for each period the same with its number, such as `customers_0`; `spent`,
    `at_risk`, `risk_spent`.

    Args:
        orders: as `orders` returns them.
        risk_by_user: as queries_outcomes.risk_by_user.
    """
    counts = {"": F.count("week"), **{f"_{n}": F.count_if(_is_in(weeks)) for n, weeks in enumerate(periods)}}
    by_user = (
        orders.where("user_id IS NOT NULL")
        .groupBy("user_id", "source")
        .agg(*(count.alias(f"orders{suffix}") for suffix, count in counts.items()), F.sum("spent").alias("spent"))
    )
    segments = user_segments.select("user_id", "segment_id")
    joined = by_user.join(risk_by_user, "user_id", "full").join(segments, "user_id", "left")
    return (
        joined.groupBy("segment_id", "source")
        .agg(
            *(F.count_if(F.col(f"orders{suffix}") > 0).alias(f"customers{suffix}") for suffix in counts),
            *(F.count_if(F.col(f"orders{suffix}") > 1).alias(f"repeat_customers{suffix}") for suffix in counts),
            F.sum("spent").alias("spent"),
            F.count_if("is_at_risk").alias("at_risk"),
            F.sum(F.expr("CASE WHEN is_at_risk THEN spent END")).alias("risk_spent"),
        )
        .collect()
    )


def _is_in(weeks: range) -> Column:
    return F.col("week").between(weeks.start, weeks.stop - 1)
