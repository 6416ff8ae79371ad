"""Duplicates against the batch itself and against what is stored, for any order of rows."""

from datetime import date

import pytest
from profilestream.capture import dedupe
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

SAID = ["item_id", "price", "extra"]


def _rows(spark: SparkSession, *rows: tuple[str, str, str, float | None], day: int = 1) -> DataFrame:
    """Rows of (position, event_id, item_id, price)."""
    schema = "position string, event_id string, item_id string, price double"
    return spark.createDataFrame(list(rows), schema).select(
        "*",
        F.lit(date(2026, 1, day)).alias("event_date"),
        F.lit(None).cast("map<string,string>").alias("extra"),
        F.array().cast("array<string>").alias("warnings"),
        dedupe.id_hash().alias(dedupe.ID_HASH),
    )


def _verdicts(batch: DataFrame, stored: DataFrame | None) -> dict[str, str]:
    found = dedupe.dropped(batch, stored, SAID)
    return {} if found is None else {row["position"]: row["verdict"] for row in found.collect()}


def test_the_first_row_of_an_id_stays_the_same_again_is_a_duplicate_another_content_is_id_reused(
    spark: SparkSession,
) -> None:
    batch = _rows(
        spark, ("f:10", "a", "i", 1.0), ("f:9", "a", "i", 1.0), ("f:11", "a", "i", 2.0), ("f:12", "b", "i", None)
    )
    assert _verdicts(batch, None) == {"f:10": "duplicate", "f:11": "id_reused"}
    kept = dedupe.survivors(batch, dedupe.dropped(batch, None, SAID)).select("position").collect()
    assert sorted(row[0] for row in kept) == ["f:12", "f:9"]


def test_a_stored_row_comes_before_those_of_the_batch(spark: SparkSession) -> None:
    stored = _rows(spark, ("z:1", "a", "i", 1.0), ("z:2", "c", "i", None))
    batch = _rows(
        spark, ("f:1", "a", "i", 3.0), ("f:2", "a", "i", 1.0), ("f:3", "c", "i", None), ("f:4", "d", "i", 1.0)
    )
    assert _verdicts(batch, stored) == {"f:1": "id_reused", "f:2": "duplicate", "f:3": "duplicate"}


def test_the_same_id_on_another_date_is_another_event(spark: SparkSession) -> None:
    batch = _rows(spark, ("f:1", "a", "i", 1.0)).unionByName(_rows(spark, ("f:2", "a", "i", 9.0), day=2))
    assert _verdicts(batch, None) == {}


def test_ids_whose_hashes_collide_are_told_apart(spark: SparkSession) -> None:
    batch = _rows(spark, ("f:1", "a", "i", 1.0), ("f:2", "b", "i", 1.0)).withColumn(
        dedupe.ID_HASH, F.lit(7).cast("bigint")
    )
    assert _verdicts(batch, None) == {}
    assert dedupe.survivors(batch, dedupe.dropped(batch, None, SAID)).count() == 2


def test_no_suspects_no_second_look(spark: SparkSession) -> None:
    assert dedupe.dropped(_rows(spark, ("f:1", "a", "i", 1.0)), _rows(spark, ("z:1", "b", "i", 1.0)), SAID) is None


@pytest.mark.parametrize(
    ("epoch", "batch_id", "found"), [("e1", 3, ["x"]), ("e1", 4, ["x", "y"]), ("e2", 3, ["x", "y"])]
)
def test_earlier_rows_are_those_of_the_source_and_dates_without_this_very_batch(
    spark: SparkSession, epoch: str, batch_id: int, found: list[str]
) -> None:
    events = spark.createDataFrame(
        [
            ("x", "s", date(2026, 1, 1), "e1", 2),
            ("y", "s", date(2026, 1, 1), "e1", 3),
            ("other source", "t", date(2026, 1, 1), "e1", 2),
            ("other date", "s", date(2026, 1, 2), "e1", 2),
        ],
        "event_id string, source string, event_date date, epoch string, batch_id bigint",
    )
    kept = dedupe.earlier(events, source="s", dates=[date(2026, 1, 1)], epoch=epoch, batch_id=batch_id)
    assert sorted(row["event_id"] for row in kept.collect()) == found
