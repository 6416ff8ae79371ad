"""Kernels whose state is a map from a cell to its weight: the heaviest keys, quantiles."""

import math
from collections.abc import Iterator
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
    doubles,
    elements,
    make_maps,
    make_structs,
    offsets_of,
    sums,
)

_WEIGHTS = pa.map_(pa.string(), pa.float64())
# Codes of quantile bins are below it, so that group and code are one number.
_CODES = 1 << 20


@dataclass(frozen=True)
class HeaviestKernel:
    """At most n keys with their weights. State: STRUCT<weights: MAP<STRING, DOUBLE>, rest: DOUBLE>, sorted by key.

    `top`: `rest` is the sum of the absolute weights that were cut. `frequent`: contains every key heavier than
    1 / (n + 1) of the total weight; a weight is too low by at most `rest`. Misra and Gries (1982), "Finding repeated
    elements"; merged as in Agarwal et al. (2012), "Mergeable summaries".
    """

    kind: str
    n: int
    half_life_days: float | None = None

    @property
    def type(self) -> ArrowType:
        return pa.struct([("weights", _WEIGHTS), ("rest", pa.float64())])

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        return Entries(counted.groups, (counted.values, counted.decayed(events, self.half_life_days)))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        """The keys; and the rest as an entry without key."""
        weights = pc.struct_field(states, "weights")
        pairs = elements(weights)
        factors = groups.factors(self.half_life_days)
        rest = doubles(pc.struct_field(states, "rest").fill_null(0.0)) * factors
        keys = weights.keys.take(pa.array(pairs.places))
        values = doubles(weights.items)[pairs.places] * factors[pairs.rows]
        return Entries(
            np.concatenate((groups.number[pairs.rows], groups.number)),
            (pa.concat_arrays([keys, pa.nulls(len(rest), pa.string())]), np.concatenate((values, rest))),
        )

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        keys, weights = entries.columns
        is_key = keys.is_valid().to_numpy(zero_copy_only=False)
        rest = sums(entries.groups[~is_key], weights[~is_key], count)
        cells = _summed(entries.groups[is_key], keys.drop_null(), weights[is_key])
        return self._state(*cells, rest)

    def cut(self, states: ArrowArray) -> ArrowArray:
        """The n heaviest keys of each state. Ties are resolved by key, so the order of rows has no effect."""
        weights, rest = pc.struct_field(states, "weights"), doubles(pc.struct_field(states, "rest")).copy()
        pairs = elements(weights)
        groups, keys = pairs.rows, weights.keys.take(pa.array(pairs.places))
        values = doubles(weights.items)[pairs.places]
        lengths = np.bincount(groups, minlength=len(states))
        if not (lengths > self.n).any():
            return states
        order = np.lexsort((np.arange(len(keys)), -np.abs(values), groups))  # keys of a state are in order
        starts = np.cumsum(lengths) - lengths
        place = np.arange(len(keys)) - starts[groups[order]]
        if self.kind == "top":
            is_cut = place >= self.n
            rest += sums(groups[order][is_cut], np.abs(values[order][is_cut]), len(states))
            kept = np.sort(order[~is_cut])
        else:
            excess = np.zeros(len(states))
            is_next = place == self.n
            excess[groups[order][is_next]] = np.abs(values[order][is_next])
            rest += excess
            values = np.where(lengths[groups] > self.n, values - excess[groups], values)
            kept = np.flatnonzero((lengths[groups] <= self.n) | (values > 0))
        return self._state(groups[kept], keys.take(pa.array(kept)), values[kept], rest)

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        """The map of weights; empty for null."""
        weights = pc.struct_field(states, "weights")
        pairs = elements(weights)
        values = doubles(weights.items)[pairs.places] * factors[pairs.rows]
        keys = weights.keys.take(pa.array(pairs.places))
        return make_maps(offsets_of(pairs.rows, len(states)), keys, pa.array(values))

    def _state(self, groups: Integers, keys: ArrowArray, weights: Floats, rest: Floats) -> ArrowArray:
        maps = make_maps(offsets_of(groups, len(rest)), keys, pa.array(weights))
        return make_structs([maps, pa.array(rest)], self.type)


def _summed(groups: Integers, keys: ArrowArray, weights: Floats) -> tuple[Integers, ArrowArray, Floats]:
    """Group, key and sum of the weights of each pair of group and key, in order of both."""
    if len(groups) == 0:
        return groups, keys, weights
    encoded = keys.dictionary_encode()
    by_rank = np.asarray(pc.array_sort_indices(encoded.dictionary), dtype=np.int64)
    ranks = np.empty(len(by_rank), np.int64)
    ranks[by_rank] = np.arange(len(by_rank))
    cells = groups * len(by_rank) + ranks[encoded.indices.to_numpy()]
    distinct, numbers = np.unique(cells, return_inverse=True)
    texts = encoded.dictionary.take(pa.array(by_rank[distinct % len(by_rank)]))
    return distinct // len(by_rank), texts, sums(numbers, weights, len(distinct))


@dataclass(frozen=True)
class QuantilesKernel:
    """Values counted in logarithmic bins; any quantile is correct within a relative error; deterministic.

    State: MAP<STRING, DOUBLE> from bin to weight, in order of the values. The bin is the sign of the value and the
    exponent of gamma = (1 + error) / (1 - error), or `0` for zero. Bins as in Masson, Rim and Lee (2019), "DDSketch".
    NaN and infinite values do not count.
    """

    error: float = 0.02
    half_life_days: float | None = None

    @property
    def type(self) -> ArrowType:
        return _WEIGHTS

    @property
    def _log_gamma(self) -> float:
        return math.log((1 + self.error) / (1 - self.error))

    def lift(self, events: Events) -> Entries:
        counted = events.counted()
        numbers, weights = counted.numbers, counted.decayed(events, self.half_life_days)
        is_finite = np.isfinite(numbers)
        return Entries(counted.groups[is_finite], (self._codes_of(numbers[is_finite]), weights[is_finite]))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        pairs, codes, weights = self._bins(states)
        return Entries(groups.number[pairs], (codes, weights * groups.factors(self.half_life_days)[pairs]))

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        codes, weights = entries.columns
        cells, numbers = np.unique(entries.groups * (2 * _CODES) + codes + _CODES, return_inverse=True)
        groups, bins = cells // (2 * _CODES), cells % (2 * _CODES) - _CODES
        names, places = np.unique(bins, return_inverse=True)
        keys = pa.array([_name(int(code)) for code in names], pa.string()).take(places)
        values = pa.array(sums(numbers, weights, len(cells)))
        return make_maps(offsets_of(groups, count), keys, values)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats, q: float = 0.5) -> ArrowArray:
        """The q-quantile, within a relative `error`; null without weight. Decay does not change it."""
        rows, codes, weights = self._bins(states)
        order = np.lexsort((codes, rows))
        rows, codes, weights = rows[order], codes[order], weights[order]
        lengths = np.bincount(rows, minlength=len(states))
        starts = np.cumsum(lengths) - lengths
        values = np.zeros(len(states))
        # A row of a matrix for each state: so the sums of a state do not depend on other states.
        for some in _chunks(np.flatnonzero(lengths), lengths):
            places = starts[some][:, None] + np.arange(lengths[some].max())
            is_bin = places < (starts + lengths)[some][:, None]
            passed = np.cumsum(np.where(is_bin, weights[np.where(is_bin, places, 0)], 0.0), axis=1)
            reached = np.argmax(passed >= q * passed[:, -1:], axis=1)
            values[some] = self.representatives(codes[np.minimum(starts[some] + reached, (starts + lengths)[some] - 1)])
        return pa.array(values, mask=lengths == 0)

    def round_to_bin(self, values: Floats) -> Floats:
        """The representative of the bin of each finite value, within `error` of it; `read` returns representatives."""
        return self.representatives(self._codes_of(values))

    def representatives(self, codes: Integers) -> Floats:
        """The value that stands for each bin."""
        exponents = np.abs(codes) - _CODES // 2
        sizes = np.exp(exponents * self._log_gamma) * (1 - self.error)
        return np.where(codes == 0, 0.0, np.sign(codes) * sizes)

    def _codes_of(self, values: Floats) -> Integers:
        """The code of each bin: ascending with the value, 0 for zero."""
        sizes = np.abs(values)
        with np.errstate(divide="ignore"):
            exponents = np.ceil(np.log(sizes) / self._log_gamma)
        exponents = np.where(sizes == 0, 0, exponents).astype(np.int64)
        return np.where(values == 0, 0, np.where(values < 0, -1, 1) * (exponents + _CODES // 2))

    def _bins(self, states: ArrowArray) -> tuple[Integers, Integers, Floats]:
        """State, code and weight of each bin of the states."""
        pairs = elements(states)
        encoded = states.keys.take(pa.array(pairs.places)).dictionary_encode()
        codes = np.array([_code(name) for name in encoded.dictionary.to_pylist()], np.int64)
        return pairs.rows, codes[encoded.indices.to_numpy()], doubles(states.items)[pairs.places]


def _chunks(rows: Integers, lengths: Integers) -> Iterator[Integers]:
    """The rows in parts; a part times its longest row has at most 4 million cells."""
    size = max(1, 4_000_000 // int(lengths.max(initial=1)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _name(code: int) -> str:
    return "0" if code == 0 else f"{'-' if code < 0 else '+'}{abs(code) - _CODES // 2}"


def _code(name: str) -> int:
    return 0 if name == "0" else (-1 if name[0] == "-" else 1) * (int(name[1:]) + _CODES // 2)
