"""Groups of rows, and their entries: flat arrays that a kernel adds up by group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from profilestream.derive.kernels.event_decay import decay_factors

# An Arrow array, and its type; the stubs of pyarrow do not describe nested ones.
ArrowArray: TypeAlias = Any
ArrowType: TypeAlias = Any
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Groups:
    """The group of each row. Rows of a group are in the order of (event_time, source, event_id).

    Sums add the rows of a group in the order of the rows, so this order decides their last bits.

    Args:
        number: of the group of each row, from 0.
        times: of each row: the event time, or `as_of` of a stored row; microseconds since 1970.
        newest: of each group: the newest time of all its rows, in microseconds. Weights are decayed to it.
    """

    number: Integers
    times: Integers
    newest: Integers

    def factors(self, half_life_days: float | None) -> Floats:
        """The factor by which a weight of each row decays until the newest time of its group."""
        return decay_factors(self.newest[self.number] - self.times, half_life_days)


@dataclass(frozen=True)
class Events:
    """The events of some groups, for one statistic.

    Args:
        values: null where the event does not count.
        weights: not decayed; null where the event does not count.
        order: STRUCT<event_time, source, event_id> of each event.
    """

    groups: Groups
    values: ArrowArray
    weights: ArrowArray
    order: ArrowArray

    def counted(self) -> "Counted":
        """The events that count: those with a value and a weight."""
        is_counted = self.values.is_valid().to_numpy(zero_copy_only=False)
        is_counted &= self.weights.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(is_counted)
        values = self.values if is_counted.all() else self.values.take(rows)
        weights = self.weights.cast(pa.float64()).to_numpy(zero_copy_only=False)[rows]
        return Counted(rows, self.groups.number[rows], values, weights)


@dataclass(frozen=True)
class Counted:
    """Events that count: their rows, groups, values and weights."""

    rows: Integers
    groups: Integers
    values: ArrowArray
    weights: Floats

    def decayed(self, events: Events, half_life_days: float | None) -> Floats:
        """The weights decayed to the newest time of the group."""
        if half_life_days is None:
            return self.weights
        return self.weights * events.groups.factors(half_life_days)[self.rows]

    @property
    def numbers(self) -> Floats:
        """The values as doubles."""
        return doubles(self.values.cast(pa.float64()))


@dataclass(frozen=True)
class Entries:
    """Entries of groups: equally long arrays, whose meaning a kernel defines.

    Args:
        groups: of each entry.
        columns: numpy arrays, or Arrow arrays for texts and other values.
    """

    groups: Integers
    columns: tuple[Any, ...]


def concat(parts: Sequence[Entries]) -> Entries:
    """All entries of the parts, in their order; at least one part."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*[part.columns for part in parts], strict=True)
    return Entries(np.concatenate([part.groups for part in parts]), tuple(_concat(column) for column in columns))


def _concat(arrays: Sequence[Any]) -> Any:
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    return pa.concat_arrays(arrays)


def sums(groups: Integers, values: Floats, count: int) -> Floats:
    """The sum of the values of each group, added one after the other in the order of the rows; 0 without rows."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.float64, copy=False)  # int64 without rows


@dataclass(frozen=True)
class Elements:
    """The elements of an array of lists or maps.

    Args:
        rows: number of the list of each element.
        places: index of each element in the array of all elements.
    """

    rows: Integers
    places: Integers


def elements(lists: ArrowArray) -> Elements:
    """The elements of all lists or maps in order; a null has none."""
    offsets = np.asarray(lists.offsets, dtype=np.int64)
    lengths = np.diff(offsets)
    lengths[lists.is_null().to_numpy(zero_copy_only=False)] = 0
    rows = np.repeat(np.arange(len(lists)), lengths)
    starts = np.cumsum(lengths) - lengths
    return Elements(rows, np.arange(len(rows)) - starts[rows] + offsets[:-1][rows])


def offsets_of(groups: Integers, count: int) -> ArrowArray:
    """Offsets of a list array with the entries of each group; the entries are in order of their groups."""
    lengths = np.bincount(groups, minlength=count)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def doubles(array: ArrowArray) -> Floats:
    """The numbers of an array of doubles; NaN for null."""
    values: Floats = array.to_numpy(zero_copy_only=False)
    return values


def make_lists(offsets: ArrowArray, values: ArrowArray) -> ArrowArray:
    """Lists of the values between two offsets each."""
    return pa.ListArray.from_arrays(offsets, values)


def make_maps(offsets: ArrowArray, keys: ArrowArray, items: ArrowArray) -> ArrowArray:
    """Maps of the keys and items between two offsets each; null where an offset is null."""
    return pa.MapArray.from_arrays(offsets, keys, items)


def make_structs(columns: Sequence[ArrowArray], struct_type: ArrowType) -> ArrowArray:
    """Structs of the columns."""
    return pa.StructArray.from_arrays(columns, fields=list(struct_type))
