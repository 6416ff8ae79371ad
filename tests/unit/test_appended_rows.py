"""Rows of an appended table are found by key and time, and read once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Schema, write_deltalake
from profilestream.base import delta_log
from profilestream.base.appended_rows import AppendedRows
from profilestream.base.columns import Column
from profilestream.base.delta_table import Table
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.settings import Paths
from profilestream.base.time_ranges import TimeRanges

TABLE = Table(
    "log", (Column("day", "DATE NOT NULL", ""), Column("user", "STRING", ""), Column("at", "TIMESTAMP NOT NULL", "")),
    key=("user", "at"), partitioned_by=("day",),
)  # fmt: skip
HOUR = 3_600_000_000


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path))


def _append(paths: Paths, *hours: float, user: str = "anna") -> None:
    rows = [{"day": int(hour // 24), "user": user, "at": int(hour * HOUR)} for hour in hours]
    table = pa.Table.from_pylist(rows, TABLE.arrow_schema)
    write_deltalake(TABLE.path(paths), table, mode="append", partition_by=["day"])


def _hours(rows: AppendedRows, *ranges: tuple[float, float], user: str = "anna") -> list[float]:
    """The times of the rows that are read, in hours."""
    assert rows.refresh()
    starts, ends = np.array(ranges).reshape(-1, 2).T * HOUR
    wanted = TimeRanges("at", "at", starts.astype(np.int64), ends.astype(np.int64))
    found = rows.find("user", pa.chunked_array([[user]]), wanted)
    assert found.schema.names == ["user", "at"]
    times: Any = found["at"].cast(pa.int64())
    return sorted(at / HOUR for at in times.to_pylist())


def test_only_files_with_times_in_the_ranges_are_read(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour in (1, 2, 30, 31, 50):
        _append(paths, hour, hour + 0.5)
    _append(paths, 2, user="ben")
    rows, files, open_file = AppendedRows(TABLE, paths, ("user", "at")), [], pq.ParquetFile

    def recording(path: Path, **options: Any) -> pq.ParquetFile:
        files.append(path)
        return open_file(path, **options)

    monkeypatch.setattr(pq, "ParquetFile", recording)
    assert _hours(rows, (1.6, 1.9)) == []
    assert _hours(rows, (0, 1), (30.5, 31), (200, 300)) == [1, 1.5, 30, 30.5, 31, 31.5]
    assert len(files) == 3
    assert _hours(rows, (2.5, 2.5), (30, 30)) == [2, 2.5, 30, 30.5]
    assert len(files) == 4, "a row group is read once"
    assert _hours(rows, (0, 100), user="ben") == [2]


def test_a_bounded_number_of_rows_stays_in_memory(paths: Paths) -> None:
    for hour in range(6):
        _append(paths, hour, hour + 0.5)
    rows = AppendedRows(TABLE, paths, ("user", "at"), cached_rows=4)
    for hour in range(6):
        assert _hours(rows, (hour, hour)) == [hour, hour + 0.5]
    assert len(_hours(rows, (0, 6))) == 12
    assert sum(map(len, rows._row_groups.values())) == 4


def test_files_without_statistics_are_read(paths: Paths) -> None:
    _append(paths, 1)
    folder = Path(TABLE.path(paths))
    properties = {"delta.dataSkippingStatsColumns": "user"}
    DeltaTable(folder).alter.set_table_properties(properties)
    _append(paths, 2)
    assert _hours(AppendedRows(TABLE, paths, ("user", "at")), (2, 2)) == [2]


def test_deleted_rows_are_left_out(paths: Paths) -> None:
    properties = {"delta.enableDeletionVectors": "true"}
    table, folder = replace(TABLE, properties=properties), Path(TABLE.path(paths))
    columns = Schema.from_arrow(TABLE.arrow_schema).to_json()
    assert delta_log.create(folder, columns, TABLE.partitioned_by, properties, "")
    new = pa.Table.from_pylist([{"day": 0, "user": "anna", "at": n * HOUR} for n in (1, 2, 3)], TABLE.arrow_schema)
    index = KeyedRows(table, paths)
    assert index.refresh(10)
    index.update(new, "writer", 0)
    rows = AppendedRows(table, paths, ("user", "at"))
    assert _hours(rows, (1, 3)) == [1, 2, 3]
    index.update(new.slice(0, 0), "writer", 1, deleted=new.slice(1, 1))
    assert _hours(rows, (1, 3)) == [1, 3]
