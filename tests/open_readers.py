"""Law 9: a table opens in every reader with equal counts and sums."""

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder
from profilestream.steward import status
from pyspark.sql import SparkSession


def assert_all_readers_agree(
    spark: SparkSession, path: str, column: str, is_empty: bool = False, without: str = ""
) -> None:
    """Spark, DuckDB, Polars and deltalake return the same row count and the same sum of a column (or `facet.field`).

    Args:
        column: empty for a table without numbers; then ones are summed.
        is_empty: the table must have no rows; otherwise it must have some.
        without: a reader that is known to fail.
    """
    total = "coalesce(sum({}), 0)".format
    stored = spark.read.format("delta").load(path)
    expected = tuple(stored.selectExpr("count(*)", total(column or "1")).collect()[0])
    assert (expected[0] == 0) is is_empty, path
    db = duckdb.connect()
    exec(status.load_delta_code(), {"db": db})
    facet, _, field = column.partition(".")
    values = pl.col(facet).struct.field(field) if field else pl.col(facet) if facet else pl.repeat(1, pl.len())
    in_sql = f"{facet}['{field}']" if field else facet or "1"
    builder = QueryBuilder().register("t", DeltaTable(path))
    by_deltalake = pa.table(builder.execute(f"SELECT count(*) AS n, {total(in_sql)} AS total FROM t").read_all())
    results = {
        "DuckDB": db.sql(f"SELECT count(*), {total(in_sql)} FROM delta_scan('{path}')").fetchone(),
        "Polars": pl.scan_delta(path).select(n=pl.len(), total=values.sum()).collect().row(0),
        "deltalake": tuple(by_deltalake.to_pylist()[0].values()),
    }
    for reader, got in results.items():
        assert reader == without or got == pytest.approx(expected), f"{reader}, {path}"
