"""Which files of a table its versions from a first one on refer to, and which entries of the log are older."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from profilestream.base import deletion_vectors, files
from profilestream.base.delta_log import DeltaLog
from profilestream.base.errors import StateCorrupt
from profilestream.steward import table_files
from profilestream.steward.table_files import TableFiles
from pyspark.sql import SparkSession

from tests import delta_tables

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NO_SPARK = cast(SparkSession, None)  # a local table is read without it


def _listed(folder: Path) -> TableFiles:
    return table_files.list_table(NO_SPARK, files.qualified(str(folder)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven appends, of which a compaction (12) combines the first ten; then a row of the result is deleted (13)."""
    folder = delta_tables.create(tmp_path / "a b", pa.schema([("n", pa.int64())]))
    log = DeltaLog(folder)
    log.refresh()
    for n in range(1, 12):
        _commit(log, [_add(folder, f"part=ü%20{n}/{n}.parquet")])
    names = [f"part=ü%20{n}/{n}.parquet" for n in range(1, 11)]
    _commit(log, [_add(folder, "10 together.parquet", False), *[_remove(name, False) for name in names]])
    vectors = deletion_vectors.write(folder, {"v": np.array([0])})
    changes = _add(folder, "_change_data/13.parquet")["add"]
    deleted = [_remove("10 together.parquet"), _add(folder, "10 together.parquet", vector=vectors["v"])]
    _commit(log, [*deleted, {"cdc": {**changes, "dataChange": False}}])
    return folder


def _add(folder: Path, name: str, is_change: bool = True, vector: dict[str, Any] | None = None) -> dict[str, Any]:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
    stats = json.dumps({"numRecords": 1})
    fields = {"path": quote(name), "partitionValues": {}, "size": 1, "modificationTime": 0, "stats": stats}
    return {"add": {**fields, "dataChange": is_change, **({"deletionVector": vector} if vector else {})}}


def _remove(name: str, is_change: bool = True) -> dict[str, Any]:
    return {"remove": {"path": quote(name), "size": 1, "dataChange": is_change}}


def _commit(log: DeltaLog, actions: list[dict[str, Any]]) -> None:
    assert log.commit(actions, ("writer", log.version + 1))


def test_files_that_only_earlier_versions_have_are_removable(folder: Path) -> None:
    listed = _listed(folder)
    assert listed.latest == 13
    assert [listed.first_version(needed) for needed in (9, 10, 13)] == [None, 10, 10]
    assert listed.removable(10, LONG_AGO) == {}  # version 10 has the first ten files
    log = [path.removeprefix("_delta_log/") for path in listed.old_entries(10)]
    assert [name for name in log if name.endswith(".json")] == [f"{version:020}.json" for version in range(10)]
    assert [name for name in log if name.endswith(".crc")] == [f"{version:020}.crc" for version in range(1, 10)]
    DeltaTable(folder, version=13).create_checkpoint()
    listed = _listed(folder)
    assert listed.first_version(13) == 13
    removable = set(listed.removable(13, LONG_AGO))
    assert removable == {*(f"part=ü%20{n}/{n}.parquet" for n in range(1, 11)), "_change_data/13.parquet"}
    assert f"_delta_log/{10:020}.checkpoint.parquet" in listed.old_entries(13)


def test_files_without_an_entry_are_removable_by_their_age_only(folder: Path) -> None:
    unknown = (
        "new.parquet",
        "old.parquet",
        "_delta_log/.old.tmp",
        "_delta_log/notes.tmp.json",
        "old.txt",
        "_x/old.bin",
    )
    for name in unknown:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
        if "old" in name:
            os.utime(folder / name, (0, 0))
    assert set(_listed(folder).removable(10, LONG_AGO)) == {"old.parquet", "_delta_log/.old.tmp"}


def test_a_version_at_a_time_is_the_last_one_committed_before(folder: Path) -> None:
    for version in range(14):
        os.utime(folder / "_delta_log" / f"{version:020}.json", (1000 + version, 1000 + version))
    listed = _listed(folder)
    assert [listed.version_at(datetime.fromtimestamp(at, UTC)) for at in (0, 1000, 1007.5, 5000)] == [0, 0, 7, 13]


def test_a_log_with_a_gap_is_refused(folder: Path) -> None:
    (folder / "_delta_log" / f"{12:020}.json").unlink()
    with pytest.raises(StateCorrupt, match="the log has no entry of version 12"):
        _listed(folder).removable(10, LONG_AGO)
