"""Updates in the process of the driver: all readers and the change feed show them; Spark and the driver take turns."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.base import commits
from profilestream.base.columns import Column
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.settings import Paths
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from tests.open_readers import assert_all_readers_agree

TABLE = Table(
    "keyed",
    tuple(
        Column(name, kind, f"{name}.")
        for name, kind in {
            "id": "STRING NOT NULL", "at": "TIMESTAMP NOT NULL", "number": "DOUBLE", "weights": "MAP<STRING, DOUBLE>",
            "cells": "ARRAY<STRUCT<key: STRING, weight: DOUBLE>>", "state": "STRUCT<a: BIGINT, b: STRUCT<c: BINARY>>",
        }.items()
    ),
    key=("id", "at"),
    properties={"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"},
)  # fmt: skip
AT = datetime(2026, 3, 1, tzinfo=UTC)
Rows = dict[tuple[str, datetime], float]
MAX_KEYS = 1_000_000


@pytest.fixture
def paths(spark: SparkSession, tmp_path: Path) -> Paths:
    paths = Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    TABLE.create(spark, paths)
    return paths


def _keys(count: int) -> list[tuple[str, datetime]]:
    return [(f"u{n % 40}", AT + timedelta(hours=n // 40)) for n in range(count)]


def _arrow(rows: Rows) -> pa.Table:
    values = [
        {"id": name, "at": at, "number": number, "weights": [("k", number)], "cells": [{"key": "ü", "weight": number}],
         "state": {"a": int(number) if number == number else None, "b": {"c": b"\x00\xff"}}}
        for (name, at), number in rows.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(values, to_arrow_schema(TABLE.schema, timezone="UTC"))


def _key_table(keys: list[tuple[str, datetime]]) -> pa.Table:
    return _arrow(dict.fromkeys(keys, 0.0)).select(["id", "at"])


def _txn(batch_id: int) -> Txn:
    return Txn("derive", "epoch", batch_id)


def _update(index: KeyedRows, rows: Rows, batch_id: int, deleted: list[tuple[str, datetime]] | None = None) -> None:
    assert index.refresh(MAX_KEYS)
    txn = _txn(batch_id)
    index.update(_arrow(rows), txn.app_id(TABLE), batch_id, deleted=_key_table(deleted or []))


def _merge(spark: SparkSession, paths: Paths, rows: Rows, batch_id: int, deleted: list[tuple[str, datetime]]) -> None:
    new = spark.createDataFrame(_arrow(rows)).withColumn("gone", F.lit(False))
    gone = spark.createDataFrame(_arrow(dict.fromkeys(deleted, 0.0))).withColumn("gone", F.lit(True))
    commits.merge(new.unionByName(gone), TABLE, paths, _txn(batch_id), delete_flag="gone")


def _stored(spark: SparkSession, paths: Paths) -> Rows:
    rows: list[Any] = TABLE.read(spark, paths).selectExpr("id", "unix_micros(at) AS at", "number", "state.a").collect()
    assert all(row["number"] != row["number"] or int(row["number"]) == row["a"] for row in rows)
    found = {
        (row["id"], AT + timedelta(microseconds=row["at"] - int(AT.timestamp() * 1e6))): row["number"] for row in rows
    }
    assert len(found) == len(rows)
    return found


def _changes(spark: SparkSession, paths: Paths, version: int) -> list[tuple[Any, ...]]:
    feed = spark.read.format("delta").option("readChangeFeed", True).option("startingVersion", version)
    rows = feed.option("endingVersion", version).load(TABLE.uri(paths))
    return sorted(tuple(row) for row in rows.select("id", "number", "_change_type").collect())


def test_rows_are_inserted_replaced_and_deleted_once(spark: SparkSession, paths: Paths) -> None:
    index, first = KeyedRows(TABLE, paths), AT
    _update(index, {("a", first): 1.0, ("b", first): 2.0}, 0)
    _update(index, {("b", first): 3.0, ("c", first): 4.0}, 1, deleted=[("a", first), ("unknown", first)])
    _update(index, {("b", first): 99.0}, 1)  # the same batch again
    assert _stored(spark, paths) == {("b", first): 3.0, ("c", first): 4.0}
    assert _changes(spark, paths, 1) == [("a", 1.0, "insert"), ("b", 2.0, "insert")]
    assert _changes(spark, paths, 2) == [
        ("a", 1.0, "delete"), ("b", 2.0, "update_preimage"), ("b", 3.0, "update_postimage"), ("c", 4.0, "insert"),
    ]  # fmt: skip
    assert commits.is_done(spark, TABLE, paths, _txn(1)) and not commits.is_done(spark, TABLE, paths, _txn(2))
    assert_all_readers_agree(spark, str(TABLE.path(paths)), "number")


def test_spark_and_the_driver_in_turn_equal_a_dict(spark: SparkSession, paths: Paths, at_length: bool) -> None:
    """Random updates by either, with OPTIMIZE, DELETE, VACUUM, a checkpoint and an index that starts anew."""
    generator, keys = random.Random(3), _keys(3000)
    expected: Rows = {}
    index = KeyedRows(TABLE, paths)
    for batch_id in range(60 if at_length else 12):
        count = 2500 if batch_id == 2 else generator.randrange(1, 60)
        rows = {key: float(batch_id * 1000 + n) for n, key in enumerate(generator.sample(keys, count))}
        deleted = [key for key in generator.sample(keys, 20) if key not in rows]
        if batch_id in (1, 5, 9) or batch_id > 12 and generator.random() < 0.3:
            _merge(spark, paths, rows, batch_id, deleted)
        else:
            _update(index, rows, batch_id, deleted)
        expected = {key: value for key, value in {**expected, **rows}.items() if key not in deleted}
        if batch_id == 4:
            spark.sql(f"OPTIMIZE delta.`{TABLE.uri(paths)}`")
        if batch_id == 6:
            index = KeyedRows(TABLE, paths)
        if batch_id == 7:
            spark.sql(f"DELETE FROM delta.`{TABLE.uri(paths)}` WHERE id = 'u7'")
            expected = {key: value for key, value in expected.items() if key[0] != "u7"}
        if batch_id == 8:
            with_retention = "spark.databricks.delta.retentionDurationCheck.enabled"
            spark.conf.set(with_retention, "false")
            spark.sql(f"VACUUM delta.`{TABLE.uri(paths)}` RETAIN 0 HOURS")
            spark.conf.unset(with_retention)
    assert _stored(spark, paths) == expected
    assert index.refresh(MAX_KEYS)
    found = index.find(_key_table(keys)).rows
    assert dict(zip(zip(found["id"].to_pylist(), found["at"].to_pylist(), strict=True), found["number"].to_pylist(),
                    strict=True)) == expected  # fmt: skip
    assert_all_readers_agree(spark, str(TABLE.path(paths)), "number")


def test_a_commit_in_between_is_followed_unless_it_changes_the_rows(spark: SparkSession, paths: Paths) -> None:
    keys = _keys(100)
    index, other = KeyedRows(TABLE, paths), KeyedRows(TABLE, paths)
    for batch_id in range(2):
        _update(index, dict.fromkeys(keys[50 * batch_id : 50 * batch_id + 50], 1.0), batch_id)
    before = index.find(_key_table(keys[:1]))
    spark.sql(f"OPTIMIZE delta.`{TABLE.uri(paths)}`")
    _update(other, {keys[9]: 2.0}, 2)
    index.update(_arrow({keys[0]: 5.0}), _txn(3).app_id(TABLE), 3, before=before)
    assert _stored(spark, paths) == {**dict.fromkeys(keys, 1.0), keys[9]: 2.0, keys[0]: 5.0}

    before = index.find(_key_table(keys[:1]))
    assert other.refresh(MAX_KEYS)
    _update(other, {keys[0]: 6.0}, 4)
    with pytest.raises(Refused, match="keyed changed during a batch"):
        index.update(_arrow({keys[0]: 7.0}), _txn(5).app_id(TABLE), 5, before=before)
    assert _stored(spark, paths)[keys[0]] == 6.0


def test_an_index_starts_at_a_checkpoint_of_spark(spark: SparkSession, paths: Paths) -> None:
    """It contains statistics as structs with dates, which are not written again."""
    keys = _keys(20)
    _merge(spark, paths, dict.fromkeys(keys, float("nan")), 0, [])
    TABLE.log(spark, paths).checkpoint()
    index, other = KeyedRows(TABLE, paths), KeyedRows(TABLE, paths)
    assert index.refresh(MAX_KEYS)
    before = index.find(_key_table(keys[:1]))
    _update(other, {keys[1]: 1.0}, 1)
    index.update(_arrow({keys[0]: 2.0}), _txn(2).app_id(TABLE), 2, before=before)  # NaN did not change
    stored = _stored(spark, paths)
    assert (stored[keys[0]], stored[keys[1]], len(stored)) == (2.0, 1.0, 20)
    assert_all_readers_agree(spark, str(TABLE.path(paths)), "")


def test_a_change_of_the_table_during_a_batch_is_refused(spark: SparkSession, paths: Paths) -> None:
    index = KeyedRows(TABLE, paths)
    _update(index, dict.fromkeys(_keys(10), 1.0), 0)
    spark.sql(f"ALTER TABLE delta.`{TABLE.uri(paths)}` ADD COLUMNS (later STRING)")
    with pytest.raises(Refused, match="keyed changed during a batch"):
        index.update(_arrow({_keys(1)[0]: 2.0}), _txn(1).app_id(TABLE), 1)
    _update(index, {_keys(1)[0]: 2.0}, 1)
    assert _stored(spark, paths)[_keys(1)[0]] == 2.0


def test_an_index_starts_and_continues_at_a_checkpoint(spark: SparkSession, paths: Paths) -> None:
    """Delta removes entries of the log that are older than its retention."""
    late = KeyedRows(TABLE, paths)
    assert late.refresh(MAX_KEYS)
    index, keys = KeyedRows(TABLE, paths), _keys(12)
    for batch_id, key in enumerate(keys):
        _update(index, {key: 1.0, keys[0]: float(batch_id)}, batch_id)
    for entry in (Path(TABLE.path(paths)) / "_delta_log").glob("*.json"):
        if int(entry.stem) < 10:
            entry.unlink()
    expected = {**dict.fromkeys(keys, 1.0), keys[0]: 11.0}
    for one in (late, KeyedRows(TABLE, paths)):
        assert one.refresh(MAX_KEYS)
        found = one.find(_key_table(keys)).rows
        assert sorted(map(float, found["number"].to_pylist())) == sorted(expected.values())  # type: ignore[arg-type]
    _update(late, {keys[1]: 5.0}, 12)
    _update(late, {keys[1]: 6.0}, 11)  # a batch that the table contains
    assert _stored(spark, paths) == {**expected, keys[1]: 5.0}


@pytest.mark.parametrize("wins", [4, 5])
def test_five_attempts_to_commit(paths: Paths, monkeypatch: pytest.MonkeyPatch, wins: int) -> None:
    """Another writer commits between the refresh and the commit, `wins` times."""
    index, other = KeyedRows(TABLE, paths), KeyedRows(TABLE, paths)
    _update(index, dict.fromkeys(_keys(10), 1.0), 0)
    commit: Callable[..., bool] = index._log.commit
    rounds = iter(range(wins))

    def interrupted(*args: Any) -> bool:
        if (n := next(rounds, None)) is not None:
            _update(other, {("other", AT): float(n)}, 10 + n)
        return commit(*args)

    monkeypatch.setattr(index._log, "commit", interrupted)
    if wins == 5:
        with pytest.raises(Refused):
            _update(index, {("mine", AT): 1.0}, 100)
    else:
        _update(index, {("mine", AT): 1.0}, 100)
        assert index.find(_key_table([("mine", AT), ("other", AT)])).rows["number"].to_pylist() == [3.0, 1.0]


def test_two_keys_with_one_hash_are_told_apart(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from profilestream.base import keyed_rows

    monkeypatch.setattr(keyed_rows, "_hashes", lambda keys: np.zeros(len(keys), np.int64))
    index = KeyedRows(TABLE, paths)
    _update(index, dict.fromkeys(_keys(10), 1.0), 0)
    _update(index, {_keys(10)[3]: 2.0}, 1)
    assert index.find(_key_table(_keys(4)[2:])).rows["number"].to_pylist() == [1.0, 2.0]


def test_a_table_over_the_bound_or_with_an_unknown_feature_is_left_to_spark(spark: SparkSession, paths: Paths) -> None:
    index = KeyedRows(TABLE, paths)
    _update(index, dict.fromkeys(_keys(10), 1.0), 0)
    assert index.refresh(10) and not index.refresh(9)
    spark.sql(f"ALTER TABLE delta.`{TABLE.uri(paths)}` SET TBLPROPERTIES ('delta.enableInCommitTimestamps' = 'true')")
    assert not index.refresh(10)


def test_a_killed_writer_leaves_the_table_as_it_was(
    spark: SparkSession, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before the entry of the log is created; then the same batch again, by Spark and by the driver."""
    keys = _keys(20)
    index = KeyedRows(TABLE, paths)
    _update(index, dict.fromkeys(keys, 1.0), 0)
    for batch_id, by_spark in ((1, True), (2, False)):
        with monkeypatch.context() as patch:
            patch.setattr("os.link", _crash)
            with pytest.raises(KeyboardInterrupt):
                _update(index, {keys[0]: 2.0 + batch_id}, batch_id, deleted=[keys[batch_id]])
        before = dict.fromkeys(keys, 1.0) if batch_id == 1 else {**dict.fromkeys(keys, 1.0), keys[0]: 3.0}
        assert _stored(spark, paths) == {key: v for key, v in before.items() if batch_id == 1 or key != keys[1]}
        if by_spark:
            _merge(spark, paths, {keys[0]: 2.0 + batch_id}, batch_id, [keys[batch_id]])
        else:
            _update(KeyedRows(TABLE, paths), {keys[0]: 2.0 + batch_id}, batch_id, deleted=[keys[batch_id]])
    expected = {**dict.fromkeys(keys, 1.0), keys[0]: 4.0}
    assert _stored(spark, paths) == {key: value for key, value in expected.items() if key not in keys[1:3]}


def _crash(*args: Any) -> None:
    raise KeyboardInterrupt
