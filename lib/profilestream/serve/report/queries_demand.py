"""Forecast demand for the report, from `demand_forecasts` and `demand_units`."""

from datetime import timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.serve.plain_tables import item_names
from profilestream.serve.report.view_demand import DemandRow, DemandView
from profilestream.serve.users.all_users import read_or_empty

_MAX_ROWS, _WEEK = 12, timedelta(days=7)


def demand(spark: SparkSession, settings: Settings) -> tuple[DemandView, ...]:
    """The largest forecasts of items and of categories; levels without forecasts are left out."""
    levels = (_level(spark, settings, level) for level in ("item", "category"))
    return tuple(level for level in levels if level is not None)


def _level(spark: SparkSession, settings: Settings, level: str) -> DemandView | None:
    forecasts = read_or_empty(spark, tables.DEMAND_FORECASTS, settings).where(F.col("level") == level)
    next_week = forecasts.where(F.col("ahead") <= (1 if level == "item" else 7)).groupBy("key")
    sums = next_week.agg(F.sum("units").alias("units"), F.max("error").alias("error"), F.min("day").alias("day"))
    largest = {row["key"]: row for row in sums.orderBy(F.desc("units"), "key").limit(_MAX_ROWS).collect()}
    if not largest:
        return None
    first = min(row["day"] for row in largest.values())
    sold = read_or_empty(spark, tables.DEMAND_UNITS, settings).where(F.col("level") == level)
    periods = sold.where(F.col("key").isin(list(largest))).select("key", F.explode(F.arrays_zip("days", "units")))
    is_last = F.col("col.days").between(first - _WEEK, first - timedelta(days=1))
    last = {row[0]: row[1] for row in periods.where(is_last).groupBy("key").agg(F.sum("col.units")).collect()}
    texts = (
        item_names.item_texts(read_or_empty(spark, tables.EVENTS, settings), list(largest)) if level == "item" else {}
    )
    rows = [
        DemandRow(texts.get(key, key), row["units"], last.get(key, 0.0), row["error"]) for key, row in largest.items()
    ]
    return DemandView(level, first, tuple(rows))
