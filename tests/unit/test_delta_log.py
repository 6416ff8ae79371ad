"""The log of a table is followed and extended: what other writers do, and what the protocol leaves open."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
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


def _commit(log: DeltaLog, count: int) -> None:
    for _ in range(count):
        assert log.commit([_add(f"{log.version + 1}.parquet")], "writer", log.version + 1)


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
    assert not log.commit([_add("lost.parquet")], "writer", 9)
    delta_tables.create(folder, SCHEMA)
    assert not log.commit([_add("lost.parquet")], "writer", 9)
    _commit(_log(folder), 6)
    assert not log.commit([_add("lost.parquet")], "writer", 9)
    log.refresh()
    assert (log.version, len(log.files), log.transactions) == (6, 6, {"writer": 6})
    assert not _log(folder.with_name("no table")).is_supported


def test_an_entry_of_another_writer_is_not_replaced(folder: Path) -> None:
    log, other = _log(folder), _log(folder)
    _commit(other, 1)
    assert not log.commit([_add("mine.parquet")], "writer", 9)
    assert not list((folder / "_delta_log").glob(".*.tmp"))
    log.refresh()
    assert list(log.files) == ["1.parquet"]


def test_tables_without_deletion_vectors_or_with_unknown_features_are_not_supported(tmp_path: Path) -> None:
    DeltaTable.create(str(tmp_path / "plain"), SCHEMA)
    assert not _log(tmp_path / "plain").is_supported
    for features, is_supported in ((("deletionVectors",), True), (("deletionVectors", "rowTracking"), False)):
        folder = delta_tables.create(tmp_path / features[-1], SCHEMA, features)
        assert _log(folder).is_supported is is_supported
