"""Totals of the events, and users per period, cohort and funnel step, from `events`."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from profilestream.base.language import message
from profilestream.base.session import persisted
from profilestream.serve.report import time_axis, time_grains
from profilestream.serve.report.time_axis import DayEvents
from profilestream.serve.report.time_grains import TimeGrain
from profilestream.serve.report.view_users import OTHER_DAY, ActivePeriod, Cohort, EventsView, UsersView

_MAX_COHORTS = 24
_IS_VIEW = "event_type IN ('view', 'click')"
_IS_CART = "event_type = 'cart'"
_IS_FAVORITE = "event_type = 'favorite'"
_IS_PURCHASE = "event_type = 'purchase'"


def totals(events: DataFrame, timezone: str, reporting_currency: str = "") -> EventsView | None:
    """Totals of the events; null when there are no events.

    Args:
        timezone: zone of the weekdays and hours.
        reporting_currency: of `value`; empty: that of the event.
    """
    local = F.from_utc_timestamp("event_time", timezone)
    value = F.expr(f"CASE WHEN {_IS_PURCHASE} THEN value END")
    rows = (
        events.groupBy(F.weekday(local).alias("weekday"), F.hour(local).alias("hour"), "event_type")
        .agg(
            F.count(F.lit(1)).alias("events"), F.count_if(F.col("user_id").isNull()).alias("guests"),
            F.min("event_time").alias("first"), F.max("event_time").alias("last"), F.sum(value).alias("value"),
            F.min("currency").alias("min_currency"), F.max("currency").alias("max_currency"),
        )
        .collect()
    )  # fmt: skip
    if not rows:
        return None
    by_hour: dict[tuple[int, int], int] = {}
    by_type: dict[str, int] = {}
    for row in rows:
        hour = (row["weekday"], row["hour"])
        by_hour[hour] = by_hour.get(hour, 0) + row["events"]
        by_type[row["event_type"]] = by_type.get(row["event_type"], 0) + row["events"]
    currencies = {row[name] for row in rows for name in ("min_currency", "max_currency")} - {None}
    if reporting_currency:
        currencies = {reporting_currency}
    return EventsView(
        first=min(row["first"] for row in rows),
        last=max(row["last"] for row in rows),
        by_hour=by_hour,
        by_type=by_type,
        guests=sum(row["guests"] for row in rows),
        value=None if len(currencies) > 1 else sum(row["value"] or 0.0 for row in rows),
        currency=currencies.pop() if len(currencies) == 1 else "",
        timezone=timezone,
    )


def users(events: DataFrame, event_totals: EventsView) -> UsersView | None:
    """Users with an id, per period, cohort and funnel step; null when there are none."""
    local = f"from_utc_timestamp(event_time, '{event_totals.timezone}')"
    user_events = events.where("user_id IS NOT NULL")
    days = _events_by_day(user_events, local)
    if not days:
        return None
    axis = time_axis.choose_axis(days)
    period_grain, cohort_grain = time_grains.choose_grains(axis.first, axis.last)
    is_on_axis = F.expr(f"date({local})").between(F.lit(axis.first_day), F.lit(axis.last_day))
    purchase_date = F.expr(f"CASE WHEN {_IS_PURCHASE} THEN date({local}) END")
    # One row per user and period; all other numbers are computed from these rows.
    activity = user_events.groupBy(
        "user_id",
        is_on_axis.alias("is_on_axis"),
        F.expr(time_grains.PERIOD_NUMBER_SQL[period_grain].format(local)).alias("period"),
        F.expr(time_grains.PERIOD_NUMBER_SQL[cohort_grain].format(local)).alias("cohort_period"),
    ).agg(
        F.expr(f"bool_or({_IS_VIEW})").alias("has_view"),
        F.expr(f"bool_or({_IS_CART})").alias("has_cart"),
        F.expr(f"bool_or({_IS_FAVORITE})").alias("has_favorite"),
        F.expr("bool_or(event_type = 'return')").alias("has_return"),
        F.min(purchase_date).alias("first_purchase"),
        F.max(purchase_date).alias("last_purchase"),
    )
    with persisted(activity):
        steps, cart_buyers = _funnel_steps(activity)
        on_axis = activity.where("is_on_axis")
        periods, cohorts = _active_periods(on_axis, period_grain), _cohorts(on_axis, cohort_grain)
        return UsersView(period_grain, cohort_grain, periods, cohorts, steps, cart_buyers, axis)


def _events_by_day(events: DataFrame, local: str) -> list[DayEvents]:
    """Number and time range of the events of each day, in order.

    Args:
        local: SQL for the time of an event in the shop time zone.
    """
    columns = (F.count(F.lit(1)), F.min("event_time"), F.max("event_time"))
    rows = events.groupBy(F.expr(f"date({local})").alias("day")).agg(*columns).orderBy("day").collect()
    return [DayEvents(*row) for row in rows]


def _active_periods(activity: DataFrame, grain: TimeGrain) -> tuple[ActivePeriod, ...]:
    """All periods from the first to the last, including those without users."""
    buyers = F.count_distinct(F.when(F.col("first_purchase").isNotNull(), F.col("user_id")))
    rows = activity.groupBy("period").agg(F.count_distinct("user_id").alias("active"), buyers.alias("buyers"))
    counts = {row["period"]: (row["active"], row["buyers"]) for row in rows.collect()}
    return tuple(
        ActivePeriod(time_grains.period_start(grain, number), *counts.get(number, (0, 0)))
        for number in range(min(counts), max(counts) + 1)
    )


def _cohorts(activity: DataFrame, grain: TimeGrain) -> tuple[Cohort, ...]:
    """The newest cohorts, oldest first, each with its users in every period up to the newest one."""
    first = F.min("cohort_period").over(Window.partitionBy("user_id"))
    periods = activity.select("user_id", "cohort_period").distinct().withColumn("first", first)
    is_newest = F.col("first") + _MAX_COHORTS > _newest_period(periods)
    rows = periods.groupBy("first", "cohort_period").count().where(is_newest).collect()
    last = max(row["cohort_period"] for row in rows)
    counts = {(row["first"], row["cohort_period"]): row["count"] for row in rows}
    return tuple(
        Cohort(
            time_grains.period_start(grain, first_period),
            tuple(counts.get((first_period, period), 0) for period in range(first_period, last + 1)),
        )
        for first_period in sorted({first_period for first_period, _ in counts})
    )


def _newest_period(periods: DataFrame) -> int:
    row = periods.agg(F.max("cohort_period")).first()
    assert row is not None
    return int(row[0])


def _funnel_steps(activity: DataFrame) -> tuple[dict[str, int], int]:
    """Users per funnel step, without steps that no user took; and the number of users who used the cart and bought."""
    by_user = activity.groupBy("user_id").agg(
        F.max("has_view").alias("has_view"), F.max("has_favorite").alias("has_favorite"),
        F.max("has_cart").alias("has_cart"), F.max("has_return").alias("has_return"),
        F.min("first_purchase").alias("first_purchase"), F.max("last_purchase").alias("last_purchase"),
    )  # fmt: skip
    has_purchase = F.col("first_purchase").isNotNull()
    conditions = {
        message("any event"): F.lit(True),
        message("viewed an item"): F.col("has_view"),
        message("added to favorites"): F.col("has_favorite"),
        message("added to cart"): F.col("has_cart"),
        message("purchased"): has_purchase,
        OTHER_DAY: F.col("last_purchase") > F.col("first_purchase"),
        message("returned an item"): F.col("has_return"),
    }
    counts = [F.count_if(condition).alias(step) for step, condition in conditions.items()]
    row = by_user.agg(*counts, F.count_if(F.col("has_cart") & has_purchase)).first()
    assert row is not None
    return {step: row[step] for step in conditions if row[step]}, row[len(conditions)]
