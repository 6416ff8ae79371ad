"""Kernels whose state is a weight per key: heaviest keys, quantiles.

An entry without a key is weight that was cut (`rest`).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from profilestream.derive.kernels.kernel import (
    Array,
    Events,
    FixedSize,
    Floats,
    Ints,
    StoredStates,
    entries_of,
    flat_list,
    flat_map,
    floats,
    ints,
    list_array,
    map_array,
    offsets_of,
    one_array,
    positions,
    ranks,
    struct_array,
    sum_by_group,
)

_WEIGHTS = pa.map_(pa.string(), pa.float64())
_CELL = pa.struct([("key", pa.string()), ("weight", pa.float64())])


@dataclass(frozen=True)
class HeaviestKernel:
    """The heaviest keys of a group with their weights, heaviest first; `trim` cuts them to n.

    Of equal weights, the smaller key is heavier.

    Args:
        kind: `top`: rest is the sum of the absolute weights that were cut; weights may be negative. `frequent`: every
            weight is reduced by the weight of the heaviest key beyond n, rest is the sum of the reductions. Misra and
            Gries (1982), "Finding repeated elements"; merged as in Agarwal et al. (2012), "Mergeable summaries".
    """

    kind: Literal["top", "frequent"]
    n: int
    type: pa.StructType = pa.struct([("weights", pa.list_(_CELL)), ("rest", pa.float64())])

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=True)
        return entries_of(counted.groups, key=counted.values, weight=floats(counted.weights))

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        rest = floats(rows.states.field("rest")) * rows.factors
        no_keys = pa.nulls(len(rest), pa.string())
        parents, keys, weights = _flat_cells(rows.states)
        cells = entries_of(rows.groups[parents], key=keys, weight=weights * rows.factors[parents])
        return pa.concat_tables([cells, entries_of(rows.groups, key=no_keys, weight=rest)])

    def fold(self, entries: pa.Table, count: int) -> Array:
        """States with all keys, in ascending order."""
        is_rest = entries["key"].is_null().to_numpy()
        rest = sum_by_group(ints(entries["group"])[is_rest], floats(entries["weight"])[is_rest], count)
        groups, codes, weights, keys = _sum_by_key(entries.filter(entries["key"].is_valid()))
        return self._states(groups, keys.take(pa.array(codes)), weights, rest)

    def trim(self, states: Array) -> Array:
        """The n heaviest keys of each state that `fold` returned, heaviest first."""
        groups, keys, weights = _flat_cells(states)
        rest, count = floats(states.field("rest")), len(states)
        is_retained = np.ones(len(groups), bool)
        is_large = np.bincount(groups, minlength=count) > self.n
        large = np.flatnonzero(is_large[groups])
        heaviest_first = large[np.lexsort((-np.abs(weights[large]), groups[large]))]
        place = positions(groups[heaviest_first])
        if self.kind == "top":
            cut = heaviest_first[place >= self.n]
            is_retained[cut] = False
            # bincount continues the sum of the group from its rest.
            order = np.concatenate([np.arange(count), groups[cut]])
            rest = sum_by_group(order, np.concatenate([rest, np.abs(weights[cut])]), count)
        else:
            excess = np.zeros(count)
            border = heaviest_first[place == self.n]
            excess[groups[border]] = np.abs(weights[border])
            weights = weights - excess[groups]
            is_retained = (weights > 0) | ~is_large[groups]
            rest = rest + excess
        by_weight = np.lexsort((-weights, groups))
        by_weight = by_weight[is_retained[by_weight]]
        return self._states(groups[by_weight], keys.take(pa.array(by_weight)), weights[by_weight], rest)

    def _states(self, groups: Ints, keys: Array, weights: Floats, rest: Floats) -> Array:
        lists = list_array(offsets_of(groups, len(rest)), struct_array(_CELL, keys, pa.array(weights)))
        return struct_array(self.type, lists, pa.array(rest))

    def read(self, states: Array, factors: Floats) -> Array:
        """MAP<STRING, DOUBLE>; empty without events."""
        stored = StoredStates(states, factors, np.arange(len(states))).present()
        parents, keys, weights = _flat_cells(stored.states)
        return _maps(stored.groups[parents], keys, weights * stored.factors[parents], len(states))


def _flat_cells(states: Array) -> tuple[Ints, Array, Floats]:
    """The row, key and weight of every cell of the states."""
    rows, cells = flat_list(states.field("weights"))
    return rows, cells.field("key"), floats(cells.field("weight"))


@dataclass(frozen=True)
class QuantilesKernel(FixedSize):
    """Weights by logarithmic bin, MAP<STRING, DOUBLE>; NaN and infinite values do not count.

    The bin is the sign of the value and the exponent of gamma = (1 + error) / (1 - error), or `0` for zero. Bins as in
    Masson, Rim and Lee (2019), "DDSketch".
    """

    error: float
    q: float = 0.5
    type: pa.DataType = _WEIGHTS

    @property
    def _log_gamma(self) -> float:
        return math.log((1 + self.error) / (1 - self.error))

    def lift(self, events: Events) -> pa.Table:
        counted = events.counted(weighted=True)
        values = floats(counted.values)
        is_finite = np.isfinite(values)
        keys = self.bins(values[is_finite])
        return entries_of(counted.groups[is_finite], key=keys, weight=floats(counted.weights)[is_finite])

    def bins(self, values: Floats) -> Array:
        """The bins of finite values, as strings."""
        size = np.abs(values)
        logs = np.log(size, out=np.zeros(len(size)), where=size > 0)
        exponents = np.ceil(logs / self._log_gamma).astype(np.int64)
        cells = np.where(values == 0, 0, exponents * 4 + np.where(values < 0, 1, 2))
        distinct, codes = np.unique(cells, return_inverse=True)
        texts = ["0" if c % 4 == 0 else f"{'-' if c % 4 == 1 else '+'}{c // 4}" for c in distinct.tolist()]
        names: Array = pa.array(texts, pa.string())
        return names.take(pa.array(codes))

    def representatives(self, bins: Array) -> Floats:
        """A value of each bin that is within the relative `error` of all values of the bin."""
        encoded = bins.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        sizes = [math.exp(float(t[1:]) * self._log_gamma) * (1 - self.error) if t != "0" else 0.0 for t in texts]
        values = np.array([-size if t[0] == "-" else size for size, t in zip(sizes, texts, strict=True)], "d")
        codes: Ints = encoded.indices.to_numpy()
        return values[codes]

    def unpack(self, rows: StoredStates) -> pa.Table:
        return _map_entries(rows.present())

    def fold(self, entries: pa.Table, count: int) -> Array:
        groups, codes, weights, keys = _sum_by_key(entries)
        return _maps(groups, keys.take(pa.array(codes)), weights, count)

    def read(self, states: Array, factors: Floats) -> Array:
        """The q-quantile, DOUBLE, within a relative `error`; null without weight entries."""
        entries = self.unpack(StoredStates(states, factors, np.arange(len(states))))
        groups, weights = ints(entries["group"]), floats(entries["weight"])
        values = self.representatives(one_array(entries["key"]))
        index = np.lexsort((weights, values, groups))
        groups, weights, values = groups[index], weights[index], values[index]
        target = self.q * sum_by_group(groups, weights, len(states))
        total, result = np.zeros(len(states)), np.zeros(len(states))
        has_bins = np.bincount(groups, minlength=len(states)) > 0
        is_open = has_bins.copy()
        place = positions(groups)
        by_place = np.argsort(place, kind="stable")
        # The n-th bins of all groups at once; sums of a group are added one after the other, as the target was.
        for rows in np.split(by_place, np.flatnonzero(np.diff(place[by_place])) + 1):
            rows = rows[is_open[groups[rows]]]
            total[groups[rows]] += weights[rows]
            result[groups[rows]] = values[rows]
            is_open[groups[rows]] = ~(total >= target)[groups[rows]]
        return pa.array(result, mask=~has_bins)


def _map_entries(rows: StoredStates) -> pa.Table:
    parents, keys, weights = flat_map(rows.states)
    return entries_of(rows.groups[parents], key=keys, weight=floats(weights) * rows.factors[parents])


def _sum_by_key(entries: pa.Table) -> tuple[Ints, Ints, Floats, Array]:
    """Group, key code and weight of every cell, by group and key; and the keys by code."""
    codes, keys = ranks(one_array(entries["key"]))
    width = max(len(keys), 1)
    cells, inverse = np.unique(ints(entries["group"]) * width + codes, return_inverse=True)
    weights = sum_by_group(inverse, floats(entries["weight"]), len(cells))
    return cells // width, cells % width, weights, keys


def _maps(groups: Ints, keys: Array, weights: Floats, count: int) -> Any:
    return map_array(offsets_of(groups, count), keys, pa.array(weights))
