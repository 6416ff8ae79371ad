"""Exact duplicates at any distance in time, without a shuffle of complete rows.

A redelivered event has the same event time, so only the `event_date` partitions of the batch are read from `events`. A
first pass over 64-bit hashes of the ids selects the few ids that occur more than once; all other rows need no further
comparison. These few are compared by their full ids and contents: equal content is a duplicate; different content under
the same id is rejected as `id_reused`.
"""

from datetime import date

from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F

from profilestream.base.session import materialize
from profilestream.capture.execute_mapping import content_hash

ID_HASH = "_id_hash"
_BROADCAST_ROWS = 2_000_000


def id_hash() -> Column:
    """64-bit hash of the event id. Equal ids have equal hashes; collisions are resolved by comparing the ids."""
    return F.xxhash64("event_id")


def stored_events(events: DataFrame, *, source: str, dates: list[date], epoch: str, batch_id: int) -> DataFrame:
    """Rows of `events` of a source on some dates, without rows that the same batch wrote before a crash."""
    is_same_batch = (F.col("epoch") == epoch) & (F.col("batch_id") == batch_id)
    return events.where(F.col("event_date").isin(dates) & (F.col("source") == source) & ~is_same_batch)


def find_repeats(candidates: DataFrame, stored: DataFrame | None, content_columns: list[str]) -> DataFrame | None:
    """The rows of a batch that repeat the id of an earlier row, with `outcome`: duplicate or id_reused.

    Args:
        candidates: good rows of the batch with `_id_hash`. Persist them: they are read more than once.
        stored: rows of `stored_events`; null: compare the batch with itself only.
        content_columns: columns that make an event with the same id a different one.

    Returns:
        position, event_id, warnings, outcome; null when no id hash occurs more than once.
    """
    in_batch = candidates.select(ID_HASH, F.lit(1).alias("in_batch"))
    hashes = in_batch
    if stored is not None:
        hashes = in_batch.unionByName(stored.select(id_hash().alias(ID_HASH), F.lit(0).alias("in_batch")))
    counts = hashes.groupBy(ID_HASH).agg(F.count(F.lit(1)).alias("n"), F.max("in_batch").alias("in_batch"))
    observation = Observation("repeated id hashes")
    repeated_hashes = (
        counts.where("n > 1 AND in_batch = 1").select(ID_HASH).observe(observation, F.count(F.lit(1)).alias("n"))
    )
    repeated_hashes = materialize(repeated_hashes)
    count = observation.get["n"]
    if count == 0:
        return None
    few = F.broadcast(repeated_hashes) if count <= _BROADCAST_ROWS else repeated_hashes
    contents = _narrow(candidates.join(few, ID_HASH, "left_semi"), content_columns, 1)
    if stored is not None:
        earlier = stored.withColumn(ID_HASH, id_hash()).join(few, ID_HASH, "left_semi")
        contents = contents.unionByName(_narrow(earlier, content_columns, 0))
    by_id = Window.partitionBy("event_id", "event_date").orderBy("in_batch", F.length("position"), "position")
    outcome = F.when(F.first("_content").over(by_id) == F.col("_content"), "duplicate").otherwise("id_reused")
    with_outcome = contents.withColumns({"_rank": F.row_number().over(by_id), "outcome": outcome})
    return materialize(
        with_outcome.where("_rank > 1 AND in_batch = 1").select("position", "event_id", "warnings", "outcome")
    )


def without_repeats(candidates: DataFrame, repeats: DataFrame | None) -> DataFrame:
    """The candidates without the rows of `find_repeats`."""
    if repeats is None:
        return candidates
    positions = repeats.select("position")
    is_small = positions.count() <= _BROADCAST_ROWS
    return candidates.join(F.broadcast(positions) if is_small else positions, "position", "left_anti")


def _narrow(rows: DataFrame, content_columns: list[str], in_batch: int) -> DataFrame:
    content = content_hash(tuple(content_columns)).alias("_content")
    return rows.select("event_id", "event_date", "position", "warnings", content, F.lit(in_batch).alias("in_batch"))
