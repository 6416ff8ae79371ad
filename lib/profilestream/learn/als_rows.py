"""Rows that the tasks of `learn_factors` exchange as Arrow tables: kinds of rows, columns and binary encodings.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profilestream.learn.als import AlsParams, Floats, GlobalSums, Longs, Strings, Vectors
from profilestream.learn.sums import Sums

# Inputs: all items packed into a few rows (for users), rows of the state, and new events (for users) or new
# contributions (for items).
PACKED_ITEMS, STATE, NEW = 0, 1, 2
# Outputs: updated rows of the state, contributions of users to items, changes of the global sums, ranking sums of the
# users of the partition, and the times of the evaluated events.
UPDATED, CONTRIBUTION, CHANGE, EVALUATION, EVALUATION_TIMES = 3, 4, 5, 6, 7
# More inputs, of recommendation lists: items that a user bought, and closed items that a user may get.
BOUGHT, RESERVED = 8, 9
# The kinds that are collected on the driver.
DRIVER_KINDS = (CHANGE, EVALUATION, EVALUATION_TIMES)
# All columns of inputs and outputs, as Spark DDL. `key` is the user or item of the row, `other_key` the item of an
# event or the user of a contribution. `payload` contains packed items or partial sums (sums.py), depending on the
# kind. Columns that a kind does not use are null.
COLUMNS = (
    "kind int, key string, other_key string, weight double, rating double, decayed_weight double, popularity double, "
    "time_micros bigint, category string, vector binary, item_ids array<string>, item_weights binary, "
    "event_times binary, event_ratings binary, tail_weight double, normal_equations binary, payload binary"
)
_ARROW_TYPES: dict[str, pa.DataType] = {
    "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64(), "string": pa.string(), "binary": pa.binary(),
    "array<string>": pa.list_(pa.string()),
}  # fmt: skip
SCHEMA = pa.schema(
    [pa.field(name, _ARROW_TYPES[sql_type]) for name, sql_type in (column.split() for column in COLUMNS.split(", "))]
)


def read_table(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    """All rows of a partition in one table; null when there is no batch."""
    parts = list(batches)
    return pa.Table.from_batches(parts) if parts else None


def make_batch(kind: int, n: int, **columns: Any) -> pa.RecordBatch:
    """n rows of one kind with these columns; all other columns are null."""
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in SCHEMA
        if field.name != "kind"
    ]
    return pa.RecordBatch.from_arrays([pa.array([kind] * n, pa.int32()), *arrays], schema=SCHEMA)


def rows_of_kind(table: pa.Table, kind: int) -> pa.Table:
    """The rows of one kind."""
    return table.filter(pc.equal(table["kind"], pa.scalar(kind, pa.int32())))


def strings(table: pa.Table, name: str) -> Strings:
    """A string column; nulls are None."""
    return np.asarray(table[name].to_pylist(), dtype=object)


def numbers(table: pa.Table, name: str) -> Any:
    """A numeric column; nulls are NaN."""
    return table[name].to_numpy()


def micros(table: pa.Table) -> Longs:
    """The column `time_micros`; it must not contain nulls."""
    times: Longs = numbers(table, "time_micros").astype(np.int64)
    return times


def concat_binary(table: pa.Table, name: str, dtype: type) -> NDArray[Any]:
    """The values in all cells of a binary column, concatenated; nulls are skipped."""
    cells: list[Any] = table[name].drop_null().to_pylist()
    return np.frombuffer(b"".join(cells), dtype)


def binary_matrix(table: pa.Table, name: str, dtype: type) -> NDArray[Any]:
    """The values of a binary column with cells of equal length, (rows, values per cell)."""
    return concat_binary(table, name, dtype).reshape(table.num_rows, -1)


def to_cells(rows: NDArray[Any]) -> list[bytes]:
    """One binary cell per row."""
    return [row.tobytes() for row in rows]


def list_lengths(table: pa.Table, name: str) -> Any:
    """Number of elements in each cell of a list column; 0 for null."""
    return pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy()


def stored_vectors(table: pa.Table, params: AlsParams) -> Vectors:
    """The column `vector`, (rows, width).

    Raises:
        ValueError: vectors are damaged; contains the first five keys.
    """
    lengths: Any = pc.fill_null(pc.binary_length(table["vector"]), 0)
    is_complete = bool((lengths.to_numpy() == 4 * params.width).all())
    flat = concat_binary(table, "vector", np.float32) if is_complete else np.full(1, np.nan, np.float32)
    if not np.isfinite(flat).all():
        keys = [str(key)[:200] for key in table.filter(pa.array(damaged_rows(table, params)))["key"].to_pylist()]
        raise ValueError(f"damaged vectors in factors: {keys[:5]}; to fix them, run jobs/learn_factors.py --full-pass")
    return flat.reshape(-1, params.width)


def damaged_rows(table: pa.Table, params: AlsParams) -> NDArray[np.bool_]:
    """Whether the stored vector is missing, has a wrong length, or contains values that are not finite, (rows,)."""
    cells: list[Any] = table["vector"].to_pylist()

    def is_valid(cell: bytes | None) -> bool:
        return (
            cell is not None and len(cell) == 4 * params.width and bool(np.isfinite(np.frombuffer(cell, "<f4")).all())
        )

    return np.array([not is_valid(cell) for cell in cells], bool)


def stored_events(users: pa.Table) -> tuple[Longs, Strings, Floats]:
    """Stored events of user rows, flat: number of the row, item id, weight."""
    lists: list[Any] = users["item_ids"].to_pylist()
    item_ids = np.array([item_id for ids in lists for item_id in ids], dtype=object)
    row = np.repeat(np.arange(len(lists)), [len(ids) for ids in lists]).astype(np.int64)
    return row, item_ids, concat_binary(users, "item_weights", np.float32).astype(float)


def sums_batch(kind: int, sums: Sums, key: str | None = None) -> pa.RecordBatch:
    """One row with partial sums."""
    return make_batch(kind, 1, key=[key], payload=[sums.to_cell()])


def global_sums_to_bytes(sums: GlobalSums) -> bytes:
    """The column `global_sums`: all fields as float64, matrices first.

    Microseconds are exact in a float64 until the year 2255.
    """
    matrices = [matrix.ravel() for matrix in (sums.item_gram, sums.user_gram, sums.weighted_item_gram)]
    mean = np.nan if sums.mean_rating is None else sums.mean_rating
    scalars = [
        sums.item_weight, sums.item_count, sums.user_count, sums.as_of, mean, sums.event_count, sums.full_pass_events,
    ]  # fmt: skip
    return np.concatenate([*matrices, scalars]).tobytes()


def global_sums_from_bytes(data: Any, width: int) -> GlobalSums:
    """The inverse of `global_sums_to_bytes`."""
    values = np.frombuffer(data)
    size = width * width
    matrices = values[: 3 * size].reshape(3, width, width)
    item_weight, items, users, as_of, mean, events, full_pass_events = (float(x) for x in values[3 * size :])
    mean_rating = None if np.isnan(mean) else mean
    return GlobalSums(
        matrices[0], matrices[1], matrices[2], item_weight, items, users, mean_rating, events, full_pass_events,
        as_of=int(as_of),
    )  # fmt: skip
