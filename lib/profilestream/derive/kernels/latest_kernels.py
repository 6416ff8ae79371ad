"""Kernels that store values of single events: extremes, the newest or oldest events, the newest event of each key.

No two events of a group have the same (event_time, source, event_id).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.derive.kernels.kernel import (
    ORDER,
    Array,
    Events,
    FixedSize,
    Floats,
    Ints,
    StoredStates,
    entries_of,
    flat_list,
    flat_map,
    ints,
    list_array,
    map_array,
    offsets_of,
    one_array,
    positions,
    ranks,
    struct_array,
)


@dataclass(frozen=True)
class ExtremeKernel(FixedSize):
    """Smallest or largest value; null without events. NaN is the largest number."""

    kind: Literal["min", "max"]
    type: pa.DataType

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=False)
        return entries_of(counted.groups, value=counted.values)

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        return entries_of(rows.groups, value=rows.states)

    def fold(self, entries: pa.Table, count: int) -> Array:
        rank, distinct = ranks(one_array(entries["value"]))
        groups = ints(entries["group"])
        if self.kind == "max":
            best = np.full(count, -1)
            np.maximum.at(best, groups, rank)
        else:
            best = np.full(count, len(distinct))
            np.minimum.at(best, groups, rank)
        return distinct.take(pa.array(best, mask=(best < 0) | (best == len(distinct))))

    def read(self, states: Array, factors: Floats) -> Array:
        """The value; null without events."""
        return states


@dataclass(frozen=True)
class LatestKernel(FixedSize):
    """Order and value of the newest (`last`) or oldest (`first`) k events, best first.

    `lift` takes the k rows at the end or start of a group, without comparing them: the rows are sorted.
    """

    kind: Literal["first", "last"]
    k: int
    value_type: pa.DataType

    @property
    def type(self) -> Any:
        return pa.list_(pa.struct([("order", ORDER), ("value", self.value_type)]))

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=False)
        groups = counted.groups
        place = positions(groups) if self.kind == "first" else positions(-groups[::-1])[::-1]
        is_best = place < self.k
        return _order_entries(groups[is_best], counted.order.filter(is_best), counted.values.filter(is_best))

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        parents, entries = flat_list(rows.states)
        return _order_entries(rows.groups[parents], entries.field("order"), entries.field("value"))

    def fold(self, entries: pa.Table, count: int) -> Array:
        groups = ints(entries["group"])
        rank = _order_ranks(entries)
        index = np.lexsort((rank if self.kind == "first" else -rank, groups))
        index = index[positions(groups[index]) < self.k]
        return list_array(offsets_of(groups[index], count), _take_entries(entries, index, self.type.value_type))

    def read(self, states: Array, factors: Floats) -> Array:
        """The value, or an array of values when k is more than 1."""
        stored = StoredStates(states, factors, np.arange(len(states))).present()
        parents, entries = flat_list(stored.states)
        groups, values = stored.groups[parents], entries.field("value")
        lists = list_array(offsets_of(groups, len(states)), values)
        if self.k > 1:
            return lists
        has_value = np.diff(lists.offsets.to_numpy()) > 0
        return values.take(pa.array(lists.offsets.to_numpy()[:-1], mask=~has_value))


@dataclass(frozen=True)
class LatestByKeyKernel(FixedSize):
    """Order and value of the newest event of each key; events are MAP<STRING, STRING>, null values do not count."""

    type: Any = pa.map_(pa.string(), pa.struct([("order", ORDER), ("value", pa.string())]))

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=False)
        rows, keys, values = flat_map(counted.values)
        is_present = values.is_valid()
        rows = rows[is_present.to_numpy(zero_copy_only=False)]
        keys, values = keys.filter(is_present), values.filter(is_present)
        # Rows are sorted, so the last row of each key is its newest.
        groups, codes = counted.groups[rows], ranks(keys)[0]
        _, from_end = np.unique((groups * (len(keys) + 1) + codes)[::-1], return_index=True)
        index = np.sort(len(keys) - 1 - from_end)
        order = counted.order.take(pa.array(rows[index]))
        picked = pa.array(index)
        return _order_entries(groups[index], order, values.take(picked)).append_column("key", keys.take(picked))

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        parents, keys, entries = flat_map(rows.states)
        table = _order_entries(rows.groups[parents], entries.field("order"), entries.field("value"))
        return table.append_column("key", keys)

    def fold(self, entries: pa.Table, count: int) -> Array:
        groups = ints(entries["group"])
        codes, _ = ranks(one_array(entries["key"]))
        index = np.lexsort((-_order_ranks(entries), codes, groups))
        cells = groups[index] * (len(codes) + 1) + codes[index]
        index = index[positions(cells) == 0]
        newest = _take_entries(entries, index, self.type.item_type)
        keys = one_array(entries["key"]).take(pa.array(index))
        return map_array(offsets_of(groups[index], count), keys, newest)

    def read(self, states: Array, factors: Floats) -> Array:
        """MAP<STRING, STRING>; empty without events."""
        stored = StoredStates(states, factors, np.arange(len(states))).present()
        parents, keys, entries = flat_map(stored.states)
        return map_array(offsets_of(stored.groups[parents], len(states)), keys, entries.field("value"))


def _order_entries(groups: Ints, order: Array, values: Array) -> pa.Table:
    return entries_of(groups, order=order, value=values)


def _take_entries(entries: pa.Table, index: Ints, kind: pa.StructType) -> Array:
    """Structs of order and value of these entries."""
    return struct_array(kind, *[one_array(entries[name]).take(pa.array(index)) for name in ("order", "value")])


def _order_ranks(entries: pa.Table) -> Ints:
    """The rank of each entry by event_time, source and event_id, valid within a group.

    Sources and ids are compared only where times are equal: to sort strings takes most of the time.
    """
    order, groups = one_array(entries["order"]), ints(entries["group"])
    times = pc.struct_field(order, "event_time").cast(pa.int64()).to_numpy(zero_copy_only=False)
    by_time = np.lexsort((times, groups))
    is_equal = (np.diff(groups[by_time]) == 0) & (np.diff(times[by_time]) == 0)
    is_tied = np.zeros(len(groups), bool)
    is_tied[by_time[1:][is_equal]] = is_tied[by_time[:-1][is_equal]] = True
    tied = order.filter(pa.array(is_tied))
    texts = np.zeros((2, len(groups)), np.int64)
    for rank, name in zip(texts, ("event_id", "source"), strict=True):
        rank[is_tied] = ranks(pc.struct_field(tied, name))[0]
    index = np.lexsort((*texts, times))
    rank = np.empty(len(index), np.int64)
    rank[index] = np.arange(len(index))
    return rank
