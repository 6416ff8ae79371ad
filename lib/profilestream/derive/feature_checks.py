"""Checks that Spark can analyze the SQL of window features; they run at the start of every stage that uses features."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.derive import feature_declaration, fold_stage
from profilestream.derive.entity_features import select_features
from profilestream.derive.feature_declaration import VALUE, DerivedFeature, FeatureDefinition

_EVENT_COLUMNS = "the columns of the table events"


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declared features of all entities whose tile tables are declared; writes nothing.

    Raises:
        BadSettings: an expression is invalid; contains the file and key.
    """
    declared, file = feature_declaration.declared_features(settings), settings.derive.windows.file
    if declared is None:
        return
    tiles = {one.name for one in fold_stage.declared_tables(settings).values()}
    events = spark.createDataFrame([], tables.EVENTS.schema)
    for entity in [entity for entity, name in declared.entities.items() if name in tiles]:
        for name, feature in declared.features.get(entity, {}).items():
            check_definition(spark, events, feature, f"{file}, features.{entity}.{name}")
        _check_derived(spark, settings, entity, declared.derived.get(entity, {}), file)


def check_definition(spark: SparkSession, events: DataFrame, definition: FeatureDefinition, where: str) -> None:
    """Check the SQL of a statistic over `events`, and the SQL over its result.

    Raises:
        BadSettings: an expression is invalid.
    """
    statistic = definition.statistic
    for part in ("of", "where", "weight"):
        sql_type = fold_stage.sql_type(events, getattr(statistic, part), f"{where}.{part}", _EVENT_COLUMNS)
        if part == "where" and sql_type != "boolean":
            raise BadSettings(
                f"where = {statistic.where!r} is a {sql_type}", where=f"{where}.where", do="write a condition"
            )
    if definition.output:
        results = spark.createDataFrame([], f"value {statistic.result_ddl}")
        sql = definition.output.replace(VALUE, "value")
        fold_stage.sql_type(results, sql, f"{where}.output", "${value}, the result of the statistic")


def _check_derived(
    spark: SparkSession, settings: Settings, entity: str, derived: dict[str, DerivedFeature], file: str
) -> None:
    features = select_features(settings, entity)
    keys = [f"{name} {features.tiles.keys[name].type}" for name in features.keys]
    types = features.types
    window_columns = [f"{name} {sql_type}" for name, sql_type in types.items() if name not in derived]
    rows = spark.createDataFrame([], ", ".join([*keys, "at timestamp", *window_columns]))
    for name, feature in derived.items():
        where = f"{file}, derived.{entity}.{name}"
        if feature.sql:
            columns = "features that are declared before it, the keys and `at`"
            fold_stage.sql_type(rows, feature.sql, f"{where}.sql", columns)
        elif types[feature.zscore_of] not in ("bigint", "double"):
            raise BadSettings(
                f"zscore_of = {feature.zscore_of!r} is a {types[feature.zscore_of]}",
                where=f"{where}.zscore_of",
                do="name a numeric feature",
            )
        rows = rows.withColumn(name, F.lit(None).cast(feature.type))
