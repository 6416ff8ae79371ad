"""Tables to numbers: sums are made in Spark, and a bounded number of rows comes to the driver.

A table that is not there, or has no rows, gives nothing; the page says what would fill it.
"""

from pyspark.sql import SparkSession

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.serve.people import stored
from profilestream.serve.report import reading_events, reading_groups, reading_health, reading_models
from profilestream.serve.report.numbers import Numbers


def read(spark: SparkSession, settings: Settings) -> Numbers:
    """All numbers of the page."""
    events = stored(spark, tables.EVENTS, settings)
    judged = stored(spark, tables.MODEL_QUALITY, settings)
    told = reading_events.log(events, settings.derive.shop_timezone)
    return Numbers(
        health=reading_health.health(spark, settings),
        log=told,
        users=None if told is None else reading_events.users(events, told),
        segments=reading_groups.segments(spark, settings),
        tags=reading_groups.tags(spark, settings),
        tastes=reading_groups.tastes(spark, settings),
        recall=reading_models.judged(judged, "recall_20"),
        cost=reading_models.judged(judged, "cost"),
        versions=reading_models.versions(settings, judged),
    )
