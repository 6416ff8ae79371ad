"""`items`: one row per item with plain columns, from `events` and the rules of `basket_counts`."""

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.session import materialize
from profilestream.base.settings import UNITS_SQL, Settings
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.rankers.rankers_spec import RankersSpec
from profilestream.serve.plain_tables import changed_rows, item_names
from profilestream.serve.plain_tables.changed_rows import PinnedTables
from profilestream.serve.users import all_users

MAX_GOES_WITH = 5
_DAYS = {"7d": 7, "28d": 28, "all": None}
_PREVIOUS_UNITS = "_previous_units"
# Spark adds doubles in any order; without the last digits, equal events give equal sums.
_DECIMALS = 6


def update(spark: SparkSession, settings: Settings) -> int:
    """Bring `items` up to date; returns the number of written and deleted rows.

    Raises:
        SourceMissing: `events` does not exist.
    """
    tables.EVENTS.require(spark, settings.paths, do="run jobs/capture_events.py first")
    counts = RankersSpec(settings).tables if settings.learn.rankers.enabled else ()
    pinned = changed_rows.pin(spark, settings, [tables.EVENTS, *counts])
    return changed_rows.update(tables.ITEMS, pinned, "", lambda: item_rows(pinned), not_compared="as_of")


def item_rows(pinned: PinnedTables) -> DataFrame:
    """All rows of `items`, as of the newest event, without events that are far from all others."""
    events = pinned.read(tables.EVENTS)
    assert events is not None
    newest = events.agg(F.max(F.unix_micros("event_time"))).collect()[0][0]
    as_of = 0 if newest is None else all_users.span_and_end(events, newest)[1]
    rows = _sales(events.where("item_id IS NOT NULL").where(F.unix_micros("event_time") <= as_of), as_of)
    counts = pinned.read(tables.BASKET_COUNTS)
    if counts is None:
        return rows.withColumn("goes_with", F.lit(None).cast("array<string>"))
    rows, empty = materialize(rows), F.array().cast("array<string>")
    joined = rows.join(_goes_with(counts, rows), "item_id", "left")
    return joined.withColumn("goes_with", F.coalesce("goes_with", empty))


def _sales(events: DataFrame, as_of: int) -> DataFrame:
    """All columns but `goes_with`.

    Args:
        as_of: end of the windows, inclusive, microseconds.
    """
    is_purchase, is_return = (F.col("event_type") == name for name in ("purchase", "return"))
    pieces = F.expr(UNITS_SQL)
    in_window = {name: _since(as_of, days) for name, days in _DAYS.items()}
    of_window = {name: is_purchase & condition for name, condition in in_window.items()}
    is_previous = is_purchase & _since(as_of, 56) & ~_since(as_of, 28)
    units = {f"units_{name}": _sum(F.when(condition, pieces)) for name, condition in of_window.items()}
    revenue = {f"revenue_{name}": _sum(F.when(condition, F.col("value"))) for name, condition in of_window.items()}
    sold_at = F.when(is_purchase, F.col("event_time"))
    rows = events.groupBy("item_id").agg(
        item_names.latest("text").alias("name"),
        *(item_names.latest(name).alias(name) for name in ("category", "brand", "price")),
        item_names.latest("currency", "price").alias("currency"),
        F.count_distinct(F.when(is_purchase, F.col("user_id"))).alias("buyers"),
        *(value.alias(name) for name, value in (units | revenue).items()),
        F.count(F.when(is_purchase, F.col("value"))).alias("_priced"),
        _sum(F.when(is_previous, pieces)).alias(_PREVIOUS_UNITS),
        _sum(F.when(is_return, pieces)).alias("_returned"),
        F.min(sold_at).alias("first_sold"),
        F.max(sold_at).alias("last_sold"),
    )
    return rows.withColumns(
        {name: F.when(F.col("_priced") > 0, F.col(name)) for name in revenue}
        | {
            "trend": F.try_divide("units_28d", _PREVIOUS_UNITS),
            "return_rate": F.try_divide("_returned", "units_all"),
            "as_of": F.timestamp_micros(F.lit(as_of)),
        }
    ).drop("_priced", _PREVIOUS_UNITS, "_returned")


def _since(as_of: int, days: int | None) -> Column:
    """Whether an event is in the last days before a time; null: in any time."""
    return F.lit(True) if days is None else F.unix_micros("event_time") > as_of - days * MICROS_PER_DAY


def _sum(value: Column) -> Column:
    return F.round(F.coalesce(F.sum(value), F.lit(0.0)), _DECIMALS)


def _goes_with(counts: DataFrame, items: DataFrame) -> DataFrame:
    """`item_id` and `goes_with`: the names of the first items of its rules, without itself."""
    others = F.filter("rule_items", lambda item: item != F.col("key"))
    entries = counts.where("side = 'item'").select(
        F.col("key").alias("owner"),
        F.lit("goes_with").alias("list"),
        F.posexplode(F.slice(others, 1, MAX_GOES_WITH)).alias("position", "item_id"),
    )
    named = item_names.with_names(entries, items)
    return named.groupBy(F.col("owner").alias("item_id")).agg(item_names.in_order("goes_with").alias("goes_with"))
