"""Side tables that a mapping looks things up in: how they are read, checked, and held still while a batch is done."""

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, tables
from profilestream.base.errors import BadSettings, Refused, SourceMissing, SourceUnreadable, first_words
from profilestream.capture.mapping import Lookup, Mapping


def side_tables(spark: SparkSession, mapping: Mapping, versions: dict[str, int]) -> dict[str, DataFrame]:
    """The side tables by name; Delta tables at the version the batch was planned with."""
    return {name: _side(spark, lookup, versions.get(name)) for name, lookup in mapping.lookup.items()}


def versions(spark: SparkSession, mapping: Mapping) -> dict[str, int]:
    """What each side table is now: the version of a Delta table, a hash of the bytes of files."""
    return {
        name: tables.delta_version(spark, lookup.path) if lookup.format == "delta" else _hash(spark, lookup)
        for name, lookup in mapping.lookup.items()
    }


def check_unchanged(spark: SparkSession, mapping: Mapping, planned: dict[str, int], *, where: str) -> None:
    """Refuse to finish a batch whose side tables are other files than when it was begun.

    Some of its tables may hold it already, and rows judged by another side table do not add up with those.

    Args:
        planned: what `versions` said then; a name that it lacks is passed over.

    Raises:
        Refused: files of a side table changed, or are gone.
    """
    for name, lookup in mapping.lookup.items():
        if lookup.format == "delta" or name not in planned:
            continue
        if not files.exists(spark, lookup.path) or _hash(spark, lookup) != planned[name]:
            raise Refused(
                f"side table {name} ({lookup.path}) changed after the batch was begun, and the batch is not finished",
                where=where,
                do="put its files back as they were and run once; or begin a batch that wrote nothing anew: --replan",
            )


def check_start(spark: SparkSession, name: str, lookup: Lookup, file: str) -> None:
    """Check that a side table can be read and has its key, each once. A missing key matches nothing, so it may repeat.

    Raises:
        SourceMissing: there is nothing at its path.
        SourceUnreadable: what is there has another form.
        BadSettings: the key is no column of it, or stands twice.
    """
    where = f"{file}, lookup.{name}"
    if not files.exists(spark, lookup.path):
        raise SourceMissing(f"there is no side table at {lookup.path}", where=f"{where}.path", do="mend the path")
    try:
        side = _side(spark, lookup, None)
        if lookup.key not in side.columns:
            raise BadSettings(
                f"the side table has no column {lookup.key!r}; it has {side.columns}",
                where=f"{where}.key",
                do="name one of its columns",
            )
        key = F.col(f"`{lookup.key}`")
        twice = side.where(key.isNotNull()).groupBy(key.alias("key")).count().where("count > 1").first()
    except (PySparkException, Py4JJavaError) as error:
        raise SourceUnreadable(
            f"the side table at {lookup.path} cannot be read as {lookup.format}: {_first_words(error)}",
            where=f"{where}.path",
            do="mend the path or the format",
        ) from error
    if twice is not None:
        raise BadSettings(
            f"key {twice['key']!r} stands {twice['count']} times in the side table",
            where=f"{where}.key",
            do="name a side table with one row a key",
        )


def _side(spark: SparkSession, lookup: Lookup, version: int | None) -> DataFrame:
    reader = spark.read.format(lookup.format)
    if lookup.format == "csv":
        reader = reader.option("header", True)
    if lookup.format == "delta" and version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.load(files.qualified(lookup.path))


def _hash(spark: SparkSession, lookup: Lookup) -> int:
    """Of names and bytes, in any order; a side table is small, since it is sent to every task."""
    found = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(files.qualified(lookup.path))
    name = F.substring_index("path", "/", -1)
    row = found.select(F.bit_xor(F.xxhash64(name, "content")).alias("hash")).first()
    return 0 if row is None or row["hash"] is None else int(row["hash"])


def _first_words(error: PySparkException | Py4JJavaError) -> str:
    words = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    return (first_words(words) or type(error).__name__)[:200]
