"""Duplicates within a batch and against stored events, for any order of rows."""

import math
import random
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from profilestream.capture import dedupe, local_repeats
from profilestream.capture.mapping import InputSpec, Mapping
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

MAPPED_ID = Mapping(
    input=InputSpec(format="jsonl", columns="id string"),
    columns={"event_id": "id", "event_type": "'view'", "event_time": "id", "item_id": "id", "price": "id"},
)


def _rows(spark: SparkSession, *rows: tuple[str, str, str, float | None], day: int = 1) -> DataFrame:
    """Rows of (position, event_id, item_id, price)."""
    schema = "position string, event_id string, item_id string, price double"
    return spark.createDataFrame(list(rows), schema).select(
        "*",
        F.lit(date(2026, 1, day)).alias("event_date"),
        F.lit(None).cast("timestamp").alias("event_time"),
        F.lit("view").alias("event_type"),
        F.array().cast("array<string>").alias("warnings"),
        dedupe.id_hash().alias(dedupe.ID_HASH),
    )


def _outcomes(batch: DataFrame, stored: DataFrame | None) -> dict[str, str]:
    repeats = dedupe.find_repeats(batch, stored, MAPPED_ID)
    return {} if repeats is None else {row["position"]: row["outcome"] for row in repeats.collect()}


def test_a_repeated_id_is_a_duplicate_if_the_content_is_equal_and_id_reused_otherwise(
    spark: SparkSession,
) -> None:
    batch = _rows(
        spark, ("f:10", "a", "i", 1.0), ("f:9", "a", "i", 1.0), ("f:11", "a", "i", 2.0), ("f:12", "b", "i", None)
    )
    assert _outcomes(batch, None) == {"f:10": "duplicate", "f:11": "id_reused"}
    clean = dedupe.without_repeats(batch, dedupe.find_repeats(batch, None, MAPPED_ID)).select("position").collect()
    assert sorted(row[0] for row in clean) == ["f:12", "f:9"]


def test_a_stored_row_precedes_the_rows_of_the_batch(spark: SparkSession) -> None:
    stored = _rows(spark, ("z:1", "a", "i", 1.0), ("z:2", "c", "i", None))
    batch = _rows(
        spark, ("f:1", "a", "i", 3.0), ("f:2", "a", "i", 1.0), ("f:3", "c", "i", None), ("f:4", "d", "i", 1.0)
    )
    assert _outcomes(batch, stored) == {"f:1": "id_reused", "f:2": "duplicate", "f:3": "duplicate"}


def test_the_same_id_a_day_later_is_compared_and_two_days_later_is_another_event(spark: SparkSession) -> None:
    first = _rows(spark, ("f:1", "a", "i", 1.0))
    next_day = _rows(spark, ("f:2", "a", "i", 9.0), day=2)
    third_day = _rows(spark, ("f:3", "a", "i", 9.0), day=3)
    assert _outcomes(first.unionByName(next_day), None) == {"f:2": "id_reused"}
    # The rejected row of the second day is no event that the third day could repeat.
    assert _outcomes(first.unionByName(next_day).unionByName(third_day), None) == {"f:2": "id_reused"}
    assert _outcomes(third_day, first.unionByName(next_day.where("false"))) == {}
    assert _outcomes(next_day, first) == {"f:2": "id_reused"}


def test_different_ids_with_the_same_hash_are_not_duplicates(spark: SparkSession) -> None:
    batch = _rows(spark, ("f:1", "a", "i", 1.0), ("f:2", "b", "i", 1.0)).withColumn(
        dedupe.ID_HASH, F.lit(7).cast("bigint")
    )
    assert _outcomes(batch, None) == {}
    assert dedupe.without_repeats(batch, dedupe.find_repeats(batch, None, MAPPED_ID)).count() == 2


def test_without_repeated_hashes_nothing_is_returned(spark: SparkSession) -> None:
    assert (
        dedupe.find_repeats(_rows(spark, ("f:1", "a", "i", 1.0)), _rows(spark, ("z:1", "b", "i", 1.0)), MAPPED_ID)
        is None
    )


def test_few_rows_are_compared_in_the_driver_as_by_spark(spark: SparkSession) -> None:
    names = ["event_id", "event_type", "event_time", "item_id", "price", "attributes"]
    columns = {name: name for name in names}
    mapping = Mapping(input=InputSpec(format="jsonl", columns="id string"), columns=columns)
    chosen, number = random.Random(7), 0

    def rows(count: int, files: list[str]) -> DataFrame:
        nonlocal number
        values = []
        for _ in range(count):
            number += 1
            values.append(
                (
                    f"{chosen.choice(files)}{number}",
                    f"id{chosen.randrange(40)}",
                    "view",
                    chosen.choice(["tea", "", None]),
                    chosen.choice([1.0, 0.0, -0.0, math.nan, None]),
                    chosen.choice([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)]),
                    chosen.choice([{"a": "1", "b": None}, {"b": None, "a": "1"}, {"a": "1"}, {}, None]),
                    date(2026, 1, chosen.randrange(1, 6)),
                    chosen.choice([[], ["late"]]),
                )
            )
        schema = (
            "position string, event_id string, event_type string, item_id string, price double, "
            "event_time timestamp, attributes map<string, string>, event_date date, warnings array<string>"
        )
        return spark.createDataFrame(values, schema).withColumn(dedupe.ID_HASH, dedupe.id_hash())

    batch = rows(300, ["b.csv:", "a/1.csv:", "topic/0/", "topic/0/1+", "10:"])
    for stored in (rows(150, ["z.csv:", "a/0.csv:"]), batch.where("false")):
        by_spark = dedupe.find_repeats(batch, stored, mapping)
        assert by_spark is not None
        in_driver = local_repeats.repeats_among(batch.toArrow(), stored.toArrow(), mapping)
        expected = by_spark.toArrow().sort_by("position").to_pylist()
        assert pa.Table.from_pylist(in_driver).sort_by("position").to_pylist() == expected
        assert {row["outcome"] for row in expected} == {"duplicate", "id_reused"}


@pytest.mark.parametrize(
    ("epoch", "batch_id", "expected"), [("e1", 3, ["x"]), ("e1", 4, ["x", "y"]), ("e2", 3, ["x", "y"])]
)
def test_stored_events_are_those_of_the_source_and_dates_without_the_batch_itself(
    spark: SparkSession, epoch: str, batch_id: int, expected: list[str]
) -> None:
    events = spark.createDataFrame(
        [
            ("x", "s", date(2026, 1, 1), "e1", 2),
            ("y", "s", date(2026, 1, 1), "e1", 3),
            ("other source", "t", date(2026, 1, 1), "e1", 2),
            ("other date", "s", date(2026, 1, 2), "e1", 2),
        ],
        "event_id string, source string, event_date date, epoch string, batch_id bigint",
    ).withColumn("event_period", F.col("event_date"))
    stored = dedupe.stored_events(events, source="s", dates=[date(2026, 1, 1)], epoch=epoch, batch_id=batch_id)
    assert sorted(row["event_id"] for row in stored.collect()) == expected
