"""The last days of one user, newest first: events, orders and items, tags gained and lost, and why a day is unusual."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.language import join_clauses, join_list, translate, translate_count
from profilestream.base.settings import ORDER_SQL, Settings
from profilestream.serve.reason_texts import translate_reason
from profilestream.serve.tags import assign_tags
from profilestream.serve.users.all_users import read_or_empty
from profilestream.serve.users.value_text import events_text, money, orders_text, with_others

MAX_DAYS = 20
_MAX_TYPES, _MAX_SHOWN = 20, 5
_ORDER_PREFIX = "order:"

Days = dict[date, dict[str, Any]]


def timeline(*parts: Days) -> dict[str, Any]:
    """The newest MAX_DAYS days of all parts, each with its `day` and what the parts contain of it."""
    newest = sorted({day for part in parts for day in part}, reverse=True)[:MAX_DAYS]
    days = [
        {"day": day} | {name: values for part in parts for name, values in part.get(day, {}).items()} for day in newest
    ]
    return {"timeline": days} if days else {}


def event_days(events: DataFrame, timezone: str, *, has_values: bool) -> Days:
    """The last MAX_DAYS days with events.

    By day: `events`, their number by type; `orders`, those with the highest value, and `order_count`; `items`, those
    with the highest value, then with most events, and `item_count`. `order_id` is null for a purchase without one.

    Args:
        events: of the user.
        timezone: of the days.
        has_values: whether values of events can be added.
    """
    dated = events.withColumn("day", _local_day("event_time", timezone))
    first_day = dated.select("day").distinct().orderBy(F.desc("day")).limit(MAX_DAYS).agg(F.min("day")).collect()[0][0]
    days: Days = {}
    for row in _sums_by_day(dated.where(F.col("day") >= F.lit(first_day))).collect():
        day = days.setdefault(row["day"], {"events": {}})
        if row["kind"] == "events":
            day["events"][row["key"]] = row["n"]
            continue
        value = row["value"] if has_values else None
        entry = {"item_id": row["key"], "events": row["n"]}
        if row["kind"] == "orders":
            order_id = row["key"].removeprefix(_ORDER_PREFIX) if row["key"].startswith(_ORDER_PREFIX) else None
            entry = {"order_id": order_id, "value": value}
        day.setdefault(row["kind"], []).append(entry)
        day[f"{row['kind'][:-1]}_count"] = row["keys"]
    return days


def _sums_by_day(dated: DataFrame) -> DataFrame:
    """Columns `day`, `kind`, `key`, `n` events, `value`, and `keys`, their number of the day; the first ones."""
    keys = {
        "events": F.col("event_type"),
        "orders": F.when(F.col("event_type") == "purchase", F.expr(ORDER_SQL)),
        "items": F.col("item_id"),
    }
    entries = [F.struct(F.lit(kind).alias("kind"), key.alias("key")) for kind, key in keys.items()]
    sums = (
        dated.select("day", "value", F.inline(F.array(*entries)))
        .where("key IS NOT NULL")
        .groupBy("day", "kind", "key")
        .agg(F.count(F.lit(1)).alias("n"), F.sum("value").alias("value"))
    )
    of_day = Window.partitionBy("day", "kind")
    is_type = F.col("kind") == "events"
    by_size = of_day.orderBy(F.desc_nulls_last(F.when(~is_type, F.col("value"))), F.desc("n"), "key")
    ranked = sums.withColumns({"keys": F.count("key").over(of_day), "position": F.row_number().over(by_size)})
    limit = F.when(is_type, _MAX_TYPES).otherwise(_MAX_SHOWN)
    return ranked.where(F.col("position") <= limit).orderBy("day", "kind", "position")


def tag_days(own_tags: DataFrame | None, as_of: datetime, timezone: str) -> Days:
    """`tags_gained` and `tags_lost` up to a time, by day; tags whose start is unknown are not gained.

    Args:
        own_tags: rows of user_tags of the user; null: there is no such table.
    """
    days: Days = {}
    if own_tags is None:
        return days
    changes = [
        own_tags.where(assign_tags.is_start_known(F.col("valid_from"), F.col("gained_after"))).select(
            "tag", F.lit("tags_gained").alias("kind"), F.col("valid_from").alias("time")
        ),
        own_tags.select("tag", F.lit("tags_lost").alias("kind"), F.col("valid_to").alias("time")),
    ]
    past = changes[0].unionByName(changes[1]).where(F.col("time") <= as_of)
    newest = past.withColumn("day", _local_day("time", timezone)).orderBy(F.desc("time"), "tag")
    for row in newest.limit(MAX_DAYS * _MAX_TYPES).collect():
        days.setdefault(row["day"], {}).setdefault(row["kind"], []).append(row["tag"])
    return days


def unusual_days(spark: SparkSession, settings: Settings, user_id: str) -> Days:
    """`unusual`: the reasons of the user's unusual days, by day."""
    rows = read_or_empty(spark, tables.UNUSUAL_ACTIVITY, settings).where(F.col("user_id") == user_id)
    newest = rows.orderBy(F.desc("day")).limit(MAX_DAYS).collect()
    return {row["day"]: {"unusual": [translate_reason(reason["text"]) for reason in row["reasons"]]} for row in newest}


def _local_day(time: str, timezone: str) -> Column:
    return F.to_date(F.from_utc_timestamp(time, timezone))


def day_text(day: Mapping[str, Any], currency: str | None) -> str:
    """What a day of the timeline contains, in words; ids of items are not replaced by names.

    Args:
        currency: of the values; null or empty: none is shown.
    """
    unusual = join_list(day.get("unusual", []))
    return join_clauses(
        [
            events_text(day.get("events", {}).items()),
            _orders(day, currency),
            _items(day),
            *(translate("gained the tag {tag}", tag=tag) for tag in day.get("tags_gained", [])),
            *(translate("lost the tag {tag}", tag=tag) for tag in day.get("tags_lost", [])),
            translate("unusual: {reasons}", reasons=unusual) if unusual else "",
        ]
    )


def _orders(day: Mapping[str, Any], currency: str | None) -> str:
    """The orders with their values, and the number of the others; empty without any."""
    orders, count = day.get("orders", []), day.get("order_count", 0)
    texts = join_list(_order_text(order, currency) for order in orders)
    if not texts:
        return orders_text(count) if count else ""
    return translate_count("order {texts}", "orders {texts}", count, texts=with_others(texts, count - len(orders)))


def _order_text(order: Mapping[str, Any], currency: str | None) -> str:
    if order["value"] is None:
        return order["order_id"] or ""
    value = translate("for {amount}", amount=money(order["value"], currency))
    return translate("{order} {value}", order=order["order_id"], value=value) if order["order_id"] else value


def _items(day: Mapping[str, Any]) -> str:
    """The ids of the items, and the number of the others; empty without any."""
    items, count = day.get("items", []), day.get("item_count", 0)
    texts = join_list(item["item_id"] for item in items)
    if not texts:
        return ""
    return translate_count("item {texts}", "items {texts}", count, texts=with_others(texts, count - len(items)))
