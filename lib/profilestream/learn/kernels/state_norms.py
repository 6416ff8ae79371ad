"""The largest root mean square of a row of a learner's state, by column; NaN or infinite if a value is.

Runs on executors, so it imports numpy and pyarrow only.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.kernels.arrays import Floats


def largest_norms(rows: pa.Table) -> dict[str, Any]:
    """`norms`: by column, the largest root mean square of a cell; 0 without values.

    Args:
        rows: columns of numbers, of lists or maps of numbers, or of little-endian float32 bytes; nulls are left out.
    """
    return {"norms": {name: _largest_norm(rows[name]) for name in rows.column_names}}


def _largest_norm(column: Any) -> float:
    cells, values = _flat_values(column)
    counts, squares = np.bincount(cells), np.bincount(cells, values**2)
    return float(np.sqrt((squares[counts > 0] / counts[counts > 0]).max(initial=0.0)))


def _flat_values(column: Any) -> tuple[Any, Floats]:
    """The cell and the value of each number."""
    column = column.drop_null().combine_chunks()
    kind = column.type
    if pa.types.is_binary(kind):
        cells = [np.frombuffer(cell, "<f4") for cell in column.to_pylist()]
        return np.repeat(np.arange(len(cells)), [len(cell) for cell in cells]), np.concatenate([*cells, np.zeros(0)])
    if pa.types.is_map(kind):
        column = column.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    if not pa.types.is_nested(kind):
        return np.arange(len(column)), np.asarray(column.to_numpy(False), float)
    values = pc.list_flatten(column)
    values = pc.struct_field(values, 1) if pa.types.is_map(kind) else values
    return pc.list_parent_indices(column).to_numpy(), np.asarray(values.to_numpy(False), float)
