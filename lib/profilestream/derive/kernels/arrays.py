"""Kernels whose state is an array of sums: a histogram, the mean of a vector."""

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
    doubles,
    elements,
    make_lists,
    make_maps,
    make_structs,
    sums,
)


@dataclass(frozen=True)
class HistogramKernel:
    """Weight in each bin; other values than 0 to bins - 1 do not count. State: list of float64."""

    bins: int
    half_life_days: float | None = None

    @property
    def type(self) -> ArrowType:
        return pa.list_(pa.float64())

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        numbers, weights = counted.numbers, counted.decayed(events, self.half_life_days)
        bins = np.where((numbers >= 0) & (numbers < self.bins), numbers, -1)
        is_bin = (bins >= 0) & (bins == np.floor(bins))
        return Entries(counted.groups[is_bin], (bins[is_bin].astype(np.int64), weights[is_bin]))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        rows, bins, weights = _cells(states, self.bins)
        return Entries(groups.number[rows], (bins, weights * groups.factors(self.half_life_days)[rows]))

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        bins, weights = entries.columns
        return _lists(sums(entries.groups * self.bins + bins, weights, count * self.bins), self.bins)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        rows, bins, weights = _cells(states, self.bins)
        return _lists(sums(rows * self.bins + bins, weights * factors[rows], len(states) * self.bins), self.bins)


@dataclass(frozen=True)
class MeanVectorKernel:
    """Weighted mean of a vector with named dimensions; weights must not be negative.

    State: STRUCT<weight, sums>, the sums of w and of w x in the order of the dimensions. Events: lists of float64.
    """

    dimensions: tuple[str, ...]
    half_life_days: float | None = None

    @property
    def type(self) -> ArrowType:
        return pa.struct([("weight", pa.float64()), ("sums", pa.list_(pa.float64()))])

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        weights = counted.decayed(events, self.half_life_days)
        return Entries(counted.groups, (weights, self._matrix(counted.values) * weights[:, None]))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        factors = groups.factors(self.half_life_days)
        weights = doubles(pc.struct_field(states, "weight").fill_null(0.0)) * factors
        return Entries(groups.number, (weights, self._matrix(pc.struct_field(states, "sums")) * factors[:, None]))

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        weights, vectors = entries.columns
        by_dimension = [sums(entries.groups, vectors[:, n], count) for n in range(len(self.dimensions))]
        lists = _lists(np.stack(by_dimension, axis=1).ravel(), len(self.dimensions))
        total = pa.array(sums(entries.groups, weights, count))
        return make_structs([total, lists], self.type)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        """MAP<STRING, DOUBLE> from dimension to mean; null without weight. Decay does not change it."""
        means = self.means(states)
        has_weight = doubles(pc.struct_field(states, "weight").fill_null(0.0)) > 0
        width = len(self.dimensions)
        offsets = np.concatenate([[0], np.cumsum(np.where(has_weight, width, 0))]).astype(np.int32)
        names = pa.array(list(self.dimensions) * int(has_weight.sum()), pa.string())
        starts = pa.array(offsets, mask=np.append(~has_weight, False))
        return make_maps(starts, names, pa.array(means[has_weight].ravel()))

    def means(self, states: ArrowArray) -> np.ndarray:
        """The means, one row per state in the order of the dimensions; NaN without weight."""
        weights = doubles(pc.struct_field(states, "weight").fill_null(0.0))
        vectors = self._matrix(pc.struct_field(states, "sums"))
        out = np.full(vectors.shape, np.nan)
        np.divide(vectors, weights[:, None], out=out, where=(weights > 0)[:, None])
        return out

    def _matrix(self, lists: ArrowArray) -> np.ndarray:
        """The lists as rows; zeros for null."""
        width = len(self.dimensions)
        if lists.null_count == 0:
            return doubles(lists.flatten()).reshape(-1, width)
        rows, places, values = _cells(lists, width)
        matrix = np.zeros((len(lists), width))
        matrix[rows, places] = values
        return matrix


def _cells(lists: ArrowArray, width: int) -> tuple[np.ndarray, np.ndarray, Floats]:
    """Row, place and value of each element; a list has `width` elements, or none if it is null."""
    if lists.null_count == 0:
        values = doubles(lists.flatten())
        numbers = np.arange(len(values))
        return numbers // width, numbers % width, values
    cells = elements(lists)
    values = doubles(lists.values)[cells.places]
    return cells.rows, np.arange(len(cells.rows)) % width, values


def _lists(values: Floats, width: int) -> ArrowArray:
    offsets = np.arange(0, len(values) + 1, width, dtype=np.int32)
    return make_lists(pa.array(offsets), pa.array(values))
