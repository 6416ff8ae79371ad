"""Statistics whose state is an array of sums: a histogram, the mean of a vector."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.derive.statistics import Declared, Event, or_zero


class Histogram(Declared):
    """Weight in each of `bins` bins; `of` is a bin's number from 0, others do not count. State: ARRAY<DOUBLE>."""

    kind: Literal["histogram"]
    bins: int = Field(ge=2, le=400)
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def ddl(self) -> str:
        return "ARRAY<DOUBLE>"

    def zero(self) -> Column:
        return F.array_repeat(F.lit(0.0), self.bins)

    def lift(self, event: Event) -> Column:
        return F.array(*[or_zero(F.sum(F.when(event.value == n, event.weight))) for n in range(self.bins)])

    def merge(self, a: Column, b: Column) -> Column:
        return F.zip_with(F.coalesce(a, self.zero()), F.coalesce(b, self.zero()), lambda x, y: x + y)

    def gather(self, state: Column, factor: Column) -> Column:
        return F.array(*[or_zero(F.sum(state[n] * factor)) for n in range(self.bins)])

    def decay(self, state: Column, factor: Column) -> Column:
        """Every bin times the factor."""
        return F.transform(state, lambda weight: weight * factor)

    def read(self, state: Column) -> Column:
        return F.coalesce(state, self.zero())


class MeanVector(Declared):
    """Weighted mean of a vector of named dimensions; weights must not be negative.

    State: STRUCT<weight: DOUBLE, sums: ARRAY<DOUBLE>>, the sums of w and of w x in the order of the dimensions.

    Args:
        dimensions: SQL over an event, a number each, by name; null is 0.
    """

    kind: Literal["mean_vector"]
    dimensions: dict[str, str] = Field(min_length=1, max_length=100)
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def sql(self) -> str:
        """The dimensions as one array."""
        cells = [f"coalesce(try_cast({sql} AS DOUBLE), 0.0D)" for sql in self.dimensions.values()]
        return f"CASE WHEN ({self.of}) IS NOT NULL THEN array({', '.join(cells)}) END"

    @property
    def value_type(self) -> str:
        return "array<double>"

    @property
    def ddl(self) -> str:
        return "STRUCT<weight: DOUBLE, sums: ARRAY<DOUBLE>>"

    def zero(self) -> Column:
        return _weighed(F.lit(0.0), F.array_repeat(F.lit(0.0), len(self.dimensions)))

    def lift(self, event: Event) -> Column:
        return self._sums(event.weight, lambda n: event.value[n] * event.weight)

    def merge(self, a: Column, b: Column) -> Column:
        nothing = self.zero()["sums"]
        sums = F.zip_with(F.coalesce(a["sums"], nothing), F.coalesce(b["sums"], nothing), lambda x, y: x + y)
        return _weighed(or_zero(a["weight"]) + or_zero(b["weight"]), sums)

    def gather(self, state: Column, factor: Column) -> Column:
        return self._sums(state["weight"] * factor, lambda n: state["sums"][n] * factor)

    def _sums(self, weight: Column, cell: Callable[[int], Column]) -> Column:
        sums = [or_zero(F.sum(cell(n))) for n in range(len(self.dimensions))]
        return _weighed(or_zero(F.sum(weight)), F.array(*sums))

    def decay(self, state: Column, factor: Column) -> Column:
        """Both times the factor: the mean stays."""
        return _weighed(state["weight"] * factor, F.transform(state["sums"], lambda x: x * factor))

    def read(self, state: Column) -> Column:
        """MAP<STRING, DOUBLE> from dimension to mean; null when there is no weight."""
        names = F.array(*[F.lit(name) for name in self.dimensions])
        return F.map_from_arrays(names, self.means(state))

    def means(self, state: Column) -> Column:
        """ARRAY<DOUBLE> in the order of the dimensions; null when there is no weight."""
        return F.when(state["weight"] > 0, F.transform(state["sums"], lambda x: x / state["weight"]))


def _weighed(weight: Column, sums: Column) -> Column:
    return F.struct(weight.alias("weight"), sums.alias("sums"))
