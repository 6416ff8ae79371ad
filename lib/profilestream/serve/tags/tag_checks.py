"""Check of every SQL expression in a tag declaration, before any table is read."""

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS
from profilestream.derive import fold_stage
from profilestream.serve.tags import assign_tags, rfm, tag_declaration
from profilestream.serve.tags.tag_declaration import TagDeclaration
from profilestream.serve.users import all_users

_HINTS = {"boolean": "write a condition", "string": "write a text, such as format_string('%d orders', ...)"}


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declaration file of the settings; writes nothing.

    Raises:
        BadSettings: an expression is invalid or has the wrong type; contains file and key.
    """
    check_declaration(spark, settings, tag_declaration.from_settings(settings), settings.serve.tags.file)


def check_declaration(spark: SparkSession, settings: Settings, declaration: TagDeclaration, file: str) -> None:
    """Check a declaration; writes nothing; raises as `check`.

    Args:
        file: its path, for error messages.
    """
    users = all_users.empty(spark, settings)
    columns = ", ".join(users.columns)
    if not settings.derive.windows.enabled:
        columns += "; `features` too once derive.windows.enabled is true"
    for name, sql in declaration.all_users.items():
        fold_stage.sql_type(users, sql, f"{file}, all_users.{name}", f"aggregates of {columns}", is_aggregate=True)
    if declaration.all_users:
        users, columns = users.crossJoin(assign_tags.totals_of(users, declaration)), f"all_users, {columns}"
    measures = {
        f"groups.{name}": f"try_cast(({sql}) AS {kind})" for name, (sql, kind) in declaration.groups.measures.items()
    }
    _check_types(users, measures, "", file, columns)
    quintiles = rfm.with_quintiles(rfm.measures(users, declaration.groups))
    rfm_columns = quintiles.select(*rfm.QUINTILES, *rfm.QUINTILES.values(), "log")
    conditions = {f"groups.rfm_segments.{name}": sql for name, sql in declaration.groups.rfm_segments.items()}
    _check_types(rfm_columns, conditions, "boolean", file, ", ".join(rfm_columns.columns))
    rows = all_users.join_struct(users, spark.createDataFrame([], USER_GROUPS.schema), "groups")
    starts = {f"tags.{name}.starts_at": f"timestamp({tag.starts_at})" for name, tag in declaration.tags.items()}
    _check_types(rows, starts, "", file, f"groups, {columns}")
    for key, kind in (("enter_when", "boolean"), ("hold_when", "boolean"), ("evidence", "string")):
        expressions = {f"tags.{name}.{key}": getattr(tag, key) for name, tag in declaration.tags.items()}
        _check_types(rows, expressions, kind, file, f"groups, {columns}")


def _check_types(rows: DataFrame, expressions: dict[str, str], kind: str, file: str, columns: str) -> None:
    """Check SQL by key against the columns of `rows`; any type fits when `kind` is empty.

    All expressions are analyzed in one query, because each query takes Spark 20 ms. After a failure they are analyzed
    one by one to find the invalid one.
    """
    try:
        schema = rows.select(rows.columns[0], *map(F.expr, expressions.values())).schema
        kinds = [field.dataType.simpleString() for field in schema][1:]
    except PySparkException:
        kinds = [fold_stage.sql_type(rows, sql, f"{file}, {key}", columns) for key, sql in expressions.items()]
    for (key, sql), actual in zip(expressions.items(), kinds, strict=True):
        if kind and actual != kind:
            raise BadSettings(f"{key} = {sql!r} has type {actual}", where=f"{file}, {key}", do=_HINTS[kind])
