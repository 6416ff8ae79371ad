"""Exact duplicates at any distance in time, without a shuffle of complete rows.

A redelivered event has the same event time, so only the dates of the batch are searched in `events`. A mapped id can
be delivered again with a corrected event time, so for such ids the days before and after are searched too. A first
pass over 64-bit hashes selects the few ids that occur more than once; all other rows need no further comparison.
These few are compared by their full ids and contents: equal content is a duplicate; different content under the same id
is rejected as `id_reused`.
"""

from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from profilestream.base import event_period, tables
from profilestream.base.queries import Batch
from profilestream.base.session import materialize
from profilestream.capture.execute_mapping import content_columns, content_hash
from profilestream.capture.mapping import Mapping

ID_HASH = "_id_hash"
_BROADCAST_ROWS = 2_000_000


def id_hash() -> Column:
    """64-bit hash of the event id. Equal ids have equal hashes; collisions are resolved by comparing the ids."""
    return F.xxhash64("event_id")


def searched_dates(dates: list[date], mapping: Mapping) -> list[date]:
    """The dates on which an event of the batch can have an earlier event with its id.

    Args:
        dates: of the events of the batch.
    """
    days = range(-days_apart(mapping), days_apart(mapping) + 1)
    return sorted({day + timedelta(days=n) for day in dates for n in days})


def days_apart(mapping: Mapping) -> int:
    """Days between two events with one id that are compared."""
    return 1 if "event_id" in mapping.columns else 0


def stored_events(events: DataFrame, *, source: str, dates: list[date], epoch: str, batch_id: int) -> DataFrame:
    """Rows of `events` of a source on some dates, without rows that the same batch wrote before a crash."""
    is_same_batch = (F.col("epoch") == epoch) & (F.col("batch_id") == batch_id)
    return events.where(event_period.on_dates(dates) & (F.col("source") == source) & ~is_same_batch)


def stored_events_of_batch(batch: Batch, source: str, dates: list[date], mapping: Mapping) -> DataFrame:
    """The stored events with which the events of a batch on these dates are compared."""
    events, txn = tables.EVENTS.read(batch.spark, batch.paths), batch.txn
    searched = searched_dates(dates, mapping)
    return stored_events(events, source=source, dates=searched, epoch=txn.epoch, batch_id=txn.batch_id)


def find_repeats(candidates: DataFrame, stored: DataFrame | None, mapping: Mapping) -> DataFrame | None:
    """The rows of a batch that repeat the id of an earlier row, with `outcome`: duplicate or id_reused.

    Args:
        candidates: good rows of the batch with `_id_hash`. Persist them: they are read more than once.
        stored: rows of `stored_events`; null: compare the batch with itself only.

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
    earlier = None if stored is None else stored.withColumn(ID_HASH, id_hash()).join(few, ID_HASH, "left_semi")
    return materialize(_repeats_among(candidates.join(few, ID_HASH, "left_semi"), earlier, mapping))


def _repeats_among(candidates: DataFrame, stored: DataFrame | None, mapping: Mapping) -> DataFrame:
    """As find_repeats, without the search for repeated hashes (local_repeats.py has the same for few rows)."""
    columns = content_columns(mapping)
    contents = _narrow(candidates, columns, 1)
    if stored is not None:
        contents = contents.unionByName(_narrow(stored, columns, 0))
    file = "regexp_replace(position, '[:/][0-9+#]+$', '') AS file"  # or topic and partition
    row = f"in_batch, {file}, length(position) AS length, position, event_date, _content, warnings"
    by_id = contents.groupBy("event_id").agg(F.expr(f"array_sort(collect_list(struct({row})))").alias("rows"))
    outcomes = by_id.select("event_id", F.explode(F.expr(_outcomes(days_apart(mapping)))).alias("row"))
    return outcomes.where("row.in_batch = 1").select("row.position", "event_id", "row.warnings", "row.outcome")


def _outcomes(days: int) -> str:
    """SQL over `rows`, the events with one id in order: those that repeat an earlier accepted event, with `outcome`.

    An event is accepted if no accepted event is at most `days` days away. So the outcome does not depend on batches, if
    the files of later batches have later names.
    """
    near = f"filter(a.accepted, x -> abs(datediff(x.day, r.event_date)) <= {days})"
    outcome = f"if(element_at({near}, 1).content = r._content, 'duplicate', 'id_reused')"
    repeat = f"struct(r.in_batch AS in_batch, r.position AS position, r.warnings AS warnings, {outcome} AS outcome)"
    start = (
        "struct(cast(array() AS array<struct<day: date, content: string>>) AS accepted, cast(array() AS "
        "array<struct<in_batch: int, position: string, warnings: array<string>, outcome: string>>) AS repeats)"
    )
    accept = "array_append(a.accepted, struct(r.event_date AS day, r._content AS content))"
    return f"""aggregate(rows, {start}, (a, r) -> if(size({near}) = 0,
        struct({accept} AS accepted, a.repeats AS repeats),
        struct(a.accepted AS accepted, array_append(a.repeats, {repeat}) AS repeats)), a -> a.repeats)"""


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
