"""That every expression of a file of tags is understood, before any table is read."""

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS
from profilestream.derive import fold_stage
from profilestream.serve.tags import rfm, tag_declaration
from profilestream.serve.tags.tag_declaration import Tags
from profilestream.serve.users import user_frame

_KINDS = {"boolean": "write a condition", "string": "write a text, such as format_string('%d orders', ...)"}


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the file of tags that the settings name; writes nothing.

    Raises:
        BadSettings: something does not fit; names file and key.
    """
    check_declared(spark, settings, tag_declaration.named(settings), settings.serve.tags.file)


def check_declared(spark: SparkSession, settings: Settings, declared: Tags, file: str) -> None:
    """The same of what a file declares."""
    nobody = user_frame.nobody(spark, settings)
    known = ", ".join(nobody.columns)
    if not settings.derive.windows.enabled:
        known += "; `features` too once derive.windows.enabled is true"
    taken = declared.groups.measures.items()
    measures = {f"groups.{name}": f"try_cast(({sql}) AS {kind})" for name, (sql, kind) in taken}
    _understood(nobody, measures, "", file, known)
    measured = rfm.with_quintiles(rfm.measured(nobody, declared.groups))
    own = measured.select(*rfm.QUINTILES, *rfm.QUINTILES.values())
    conditions = {f"groups.rfm.{name}": sql for name, sql in declared.groups.rfm.items()}
    _understood(own, conditions, "boolean", file, ", ".join(own.columns))
    rows = user_frame.joined(nobody, spark.createDataFrame([], USER_GROUPS.schema), "groups")
    for part, kind in (("where", "boolean"), ("stays", "boolean"), ("evidence", "string")):
        texts = {f"tags.{name}.{part}": getattr(tag, part) for name, tag in declared.tags.items()}
        _understood(rows, texts, kind, file, f"groups, {known}")


def _understood(rows: DataFrame, texts: dict[str, str], kind: str, file: str, columns: str) -> None:
    """All at once, since each takes Spark 20 ms; one by one to name the one that is wrong."""
    try:
        told = rows.select(rows.columns[0], *map(F.expr, texts.values())).schema
        kinds = [field.dataType.simpleString() for field in told][1:]
    except PySparkException:
        kinds = [fold_stage.understood(rows, sql, f"{file}, {key}", columns) for key, sql in texts.items()]
    for (key, sql), found in zip(texts.items(), kinds, strict=True):
        if kind and found != kind:
            raise BadSettings(f"{key} = {sql!r} is a {found}", where=f"{file}, {key}", do=_KINDS[kind])
