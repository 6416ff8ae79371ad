"""Side tables that a mapping looks values up in: reads, checks, and versions that a batch plan records."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce

import pyarrow as pa
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import delta_table, files
from profilestream.base.columns import quoted
from profilestream.base.errors import BadSettings, Refused, SourceMissing, SourceUnreadable, first_sentence
from profilestream.base.jvm import java_class
from profilestream.base.session import frame_of_arrow
from profilestream.capture.mapping import Lookup, Mapping
from profilestream.capture.sources import text_files


def read_all(spark: SparkSession, mapping: Mapping, versions: dict[str, int]) -> dict[str, DataFrame]:
    """The side tables by name. A Delta table is read at the version in `versions`, or the latest one if it has none."""
    return {name: read(spark, lookup, versions.get(name)) for name, lookup in mapping.lookup.items()}


def current_versions(spark: SparkSession, lookups: dict[str, Lookup]) -> dict[str, int]:
    """The version of each side table: of a Delta table its version, of files a hash of their bytes."""
    return {
        name: delta_table.delta_version(spark, lookup.path) if lookup.format == "delta" else _file_hash(spark, lookup)
        for name, lookup in lookups.items()
    }


def check_unchanged(spark: SparkSession, lookups: dict[str, Lookup], planned: dict[str, int], *, where: str) -> None:
    """Refuse to finish a batch after the files of a side table changed.

    Some tables may already contain the batch, and counts from two versions of a side table do not add up.

    Args:
        planned: versions in the batch plan; names that it lacks are not checked.

    Raises:
        Refused: files of a side table changed or are missing.
    """
    for name, lookup in lookups.items():
        if lookup.format == "delta" or name not in planned:
            continue
        if not files.exists(spark, lookup.path) or _file_hash(spark, lookup) != planned[name]:
            raise Refused(
                f"side table {name} ({lookup.path}) changed after the batch was started, and the batch is not finished",
                where=where,
                do="restore its files and run once; or, if the batch has written nothing yet, plan it again: --replan",
            )


def check_lookup(spark: SparkSession, name: str, lookup: Lookup, file: str) -> None:
    """Check that a side table is readable and that its keys are unique. A null key matches nothing, so it may repeat.

    Args:
        file: of the mapping, for messages.

    Raises:
        SourceMissing: the path does not exist.
        SourceUnreadable: the data does not have the declared format.
        BadSettings: the key is not a column of the table, or a key value is not unique.
    """
    where = f"{file}, lookup.{name}"
    table = read_checked(spark, lookup, where)
    if lookup.key not in table.columns:
        raise BadSettings(
            f"the side table has no column {lookup.key!r}; it has {table.columns}",
            where=f"{where}.key",
            do="name one of its columns",
        )
    key = F.col(quoted(lookup.key))
    with _readable(lookup, where):
        repeated = table.where(key.isNotNull()).groupBy(key.alias("key")).count().where("count > 1").first()
    if repeated is not None:
        raise BadSettings(
            f"key {repeated['key']!r} has {repeated['count']} rows in the side table",
            where=f"{where}.key",
            do="use a side table with one row per key",
        )


def read_checked(spark: SparkSession, lookup: Lookup, where: str) -> DataFrame:
    """The side table.

    Args:
        where: key of the settings, for messages.

    Raises:
        SourceMissing: the path does not exist.
        SourceUnreadable: the data does not have the declared format.
    """
    if not files.exists(spark, lookup.path):
        raise SourceMissing(f"there is no side table at {lookup.path}", where=f"{where}.path", do="correct the path")
    with _readable(lookup, where):
        return read(spark, lookup, None)


@contextmanager
def _readable(lookup: Lookup, where: str) -> Iterator[None]:
    try:
        yield
    except (PySparkException, Py4JJavaError, csv.Error, TypeError) as error:
        raise SourceUnreadable(
            f"the side table at {lookup.path} cannot be read as {lookup.format}: {_error_text(error)}",
            where=f"{where}.path",
            do="correct the path or the format",
        ) from error


def read(spark: SparkSession, lookup: Lookup, version: int | None) -> DataFrame:
    """The rows of a side table; of a Delta table those of a version, or of the latest one for null."""
    if lookup.format == "csv":
        return _read_csv(spark, lookup)
    if lookup.format == "json":
        return _read_json(spark, lookup)
    reader = spark.read.format(lookup.format)
    if lookup.format == "delta" and version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.load(files.qualified(lookup.path))


def _read_json(spark: SparkSession, lookup: Lookup) -> DataFrame:
    """The rows of files of JSON lines, in any charset: Spark's reader of JSON knows fewer charsets than capture."""
    lines = [
        line
        for path in files.file_stats(spark, lookup.path)
        for line in text_files.read_text(spark, path, lookup).splitlines()
    ]
    text = frame_of_arrow(spark, pa.table({"value": pa.array(lines, pa.string())}))
    strings = java_class(spark, "org.apache.spark.sql.Encoders").STRING()
    return DataFrame(spark._jsparkSession.read().json(getattr(text._jdf, "as")(strings)), spark)


def _read_csv(spark: SparkSession, lookup: Lookup) -> DataFrame:
    """The rows of CSV files, with the same keys as for a log. A quoted cell may contain line breaks."""
    frames = []
    for path in files.file_stats(spark, lookup.path):
        text = text_files.read_text(spark, path, lookup)
        lines = list(io.StringIO(text, newline=""))  # split at \n, \r and \r\n only, as the lines of a log
        lines = lines[lookup.skip_lines :]
        if lookup.comment:
            lines = [line for line in lines if not line.startswith(lookup.comment)]
        rows = [
            row
            for row in csv.reader(
                lines, delimiter=lookup.separator, quotechar=lookup.quote, escapechar=lookup.escape or None
            )
            if row
        ]
        width = max(map(len, rows), default=0)
        names = [name.strip() for name in rows.pop(0)] if lookup.header and rows else []
        names += [f"_c{n}" for n in range(len(names), width)]
        columns = {
            name: pa.array([row[n] or None if n < len(row) else None for row in rows], pa.string())
            for n, name in enumerate(names)
        }
        frames.append(frame_of_arrow(spark, pa.table(columns)))
    return reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), frames)


def _file_hash(spark: SparkSession, lookup: Lookup) -> int:
    """Hash of file names and bytes, in any order of files. Side tables are small: they are broadcast."""
    contents = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(files.qualified(lookup.path))
    name = F.substring_index("path", "/", -1)
    row = contents.select(F.bit_xor(F.xxhash64(name, "content")).alias("hash")).first()
    return 0 if row is None or row["hash"] is None else int(row["hash"])


def _error_text(error: Exception) -> str:
    message = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    return (first_sentence(message) or type(error).__name__)[:200]
