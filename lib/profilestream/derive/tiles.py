"""derive_features: events -> tiles, partial states per key and hour; a key may have several rows."""

from pyspark.sql import SparkSession

from profilestream.base.queries import Query
from profilestream.base.settings import Settings
from profilestream.derive import feature_checks, fold_stage

STAGE = "derive_features"


def queries(settings: Settings) -> list[Query]:
    """The query of the stage; none when no tiles are declared."""
    return fold_stage.queries(STAGE, settings.derive.features, settings, settings.derive.min_interval_seconds)


def check(spark: SparkSession, settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing."""
    feature_checks.check(spark, settings)
    fold_stage.check(spark, settings.derive.features, settings)
