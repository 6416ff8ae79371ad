"""Kernels whose state is a number or a value: count, sum, min, max, moments."""

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
    make_structs,
    sums,
)


@dataclass(frozen=True)
class CountKernel:
    """Sum of integer weights. State: int64; 0 without events."""

    @property
    def type(self) -> ArrowType:
        return pa.int64()

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        return Entries(counted.groups, (counted.weights.astype(np.int64),))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        return Entries(groups.number, (states.fill_null(0).to_numpy(zero_copy_only=False),))

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        result = np.zeros(count, np.int64)
        np.add.at(result, entries.groups, entries.columns[0])  # exact, unlike bincount, whose sums are doubles
        return pa.array(result)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        return states.fill_null(0)


@dataclass(frozen=True)
class SumKernel:
    """Weighted sum. State: float64; 0 without events."""

    half_life_days: float | None = None

    @property
    def type(self) -> ArrowType:
        return pa.float64()

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        return Entries(counted.groups, (counted.numbers * counted.decayed(events, self.half_life_days),))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        return Entries(groups.number, (doubles(states.fill_null(0.0)) * groups.factors(self.half_life_days),))

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        return pa.array(sums(entries.groups, entries.columns[0], count))

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        return pa.array(doubles(states.fill_null(0.0)) * factors)


@dataclass(frozen=True)
class ExtremeKernel:
    """Smallest or largest value, in the order of Spark: NaN is the largest double, texts are ordered by bytes.

    State: the value; null without events.
    """

    kind: str
    type: ArrowType

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        return Entries(counted.groups, (counted.values.cast(self.type),))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        rows = np.flatnonzero(states.is_valid().to_numpy(zero_copy_only=False))
        return Entries(groups.number[rows], (states.take(pa.array(rows)),))

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        values = entries.columns[0]
        ranks = np.empty(len(values), np.int64)
        # A stable sort in which NaN is the last value.
        ranks[np.asarray(pc.array_sort_indices(values))] = np.arange(len(values))
        ranks = -ranks if self.kind == "min" else ranks
        order = np.lexsort((ranks, entries.groups))
        groups = entries.groups[order]
        is_last = np.append(groups[1:] != groups[:-1], True) if len(groups) else np.zeros(0, bool)
        places = np.full(count, -1)
        places[groups[is_last]] = order[is_last]
        return values.take(pa.array(places, mask=places < 0))

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        return states


@dataclass(frozen=True)
class MomentsKernel:
    """Weighted mean and variance; weights must not be negative.

    State: STRUCT<weight, mean, m2>, m2 = sum of w (x - mean)^2. Deviations are taken from the mean of the group, in a
    second pass, as in Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample
    variances".
    """

    half_life_days: float | None = None

    @property
    def type(self) -> ArrowType:
        return pa.struct([("weight", pa.float64()), ("mean", pa.float64()), ("m2", pa.float64())])

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        weights = counted.decayed(events, self.half_life_days)
        return Entries(counted.groups, (weights, counted.numbers, np.zeros(len(weights))))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        weight, mean, m2 = (doubles(pc.struct_field(states, name).fill_null(0.0)) for name in ("weight", "mean", "m2"))
        factors = groups.factors(self.half_life_days)
        return Entries(groups.number, (weight * factors, mean, m2 * factors))

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        weights, means, m2 = entries.columns
        total = sums(entries.groups, weights, count)
        first = sums(entries.groups, weights * means, count)
        mean = np.divide(first, total, out=np.zeros(count), where=total != 0)
        deviations = means - mean[entries.groups]
        # The last part corrects the rounding of the mean.
        shift = sums(entries.groups, weights * deviations, count)
        correction = np.divide(shift**2, total, out=np.zeros(count), where=total != 0)
        second = sums(entries.groups, weights * deviations**2 + m2, count) - correction
        return make_structs([pa.array(total), pa.array(mean), pa.array(np.maximum(second, 0.0))], self.type)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        """STRUCT<mean, variance>; null fields when the weight is 0. Decay changes neither."""
        weight, mean, m2 = (doubles(pc.struct_field(states, name)) for name in ("weight", "mean", "m2"))
        has_no_weight = ~(weight > 0)
        variance = np.divide(m2, weight, out=np.zeros(len(weight)), where=~has_no_weight)
        return make_structs(
            [pa.array(mean, mask=has_no_weight), pa.array(variance, mask=has_no_weight)],
            pa.struct([("mean", pa.float64()), ("variance", pa.float64())]),
        )
