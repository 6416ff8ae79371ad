"""The learners write the rows of tests/fixtures/learners, as an earlier version did: equal by key, within rounding."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from tests.learner_logs import FOLDER, LOGS

# Of binary columns: type of the numbers, and tolerance as a share of the largest number.
BINARY = {
    "vector": (np.float32, 1e-6), "normal_equations": (np.float32, 1e-6), "item_weights": (np.float32, 1e-6),
    "event_ratings": (np.float32, 1e-6), "event_times": (np.int64, 0.0), "global_sums": (np.float64, 1e-9),
}  # fmt: skip
TOLERANCE = {"scores": 1e-5}  # of other columns: 1e-9
# Numbers of rows that differ in these columns have different units.
UNITS = ("side", "metric")
# The last numbers of `global_sums`: counts and times, each with its own unit.
GLOBAL_SCALARS = 7


def assert_rows_close(actual: pa.Table, expected: pa.Table) -> None:
    """Both have the same rows in the same order: numbers are close, other values and lengths are equal."""
    assert actual.schema.names == expected.schema.names
    assert actual.num_rows == expected.num_rows
    units = [str([row[name] for name in UNITS if name in row]) for row in expected.to_pylist()]
    for unit in dict.fromkeys(units):
        mask = pa.array([one == unit for one in units])
        for name in expected.schema.names:
            cells = [rows.filter(mask)[name].to_pylist() for rows in (actual, expected)]
            _assert_cells_close(name, cells[0], cells[1], f"{name} of {unit}")


def _assert_cells_close(name: str, actual: list[Any], expected: list[Any], message: str) -> None:
    dtype, tolerance = BINARY.get(name, (np.float64, TOLERANCE.get(name, 1e-9)))
    one, other = (list(_leaves(cells, dtype)) for cells in (actual, expected))
    assert [x for x in one if not isinstance(x, np.ndarray)] == [x for x in other if not isinstance(x, np.ndarray)], (
        message
    )
    arrays, expected_arrays = ([x for x in values if isinstance(x, np.ndarray)] for values in (one, other))
    assert [len(x) for x in arrays] == [len(x) for x in expected_arrays], message
    if expected_arrays:
        numbers, expected_numbers = np.concatenate(arrays), np.concatenate(expected_arrays)
        scalars = slice(-GLOBAL_SCALARS, None) if name == "global_sums" else slice(0, 0)
        np.testing.assert_allclose(numbers[scalars], expected_numbers[scalars], rtol=tolerance, err_msg=message)
        is_scalar = np.zeros(len(numbers), bool)
        is_scalar[scalars] = True
        largest = np.abs(expected_numbers[~is_scalar]).max(initial=0.0)
        np.testing.assert_allclose(
            numbers[~is_scalar], expected_numbers[~is_scalar], rtol=0, atol=tolerance * largest, err_msg=message
        )


def _leaves(value: Any, dtype: Any) -> Iterator[Any]:
    """The values in nested lists, with the length of each list; floats and binary cells as arrays of numbers."""
    if isinstance(value, list | tuple):
        yield len(value)
        for one in value:
            yield from _leaves(one, dtype)
    elif isinstance(value, bytes | float):
        yield np.array([value]) if isinstance(value, float) else np.frombuffer(value, dtype)
    else:
        yield value


def _fixtures(log: str) -> dict[str, pa.Table]:
    return {file.stem: pq.read_table(file) for file in sorted((FOLDER / log).glob("*.parquet"))}


@pytest.mark.parametrize("log", LOGS)
def test_the_learners_write_the_rows_of_the_fixtures(spark: SparkSession, tmp_path: Path, log: str) -> None:
    expected = _fixtures(log)
    actual = LOGS[log].learned_rows(spark, tmp_path)
    assert actual.keys() == expected.keys()
    for table, rows in expected.items():
        assert rows.num_rows, table
        assert_rows_close(actual[table], rows)


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_change_of_one_vector_by_1e_5_is_reported(side: str) -> None:
    rows = _fixtures("retail")["factors"]
    cells = [np.frombuffer(cell or b"", np.float32).copy() for cell in rows["vector"].to_pylist()]
    numbers = [n for n, one in enumerate(rows["side"].to_pylist()) if one == side]
    assert_rows_close(rows, rows)
    cells[numbers[3]][0] += 1e-5 * max(np.abs(cells[n]).max() for n in numbers)
    column = pa.array([cell.tobytes() or None for cell in cells], pa.binary())
    changed = rows.set_column(rows.schema.get_field_index("vector"), "vector", column)
    with pytest.raises(AssertionError, match=f"vector of .'{side}'"):
        assert_rows_close(changed, rows)
