"""A stage that derives declared tables from `events`: its query, its checks, its writes."""

import hashlib
import json

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Settings
from profilestream.base.stream import Batch, Done, Query
from profilestream.derive import declaration, fold
from profilestream.derive.declaration import Derived


def declared(settings: Settings) -> dict[str, Derived]:
    """All declared tables of the settings, by file.

    Raises:
        BadSettings: a declaration does not fit, two have one name, or one is written in another way than its stage.
    """
    ways = {"append": settings.derive.features, "merge": settings.derive.profiles}
    found = {}
    for way, files in ways.items():
        for file in files:
            found[file] = derived = declaration.load(file, {"shop_timezone": settings.derive.shop_timezone})
            if derived.write != way:
                raise BadSettings(f"write = {derived.write!r}", where=f"{file}, write", do=f"write {way!r} here")
    names = [table.name for table in tables.ALL] + [derived.name for derived in found.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadSettings(f"tables declared twice: {twice}", where="[derive]", do="give each another name")
    return found


def query(stage: str, files: tuple[str, ...], settings: Settings) -> list[Query]:
    """The one query of a stage; none when it has no tables."""
    ours = [derived for file, derived in declared(settings).items() if file in files]
    if not ours:
        return []
    text = json.dumps([derived.model_dump(mode="json") for derived in ours], sort_keys=True)

    def write(events: DataFrame, batch: Batch) -> Done:
        events.persist()
        try:
            with batch.phase("read"):
                rows = events.count()
            for derived in ours:
                _write(fold.partials(events, derived), derived, batch)
        finally:
            events.unpersist()
        return Done(rows_in=rows)

    return [
        Query(
            stage=stage,
            source="",
            lock=stage,
            tables=tuple(derived.table for derived in ours),
            fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16],
            settings=text,
            read=lambda spark: _new_events(spark, settings),
            write=write,
        )
    ]


def _write(partials: DataFrame, derived: Derived, batch: Batch) -> None:
    stamp = {"epoch": F.lit(batch.txn.epoch), "batch_id": F.lit(batch.txn.batch_id).cast("bigint")}

    def stamped(rows: DataFrame) -> DataFrame:
        return rows.withColumns(stamp).select(*derived.table.columns)

    if derived.write == "append":
        batch.append(stamped(partials), derived.table)
        return
    # MERGE reads its source twice.
    rows = stamped(fold.onto(derived.table.read(batch.spark, batch.paths), partials, derived)).persist()
    try:
        batch.merge(rows, derived.table)
    finally:
        rows.unpersist()


def _new_events(spark: SparkSession, settings: Settings) -> DataFrame:
    """The stream of `events`, in the order of its commits; rows that were deleted or rewritten later do not come again.

    Raises:
        SourceMissing: nothing was captured yet.
    """
    if not tables.EVENTS.exists(spark, settings.paths):
        raise SourceMissing(
            "there is no table events", where=settings.paths.warehouse, do="run jobs/capture_events.py first"
        )
    stream = spark.readStream.format("delta").option("skipChangeCommits", True)
    return stream.option("maxFilesPerTrigger", settings.derive.max_files_per_trigger).load(
        tables.EVENTS.path(settings.paths)
    )


def check(spark: SparkSession, files: tuple[str, ...], settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing.

    Raises:
        BadSettings: one is not understood; names file and key.
    """
    empty = spark.createDataFrame([], tables.EVENTS.schema)
    for file, derived in declared(settings).items():
        if file not in files:
            continue
        for key, sql, is_condition in derived.expressions():
            try:
                kind = empty.select(F.expr(sql)).schema[0].dataType.simpleString()
            except PySparkException as error:
                words = str(error).strip().splitlines()[0].split(" SQLSTATE")[0]
                raise BadSettings(
                    f"{key} = {sql!r} is not understood: {words}",
                    where=f"{file}, {key}",
                    do="mend it; it may name the columns of the table events",
                ) from None
            if is_condition and kind != "boolean":
                raise BadSettings(f"{key} = {sql!r} is a {kind}", where=f"{file}, {key}", do="write a condition")
