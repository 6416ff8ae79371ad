"""Statistics whose state is a map from a cell to its weight: heaviest keys, quantiles.

An aggregate cannot sum by cell, so the engine does (fold.py), and these kinds have other verbs for a group of rows:

    cell(value)              the cell in which a value falls
    cells(state)             the map of a state
    rest(state)              what was cut from it
    of_cells(weights, rest)  the state of summed cells

Sums may have more cells than a state should; `trimmed` cuts them.
"""

import math
from typing import Literal

from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.derive.statistics import Declared, or_zero

_EMPTY = "MAP<STRING, DOUBLE>"


class MapStatistic(Declared):
    """What all have: weights that decay."""

    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def cells_like(self) -> str:
        """The same for two statistics that put equal values into equal cells."""
        return "key"


class Heaviest(MapStatistic):
    """Keys with their weights, of which so many are kept. State: STRUCT<weights: MAP<STRING, DOUBLE>, rest: DOUBLE>."""

    n: int = Field(ge=1, le=1000)

    @property
    def value_type(self) -> str:
        """Keys are text."""
        return "string"

    @property
    def ddl(self) -> str:
        return "STRUCT<weights: MAP<STRING, DOUBLE>, rest: DOUBLE>"

    def zero(self) -> Column:
        return _kept(F.create_map().cast(_EMPTY), F.lit(0.0))

    def cell(self, value: Column) -> Column:
        """The key itself."""
        return value

    def cells(self, state: Column) -> Column:
        """The map of a state."""
        return state["weights"]

    def rest(self, state: Column) -> Column:
        """What is no longer known."""
        return state["rest"]

    def of_cells(self, weights: Column, rest: Column) -> Column:
        """All of them."""
        return _kept(weights, rest)

    def trimmed(self, state: Column) -> Column:
        """The n heaviest. Ties by key, so that the order of rows does not matter."""
        return F.when(F.size(state["weights"]) > self.n, self._cut(state)).otherwise(state)

    def _by_weight(self, whole: Column) -> Column:
        """Entries (order, key, value), heaviest first."""
        entries = F.map_entries(whole["weights"])
        return F.sort_array(
            F.transform(entries, lambda e: F.struct((-F.abs(e["value"])).alias("order"), e["key"], e["value"]))
        )

    def _cut(self, whole: Column) -> Column:
        raise NotImplementedError

    def merge(self, a: Column, b: Column) -> Column:
        return _kept(_sum_maps(a["weights"], b["weights"]), or_zero(a["rest"]) + or_zero(b["rest"]))

    def decay(self, state: Column, factor: Column) -> Column:
        """Every weight and the rest times the factor."""
        return _kept(_scaled(state["weights"], factor), state["rest"] * factor)

    def read(self, state: Column) -> Column:
        """The map of weights."""
        return F.coalesce(state["weights"], F.create_map().cast(_EMPTY))


class Top(Heaviest):
    """The n heaviest keys; `rest` is the sum of absolute weights of all that was cut.

    Exact while nothing was cut; then a weight is wrong by at most `rest`. Weights may be negative.
    """

    kind: Literal["top"]

    def _cut(self, whole: Column) -> Column:
        by_weight = self._by_weight(whole)
        kept = F.transform(F.slice(by_weight, 1, self.n), lambda e: F.struct(e["key"], e["value"]))
        lost = F.slice(by_weight, self.n + 1, 1_000_000_000)
        return _kept(F.map_from_entries(kept), F.aggregate(lost, whole["rest"], lambda total, e: total - e["order"]))


class Frequent(Heaviest):
    """Frequent items: every key heavier than 1 / (n + 1) of the whole weight is here; no weight may be negative.

    A weight is too low by at most `rest`, which is itself at most 1 / (n + 1) of the whole. Misra and Gries (1982),
    "Finding repeated elements"; merged as in Agarwal et al. (2012), "Mergeable summaries".
    """

    kind: Literal["frequent"]

    def _cut(self, whole: Column) -> Column:
        """All weights less the heaviest one that has no place; what is left of them."""
        by_weight = self._by_weight(whole)
        excess = -F.get(by_weight, F.lit(self.n))["order"]
        less = F.transform_values(whole["weights"], lambda _, weight: weight - excess)
        return _kept(F.map_filter(less, lambda _, weight: weight > 0), whole["rest"] + excess)


def _kept(weights: Column, rest: Column) -> Column:
    return F.struct(weights.alias("weights"), rest.alias("rest"))


class Quantiles(MapStatistic):
    """Values counted in logarithmic bins, so that any quantile is right within a relative error; deterministic.

    State: MAP<STRING, DOUBLE> from bin to weight; the bin is the exponent of gamma = (1 + error) / (1 - error) with the
    value's sign before it, `0` for zero. Bins as in Masson, Rim and Lee (2019), "DDSketch". NaN and infinite values do
    not count.
    """

    kind: Literal["quantiles"]
    error: float = Field(default=0.02, gt=0, lt=0.5)

    @property
    def ddl(self) -> str:
        return _EMPTY

    @property
    def cells_like(self) -> str:
        """Bins of one error are the same bins."""
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

    def rounded(self, value: Column) -> Column:
        """What stands for the bin of a value: within `error` of it, and what `read` says where it is a quantile."""
        return self._middle(self.cell(value))

    def cells(self, state: Column) -> Column:
        """The map itself."""
        return state

    def rest(self, state: Column) -> Column:
        """Nothing is cut."""
        return F.lit(0.0)

    def of_cells(self, weights: Column, rest: Column) -> Column:
        """The map itself."""
        return weights

    def merge(self, a: Column, b: Column) -> Column:
        return _sum_maps(a, b)

    def decay(self, state: Column, factor: Column) -> Column:
        """Every weight times the factor."""
        return _scaled(state, factor)

    def read(self, state: Column, q: float = 0.5) -> Column:
        """The q-quantile, DOUBLE, within `error` of the truth; null when there is no weight."""
        bins = F.sort_array(
            F.transform(
                F.map_entries(state),
                lambda e: F.struct(self._middle(e["key"]).alias("value"), e["value"].alias("weight")),
            )
        )
        target = F.lit(q) * F.aggregate(bins, F.lit(0.0), lambda total, b: total + b["weight"])
        start = F.struct(F.lit(0.0).alias("seen"), F.lit(None).cast("double").alias("value"))

        def step(found: Column, one: Column) -> Column:
            enough = found["value"].isNotNull() & (found["seen"] >= target)
            return F.struct(
                F.when(enough, found["seen"]).otherwise(found["seen"] + one["weight"]).alias("seen"),
                F.when(enough, found["value"]).otherwise(one["value"]).alias("value"),
            )

        return F.aggregate(bins, start, step)["value"]

    def _middle(self, key: Column) -> Column:
        exponent = F.substring(key, 2, 20).try_cast("double")
        size = F.exp(exponent * self._log_gamma) * (1 - self.error)
        return F.when(key == "0", 0.0).when(key.startswith("-"), -size).otherwise(size)


def _sum_maps(a: Column, b: Column) -> Column:
    empty = F.create_map().cast(_EMPTY)
    return F.map_zip_with(F.coalesce(a, empty), F.coalesce(b, empty), lambda _, x, y: or_zero(x) + or_zero(y))


def _scaled(weights: Column, factor: Column) -> Column:
    # Of two rows that are merged one is as new as the merged row: its map stays as it is.
    return F.when(factor == 1, weights).otherwise(F.transform_values(weights, lambda _, weight: weight * factor))
