"""Duplicates, exactly and at any distance, without shuffling whole rows.

A redelivered event has the same event time, so only the batch's own `event_date` partitions of `events` are looked
at. A first narrow pass over 64-bit hashes of the ids finds the few suspects; all else is written as it is. Suspects
are compared by their true ids and contents: the same content again is a duplicate, other content under the same id
is rejected as `id_reused`.
"""

from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from profilestream.capture.canonical import content_hash

ID_HASH = "_id_hash"


@dataclass(frozen=True)
class Verdicts:
    """What became of rows whose id hash stands more than once.

    Args:
        hashes: one column, the suspected id hashes; null when there are none.
        rows: the suspects of the batch with a column `verdict`: keep, duplicate or id_reused.
    """

    hashes: DataFrame | None
    rows: DataFrame | None


def id_hash() -> Column:
    """64-bit hash of the event id; equal ids have equal hashes, the reverse is checked on suspects."""
    return F.xxhash64("event_id")


def earlier(events: DataFrame, *, source: str, dates: list[date], epoch: str, batch_id: int) -> DataFrame:
    """What the table already holds of a source on some dates, without what this very batch wrote before a crash."""
    same_batch = (F.col("epoch") == epoch) & (F.col("batch_id") == batch_id)
    return events.where(F.col("event_date").isin(dates) & (F.col("source") == source) & ~same_batch)


def verdicts(candidates: DataFrame, stored: DataFrame | None) -> Verdicts:
    """Compare a batch with itself and with what is stored.

    Args:
        candidates: good rows of the batch with `_id_hash`; read twice, so persist it.
        stored: rows of `earlier`; null when the table has none of those dates.
    """
    here = candidates.select(ID_HASH, F.lit(1).alias("here"))
    both = here if stored is None else here.unionByName(stored.select(id_hash().alias(ID_HASH), F.lit(0).alias("here")))
    counted = both.groupBy(ID_HASH).agg(F.count(F.lit(1)).alias("n"), F.max("here").alias("here"))
    suspects = counted.where("n > 1 AND here = 1").select(ID_HASH).localCheckpoint()
    if suspects.isEmpty():
        return Verdicts(None, None)
    rows = candidates.join(suspects, ID_HASH, "left_semi").withColumn("_content", content_hash(("event_id",)))
    compared = rows.select("event_id", "event_date", "_content", "position", F.lit(1).alias("here"))
    if stored is not None:
        old = stored.withColumn(ID_HASH, id_hash()).join(suspects, ID_HASH, "left_semi")
        compared = compared.unionByName(
            old.select("event_id", "event_date", content_hash(("event_id",)).alias("_content"), "position", F.lit(0).alias("here"))
        )
    first = Window.partitionBy("event_id", "event_date").orderBy("here", F.length("position"), "position")
    judged = compared.select(
        "position",
        "here",
        F.when(F.row_number().over(first) == 1, "keep")
        .when(F.first("_content").over(first) == F.col("_content"), "duplicate")
        .otherwise("id_reused")
        .alias("verdict"),
    ).where("here = 1")
    resolved = rows.drop("_content").join(judged.drop("here"), "position", "inner").localCheckpoint()
    return Verdicts(suspects, resolved)


def survivors(candidates: DataFrame, found: Verdicts) -> DataFrame:
    """The rows to keep: all that were never suspected, and of the suspects those with verdict keep."""
    if found.hashes is None or found.rows is None:
        return candidates
    rest = candidates.join(found.hashes, ID_HASH, "left_anti")
    return rest.unionByName(found.rows.where("verdict = 'keep'").drop("verdict"))
