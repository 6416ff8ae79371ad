"""Updates in the process of the driver: all readers and the change feed show them; Spark and the driver take turns."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from profilestream.base import commits, delta_log, keyed_rows, local_appends
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


def _vacuum(spark: SparkSession, table: Table, paths: Paths) -> None:
    with_retention = "spark.databricks.delta.retentionDurationCheck.enabled"
    spark.conf.set(with_retention, "false")
    spark.sql(f"VACUUM delta.`{table.uri(paths)}` RETAIN 0 HOURS")
    spark.conf.unset(with_retention)


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


def _recorded_reads(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The row groups of each read of a file, from now on."""
    reads: list[list[int]] = []
    read = pq.ParquetFile.read_row_groups

    def recorded(file: pq.ParquetFile, groups: list[int], **how: Any) -> pa.Table:
        reads.append(groups)
        return read(file, groups, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", recorded)
    return reads


@pytest.mark.parametrize("is_kept", [True, False])
def test_rows_that_were_written_last_are_found_in_memory(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    """Each batch replaces rows of the ones before; without memory for them, the rows of the files are the same."""
    reads = _recorded_reads(monkeypatch)
    if not is_kept:
        monkeypatch.setattr(keyed_rows, "_MAX_WRITTEN_BYTES", 0)
    index, keys = KeyedRows(TABLE, paths), _keys(1200)
    for batch_id, rows in enumerate([keys, keys[300:900:7], keys[500:700]]):
        _update(index, {key: float("nan") if n % 50 == 0 else float(batch_id) for n, key in enumerate(rows)}, batch_id)
    other = KeyedRows(TABLE, paths)
    assert index.refresh(MAX_KEYS) and other.refresh(MAX_KEYS)
    reads.clear()
    found = index.find(_key_table(keys[400:]), ["id", "at", "number", "state"])
    assert bool(reads) is not is_kept
    expected = other.find(_key_table(keys[400:]), ["id", "at", "number", "state"])
    by_key: Any = [("id", "ascending"), ("at", "ascending")]
    assert str(found.rows.sort_by(by_key).to_pylist()) == str(expected.rows.sort_by(by_key).to_pylist())
    assert len(found.rows) == 800


def test_small_files_are_combined_and_the_change_feed_shows_only_updates(
    spark: SparkSession, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_rows, "_SMALL_FILES", 4)
    index, keys = KeyedRows(TABLE, paths), _keys(50)
    expected: Rows = {}
    for batch_id in range(10):
        rows = {key: float(batch_id * 100 + n) for n, key in enumerate(keys[batch_id * 3 : batch_id * 3 + 20])}
        _update(index, rows, batch_id, deleted=keys[:1] if batch_id == 9 else None)
        expected |= rows
    del expected[keys[0]]
    history = spark.sql(f"DESCRIBE HISTORY delta.`{TABLE.uri(paths)}`").groupBy("operation").count().collect()
    assert {row["operation"]: row["count"] for row in history} == {"CREATE TABLE": 1, "MERGE": 10, "OPTIMIZE": 3}
    assert _stored(spark, paths) == expected
    changes = spark.read.format("delta").options(readChangeFeed="true", startingVersion=1).load(TABLE.uri(paths))
    counts = {row["_change_type"]: row["count"] for row in changes.groupBy("_change_type").count().collect()}
    assert counts == {"insert": 47, "update_preimage": 153, "update_postimage": 153, "delete": 1}
    other = KeyedRows(TABLE, paths)
    for one in (index, other):
        assert one.refresh(MAX_KEYS)
        found = one.find(_key_table(keys)).rows
        numbers = found["number"].to_pylist()
        assert dict(zip(zip(found["id"].to_pylist(), found["at"].to_pylist(), strict=True), numbers, strict=True)) == (
            expected
        )
    assert_all_readers_agree(spark, str(TABLE.path(paths)), "number")


def test_nothing_is_combined_if_another_writer_commits_first(
    spark: SparkSession, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, keys = KeyedRows(TABLE, paths), _keys(6)
    for batch_id, key in enumerate(keys[:3]):
        _update(index, {key: float(batch_id)}, batch_id)
    monkeypatch.setattr(keyed_rows, "_SMALL_FILES", 4)
    write_file = local_appends.write_file

    def write_after_another(rows: pa.Table, *args: Any) -> Any:
        if len(rows) == 4:  # those of all small files
            _update(KeyedRows(TABLE, paths), {keys[4]: 4.0}, 4)
        return write_file(rows, *args)

    monkeypatch.setattr(local_appends, "write_file", write_after_another)
    _update(index, {keys[3]: 3.0}, 3)
    monkeypatch.undo()
    _update(index, {keys[0]: 9.0}, 5)
    assert _stored(spark, paths) == {keys[0]: 9.0, keys[1]: 1.0, keys[2]: 2.0, keys[3]: 3.0, keys[4]: 4.0}


@pytest.mark.parametrize("small_files", [3, 1000])
def test_spark_and_the_driver_in_turn_equal_a_dict(
    spark: SparkSession, paths: Paths, monkeypatch: pytest.MonkeyPatch, at_length: bool, small_files: int
) -> None:
    """Random updates by either, with OPTIMIZE, DELETE, VACUUM, a checkpoint and an index that starts anew."""
    monkeypatch.setattr(keyed_rows, "_SMALL_FILES", small_files)
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
            _vacuum(spark, TABLE, paths)
    assert _stored(spark, paths) == expected
    assert TABLE.row_count(spark, paths) == len(expected)
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


PARTITIONED = Table(
    "partitioned",
    tuple(
        Column(name, kind, f"{name}.")
        for name, kind in {
            "id": "STRING NOT NULL", "part": "STRING", "day": "DATE", "level": "INT", "shard": "BIGINT",
            "segment": "BIGINT", "number": "DOUBLE",
        }.items()
    ),
    key=("id",),
    partitioned_by=("part", "day", "level", "shard"),
    properties=TABLE.properties,
)  # fmt: skip
PARTS = ("user", "item", "a b", "ü/x", "100%=")
Row = tuple[Any, ...]


@pytest.fixture
def partitioned(spark: SparkSession, paths: Paths) -> KeyedRows:
    PARTITIONED.create(spark, paths)
    return KeyedRows(PARTITIONED, paths)


def _row(name: str, part: str | None, number: float, segment: int = 0) -> Row:
    """A row of PARTITIONED whose partition values all depend on the part."""
    n = PARTS.index(part) if part else None
    others = (None, None, None) if n is None else (date(2026, 3, 1 + n), -n, 2**40 + n)
    return (name, part, *others, segment, number)


def _partitioned_rows(rows: list[Row]) -> pa.Table:
    return PARTITIONED.arrow_rows([dict(zip(PARTITIONED.names, row, strict=True)) for row in rows])


def _update_partitioned(index: KeyedRows, rows: list[Row], batch_id: int, **how: Any) -> None:
    assert index.refresh(MAX_KEYS)
    index.update(_partitioned_rows(rows), _txn(batch_id).app_id(PARTITIONED), batch_id, **how)


def _scanned(index: KeyedRows, **values: Any) -> list[Row]:
    """The rows of a scan in order of their ids."""
    assert index.refresh(MAX_KEYS)
    return sorted(tuple(row.values()) for row in index.scan(tuple(PARTITIONED.names), **values).to_pylist())


@pytest.mark.parametrize(("key", "parts"), [(("id",), (*PARTS[1:], "", None)), (("part", "id"), PARTS[:2])])
def test_partitions_written_by_spark_and_the_driver_in_turn_equal_a_dict(
    spark: SparkSession, tmp_path: Path, key: tuple[str, ...], parts: tuple[str | None, ...]
) -> None:
    """A row moves to another partition if its key does not contain it. Delta stores an empty text as null."""
    table, paths = replace(PARTITIONED, key=key), Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))
    table.create(spark, paths)
    index, uri, generator = KeyedRows(table, paths), table.uri(paths), random.Random(5)
    expected: dict[Row, Row] = {}
    for batch_id in range(5):
        pairs = {f"u{generator.randrange(25)}": generator.choice(parts) for _ in range(16)}
        rows = [_row(name, part, batch_id + n / 100) for n, (name, part) in enumerate(pairs.items())]
        gone = rows[:4]
        if batch_id % 2:
            frame = spark.createDataFrame(_partitioned_rows(rows))
            flagged = frame.withColumn("gone", F.col("id").isin([row[0] for row in gone]))
            commits.merge(flagged, table, paths, _txn(batch_id), delete_flag="gone")
        else:
            assert index.refresh(MAX_KEYS)
            deleted = _partitioned_rows(gone).select(list(key))
            index.update(_partitioned_rows(rows[4:]), _txn(batch_id).app_id(table), batch_id, deleted=deleted)
        changes: list[Row] = []
        for n, row in enumerate(rows):
            row_key = (row[0],) if key == ("id",) else (row[1], row[0])
            new = (row[0], row[1] or None, *row[2:])
            old = expected.pop(row_key, None)
            if n >= 4:
                expected[row_key] = new
                changes += [(*old, "update_preimage"), (*new, "update_postimage")] if old else [(*new, "insert")]
            elif old:
                changes.append((*old, "delete"))
        version = delta_log.latest_version(Path(table.path(paths)))
        feed = spark.read.format("delta").option("readChangeFeed", True).option("startingVersion", version).load(uri)
        assert _ordered(feed.select(*table.names, "_change_type").collect()) == _ordered(changes)
        if batch_id == 2:
            spark.sql(f"OPTIMIZE delta.`{uri}`")
        if batch_id == 3:
            table.log(spark, paths).checkpoint()
            index = KeyedRows(table, paths)
    assert index.refresh(MAX_KEYS)
    is_strange = "a b" in parts
    if is_strange:
        _vacuum(spark, table, paths)
    assert _ordered(table.read(spark, paths).collect()) == _ordered(expected.values())
    keys = _partitioned_rows(list(expected.values())).select(list(key))
    for rows_of_driver in (index.find(keys).rows, index.scan(tuple(table.names))):
        assert _ordered(tuple(row.values()) for row in rows_of_driver.to_pylist()) == _ordered(expected.values())
    # Polars ignores the deletion vectors of files, also of Spark, in folders whose names are escaped.
    without = "Polars" if is_strange else ""
    for column in ("number", "shard"):
        assert_all_readers_agree(spark, table.path(paths), column, without=without)


def _ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(map(tuple, rows), key=str)


def test_a_scan_follows_updates_deletes_and_optimize(spark: SparkSession, paths: Paths, partitioned: KeyedRows) -> None:
    uri = PARTITIONED.uri(paths)
    conditions: list[tuple[dict[str, Any], str]] = [
        ({}, "true"), ({"part": "a b"}, "part = 'a b'"), ({"level": [-1, 0]}, "level IN (-1, 0)"),
        ({"segment": [1, 2]}, "segment IN (1, 2)"), ({"segment": []}, "false"),
        ({"part": "ü/x", "segment": [0]}, "part = 'ü/x' AND segment = 0"), ({"id": "u3"}, "id = 'u3'"),
        ({"part": "unknown"}, "false"), ({"id": "unknown"}, "false"), ({"segment": [99]}, "false"),
    ]  # fmt: skip

    def insert(batch_id: int, names: range) -> None:
        rows = [_row(f"u{n}", (*PARTS, None)[n % 6], float(batch_id), n % 7) for n in names]
        _update_partitioned(partitioned, rows, batch_id)

    steps: list[Callable[[], object]] = [
        lambda: insert(0, range(30)),
        lambda: insert(1, range(20, 50)),
        lambda: spark.sql(f"DELETE FROM delta.`{uri}` WHERE segment = 2 AND part IS NOT NULL"),
        lambda: spark.sql(f"UPDATE delta.`{uri}` SET segment = 1, part = 'a b' WHERE id < 'u2'"),
        lambda: spark.sql(f"OPTIMIZE delta.`{uri}`"),
        lambda: insert(2, range(5)),
    ]
    for step in steps:
        step()
        stored = spark.createDataFrame(PARTITIONED.read(spark, paths).toArrow())
        for values, condition in conditions:
            expected = _ordered(stored.where(condition).collect())
            assert _ordered(_scanned(partitioned, **values)) == expected, condition


def test_a_scan_reads_new_files_of_its_partition_and_row_groups_with_the_values(
    partitioned: KeyedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    _update_partitioned(partitioned, [_row(f"u{n:04}", "user", 0.0, n // 500) for n in range(1500)], 0)
    _update_partitioned(partitioned, [_row("other", "a b", 0.0)], 1)
    reads = _recorded_reads(monkeypatch)
    assert len(_scanned(partitioned, part="user", segment=[1, 9])) == 500
    assert len(_scanned(partitioned, part="user", segment=[1, 9])) == 500
    assert reads == [[1]]
    reads.clear()
    assert len(_scanned(partitioned, part="user")) == 1500
    _update_partitioned(partitioned, [_row("new", "user", 1.0)], 2)
    assert len(_scanned(partitioned, part="user")) == 1501
    assert reads == [[0, 1, 2], [0]]


def test_a_column_of_the_partition_alone_is_scanned(partitioned: KeyedRows) -> None:
    _update_partitioned(partitioned, [_row("a", "ü/x", 0.0), _row("b", "ü/x", 0.0), _row("c", None, 0.0)], 0)
    _update_partitioned(partitioned, [_row("b", "user", 0.0)], 1)
    assert partitioned.scan(("level", "part"), part="ü/x").to_pylist() == [{"level": -3, "part": "ü/x"}]
    assert sorted(map(str, partitioned.scan(("part",))["part"].to_pylist())) == ["None", "user", "ü/x"]


def test_an_update_from_a_scan_is_refused_if_the_table_changed(
    spark: SparkSession, paths: Paths, partitioned: KeyedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = KeyedRows(PARTITIONED, paths)
    _update_partitioned(partitioned, [_row("a", "user", 0.0), _row("b", "user", 0.0)], 0)
    version = partitioned.version
    _update_partitioned(other, [_row("unrelated", "a b", 1.0)], 1)
    with pytest.raises(Refused, match="partitioned changed during a batch, up to version 2"):
        _update_partitioned(partitioned, [_row("a", "user", 2.0)], 2, read_version=version)
    with pytest.raises(Refused):
        rows = _partitioned_rows([_row("a", "user", 2.0)])
        commits.merge(rows, PARTITIONED, paths, _txn(2), index=partitioned, read_version=version)

    commit: Callable[..., bool] = partitioned._log.commit

    def interrupted(*args: Any) -> bool:
        _update_partitioned(other, [_row("a", "user", 3.0)], 3)
        return commit(*args)

    with monkeypatch.context() as patch:
        patch.setattr(partitioned._log, "commit", interrupted)
        with pytest.raises(Refused):
            _update_partitioned(partitioned, [_row("b", "user", 4.0)], 4, read_version=partitioned.version)
    _update_partitioned(partitioned, [_row("a", "user", 9.0)], 3, read_version=version)  # the table contains batch 3
    _update_partitioned(partitioned, [_row("b", "user", 5.0)], 5, read_version=partitioned.version)
    assert [row[-1] for row in _scanned(partitioned, part="user")] == [3.0, 5.0]
