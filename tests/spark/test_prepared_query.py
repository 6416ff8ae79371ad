"""A planned query is executed for many batches only if no value in its plan depends on the time of planning."""

from typing import Any

import pytest
from profilestream.capture.prepared_query import PreparedQuery, prepared
from pyspark.sql import DataFrame, SparkSession


@pytest.mark.parametrize(
    ("sql", "is_reusable"),
    [
        ("n + 1", True),
        ("reflect('java.lang.Math', 'abs', n)", True),
        ("uuid()", False),
        ("rand()", False),
        ("now()", False),
        ("date(n) < current_date()", False),
    ],
)
def test_only_a_query_without_time_and_chance_is_reused(spark: SparkSession, sql: str, is_reusable: bool) -> None:
    def build(rows: DataFrame) -> DataFrame:
        return rows.selectExpr(sql.replace("date(n)", "date_from_unix_date(int(n))"))

    first, second = (prepared(spark, (sql,), {}, "n BIGINT", build) for _ in range(2))
    assert first.is_reusable is is_reusable and (first is second) is is_reusable
    results = [query.execute([{"n": 1}]).column(0).to_pylist() for query in (first, second)]
    assert (results[0] == results[1]) is (is_reusable or "date" in sql)


def test_a_new_version_of_a_side_table_is_planned_again(spark: SparkSession) -> None:
    def build(rows: DataFrame) -> DataFrame:
        return rows

    queries = [prepared(spark, ("versions",), {"prices": version}, "n BIGINT", build) for version in (1, 1, 2)]
    assert queries[0] is queries[1] and queries[1] is not queries[2]


def test_rows_replace_those_before(spark: SparkSession) -> None:
    query = PreparedQuery(spark, "n BIGINT, text STRING", lambda rows: rows.selectExpr("n * 2 AS n", "text"))
    for size in (3, 0, 1000):
        rows: list[dict[str, Any]] = [{"n": n, "text": "ü\u2028\u0000" * n} for n in range(size)]
        assert query.execute(rows).to_pylist() == [{**row, "n": 2 * row["n"]} for row in rows]
