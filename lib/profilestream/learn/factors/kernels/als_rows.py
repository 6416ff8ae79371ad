"""Columns of the rows that the passes of `learn_factors` read and write, and binary encodings of their values.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums, Strings, Vectors
from profilestream.learn.kernels.arrays import Floats, Longs

_TIME = pa.timestamp("us", "UTC")
# Columns of all rows; a schema below selects some of them.
_TYPES: dict[str, pa.DataType] = {
    "user_id": pa.string(), "item_id": pa.string(), "key": pa.string(), "vector": pa.binary(),
    "item_ids": pa.list_(pa.string()), "item_weights": pa.binary(), "event_times": pa.binary(),
    "event_ratings": pa.binary(), "tail_weight": pa.float64(), "normal_equations": pa.binary(),
    "weight": pa.float64(), "rating": pa.float64(), "time_micros": pa.int64(), "decayed_weight": pa.float64(),
    "popularity": pa.float64(), "category": pa.string(), "as_of": _TIME,
    "neighbor_ids": pa.list_(pa.string()), "neighbor_times": pa.binary(),
}  # fmt: skip


def _schema(names: str) -> pa.Schema:
    return pa.schema([pa.field(name, _TYPES[name]) for name in names.split()])


EVENT = _schema("user_id item_id weight rating time_micros category")
# Rows of the table `factors`. The normal equations are most of the bytes of an item, and scores do not need them.
USER = _schema("key vector item_ids item_weights event_times event_ratings tail_weight as_of")
SCORED_ITEM = _schema("key vector item_ids item_weights event_times decayed_weight popularity category as_of")
ITEM = _schema(" ".join([*SCORED_ITEM.names, "normal_equations"]))
# What an event, or another vector of a user with stored events, adds to an item: its weight in the normal equations
# with the user's vector, and, of new events, the decayed weight, the popularity and the user's earlier items.
CONTRIBUTION = _schema(
    "item_id user_id vector weight rating decayed_weight popularity time_micros category neighbor_ids neighbor_times"
)


def table(schema: pa.Schema, n: int, **columns: Any) -> pa.Table:
    """n rows with these columns; all other columns are null."""
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def as_of(times: Longs) -> Any:
    """Times in microseconds as the column `as_of`."""
    return pa.array(times, pa.int64()).cast(_TIME)


def strings(table: pa.Table, name: str) -> Strings:
    """A string column; nulls are None."""
    return np.asarray(table[name].to_pylist(), dtype=object)


def numbers(table: pa.Table, name: str) -> Any:
    """A numeric column; nulls are NaN."""
    return table[name].to_numpy()


def as_of_micros(table: pa.Table) -> Longs:
    """The column `as_of` in microseconds; it must not contain nulls."""
    times: Longs = table["as_of"].cast(_TIME).cast(pa.int64()).to_numpy()
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


def positions(keys: Sequence[str] | Strings, rows: pa.Table) -> Longs:
    """The position of the row of each key; -1 without one."""
    found: Any = pc.index_in(pa.array(keys, pa.string()), value_set=rows["key"].combine_chunks())
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def vectors_of(keys: Sequence[str] | Strings, rows: pa.Table, params: AlsParams) -> Floats:
    """The stored vectors of keys, (keys, width); zeros without a row."""
    vectors: Floats = np.vstack([stored_vectors(rows, params), np.zeros((1, params.width))])[positions(keys, rows)]
    return vectors


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
