"""The Arrow types of columns are those that Spark has for the same declaration; no rows are lost between the two."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from profilestream.base.arrow_types import arrow_field
from profilestream.base.session import frame_of_arrow
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from tests.unit.test_table_registry import TABLES


def test_the_arrow_schema_of_every_table_is_that_of_spark(spark: SparkSession) -> None:
    for table in TABLES:
        assert table.arrow_schema.equals(to_arrow_schema(table.schema, timezone="UTC")), table.name


def test_a_type_that_no_table_uses_is_an_error() -> None:
    with pytest.raises(ValueError, match="no Arrow type for 'INTERVAL'"):
        arrow_field("age", "ARRAY<INTERVAL>")


def test_a_frame_has_the_rows_after_a_chunk_without_rows(spark: SparkSession) -> None:
    parts: list[list[int]] = [[1], [], [2, 3], [], []]
    table = pa.concat_tables([pa.table({"n": pa.array(part, pa.int64())}) for part in parts])
    assert [row["n"] for row in frame_of_arrow(spark, table).collect()] == [1, 2, 3]
    no_rows = table.filter(pc.field("n") > 3)
    assert frame_of_arrow(spark, no_rows).collect() == [] == frame_of_arrow(spark, table.schema.empty_table()).collect()


def test_rows_of_python_workers_follow_batches_without_rows(spark: SparkSession) -> None:
    def twice_between_empty_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from (batch.slice(0, 0), batch, batch.slice(0, 0), batch)

    frame = spark.range(0, 3, numPartitions=1).mapInArrow(twice_between_empty_batches, "id long")
    assert [row["id"] for row in frame.collect()] == [0, 1, 2, 0, 1, 2] == frame.toArrow()["id"].to_pylist()
