"""Duplicates, exactly and at any distance, without shuffling whole rows.

A redelivered event has the same event time, so only the batch's own `event_date` partitions of `events` are looked
at. A first narrow pass over 64-bit hashes of the ids finds the few suspects; all else is written as it is. Suspects
are compared by their true ids and contents: the same content again is a duplicate, other content under the same id
is rejected as `id_reused`.
"""

from datetime import date

from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F

from profilestream.base.session import materialize
from profilestream.capture.canonical_columns import content_hash

ID_HASH = "_id_hash"
_BROADCAST_ROWS = 2_000_000


def id_hash() -> Column:
    """64-bit hash of the event id; equal ids have equal hashes, the reverse is checked on suspects."""
    return F.xxhash64("event_id")


def earlier(events: DataFrame, *, source: str, dates: list[date], epoch: str, batch_id: int) -> DataFrame:
    """What the table already holds of a source on some dates, without what this very batch wrote before a crash."""
    same_batch = (F.col("epoch") == epoch) & (F.col("batch_id") == batch_id)
    return events.where(F.col("event_date").isin(dates) & (F.col("source") == source) & ~same_batch)


def dropped(candidates: DataFrame, stored: DataFrame | None, said: list[str]) -> DataFrame | None:
    """The rows of a batch that must not be written, with a column `verdict`: duplicate or id_reused.

    Args:
        candidates: good rows of the batch with `_id_hash`; read more than once, so persist it.
        stored: rows of `earlier`; null to compare the batch with itself only.
        said: columns whose difference makes it another event.

    Returns:
        Null when no id stands twice.
    """
    here = candidates.select(ID_HASH, F.lit(1).alias("here"))
    both = here if stored is None else here.unionByName(stored.select(id_hash().alias(ID_HASH), F.lit(0).alias("here")))
    counted = both.groupBy(ID_HASH).agg(F.count(F.lit(1)).alias("n"), F.max("here").alias("here"))
    found = Observation("suspects")
    suspects = counted.where("n > 1 AND here = 1").select(ID_HASH).observe(found, F.count(F.lit(1)).alias("n"))
    suspects = materialize(suspects)
    count = found.get["n"]
    if count == 0:
        return None
    few = F.broadcast(suspects) if count <= _BROADCAST_ROWS else suspects
    rows = candidates.join(few, ID_HASH, "left_semi")
    compared = _narrow(rows, said, 1)
    if stored is not None:
        old = stored.withColumn(ID_HASH, id_hash()).join(few, ID_HASH, "left_semi")
        compared = compared.unionByName(_narrow(old, said, 0))
    first = Window.partitionBy("event_id", "event_date").orderBy("here", F.length("position"), "position")
    verdict = F.when(F.first("_content").over(first) == F.col("_content"), "duplicate").otherwise("id_reused")
    told = compared.withColumns({"_rank": F.row_number().over(first), "verdict": verdict})
    return materialize(told.where("_rank > 1 AND here = 1").select("position", "event_id", "warnings", "verdict"))


def survivors(candidates: DataFrame, dropped_rows: DataFrame | None) -> DataFrame:
    """The candidates without those that were dropped."""
    if dropped_rows is None:
        return candidates
    positions = dropped_rows.select("position")
    few = positions.count() <= _BROADCAST_ROWS
    return candidates.join(F.broadcast(positions) if few else positions, "position", "left_anti")


def _narrow(rows: DataFrame, said: list[str], here: int) -> DataFrame:
    content = content_hash(tuple(said)).alias("_content")
    return rows.select("event_id", "event_date", "position", "warnings", content, F.lit(here).alias("here"))
