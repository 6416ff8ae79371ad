"""What became of rows, told from the tables of capture."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def conservation(batches: DataFrame) -> DataFrame:
    """Per source: rows in and what became of them. Replays are told apart, since their rows came in before."""
    sums = [F.sum(f"rows_{part}").alias(f"rows_{part}") for part in ("in", "clean", "rejected", "duplicate")]
    return (
        batches.groupBy("source", "kind")
        .agg(F.count(F.lit(1)).alias("batches"), *sums)
        .withColumn("adds_up", F.expr("rows_in = rows_clean + rows_rejected + rows_duplicate"))
        .orderBy("source", F.desc("kind"))
    )


def rejects(rejected: DataFrame) -> DataFrame:
    """Rejected rows per source and rule, with the reason and payload of the first. A replayed row counts as it was."""
    first = F.min_by(F.struct("reason", "payload", "position"), "position")
    return (
        rejected.groupBy("source", "rule")
        .agg(F.count_distinct("position").alias("rows"), first.alias("first"))
        .select("source", "rule", "rows", "first.*")
        .orderBy(F.desc("rows"), "rule")
    )
