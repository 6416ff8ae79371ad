"""Tables to numbers: sums are made in Spark, and a bounded number of rows comes to the driver.

A table that is not there, or has no rows, gives nothing; the page says what would fill it.
"""

from pyspark.sql import SparkSession

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.serve.report import queries_events, queries_models, queries_pipeline, queries_users
from profilestream.serve.report.view_model import Numbers
from profilestream.serve.users.user_frame import stored


def read(spark: SparkSession, settings: Settings) -> Numbers:
    """All numbers of the page."""
    events = stored(spark, tables.EVENTS, settings)
    judged = stored(spark, tables.MODEL_METRICS, settings)
    told = queries_events.log(events, settings.derive.shop_timezone)
    return Numbers(
        health=queries_pipeline.health(spark, settings),
        log=told,
        users=None if told is None else queries_events.users(events, told),
        segments=queries_users.segments(spark, settings),
        tags=queries_users.tags(spark, settings),
        tastes=queries_users.tastes(spark, settings),
        recall=queries_models.judged(judged, "recall_20"),
        cost=queries_models.judged(judged, "cost"),
        versions=queries_models.versions(settings, judged),
    )
