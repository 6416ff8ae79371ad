"""Deletion vectors: delta-rs and Spark's own code read what this project writes (the latter in tests/spark)."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.base import deletion_vectors
from profilestream.base.delta_log import DeltaLog

from tests import delta_tables

ROWS = 200_000


def _positions(*parts: Any) -> Any:
    return np.unique(np.concatenate([np.asarray(part, np.int64) for part in parts]))


CASES: dict[str, Any] = {
    "none": _positions(np.arange(0)),
    "first": _positions((0,)),
    "last": _positions((ROWS - 1,)),
    "all": _positions(np.arange(ROWS)),
    "border of an array": _positions(np.arange(0, 2 * 4096, 2)),
    "border of a bitmap": _positions(np.arange(0, 2 * 4097, 2)),
    "runs": _positions(np.arange(1000, 9000), np.arange(65_530, 65_542), np.arange(150_000, 190_000)),
    "sparse": _positions(np.arange(0, ROWS, 997)),
    "one container empty": _positions((1, 2, 140_000)),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of one file with ROWS rows and deletion vectors enabled."""
    folder = delta_tables.create(tmp_path_factory.mktemp("vectors") / "t", pa.schema([("n", pa.int64())]))
    pq.write_table(pa.table([pa.array(np.arange(ROWS))], ["n"]), folder / "part.parquet")
    log = DeltaLog(folder)
    log.refresh()
    stats = f'{{"numRecords": {ROWS}}}'
    size = (folder / "part.parquet").stat().st_size
    add = {"path": "part.parquet", "size": size, "modificationTime": 0, "dataChange": True, "partitionValues": {}}
    assert log.commit([{"add": {**add, "stats": stats}}], ("test", 0))
    return folder


def _read_back(folder: Path, positions: Any) -> Any:
    """The deleted positions as delta-rs reads them from a commit with the vector."""
    log = DeltaLog(folder)
    log.refresh()
    vector = deletion_vectors.write(folder, {"part.parquet": positions})["part.parquet"]
    old = log.files["part.parquet"]
    common = {"dataChange": True, "partitionValues": {}}
    removal: dict[str, Any] = {"path": "part.parquet", "deletionTimestamp": 0, **common}
    removal |= {"deletionVector": old["deletionVector"]} if "deletionVector" in old else {}
    assert log.commit(
        [{"remove": removal}, {"add": {**old, **common, "deletionVector": vector}}], ("test", log.version)
    )
    return deletion_vectors.read(DeltaTable(folder))["part.parquet"]


@pytest.mark.parametrize("name", list(CASES))
def test_delta_rs_reads_the_vector(table: Path, name: str) -> None:
    assert np.array_equal(_read_back(table, CASES[name]), CASES[name])


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, 9000)), max_size=6))
def test_delta_rs_reads_the_vector_of_any_ranges(table: Path, ranges: list[tuple[int, int]]) -> None:
    positions = _positions((), *[np.arange(start, min(start + length, ROWS)) for start, length in ranges])
    assert np.array_equal(_read_back(table, positions), positions)


def test_several_vectors_are_in_one_file(tmp_path: Path) -> None:
    written = deletion_vectors.write(tmp_path, {"a": CASES["first"], "b": CASES["runs"]})
    (file,) = tmp_path.glob("deletion_vector_*.bin")
    content = file.read_bytes()
    for name, positions in (("a", CASES["first"]), ("b", CASES["runs"])):
        start = written[name]["offset"]
        (size,) = struct.unpack(">i", content[start : start + 4])
        assert content[start + 4 : start + 4 + size] == deletion_vectors.encode(positions)
        assert written[name]["cardinality"] == len(positions)


def test_the_file_of_a_vector_is_named_by_its_descriptor(tmp_path: Path) -> None:
    (descriptor,) = deletion_vectors.write(tmp_path, {"a.parquet": np.array([1])}).values()
    (file,) = tmp_path.iterdir()
    assert deletion_vectors.file_name(descriptor) == file.name
    assert deletion_vectors.file_name({**descriptor, "pathOrInlineDv": "ab" + descriptor["pathOrInlineDv"]}) == (
        f"ab/{file.name}"
    )
    assert deletion_vectors.file_name({"storageType": "i", "pathOrInlineDv": "inline"}) is None
    assert deletion_vectors.file_name(None) is None
