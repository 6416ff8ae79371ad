"""Statistics whose state is an array of sums: a histogram, the mean of a vector."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.derive.kernels.kernel import Kernel
from profilestream.derive.kernels.sum_kernels import HistogramKernel, MeanVectorKernel
from profilestream.derive.statistics import EventColumns, StatisticBase, or_zero


class Histogram(StatisticBase):
    """Weight in each of `bins` bins; `of` is the number of the bin, from 0, and other values do not count.

    State: ARRAY<DOUBLE>.
    """

    kind: Literal["histogram"]
    bins: int = Field(ge=2, le=400)
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def kernel(self) -> Kernel:
        return HistogramKernel(self.bins)

    @property
    def ddl(self) -> str:
        return "ARRAY<DOUBLE>"

    def zero(self) -> Column:
        return F.array_repeat(F.lit(0.0), self.bins)

    def aggregate_events(self, event: EventColumns) -> Column:
        return F.array(*[or_zero(F.sum(F.when(event.value == n, event.weight))) for n in range(self.bins)])

    def merge(self, a: Column, b: Column) -> Column:
        return F.zip_with(F.coalesce(a, self.zero()), F.coalesce(b, self.zero()), lambda x, y: x + y)

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return F.array(*[or_zero(F.sum(state[n] * factor)) for n in range(self.bins)])

    def decay(self, state: Column, factor: Column) -> Column:
        """Every bin times the factor."""
        return F.transform(state, lambda weight: weight * factor)

    def read(self, state: Column) -> Column:
        return F.coalesce(state, self.zero())


class MeanVector(StatisticBase):
    """Weighted mean of a vector with named dimensions; weights must not be negative.

    State: STRUCT<weight: DOUBLE, sums: ARRAY<DOUBLE>>, the sums of w and of w x in the order of the dimensions.

    Args:
        dimensions: SQL of a number over an event, by name; null is 0.
    """

    kind: Literal["mean_vector"]
    dimensions: dict[str, str] = Field(min_length=1, max_length=100)
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def sql(self) -> str:
        """SQL of the dimensions as one array."""
        cells = [f"coalesce(try_cast({sql} AS DOUBLE), 0.0D)" for sql in self.dimensions.values()]
        return f"CASE WHEN ({self.of}) IS NOT NULL THEN array({', '.join(cells)}) END"

    @property
    def value_type(self) -> str:
        return "array<double>"

    @property
    def kernel(self) -> Kernel:
        return MeanVectorKernel(tuple(self.dimensions))

    @property
    def ddl(self) -> str:
        return "STRUCT<weight: DOUBLE, sums: ARRAY<DOUBLE>>"

    def zero(self) -> Column:
        return _state(F.lit(0.0), F.array_repeat(F.lit(0.0), len(self.dimensions)))

    def aggregate_events(self, event: EventColumns) -> Column:
        return self._sums(event.weight, lambda n: event.value[n] * event.weight)

    def merge(self, a: Column, b: Column) -> Column:
        zeros = self.zero()["sums"]
        sums = F.zip_with(F.coalesce(a["sums"], zeros), F.coalesce(b["sums"], zeros), lambda x, y: x + y)
        return _state(or_zero(a["weight"]) + or_zero(b["weight"]), sums)

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return self._sums(state["weight"] * factor, lambda n: state["sums"][n] * factor)

    def _sums(self, weight: Column, cell: Callable[[int], Column]) -> Column:
        sums = [or_zero(F.sum(cell(n))) for n in range(len(self.dimensions))]
        return _state(or_zero(F.sum(weight)), F.array(*sums))

    def decay(self, state: Column, factor: Column) -> Column:
        """Weight and sums times the factor; the mean is unchanged."""
        return _state(state["weight"] * factor, F.transform(state["sums"], lambda x: x * factor))

    def read(self, state: Column) -> Column:
        """MAP<STRING, DOUBLE> from dimension to mean; null without weight."""
        names = F.array(*[F.lit(name) for name in self.dimensions])
        return F.map_from_arrays(names, self.means(state))

    def means(self, state: Column) -> Column:
        """ARRAY<DOUBLE> in the order of the dimensions; null without weight."""
        return F.when(state["weight"] > 0, F.transform(state["sums"], lambda x: x / state["weight"]))


def _state(weight: Column, sums: Column) -> Column:
    return F.struct(weight.alias("weight"), sums.alias("sums"))
