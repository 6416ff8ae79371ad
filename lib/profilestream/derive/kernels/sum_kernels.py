"""Kernels whose states are sums: count, sum, moments, histogram, mean of a vector."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.derive.kernels.kernel import (
    Array,
    Events,
    FixedSize,
    Floats,
    StoredStates,
    entries_of,
    flat_list,
    floats,
    ints,
    list_array,
    map_array,
    positions,
    struct_array,
    sum_by_group,
)

_DOUBLES = pa.list_(pa.float64())


@dataclass(frozen=True)
class CountKernel(FixedSize):
    """Sum of weights without their fractions, BIGINT. Weights that are no finite BIGINT do not count."""

    type: pa.DataType = pa.int64()

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=True)
        weights = floats(counted.weights)
        is_integer = np.abs(weights) < 2.0**63
        return entries_of(counted.groups[is_integer], weight=weights[is_integer].astype(np.int64))

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        return entries_of(rows.groups, weight=rows.states)

    def fold(self, entries: pa.Table, count: int) -> Array:
        sums = np.zeros(count, np.int64)
        np.add.at(sums, ints(entries["group"]), ints(entries["weight"]))
        return pa.array(sums)

    def read(self, states: Array, factors: Floats) -> Array:
        """BIGINT; 0 without events."""
        return states.fill_null(0)


@dataclass(frozen=True)
class SumKernel(FixedSize):
    """Sum of value times weight, DOUBLE."""

    type: pa.DataType = pa.float64()

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=True)
        return entries_of(counted.groups, sum=floats(counted.values) * floats(counted.weights))

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        return entries_of(rows.groups, sum=floats(rows.states) * rows.factors)

    def fold(self, entries: pa.Table, count: int) -> Array:
        return pa.array(sum_by_group(ints(entries["group"]), floats(entries["sum"]), count))

    def read(self, states: Array, factors: Floats) -> Array:
        """DOUBLE; 0 without events."""
        return pa.array(floats(states.fill_null(0.0)) * factors)


@dataclass(frozen=True)
class MomentsKernel(FixedSize):
    """Weight, mean and m2 = sum of w (x - mean)^2; weights must not be negative.

    Folded in two passes, first the mean and then the squared deviations from it: the textbook two-pass algorithm of
    Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", with their term for parts.
    """

    type: pa.StructType = pa.struct([("weight", pa.float64()), ("mean", pa.float64()), ("m2", pa.float64())])

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=True)
        zeros = np.zeros(len(counted.groups))
        return entries_of(counted.groups, weight=floats(counted.weights), mean=floats(counted.values), m2=zeros)

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        weight, mean, m2 = (floats(rows.states.field(name)) for name in ("weight", "mean", "m2"))
        return entries_of(rows.groups, weight=weight * rows.factors, mean=mean, m2=m2 * rows.factors)

    def fold(self, entries: pa.Table, count: int) -> Array:
        groups = ints(entries["group"])
        weights, means = floats(entries["weight"]), floats(entries["mean"])
        total = sum_by_group(groups, weights, count)
        first = sum_by_group(groups, weights * means, count)
        mean = np.divide(first, total, out=np.zeros(count), where=total != 0)
        squares = weights * (means - mean[groups]) ** 2 + floats(entries["m2"])
        m2 = np.maximum(sum_by_group(groups, squares, count), 0.0)
        return struct_array(self.type, pa.array(total), pa.array(mean), pa.array(m2))

    def read(self, states: Array, factors: Floats) -> Array:
        """STRUCT of mean and population variance; null fields when the weight is 0."""
        weight = floats(pc.fill_null(pc.struct_field(states, "weight"), 0.0))
        m2 = floats(pc.fill_null(pc.struct_field(states, "m2"), 0.0))
        has_weight = weight * factors > 0
        mean = pc.if_else(pa.array(has_weight), pc.struct_field(states, "mean"), None)
        variance = np.divide(m2, weight, out=np.zeros(len(weight)), where=has_weight)
        return pa.StructArray.from_arrays([mean, pa.array(variance, mask=~has_weight)], ["mean", "variance"])


@dataclass(frozen=True)
class HistogramKernel(FixedSize):
    """Weight in each of `bins` bins, ARRAY<DOUBLE>; values that are no number of a bin do not count."""

    bins: int
    type: pa.DataType = _DOUBLES

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=True)
        values = floats(counted.values)
        is_bin = (values >= 0) & (values < self.bins) & (values == np.floor(values))
        weights = floats(counted.weights)[is_bin]
        return entries_of(counted.groups[is_bin], bin=values[is_bin].astype(np.int64), weight=weights)

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        parents, weights = flat_list(rows.states)
        return entries_of(rows.groups[parents], bin=positions(parents), weight=floats(weights) * rows.factors[parents])

    def fold(self, entries: pa.Table, count: int) -> Array:
        cells = ints(entries["group"]) * self.bins + ints(entries["bin"])
        return _lists(sum_by_group(cells, floats(entries["weight"]), count * self.bins), count)

    def read(self, states: Array, factors: Floats) -> Array:
        """ARRAY<DOUBLE>; zeros without events."""
        stored = StoredStates(states, factors, np.arange(len(states)))
        return self.fold(self.unpack(stored), len(states))


@dataclass(frozen=True)
class MeanVectorKernel(FixedSize):
    """Weight, and sums of weight times value in each dimension; weights must not be negative.

    Args:
        dimensions: names, in the order of the values.
    """

    dimensions: tuple[str, ...]
    type: pa.StructType = pa.struct([("weight", pa.float64()), ("sums", _DOUBLES)])

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=True)
        weights = floats(counted.weights)
        return self._entries(counted.groups, weights, self._matrix(counted.values) * weights[:, None])

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        sums = self._matrix(rows.states.field("sums")) * rows.factors[:, None]
        return self._entries(rows.groups, floats(rows.states.field("weight")) * rows.factors, sums)

    def _matrix(self, lists: Array) -> Floats:
        return floats(flat_list(lists)[1]).reshape(-1, len(self.dimensions))

    def _entries(self, groups: Any, weights: Floats, sums: Floats) -> pa.Table:
        return entries_of(groups, weight=weights, **{str(n): sums[:, n] for n in range(len(self.dimensions))})

    def fold(self, entries: pa.Table, count: int) -> Array:
        groups = ints(entries["group"])
        total = sum_by_group(groups, floats(entries["weight"]), count)
        columns = [sum_by_group(groups, floats(entries[str(n)]), count) for n in range(len(self.dimensions))]
        sums = _lists(np.stack(columns, axis=1).ravel(), count)
        return struct_array(self.type, pa.array(total), sums)

    def read(self, states: Array, factors: Floats) -> Array:
        """MAP<STRING, DOUBLE> from dimension to mean; null without weight."""
        stored = StoredStates(states, factors, np.arange(len(states)))
        entries, width = self.unpack(stored), len(self.dimensions)
        has_weight = np.zeros(len(states), bool)
        weights = floats(entries["weight"])
        has_weight[ints(entries["group"])[weights > 0]] = True
        sums = np.stack([floats(entries[str(n)]) for n in range(width)], axis=1)[weights > 0]
        offsets = np.append(0, np.cumsum(has_weight * width)).astype(np.int32)
        means = (sums / weights[weights > 0, None]).ravel()
        names = pa.array(list(self.dimensions) * len(sums), pa.string())
        maps = map_array(pa.array(offsets), names, pa.array(means))
        return pc.if_else(pa.array(has_weight), maps, pa.scalar(None, maps.type))


def _lists(values: Floats, count: int) -> Array:
    """Lists of equal length; count of 0 gives an empty array."""
    offsets = np.linspace(0, len(values), count + 1).astype(np.int32) if count else np.zeros(1, np.int32)
    return list_array(pa.array(offsets), pa.array(values))
