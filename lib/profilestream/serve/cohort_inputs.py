"""What a market question brings along: flags, and a table that says who was treated or who belongs to which group."""

import argparse

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, job, tables
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the flags that such jobs have; `--out` names a page."""
    made = job.parser(doc)
    made.add_argument("--user-id", default="user_id", metavar="SQL", help="the user's id, over the table's columns")
    made.add_argument("--where", default="true", metavar="SQL", help="which of its rows")
    made.add_argument("--out", metavar="FILE", help="a self-contained HTML page with pictures")
    return made


def events(spark: SparkSession, settings: Settings) -> DataFrame:
    """The rows of `events`.

    Raises:
        SourceMissing: there is no such table.
    """
    tables.EVENTS.require(spark, settings.paths, do="run jobs/capture_events.py first")
    return tables.EVENTS.read(spark, settings.paths)


def read(spark: SparkSession, settings: Settings, name: str, columns: dict[str, str], where: str) -> DataFrame:
    """Rows of a file (`.csv` with a header, `.parquet`) or of a Delta table, a folder or a name in the warehouse.

    Args:
        columns: SQL over its columns, by name; all as strings. Rows with a null are passed over.
        where: SQL; which rows.

    Raises:
        SourceMissing: there is no such file or table.
        BadSettings: an expression is not understood.
    """
    kind = name.rpartition(".")[2] if name.endswith((".csv", ".parquet")) else "delta"
    in_warehouse = f"{settings.paths.warehouse.rstrip('/')}/{name}"
    path = next((one for one in (name, in_warehouse) if files.exists(spark, one)), None)
    if path is None:
        do = "name a .csv or .parquet file, the folder of a Delta table, or a table of the warehouse"
        raise SourceMissing(f"there is no {name}", where=settings.paths.warehouse, do=do)
    reader = spark.read.format(kind)
    rows = (reader.option("header", True) if kind == "csv" else reader).load(files.qualified(path))
    for sql in (*columns.values(), where):
        fold_stage.understood(rows, sql, path, ", ".join(rows.columns))
    return rows.where(where).select(*[F.expr(sql).cast("string").alias(name) for name, sql in columns.items()]).dropna()


def one_each(rows: DataFrame, where: str) -> DataFrame:
    """Rows, each user once.

    Raises:
        BadSettings: a user has two different ones.
    """
    distinct = rows.distinct()
    twice = distinct.groupBy("user_id").count().where("count > 1").first()
    if twice is not None:
        do = "give each user one: with --where, or another expression"
        raise BadSettings(f"user {twice['user_id']!r} has {twice['count']} groups", where=where, do=do)
    return distinct
