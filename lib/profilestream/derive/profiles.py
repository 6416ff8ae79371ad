"""Events -> profiles: one row a user, merged, with a change feed."""

from pyspark.sql import SparkSession

from profilestream.base.settings import Settings
from profilestream.base.stream import Query
from profilestream.derive import stage

STAGE = "derive_profiles"


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when no profiles are declared."""
    return stage.query(STAGE, settings.derive.profiles, settings)


def check(spark: SparkSession, settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing."""
    stage.check(spark, settings.derive.profiles, settings)
