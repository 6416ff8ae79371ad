"""The log of a table is followed and extended: what other writers do, and what the protocol leaves open."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema
from profilestream.base import delta_log
from profilestream.base.delta_log import DeltaLog, latest_version

from tests import delta_tables

SCHEMA = pa.schema([("n", pa.int64())])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return delta_tables.create(tmp_path / "t", SCHEMA)


def _log(folder: Path) -> DeltaLog:
    log = DeltaLog(folder)
    log.refresh()
    return log


def _add(name: str) -> dict[str, Any]:
    stats = json.dumps({"numRecords": 1, "minValues": {"n": 1}, "comment": "a\u2028b\u0085"}, ensure_ascii=False)
    common = {"partitionValues": {}, "modificationTime": 0, "dataChange": True}
    return {"add": {"path": name, "size": 1, "stats": stats, **common}}


def test_a_compaction_is_a_version_without_changed_rows(folder: Path) -> None:
    log = _log(folder)
    _commit(log, 2)
    add, remove = _add("3.parquet")["add"] | {"dataChange": False}, {"path": "1.parquet", "dataChange": False}
    (folder / "_delta_log" / f"{3:020d}.json").write_text(
        "\n".join(map(json.dumps, [{"add": add}, {"remove": remove}]))
    )
    log.refresh()
    assert (log.version, log.rows_version, set(log.files)) == (3, 2, {"2.parquet", "3.parquet"})
    _commit(log, 1)
    assert (log.version, log.rows_version) == (4, 4)


def _commit(log: DeltaLog, count: int) -> None:
    for _ in range(count):
        assert log.commit([_add(f"{log.version + 1}.parquet")], ("writer", log.version + 1))


def test_a_second_log_follows_every_entry(folder: Path) -> None:
    log, other = _log(folder), _log(folder)
    _commit(log, 12)
    entry = folder / "_delta_log" / f"{5:020d}.json"
    # Delta writes characters that Python takes for line ends as they are.
    entry.write_text(
        "\n".join(json.dumps(json.loads(line), ensure_ascii=False) for line in entry.read_text().split("\n"))
    )
    other.refresh()
    assert (other.version, other.files, other.transactions) == (12, log.files, {"writer": 12})
    assert latest_version(folder) == 12 == DeltaTable(folder).version()


@pytest.mark.parametrize("has_pointer", [True, False])
def test_entries_before_the_checkpoint_may_be_removed(folder: Path, has_pointer: bool) -> None:
    log = _log(folder)
    _commit(log, 12)
    for version in range(10):
        (folder / "_delta_log" / f"{version:020d}.json").unlink()
    if not has_pointer:
        (folder / "_delta_log" / "_last_checkpoint").unlink()
    late = _log(folder)
    assert (late.version, late.files.keys(), late.is_supported) == (12, log.files.keys(), True)
    assert latest_version(folder) == 12
    _commit(late, 1)
    assert DeltaTable(folder).version() == 13


def test_nothing_is_written_to_a_log_that_is_not_the_one_that_was_read(folder: Path) -> None:
    log = _log(folder)
    _commit(log, 4)
    shutil.rmtree(folder)
    assert not log.commit([_add("lost.parquet")], ("writer", 9))
    delta_tables.create(folder, SCHEMA)
    assert not log.commit([_add("lost.parquet")], ("writer", 9))
    _commit(_log(folder), 6)
    assert not log.commit([_add("lost.parquet")], ("writer", 9))
    log.refresh()
    assert (log.version, len(log.files), log.transactions) == (6, 6, {"writer": 6})
    assert not _log(folder.with_name("no table")).is_supported


def _checksum(folder: Path, version: int) -> Any:
    file = folder / "_delta_log" / f"{version:020d}.crc"
    return json.loads(file.read_text()) if file.exists() else None


def test_a_checksum_counts_files_and_transactions_of_all_writers(tmp_path: Path) -> None:
    folder, schema = tmp_path / "t", Schema.from_arrow(SCHEMA).to_json()
    assert delta_log.create(folder, schema, [], {"delta.enableDeletionVectors": "true", "a": "1"}, "Rows.")
    assert _checksum(folder, 0)["metadata"]["configuration"]["a"] == "1"
    log = _log(folder)
    assert log.is_supported
    _commit(log, 3)
    removed = {"path": "1.parquet", "size": 1, "deletionTimestamp": 0, "dataChange": True}
    assert log.commit([{"remove": removed}, _add("x"), _add("y")], ("other", 7))
    checksum = _checksum(folder, 4)
    assert (checksum["numFiles"], checksum["tableSizeBytes"]) == (4, 4)
    assert {txn["appId"]: txn["version"] for txn in checksum["setTransactions"]} == {"writer": 3, "other": 7}
    for version in (3, 4):  # of a writer that writes none
        (folder / "_delta_log" / f"{version:020d}.crc").unlink()
    _commit(log, 1)
    assert _checksum(folder, 5) == {**checksum, "numFiles": 5, "tableSizeBytes": 5, "setTransactions": [
        {**txn, "version": 5, "lastUpdated": ANY} if txn["appId"] == "writer" else txn
        for txn in checksum["setTransactions"]
    ]}  # fmt: skip


@pytest.mark.parametrize(
    "action",
    [
        {"remove": {"path": "1.parquet", "deletionTimestamp": 0, "dataChange": True}},
        {"domainMetadata": {"domain": "d", "configuration": "", "removed": False}},
    ],
)
def test_no_checksum_is_written_when_it_could_be_wrong(folder: Path, action: dict[str, Any]) -> None:
    log = _log(folder)
    _commit(log, 1)
    assert log.commit([action], ("writer", 2))
    _commit(log, 12)
    assert [_checksum(folder, version) is not None for version in range(15)] == [False, True, *[False] * 13]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_checksum_stops_no_commit(folder: Path, text: str) -> None:
    log = _log(folder)
    _commit(log, 2)
    (folder / "_delta_log" / f"{2:020d}.crc").write_text(text)
    _commit(log, 2)
    assert [_checksum(folder, version) is not None for version in (1, 3, 4)] == [True, False, False]


def test_no_checksum_is_computed_from_an_entry_of_an_unknown_writer(folder: Path) -> None:
    log = _log(folder)
    _commit(log, 2)
    entry, checksum = (folder / "_delta_log" / f"{2:020d}.{suffix}" for suffix in ("json", "crc"))
    entry.write_text(entry.read_text().replace('"profilestream"', '"another"'))
    checksum.unlink()
    _commit(_log(folder), 1)
    assert _checksum(folder, 1) is not None and _checksum(folder, 3) is None


def test_an_entry_of_another_writer_is_not_replaced(folder: Path) -> None:
    log, other = _log(folder), _log(folder)
    _commit(other, 1)
    assert not log.commit([_add("mine.parquet")], ("writer", 9))
    assert not list((folder / "_delta_log").glob(".*.tmp"))
    log.refresh()
    assert list(log.files) == ["1.parquet"]


def test_tables_without_deletion_vectors_or_with_unknown_features_are_not_supported(tmp_path: Path) -> None:
    DeltaTable.create(str(tmp_path / "plain"), SCHEMA)
    assert not _log(tmp_path / "plain").is_supported
    for features, is_supported in ((("deletionVectors",), True), (("deletionVectors", "rowTracking"), False)):
        folder = delta_tables.create(tmp_path / features[-1], SCHEMA, features)
        assert _log(folder).is_supported is is_supported
