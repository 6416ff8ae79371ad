"""Command-line flags and tables that define treated users or user groups (jobs serve_campaign, serve_trends)."""

import argparse

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, job, tables
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the shared flags of these jobs: --user-id, --where, --out."""
    arguments = job.parser(doc)
    arguments.add_argument("--user-id", default="user_id", metavar="SQL", help="user id, over the table's columns")
    arguments.add_argument("--where", default="true", metavar="SQL", help="condition on the table's rows")
    arguments.add_argument("--out", metavar="FILE", help="write a self-contained HTML page with charts")
    return arguments


def events(spark: SparkSession, settings: Settings) -> DataFrame:
    """The table `events`.

    Raises:
        SourceMissing: the table does not exist.
    """
    tables.EVENTS.require(spark, settings.paths, do="run jobs/capture_events.py first")
    return tables.EVENTS.read(spark, settings.paths)


def read_table(spark: SparkSession, settings: Settings, name: str, columns: dict[str, str], where: str) -> DataFrame:
    """Selected columns of a file or Delta table, as strings, without rows that contain a null.

    Args:
        name: path of a .csv file with a header or a .parquet file; or path of a Delta table, or its name in the
            warehouse.
        columns: SQL over the table's columns, by name of the result column.
        where: SQL condition on the table's rows.

    Raises:
        SourceMissing: the file or table does not exist.
        BadSettings: an expression is invalid.
    """
    file_format = name.rpartition(".")[2] if name.endswith((".csv", ".parquet")) else "delta"
    in_warehouse = f"{settings.paths.warehouse.rstrip('/')}/{name}"
    path = next((path for path in (name, in_warehouse) if files.exists(spark, path)), None)
    if path is None:
        do = "name a .csv or .parquet file, the path of a Delta table, or a table of the warehouse"
        raise SourceMissing(f"there is no {name}", where=settings.paths.warehouse, do=do)
    reader = spark.read.format(file_format)
    rows = (reader.option("header", True) if file_format == "csv" else reader).load(files.qualified(path))
    for sql in (*columns.values(), where):
        fold_stage.sql_type(rows, sql, path, ", ".join(rows.columns))
    return rows.where(where).select(*[F.expr(sql).cast("string").alias(name) for name, sql in columns.items()]).dropna()


def one_group_per_user(rows: DataFrame, where: str) -> DataFrame:
    """Distinct rows, one per user.

    Args:
        rows: `user_id` and the group.
        where: source of the rows, for the error message.

    Raises:
        BadSettings: a user has more than one group.
    """
    distinct = rows.distinct()
    duplicate = distinct.groupBy("user_id").count().where("count > 1").first()
    if duplicate is not None:
        do = "select one group per user: use --where or another expression"
        raise BadSettings(f"user {duplicate['user_id']!r} has {duplicate['count']} groups", where=where, do=do)
    return distinct
