"""What every kernel has, and the arrays that it works on.

A kernel computes the states of one statistic for many groups at once. Its *entries* are an Arrow table with a column
`group`, the number of the group, and columns of the kernel. Entries of events and of stored states have the same
columns, so they are concatenated and folded once; there is no separate merge.

Rows of a group are sorted by (event_time, source, event_id). Sums are computed by `np.bincount`, which adds the weights
of a bin one after the other in the order of the rows. So the bits of a result depend only on the order within a group.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Arrow arrays; the type stubs of pyarrow do not cover what the kernels call.
Array: TypeAlias = Any
pyarrow: Any = pa
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NO_TIME = np.iinfo(np.int64).min
TIMESTAMP = pa.timestamp("us", tz="UTC")
ORDER = pa.struct([("event_time", TIMESTAMP), ("source", pa.string()), ("event_id", pa.string())])
ARROW_TYPES: dict[str, pa.DataType] = {
    "double": pa.float64(),
    "string": pa.string(),
    "timestamp": TIMESTAMP,
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
}


@dataclass(frozen=True)
class Events:
    """The events of a statistic; all arrays have one element per event.

    Args:
        values: null when the event does not count.
        weights: float64, decayed to the newest time of the group; null excludes the event from weighted kinds.
        order: struct of event_time, source, event_id, ascending within a group.
        groups: number of the group, ascending.
    """

    values: Array
    weights: Array
    order: Array
    groups: Ints

    def counted(self, *, weighted: bool) -> "Events":
        """The events with a value and, if `weighted`, with a weight."""
        mask = self.values.is_valid()
        if weighted:
            mask = pc.and_(mask, self.weights.is_valid())
        flags = mask.to_numpy(zero_copy_only=False)
        if flags.all():
            return self
        values, weights, order = (array.filter(mask) for array in (self.values, self.weights, self.order))
        return Events(values, weights, order, self.groups[flags])


@dataclass(frozen=True)
class StoredStates:
    """Stored states of a statistic; all arrays have one element per row.

    Args:
        states: of the kernel's type; null is the state of no events.
        factors: decay from the row's time to the newest time of the group.
        groups: number of the group.
    """

    states: Array
    factors: Floats
    groups: Ints

    def present(self) -> "StoredStates":
        """The states that are not null."""
        mask = self.states.is_valid()
        flags = mask.to_numpy(zero_copy_only=False)
        return self if flags.all() else StoredStates(self.states.filter(mask), self.factors[flags], self.groups[flags])


class Kernel(Protocol):
    """The computation of one statistic. A kernel whose states have a fixed size inherits from `FixedSize`."""

    @property
    def type(self) -> Any:
        """The Arrow type of a state."""

    def lift(self, events: Events) -> pa.Table:
        """Events -> entries."""

    def unpack(self, rows: StoredStates) -> pa.Table:
        """Stored states -> entries."""

    def fold(self, entries: pa.Table, count: int) -> Array:
        """Entries -> the states of the groups 0 to count - 1; a group without entries gets the state of no events.

        The entries are those of stored states and of events; within a group, they have a fixed order. The state of no
        events may be stored, so `unpack` may return it again.
        """

    def trim(self, states: Array) -> Array:
        """Folded states, cut to their declared size; applied once per group and batch."""

    def read(self, states: Array, factors: Floats) -> Array:
        """States, decayed by the factors -> values for users. A null state is read like the state of no events."""


class FixedSize:
    """Base of kernels whose states are never cut."""

    def trim(self, states: Array) -> Array:
        """The states."""
        return states


def entries_of(groups: Ints, **columns: Any) -> pa.Table:
    """A table of entries; columns are numpy or Arrow arrays."""
    return pa.table({"group": pa.array(groups), **columns})


def floats(column: Any) -> Floats:
    """An Arrow column of numbers as float64; null is NaN."""
    return np.asarray(column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy(), "d")


def ints(column: Array) -> Ints:
    """An Arrow column of integers without nulls."""
    return np.asarray(column.to_numpy(), np.int64)


def one_array(column: Array) -> Array:
    """A column of entries as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def sum_by_group(groups: Ints, values: Floats, count: int) -> Floats:
    """The sum of each group, added in the order of the rows; 0 for a group without rows."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.float64, copy=False)


def ranks(values: Array) -> tuple[Ints, Array]:
    """The rank of each value among the distinct values, and the distinct values in ascending order; null is -1.

    NaN is the largest number and strings are compared by their bytes, as in Spark.
    """
    encoded = values.dictionary_encode()
    ascending = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(ascending), np.int64)
    rank[ascending.to_numpy()] = np.arange(len(ascending))
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.append(rank, -1)[codes], encoded.dictionary.take(ascending)


def group_numbers(rows: pa.RecordBatch, keys: tuple[str, ...]) -> Ints:
    """The number of each row's group, from 0; the rows of a group are adjacent, and keys are never null."""
    is_new = np.zeros(len(rows), bool)
    for key in keys:
        column = rows[key]
        is_new[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return np.cumsum(is_new)


def complete_groups(
    batches: Iterable[pa.RecordBatch], keys: tuple[str, ...], min_rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows in other batches: all rows of a group are in one of them, which has about `min_rows` rows or more."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) < min_rows:
            continue
        rows = concatenated(waiting)
        groups = group_numbers(rows, keys)
        start = int(np.searchsorted(groups, groups[-1]))  # the last group may continue in the next batch
        if start:
            yield rows.slice(0, start)
        waiting = [rows.slice(start)]
    if sum(map(len, waiting)):
        yield concatenated(waiting)


def concatenated(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of all batches in one."""
    return batches[0] if len(batches) == 1 else pyarrow.concat_batches(batches)


def micros(times: Array) -> Ints:
    """Microseconds since 1970; null is NO_TIME."""
    values: Any = times.cast(TIMESTAMP).cast(pa.int64()).fill_null(NO_TIME)
    return np.asarray(values.to_numpy(), np.int64)


def positions(groups: Ints) -> Ints:
    """The position of each row in its group, from 0; groups are ascending."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    lengths = np.diff(starts, append=len(groups))
    return np.arange(len(groups)) - np.repeat(starts, lengths)


def offsets_of(groups: Ints, count: int) -> Array:
    """The offsets of a list array whose elements belong to ascending groups."""
    return pa.array(np.searchsorted(groups, np.arange(count + 1)).astype(np.int32))


def flat_map(maps: Array) -> tuple[Ints, Array, Array]:
    """The row, key and item of every entry of a map array without nulls."""
    offsets = maps.offsets.to_numpy()
    start, length = int(offsets[0]), int(offsets[-1] - offsets[0])
    rows = np.repeat(np.arange(len(maps)), np.diff(offsets))
    return rows, maps.keys.slice(start, length), maps.items.slice(start, length)


def flat_list(lists: Array) -> tuple[Ints, Array]:
    """The row and value of every element of a list array without nulls."""
    return np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy())), lists.flatten()


def map_array(offsets: Array, keys: Array, items: Array) -> Array:
    """A map array."""
    return pyarrow.MapArray.from_arrays(offsets, keys, items)


def list_array(offsets: Array, values: Array) -> Array:
    """A list array."""
    return pyarrow.ListArray.from_arrays(offsets, values)


def struct_array(kind: pa.StructType, *columns: Array) -> Array:
    """A struct array of the type."""
    return pyarrow.StructArray.from_arrays(list(columns), fields=list(kind))
