"""The partitions of `events` and of tile tables have the length of `capture.partition_by`."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from profilestream.base import event_period, streaming, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused
from profilestream.base.queries import RunOptions
from profilestream.base.settings import PartitionBy
from profilestream.capture import reprocess
from profilestream.derive import tiles
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.builders import Shop, event

ROOT = Path(__file__).parents[2]
DAYS = ["2024-12-31", "2025-01-01", "2025-01-31", "2025-02-01", "2025-12-31", "2026-01-01"]
USER_HOURS = f'[derive]\nfeatures = ["{ROOT}/conf/derive/user_hours.toml"]\n'


def _partitions_of_files(shop: Shop, table: Table, column: str) -> list[str]:
    """The partition of each file of the table, ascending."""
    actions = DeltaTable(table.path(shop.settings().paths)).get_add_actions(flatten=True)
    return sorted(str(value) for value in pa.table(actions)[f"partition.{column}"].to_pylist())


@pytest.mark.parametrize(
    ("partition_by", "periods"),
    [
        ("month", ["2024-12-01", "2025-01-01", "2025-02-01", "2025-12-01", "2026-01-01"]),
        ("year", ["2024-01-01", "2025-01-01", "2026-01-01"]),
    ],
)
def test_a_long_log_has_one_file_per_period_and_the_same_rows(
    spark: SparkSession, tmp_path: Path, partition_by: PartitionBy, periods: list[str]
) -> None:
    shop = Shop(tmp_path, extra_settings=USER_HOURS, overrides=[f"capture.partition_by={partition_by}"])
    rows = [event(n, at=f"{day}T10:00:00Z") for n, day in enumerate(DAYS)]
    shop.write("1.jsonl", "\n".join(map(json.dumps, rows)))
    shop.write("2.jsonl", json.dumps(rows[2]))  # a duplicate in the middle of a period
    shop.capture(spark)
    streaming.run(spark, tiles.queries(shop.settings()), shop.settings(), RunOptions())
    assert shop.counts(spark) == (7, 6, 0, 1)
    (user_hours,) = tiles.queries(shop.settings())[0].tables
    for table, column in ((tables.EVENTS, "event_period"), (user_hours, "period")):
        assert _partitions_of_files(shop, table, column) == periods, table.name
    events = shop.read(spark, tables.EVENTS)
    assert [str(row[0]) for row in events.select("event_date").orderBy("event_date").collect()] == DAYS
    other = replace(shop, overrides=["capture.partition_by=day"])
    for run in (other.capture, lambda spark: reprocess.run(spark, other.settings(), "shop", None)):
        with pytest.raises(Refused, match=f"'day', but table events was created with '{partition_by}'"):
            run(spark)


def test_a_condition_on_dates_selects_the_partitions_of_any_length(spark: SparkSession) -> None:
    dates = spark.createDataFrame([(day,) for day in DAYS], "day string").select(F.to_date("day").alias("event_date"))
    chosen = [row["event_date"] for row in dates.where("event_date IN ('2025-01-31', '2025-12-31')").collect()]
    lengths: list[PartitionBy] = ["day", "month", "year"]
    for length in lengths:
        events = dates.withColumn("event_period", F.expr(event_period.sql(length)))
        assert [row["event_date"] for row in events.where(event_period.on_dates(chosen)).collect()] == chosen
