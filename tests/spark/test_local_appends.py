"""Appends in the process of the driver: every reader reads them, and Spark and the driver skip each other's batches."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from profilestream.base import commits, log_store
from profilestream.base.columns import Column
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.jvm import java_class
from profilestream.base.settings import Paths
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from tests.open_readers import assert_all_readers_agree

TABLE = Table(
    "values",
    tuple(
        Column(name, kind, f"{name}.")
        for name, kind in {
            "id": "STRING NOT NULL", "part": "STRING", "day": "DATE", "at": "TIMESTAMP", "number": "DOUBLE",
            "count": "BIGINT", "flag": "BOOLEAN", "sketch": "BINARY", "weights": "MAP<STRING, DOUBLE>",
            "cells": "ARRAY<STRUCT<key: STRING, weight: DOUBLE>>", "facet": "STRUCT<a: BIGINT, b: STRUCT<c: STRING>>",
        }.items()
    ),
    key=("id",),
    partitioned_by=("part", "day"),
)  # fmt: skip
AT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {
        "id": f"id-{n}", "part": part, "day": day, "at": AT, "number": n / 3, "count": n, "flag": n % 2 == 0,
        "sketch": b"\x00\xff", "weights": [("k", 1.5)], "cells": [{"key": "ü", "weight": -1.0}],
        "facet": {"a": n, "b": {"c": "x" * 40}},
    }
    for n, (part, day) in enumerate([
        ("b", date(2026, 3, 2)), ("a b/%ü=", date(2026, 3, 1)), (None, None), ("a b/%ü=", date(2026, 3, 1)),
        ("b", date(2026, 3, 1)),
    ])
]  # fmt: skip
NULLS: dict[str, Any] = {name: None for name in ROWS[0]} | {"id": "nulls"}


@pytest.fixture
def paths(spark: SparkSession, tmp_path: Path) -> Paths:
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    TABLE.create(spark, paths)
    return paths


def _arrow(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, to_arrow_schema(TABLE.schema, timezone="UTC"))


def _frame(spark: SparkSession, rows: list[dict[str, Any]]) -> DataFrame:
    values = [tuple({**row, "weights": dict(row["weights"] or []) or None}.values()) for row in rows]
    return spark.createDataFrame(values, TABLE.schema)


def _txn(batch_id: int) -> Txn:
    return Txn("derive", "epoch", batch_id)


def _rows(spark: SparkSession, paths: Paths) -> list[dict[str, Any]]:
    stored = TABLE.read(spark, paths).orderBy("id").collect()
    return [row.asDict(recursive=True) for row in stored]


def _added_files(paths: Paths) -> list[dict[str, Any]]:
    """The files of the last commit, in their order."""
    logs = sorted(Path(TABLE.path(paths), "_delta_log").glob("*.json"))
    return [action["add"] for line in logs[-1].read_text().splitlines() if "add" in (action := json.loads(line))]


def test_rows_of_the_driver_equal_those_of_spark_in_every_reader(spark: SparkSession, paths: Paths) -> None:
    rows = [*ROWS, NULLS]
    commits.append(_arrow(rows), TABLE, paths, _txn(0))
    local = _rows(spark, paths)
    partitions = [(file["partitionValues"]["part"], file["partitionValues"]["day"]) for file in _added_files(paths)]
    in_order = sorted(partitions, key=lambda values: [(value is not None, value or "") for value in values])
    assert partitions == in_order and len(partitions) == 4
    assert_all_readers_agree(spark, TABLE.path(paths), "count")
    assert_all_readers_agree(spark, TABLE.path(paths), "facet.a")
    TABLE.recreate(spark, paths)
    commits.append(_frame(spark, rows), TABLE, paths, _txn(0))
    assert local == _rows(spark, paths) and local[0]["weights"] == {"k": 1.5} and local[-1]["at"] is None


def test_statistics_equal_those_of_spark(spark: SparkSession, paths: Paths) -> None:
    rows = [row for row in ROWS if row["day"] == date(2026, 3, 1) and row["part"] != "b"]
    commits.append(_arrow(rows), TABLE, paths, _txn(0))
    (local,) = (json.loads(file["stats"]) for file in _added_files(paths))
    commits.append(_frame(spark, rows).coalesce(1), TABLE, paths, _txn(1))
    (by_spark,) = (json.loads(file["stats"]) for file in _added_files(paths))
    assert local["numRecords"] == by_spark["numRecords"] == 2
    for kind in ("minValues", "maxValues", "nullCount"):
        plain = {name: value for name, value in by_spark[kind].items() if not isinstance(value, dict)}
        assert {name: local[kind].get(name) for name in ("id", "count")} == {
            name: plain[name] for name in ("id", "count")
        }, kind
    assert local["minValues"]["at"].startswith("2026-03-01T12:30:15.123")
    assert local["maxValues"]["at"].startswith("2026-03-01T12:30:15.124")  # not below the largest value


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 7.0])
def test_numbers_with_a_point_have_no_bounds(spark: SparkSession, paths: Paths, number: float) -> None:
    """JSON has no infinity, and for Spark NaN is the largest number."""
    rows = [{**ROWS[0], "number": one} for one in (0.5, number)]
    commits.append(_arrow(rows), TABLE, paths, _txn(0))
    (stats,) = (json.loads(file["stats"]) for file in _added_files(paths))
    assert "number" not in stats["maxValues"] and stats["maxValues"]["count"] == 0
    assert TABLE.read(spark, paths).where("number > 1").count() == 1
    nested = [{**ROWS[0], "cells": [{"key": "k", "weight": one}]} for one in (0.5, number)]
    commits.append(_arrow(nested), TABLE, paths, _txn(1))
    assert TABLE.read(spark, paths).where("cells[0].weight > 1").count() == 1


@pytest.mark.parametrize(
    "last", [{"id": "z" * 5000}, {"at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)}], ids=["text", "time"]
)
def test_a_row_group_without_bounds_hides_no_row(spark: SparkSession, tmp_path: Path, last: dict[str, Any]) -> None:
    """A table that is updated by key has row groups of 500 rows."""
    table = replace(TABLE, partitioned_by=(), properties={"delta.enableDeletionVectors": "true"})
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    table.create(spark, paths)
    rows = [{**ROWS[0], "id": f"a{n:04}"} for n in range(1000)] + [{**ROWS[0], **last}]
    commits.append(_arrow(rows), table, paths, _txn(0))
    (name,) = last
    condition = "id > 'b'" if name == "id" else "at > TIMESTAMP'2027-01-01'"
    assert table.read(spark, paths).where(condition).count() == 1
    stored = pl.scan_delta(table.path(paths))
    assert (
        stored.filter(pl.col(name) > ("b" if name == "id" else datetime(2027, 1, 1, tzinfo=UTC))).collect().height == 1
    )


def test_partitions_are_written_in_order(spark: SparkSession, paths: Paths) -> None:
    days = [date(2026, 10, 1), date(2026, 3, 10), date(2026, 3, 9), date(2026, 9, 30)]
    commits.append(_arrow([{**ROWS[0], "day": day} for day in days]), TABLE, paths, _txn(0))
    assert [file["partitionValues"]["day"] for file in _added_files(paths)] == sorted(map(str, days))


def test_spark_and_the_driver_skip_each_others_batches(spark: SparkSession, paths: Paths) -> None:
    by_driver = _arrow(ROWS[:1])
    by_spark = spark.createDataFrame([("s", "b", date(2026, 3, 2))], "id string, part string, day date")
    others = [name for name in TABLE.names if name not in by_spark.columns]
    by_spark = by_spark.selectExpr(
        "*", *[f"CAST(NULL AS {TABLE.schema[name].dataType.simpleString()}) AS {name}" for name in others]
    )
    by_spark = by_spark.select(*TABLE.names)
    for _ in range(2):
        commits.append(by_driver, TABLE, paths, _txn(0))
        commits.append(by_spark, TABLE, paths, _txn(0))
    assert [row["id"] for row in _rows(spark, paths)] == ["id-0"]
    for _ in range(2):
        commits.append(by_spark, TABLE, paths, _txn(1))
        commits.append(by_driver, TABLE, paths, _txn(1))
    assert [row["id"] for row in _rows(spark, paths)] == ["id-0", "s"]
    commits.append(by_driver, TABLE, paths, Txn("derive", "another epoch", 0))
    assert len(_rows(spark, paths)) == 3


def test_the_log_gets_a_checkpoint_after_ten_commits(spark: SparkSession, paths: Paths) -> None:
    for batch_id in range(11):
        commits.append(_arrow(ROWS), TABLE, paths, _txn(batch_id))
    log = Path(TABLE.path(paths), "_delta_log")
    assert (log / "00000000000000000010.checkpoint.parquet").exists()
    assert TABLE.read(spark, paths).count() == 55


def test_spark_creates_an_entry_of_the_log_only_once(spark: SparkSession, paths: Paths) -> None:
    entry = Path(TABLE.path(paths), "_delta_log", f"{7:020}.json")
    path = java_class(spark, "org.apache.hadoop.fs.Path")(entry.as_uri())
    store, conf = TABLE.log(spark, paths).store(), java_class(spark, "org.apache.hadoop.conf.Configuration")()
    assert store.getDelegate(path).logStoreImpl().getClass().getName() == log_store.CLASS
    lines = java_class(spark, "scala.collection.Iterator")
    store.write(path, lines.single("first"), False, conf)
    with pytest.raises(Py4JJavaError, match="FileAlreadyExistsException"):
        store.write(path, lines.single("second"), False, conf)
    assert entry.read_text() == "first\n"
    store.write(path, lines.single("third"), True, conf)
    assert entry.read_text() == "third\n" and list(entry.parent.glob(".*")) == []


def test_spark_and_the_driver_append_to_a_table_at_once(spark: SparkSession, paths: Paths) -> None:
    frame, rows = _frame(spark, ROWS[:1]).coalesce(1), _arrow(ROWS[1:2])
    with ThreadPoolExecutor(1) as thread:
        by_spark = [thread.submit(commits.append, frame, TABLE, paths, Txn("spark", "e", n)) for n in range(2)]
        in_driver = 0
        while not all(one.done() for one in by_spark):
            commits.append(rows, TABLE, paths, Txn("driver", "e", in_driver))
            in_driver += 1
            time.sleep(0.05)  # Spark lists all entries
    assert Counter(row["id"] for row in _rows(spark, paths)) == {"id-0": 2, "id-1": in_driver}
