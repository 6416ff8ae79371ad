"""Sequence numbers of producers: ranges of consecutive numbers by batch, and the gaps between all ranges of a producer.

A record that never reached the source leaves a gap. Records may be late: a range of a later batch closes the gap.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.capture.batch_rows import BatchContext
from profilestream.capture.execute_mapping import PRODUCER, SEQUENCE

Range = tuple[str, int, int]


def ranges(rows: DataFrame | pa.Table) -> DataFrame | list[Range]:
    """The ranges of consecutive numbers by producer: `producer`, `first_sequence`, `last_sequence`.

    Args:
        rows: evaluated rows with PRODUCER and SEQUENCE, including rejected rows and duplicates.
    """
    if not isinstance(rows, DataFrame):
        pairs: Iterator[tuple[Any, Any]] = zip(rows[PRODUCER].to_pylist(), rows[SEQUENCE].to_pylist(), strict=True)
        return list(_ranges(sorted({pair for pair in pairs if None not in pair})))
    numbers = rows.select(PRODUCER, SEQUENCE).dropna().distinct()
    number = F.row_number().over(Window.partitionBy(PRODUCER).orderBy(SEQUENCE))
    by_range = numbers.withColumn("_range", F.col(SEQUENCE) - number).groupBy(PRODUCER, "_range")
    bounds = by_range.agg(F.min(SEQUENCE).alias("first_sequence"), F.max(SEQUENCE).alias("last_sequence"))
    return bounds.withColumnRenamed(PRODUCER, "producer")


def _ranges(numbers: list[tuple[str, int]]) -> Iterator[Range]:
    first = None
    for index, (producer, number) in enumerate(numbers):
        first = number if first is None else first
        if index + 1 == len(numbers) or numbers[index + 1] != (producer, number + 1):
            yield producer, first, number
            first = None


def append(batch_ranges: DataFrame | list[Range], context: BatchContext) -> None:
    """Append the ranges of a batch to `capture_sequences`; the first batch creates the table."""
    table, batch, txn = tables.CAPTURE_SEQUENCES, context.batch, context.batch.txn
    table.create(batch.spark, batch.paths)
    table.register(batch.spark, batch.paths)
    constants = {"source": context.source, "epoch": txn.epoch, "batch_id": txn.batch_id}
    if isinstance(batch_ranges, DataFrame):
        frame = batch_ranges.withColumns({name: F.lit(value) for name, value in constants.items()})
        types = {field.name: field.dataType for field in table.schema}
        batch.append(frame.select(*[F.col(name).cast(types[name]).alias(name) for name in table.names]), table)
        return
    rows = [
        {"producer": producer, "first_sequence": first, "last_sequence": last, **constants}
        for producer, first, last in batch_ranges
    ]
    batch.append(table.arrow_rows(rows), table)


def upstream_gaps(sequences: DataFrame) -> DataFrame:
    """The numbers between the ranges of a producer that no batch contains.

    Args:
        sequences: rows of `capture_sequences`.

    Returns:
        source, producer, first_missing, last_missing.
    """
    earlier = Window.partitionBy("source", "producer").orderBy("first_sequence", "last_sequence")
    last = F.max("last_sequence").over(earlier.rowsBetween(Window.unboundedPreceding, -1))
    gaps = sequences.withColumn("_last", last).where(F.col("first_sequence") > F.col("_last") + 1)
    return gaps.select(
        "source",
        "producer",
        (F.col("_last") + 1).alias("first_missing"),
        (F.col("first_sequence") - 1).alias("last_missing"),
    )
