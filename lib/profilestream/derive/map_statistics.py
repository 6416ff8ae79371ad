"""Statistics whose state is a map from a cell to its weight: heaviest keys, quantiles.

An aggregate function cannot sum by cell, so the fold does (fold.py). For groups of rows these kinds have:

    cell(value)                    the cell of a value
    cells(state)                   the map of a state
    rest(state)                    the weight that was cut from it
    state_of_cells(weights, rest)  the state of summed cells

Sums may have more cells than a state may store; `trim` cuts them.
"""

import math
from typing import Literal

from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.derive.kernels.kernel import Kernel
from profilestream.derive.kernels.map_kernels import HeaviestKernel, QuantilesKernel
from profilestream.derive.statistics import StatisticBase, or_zero

_EMPTY = "MAP<STRING, DOUBLE>"


class MapStatistic(StatisticBase):
    """Base of the kinds with a map of weights."""

    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def cell_kind(self) -> str:
        """Equal for two statistics that assign equal cells to equal values."""
        return "key"


class Heaviest(MapStatistic):
    """At most n keys with their weights. State: STRUCT<weights: MAP<STRING, DOUBLE>, rest: DOUBLE>."""

    kind: Literal["top", "frequent"]
    n: int = Field(ge=1, le=1000)

    @property
    def kernel(self) -> Kernel:
        return HeaviestKernel(self.kind, self.n)

    @property
    def value_type(self) -> str:
        """Keys are strings."""
        return "string"

    @property
    def ddl(self) -> str:
        return "STRUCT<weights: MAP<STRING, DOUBLE>, rest: DOUBLE>"

    def zero(self) -> Column:
        return _state(F.create_map().cast(_EMPTY), F.lit(0.0))

    def cell(self, value: Column) -> Column:
        """The key itself."""
        return value

    def cells(self, state: Column) -> Column:
        """The map of a state."""
        return state["weights"]

    def rest(self, state: Column) -> Column:
        """The weight that was cut."""
        return state["rest"]

    def state_of_cells(self, weights: Column, rest: Column) -> Column:
        """The state of all cells, not yet cut."""
        return _state(weights, rest)

    def trim(self, state: Column) -> Column:
        """The n heaviest keys. Ties are resolved by key, so the order of rows has no effect."""
        return F.when(F.size(state["weights"]) > self.n, self._cut(state)).otherwise(state)

    def _by_weight(self, state: Column) -> Column:
        """Entries (order, key, value), heaviest first."""
        entries = F.map_entries(state["weights"])
        return F.sort_array(
            F.transform(entries, lambda e: F.struct((-F.abs(e["value"])).alias("order"), e["key"], e["value"]))
        )

    def _cut(self, state: Column) -> Column:
        raise NotImplementedError

    def merge(self, a: Column, b: Column) -> Column:
        return _state(_sum_maps(a["weights"], b["weights"]), or_zero(a["rest"]) + or_zero(b["rest"]))

    def decay(self, state: Column, factor: Column) -> Column:
        """Every weight and the rest times the factor."""
        return _state(_scaled(state["weights"], factor), state["rest"] * factor)

    def read(self, state: Column) -> Column:
        """The map of weights."""
        return F.coalesce(state["weights"], F.create_map().cast(_EMPTY))


class Top(Heaviest):
    """The n heaviest keys; `rest` is the sum of the absolute weights that were cut.

    Exact until a key is cut; then a weight is wrong by at most `rest`. Weights may be negative.
    """

    kind: Literal["top"]

    def _cut(self, state: Column) -> Column:
        by_weight = self._by_weight(state)
        top = F.transform(F.slice(by_weight, 1, self.n), lambda e: F.struct(e["key"], e["value"]))
        others = F.slice(by_weight, self.n + 1, 1_000_000_000)
        return _state(F.map_from_entries(top), F.aggregate(others, state["rest"], lambda total, e: total - e["order"]))


class Frequent(Heaviest):
    """Frequent items: contains every key heavier than 1 / (n + 1) of the total weight; weights must not be negative.

    A weight is too low by at most `rest`, which is at most 1 / (n + 1) of the total. Misra and Gries (1982),
    "Finding repeated elements"; merged as in Agarwal et al. (2012), "Mergeable summaries".
    """

    kind: Literal["frequent"]

    def _cut(self, state: Column) -> Column:
        """All weights minus the weight of the heaviest key beyond n; keys with nothing left are removed."""
        by_weight = self._by_weight(state)
        excess = -F.get(by_weight, F.lit(self.n))["order"]
        reduced = F.transform_values(state["weights"], lambda _, weight: weight - excess)
        return _state(F.map_filter(reduced, lambda _, weight: weight > 0), state["rest"] + excess)


def _state(weights: Column, rest: Column) -> Column:
    return F.struct(weights.alias("weights"), rest.alias("rest"))


class Quantiles(MapStatistic):
    """Values counted in logarithmic bins; any quantile is correct within a relative error; deterministic.

    State: MAP<STRING, DOUBLE> from bin to weight. The bin is the sign of the value and the exponent of
    gamma = (1 + error) / (1 - error), or `0` for zero. Bins as in Masson, Rim and Lee (2019), "DDSketch". NaN and
    infinite values do not count.
    """

    kind: Literal["quantiles"]
    error: float = Field(default=0.02, gt=0, lt=0.5)

    @property
    def kernel(self) -> Kernel:
        return QuantilesKernel(self.error)

    @property
    def ddl(self) -> str:
        return _EMPTY

    @property
    def cell_kind(self) -> str:
        """Statistics with the same error have the same bins."""
        return f"bin {self.error}"

    @property
    def _log_gamma(self) -> float:
        return math.log((1 + self.error) / (1 - self.error))

    def zero(self) -> Column:
        return F.create_map().cast(_EMPTY)

    def cell(self, value: Column) -> Column:
        """The bin of a value."""
        size = F.abs(value)
        exponent = F.ceil(F.log(size) / self._log_gamma).cast("string")
        sign = F.when(value < 0, "-").otherwise("+")
        return F.when(value == 0, "0").when(size < float("inf"), F.concat(sign, exponent))

    def round_to_bin(self, value: Column) -> Column:
        """The representative of a value's bin, within `error` of the value; `read` returns representatives."""
        return self._representative(self.cell(value))

    def cells(self, state: Column) -> Column:
        """The map itself."""
        return state

    def rest(self, state: Column) -> Column:
        """0: nothing is cut."""
        return F.lit(0.0)

    def state_of_cells(self, weights: Column, rest: Column) -> Column:
        """The map itself."""
        return weights

    def merge(self, a: Column, b: Column) -> Column:
        return _sum_maps(a, b)

    def decay(self, state: Column, factor: Column) -> Column:
        """Every weight times the factor."""
        return _scaled(state, factor)

    def read(self, state: Column, q: float = 0.5) -> Column:
        """The q-quantile, DOUBLE, within a relative `error`; null without weight."""
        bins = F.sort_array(
            F.transform(
                F.map_entries(state),
                lambda e: F.struct(self._representative(e["key"]).alias("value"), e["value"].alias("weight")),
            )
        )
        target = F.lit(q) * F.aggregate(bins, F.lit(0.0), lambda total, b: total + b["weight"])
        start = F.struct(F.lit(0.0).alias("total"), F.lit(None).cast("double").alias("value"))

        def step(result: Column, entry: Column) -> Column:
            is_reached = result["value"].isNotNull() & (result["total"] >= target)
            return F.struct(
                F.when(is_reached, result["total"]).otherwise(result["total"] + entry["weight"]).alias("total"),
                F.when(is_reached, result["value"]).otherwise(entry["value"]).alias("value"),
            )

        return F.aggregate(bins, start, step)["value"]

    def _representative(self, key: Column) -> Column:
        exponent = F.substring(key, 2, 20).try_cast("double")
        size = F.exp(exponent * self._log_gamma) * (1 - self.error)
        return F.when(key == "0", 0.0).when(key.startswith("-"), -size).otherwise(size)


def _sum_maps(a: Column, b: Column) -> Column:
    empty = F.create_map().cast(_EMPTY)
    return F.map_zip_with(F.coalesce(a, empty), F.coalesce(b, empty), lambda _, x, y: or_zero(x) + or_zero(y))


def _scaled(weights: Column, factor: Column) -> Column:
    # Of two merged rows, one is as new as the result; its map is unchanged.
    return F.when(factor == 1, weights).otherwise(F.transform_values(weights, lambda _, weight: weight * factor))
