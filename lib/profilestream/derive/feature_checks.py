"""Whether Spark understands the SQL of window features; asked at the start of every stage that uses them."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.derive import feature_declaration, fold_stage
from profilestream.derive.entity_features import chosen
from profilestream.derive.feature_declaration import VALUE, Combined, Question, said_type

_COLUMNS = "the columns of the table events"


def check(spark: SparkSession, settings: Settings) -> None:
    """Check every declared feature; writes nothing.

    Raises:
        BadSettings: an expression is not understood, or an entity has no tiles; names file and key.
    """
    found, file = feature_declaration.declared(settings), settings.derive.windows.file
    if found is None:
        return
    fold_stage.declared(settings)
    events = spark.createDataFrame([], tables.EVENTS.schema)
    for entity, features in found.features.items():
        for name, feature in features.items():
            check_question(spark, events, feature, f"{file}, features.{entity}.{name}")
    for entity, derived in found.derived.items():
        _check_derived(spark, settings, entity, derived, file)


def check_question(spark: SparkSession, events: DataFrame, asked: Question, where: str) -> None:
    """Check the SQL of a statistic over `events`, and of what is read from it.

    Raises:
        BadSettings: an expression is not understood.
    """
    one = asked.statistic
    for part in ("of", "where", "weight"):
        kind = fold_stage.understood(events, getattr(one, part), f"{where}.{part}", _COLUMNS)
        if part == "where" and kind != "boolean":
            raise BadSettings(f"where = {one.where!r} is a {kind}", where=f"{where}.where", do="write a condition")
    if asked.reading:
        said = spark.createDataFrame([], f"value {said_type(one)}")
        told = "${value}, what the statistic says"
        fold_stage.understood(said, asked.reading.replace(VALUE, "value"), f"{where}.reading", told)


def _check_derived(
    spark: SparkSession, settings: Settings, entity: str, derived: dict[str, Combined], file: str
) -> None:
    features = chosen(settings, entity)
    columns = [*[f"{name} {features.tiles.keys[name].type}" for name in features.keys], "at timestamp"]
    types = features.types
    plain = [f"{name} {kind}" for name, kind in types.items() if name not in derived]
    known = spark.createDataFrame([], ", ".join([*columns, *plain]))
    for name, one in derived.items():
        where = f"{file}, derived.{entity}.{name}"
        if one.sql:
            fold_stage.understood(known, one.sql, f"{where}.sql", "features that stand before it, the keys and `at`")
        elif types[one.zscore_of] not in ("bigint", "double"):
            raise BadSettings(
                f"zscore_of = {one.zscore_of!r} is a {types[one.zscore_of]}",
                where=f"{where}.zscore_of",
                do="name a feature that is a number",
            )
        known = known.withColumn(name, F.lit(None).cast(one.type))
