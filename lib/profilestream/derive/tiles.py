"""Events -> tiles: partial statistics per key and hour, appended; a key may stand in several rows."""

import hashlib
import json

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.base.stream import Batch, Done, Query
from profilestream.derive import declaration, fold
from profilestream.derive.declaration import Derived

STAGE = "derive_features"


def declarations(settings: Settings) -> dict[str, Derived]:
    """The declared tiles, by file.

    Raises:
        BadSettings: a declaration does not fit, two have one name, or one is not appended.
    """
    found = {file: declaration.load(file) for file in settings.derive.features}
    for file, derived in found.items():
        if derived.write != "append":
            raise BadSettings(
                f"{derived.name} is to be merged, and tiles are appended", where=f"{file}, write", do='write "append"'
            )
    names = [derived.name for derived in found.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadSettings(f"tables declared twice: {twice}", where="derive.features", do="give each another name")
    return found


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when no tiles are declared."""
    declared = list(declarations(settings).values())
    if not declared:
        return []
    text = json.dumps([derived.model_dump(mode="json") for derived in declared], sort_keys=True)

    def write(events: DataFrame, batch: Batch) -> Done:
        events.persist()
        try:
            with batch.phase("read"):
                rows = events.count()
            for derived in declared:
                batch.append(_stamped(fold.partials(events, derived), derived, batch), derived.table)
        finally:
            events.unpersist()
        return Done(rows_in=rows)

    return [
        Query(
            stage=STAGE,
            source="",
            lock=STAGE,
            tables=tuple(derived.table for derived in declared),
            fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16],
            settings=text,
            read=lambda spark: fold.new_events(spark, settings),
            write=write,
        )
    ]


def _stamped(rows: DataFrame, derived: Derived, batch: Batch) -> DataFrame:
    stamp = {"epoch": F.lit(batch.txn.epoch), "batch_id": F.lit(batch.txn.batch_id).cast("bigint")}
    return rows.withColumns(stamp).select(*derived.table.columns)


def check(spark: SparkSession, settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing.

    Raises:
        BadSettings: one is not understood; names file and key.
    """
    empty = spark.createDataFrame([], tables.EVENTS.schema)
    for file, derived in declarations(settings).items():
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
