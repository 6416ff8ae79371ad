"""List columns of Arrow as flat arrays, and arrays whose equal elements are adjacent.

Runs on executors, so it imports numpy and pyarrow only.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.derive.kernels.kernel import offsets_of
from profilestream.learn.kernels.arrays import Longs


def flatten(rows: pa.Table, name: str) -> tuple[Longs, Any]:
    """Number of the row, and value, of each element of a list column; nulls have none."""
    lists: Any = rows[name].combine_chunks()
    return np.asarray(pc.list_parent_indices(lists).to_numpy(), np.int64), pc.list_flatten(lists)


def lists_by_row(row: Longs, rows: int, values: Any) -> Any:
    """The inverse of `flatten`; the numbers are ascending."""
    return pa.ListArray.from_arrays(offsets_of(row, rows), values)


def positions(values: Any, ids: Any) -> Longs:
    """The position of each value in the ids.

    Raises:
        ValueError: the ids do not contain a value.
    """
    indices: Any = pc.index_in(values, value_set=ids)
    if indices.null_count:
        raise ValueError(f"there is no row of the ids {values.filter(indices.is_null())[:5].to_pylist()}")
    return np.asarray(indices.to_numpy(), np.int64)


def ranges(starts: Longs, lengths: Longs) -> Longs:
    """start, start + 1, ... of each length, concatenated."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())


def groups(values: Longs) -> tuple[Longs, Longs]:
    """Of each element of an ascending array: the position of the first equal element, and their number."""
    first = np.searchsorted(values, values)
    return first, np.searchsorted(values, values, "right") - first
