"""Row accounting of capture: counts of clean, rejected and duplicate rows, from the tables that capture writes."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def counts_by_source(batches: DataFrame) -> DataFrame:
    """Row counts per source and kind of batch. Batches of kind `reprocess` count rows that a source batch counted too.

    Args:
        batches: rows of `capture_batches`.

    Returns:
        source, kind, batches, the four counts, and `is_balanced`: whether rows_in = clean + rejected + duplicate.
    """
    sums = [F.sum(f"rows_{part}").alias(f"rows_{part}") for part in ("in", "clean", "rejected", "duplicate")]
    return (
        batches.groupBy("source", "kind")
        .agg(F.count(F.lit(1)).alias("batches"), *sums)
        .withColumn("is_balanced", F.expr("rows_in = rows_clean + rows_rejected + rows_duplicate"))
        .orderBy("source", F.desc("kind"))
    )


def rejected_by_rule(rejected: DataFrame) -> DataFrame:
    """Rejected rows per source and rule, with reason, payload and position of the first row.

    A row that was rejected again when it was reprocessed counts once per rule.

    Args:
        rejected: rows of `rejected_events`.
    """
    first = F.min_by(F.struct("reason", "payload", "position"), "position")
    return (
        rejected.groupBy("source", "rule")
        .agg(F.count_distinct("position").alias("rows"), first.alias("first"))
        .select("source", "rule", "rows", "first.*")
        .orderBy(F.desc("rows"), "rule")
    )
