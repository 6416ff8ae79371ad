"""The sales that `learn_demand` selects from events."""

from datetime import UTC, datetime
from pathlib import Path

from profilestream.learn.demand.demand_spec import DemandSpec
from pyspark.sql import SparkSession

from tests.builders import Shop


def test_a_missing_quantity_is_one_unit_and_events_without_quantity_item_or_purchase_are_no_sales(
    spark: SparkSession, tmp_path: Path
) -> None:
    events = [
        ("purchase", "a", "c", 3.0), ("purchase", "b", None, None), ("purchase", "zero", "c", 0.0),
        ("purchase", None, "c", 1.0), ("view", "viewed", "c", 1.0), ("return", "returned", "c", 1.0),
    ]  # fmt: skip
    time = datetime(2026, 1, 1, tzinfo=UTC)
    columns = (
        "user_id STRING, event_time TIMESTAMP, event_type STRING, item_id STRING, category STRING, quantity DOUBLE"
    )
    frame = spark.createDataFrame([("u", time, *one) for one in events], columns)
    rows = DemandSpec(Shop(tmp_path).settings()).select(frame).collect()
    assert sorted((row["level"], row["key"], row["units"]) for row in rows) == [
        ("category", "c", 3.0), ("item", "a", 3.0), ("item", "b", 1.0),
    ]  # fmt: skip
    assert {row["time_micros"] for row in rows} == {int(time.timestamp() * 1_000_000)}
