"""Kernels that store values of single events: the newest or oldest events, or the newest event of each key.

Events are ordered by (event_time, source, event_id). States contain this order. Texts are ordered by their bytes.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.derive.kernels.entries import (
    ArrowArray,
    ArrowType,
    Entries,
    Events,
    Floats,
    Groups,
    Integers,
    elements,
    make_lists,
    make_maps,
    make_structs,
    offsets_of,
)

ORDER = pa.struct(
    [("event_time", pa.timestamp("us", "UTC")), ("source", pa.string()), ("event_id", pa.string())]
)  # fmt: skip


@dataclass(frozen=True)
class LatestKernel:
    """Values of the newest (`last`) or oldest (`first`) k events. State: list of STRUCT<order, value>, best first."""

    kind: str
    k: int
    value_type: ArrowType

    @property
    def type(self) -> ArrowType:
        return pa.list_(pa.struct([("order", ORDER), ("value", self.value_type)]))

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        best = self._best(counted.groups, np.arange(len(counted.groups)))
        rows = pa.array(counted.rows[best])
        order = events.order.take(rows).cast(ORDER)
        return Entries(counted.groups[best], (order, counted.values.take(pa.array(best)).cast(self.value_type)))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        stored = elements(states)
        entries = states.values.take(pa.array(stored.places))
        return Entries(
            groups.number[stored.rows], (pc.struct_field(entries, "order"), pc.struct_field(entries, "value"))
        )

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        order, values = entries.columns
        ascending = _in_order(entries.groups, order)
        best = ascending[self._best(entries.groups[ascending], np.arange(len(ascending)))]
        best = best[::-1] if self.kind == "last" else best
        best = best[np.argsort(entries.groups[best], kind="stable")]
        places = pa.array(best)
        items = make_structs([order.take(places), values.take(places)], self.type.value_type)
        return make_lists(offsets_of(entries.groups[best], count), items)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        """The value, or a list of values when k is more than 1."""
        stored = elements(states)
        values = pc.struct_field(states.values, "value")
        if self.k > 1:
            items = values.take(pa.array(stored.places))
            return make_lists(offsets_of(stored.rows, len(states)), items)
        places = np.full(len(states), -1)
        places[stored.rows] = stored.places
        return values.take(pa.array(places, mask=places < 0))

    def _best(self, groups: Integers, rows: Integers) -> Integers:
        """The rows of the k best entries of each group; entries are in ascending order within their group."""
        if self.kind == "first":
            first = np.searchsorted(groups, groups, side="left")
            return rows[np.arange(len(groups)) - first < self.k]
        end = np.searchsorted(groups, groups, side="right")
        return rows[end - np.arange(len(groups)) <= self.k]


@dataclass(frozen=True)
class LatestByKeyKernel:
    """The newest value of each key; null values do not count.

    Events: maps of texts. State: MAP<STRING, STRUCT<order, value>>, in order of the keys.
    """

    @property
    def type(self) -> ArrowType:
        return pa.map_(pa.string(), pa.struct([("order", ORDER), ("value", pa.string())]))

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        pairs = elements(counted.values)
        places = pa.array(pairs.places)
        keys, values = counted.values.keys.take(places), counted.values.items.take(places)
        is_valid = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        # The events of a group are in order, so the last value of a key is the newest one.
        groups = counted.groups[pairs.rows[is_valid]]
        newest = is_valid[_last_of_each(groups, _codes(keys)[is_valid])]
        rows = pa.array(counted.rows[pairs.rows[newest]])
        order = events.order.take(rows).cast(ORDER)
        chosen = pa.array(newest)
        return Entries(counted.groups[pairs.rows[newest]], (keys.take(chosen), order, values.take(chosen)))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        pairs = elements(states)
        places = pa.array(pairs.places)
        items = states.items.take(places)
        columns = (states.keys.take(places), pc.struct_field(items, "order"), pc.struct_field(items, "value"))
        return Entries(groups.number[pairs.rows], columns)

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        keys, order, values = entries.columns
        codes = _codes(keys)
        ascending = _in_order(entries.groups, order)
        newest = ascending[_last_of_each(entries.groups[ascending], codes[ascending])]
        newest = newest[np.lexsort((codes[newest], entries.groups[newest]))]
        places = pa.array(newest)
        items = make_structs([order.take(places), values.take(places)], self.type.item_type)
        return make_maps(offsets_of(entries.groups[newest], count), keys.take(places), items)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        """MAP<STRING, STRING>."""
        pairs = elements(states)
        places = pa.array(pairs.places)
        values = pc.struct_field(states.items, "value").take(places)
        return make_maps(offsets_of(pairs.rows, len(states)), states.keys.take(places), values)


def _in_order(groups: Integers, order: ArrowArray) -> Integers:
    """The entries by group and order, ascending."""
    columns = {name: pc.struct_field(order, name) for name in ("event_time", "source", "event_id")}
    table = pa.table({"group": pa.array(groups), **columns})
    return np.asarray(pc.sort_indices(table, [(name, "ascending") for name in table.column_names]), dtype=np.int64)


def _codes(texts: ArrowArray) -> Integers:
    """A number of each text, in the order of the texts."""
    if len(texts) == 0:
        return np.zeros(0, np.int64)
    encoded = texts.dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), np.int64)
    ranks[np.asarray(pc.array_sort_indices(encoded.dictionary))] = np.arange(len(ranks))
    codes: Integers = ranks[encoded.indices.to_numpy()]
    return codes


def _last_of_each(groups: Integers, codes: Integers) -> Integers:
    """Index of the last row of each pair of group and code, ascending."""
    order = np.lexsort((np.arange(len(groups)), codes, groups))
    pairs = np.stack((groups[order], codes[order]))
    is_last = np.append((pairs[:, 1:] != pairs[:, :-1]).any(axis=0), True) if len(order) else np.zeros(0, bool)
    last: Integers = np.sort(order[is_last])
    return last
