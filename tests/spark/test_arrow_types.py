"""The Arrow types of columns are those that Spark has for the same declaration."""

import pytest
from profilestream.base.arrow_types import arrow_field
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from tests.unit.test_table_registry import TABLES


def test_the_arrow_schema_of_every_table_is_that_of_spark(spark: SparkSession) -> None:
    for table in TABLES:
        assert table.arrow_schema.equals(to_arrow_schema(table.schema, timezone="UTC")), table.name


def test_a_type_that_no_table_uses_is_an_error() -> None:
    with pytest.raises(ValueError, match="no Arrow type for 'INTERVAL'"):
        arrow_field("age", "ARRAY<INTERVAL>")
