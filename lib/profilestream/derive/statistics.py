"""The kinds of statistics that a table may declare.

A kind is a declaration: its parameters in TOML, the SQL type of the value of an event (`value_type`), of the stored
state (`ddl`) and of the value for users (`result_ddl`), and the kernel that computes them (kernels/kernel.py).

Weights may be negative (event types return and uncart) unless a kind excludes them. The order of events is
(event_time, source, event_id), never the order of rows.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from profilestream.base.settings import Frozen
from profilestream.derive.kernels.kernel import ARROW_TYPES, Kernel
from profilestream.derive.kernels.latest_kernels import ExtremeKernel, LatestByKeyKernel, LatestKernel
from profilestream.derive.kernels.map_kernels import HeaviestKernel, QuantilesKernel
from profilestream.derive.kernels.sum_kernels import (
    CountKernel,
    HistogramKernel,
    MeanVectorKernel,
    MomentsKernel,
    SumKernel,
)
from profilestream.derive.kernels.theta_sketch import DistinctKernel

_ORDER = "STRUCT<event_time: TIMESTAMP, source: STRING, event_id: STRING>"
_WEIGHTS = "MAP<STRING, DOUBLE>"
Value = TypeVar("Value")


def by_facet(values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Values by path -> values by column, then by field; the field is empty when the column has no fields."""
    facets: dict[str, dict[str, Value]] = {}
    for path, value in values.items():
        column, _, field = path.partition(".")
        facets.setdefault(column, {})[field] = value
    return facets


class StatisticBase(Frozen):
    """The fields of every declared statistic.

    Args:
        of: SQL over an event; events for which it is null do not count.
        where: SQL condition; other events do not count.
        weight: SQL over an event.

    Attributes:
        stores_values: whether a state contains values of `of`, which may be personal data.
        adds_weights: whether its numbers are sums of weights.
        empty_value: the value without events, in words.
    """

    stores_values: ClassVar[bool] = False
    adds_weights: ClassVar[bool] = False
    empty_value: ClassVar[str] = "null"

    of: str = "1"
    where: str = "true"
    weight: str = "1"

    @property
    def kernel(self) -> Kernel:
        """The computation of the statistic."""
        raise NotImplementedError

    @property
    def ddl(self) -> str:
        """SQL type of a state; null is the state of no events."""
        raise NotImplementedError

    @property
    def result_ddl(self) -> str:
        """SQL type of the value for users."""
        return self.ddl

    @property
    def is_plain(self) -> bool:
        """Whether a state is its own value, as of the time of its row."""
        return self.result_ddl == self.ddl

    @property
    def readable_ddl(self) -> str:
        """SQL type of the column for readers, in a table with one row per key."""
        return self.result_ddl

    @property
    def hidden_ddl(self) -> str:
        """SQL type of what such a table stores in addition, unless the statistic is plain."""
        return self.ddl

    @property
    def sql(self) -> str:
        """SQL of the value of an event."""
        return self.of

    @property
    def half_life(self) -> float | None:
        """Days in which a weight halves; null without decay."""
        return getattr(self, "half_life_days", None)

    @property
    def value_type(self) -> str:
        """The type to which `of` is cast."""
        return "double"


class Reading(Frozen):
    """A value that is computed from the values of the statistics of a row.

    Args:
        sql: over the statistics, `as_of` and `at`, the time of the values.
        type: SQL type; a value that cannot be cast to it is null.
        meaning: one sentence.
        unit: of the value; empty when it has none.
    """

    sql: str
    type: str = "double"
    meaning: str = Field(min_length=1)
    unit: str = ""


class Count(StatisticBase):
    """Sum of integer weights, such as the number of events; returns may subtract. State: BIGINT."""

    adds_weights: ClassVar[bool] = True
    empty_value: ClassVar[str] = "0"
    kind: Literal["count"]

    @property
    def kernel(self) -> Kernel:
        return CountKernel()

    @property
    def ddl(self) -> str:
        return "BIGINT"


class DecayedStatistic(StatisticBase):
    """Base of kinds whose weights may decay."""

    half_life_days: float | None = Field(default=None, gt=0)


class Sum(DecayedStatistic):
    """Weighted sum. State: DOUBLE."""

    empty_value: ClassVar[str] = "0"
    kind: Literal["sum"]

    @property
    def kernel(self) -> Kernel:
        return SumKernel()

    @property
    def ddl(self) -> str:
        return "DOUBLE"


class Moments(DecayedStatistic):
    """Weighted mean and variance; weights must not be negative. State: weight, mean, m2 = sum of w (x - mean)^2."""

    kind: Literal["moments"]

    @property
    def kernel(self) -> Kernel:
        return MomentsKernel()

    @property
    def ddl(self) -> str:
        return "STRUCT<weight: DOUBLE, mean: DOUBLE, m2: DOUBLE>"

    @property
    def result_ddl(self) -> str:
        return "STRUCT<mean: DOUBLE, variance: DOUBLE>"


class Histogram(DecayedStatistic):
    """Weight in each of `bins` bins; `of` is the number of the bin, from 0, and other values do not count.

    State: ARRAY<DOUBLE>.
    """

    adds_weights: ClassVar[bool] = True
    empty_value: ClassVar[str] = "empty"
    kind: Literal["histogram"]
    bins: int = Field(ge=2, le=400)

    @property
    def kernel(self) -> Kernel:
        return HistogramKernel(self.bins)

    @property
    def ddl(self) -> str:
        return "ARRAY<DOUBLE>"


class MeanVector(DecayedStatistic):
    """Weighted mean of a vector with named dimensions; weights must not be negative.

    State: STRUCT<weight: DOUBLE, sums: ARRAY<DOUBLE>>, the sums of w and of w x in the order of the dimensions.

    Args:
        dimensions: SQL of a number over an event, by name; null is 0.
    """

    kind: Literal["mean_vector"]
    dimensions: dict[str, str] = Field(min_length=1, max_length=100)

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

    @property
    def result_ddl(self) -> str:
        return _WEIGHTS


class Quantiles(DecayedStatistic):
    """Values counted in logarithmic bins; any quantile is correct within a relative error; deterministic.

    State: MAP<STRING, DOUBLE> from bin to weight. The value for users is the median. NaN and infinite values do not
    count.
    """

    kind: Literal["quantiles"]
    error: float = Field(default=0.02, gt=0, lt=0.5)

    @property
    def kernel(self) -> Kernel:
        return QuantilesKernel(self.error)

    @property
    def ddl(self) -> str:
        return _WEIGHTS

    @property
    def result_ddl(self) -> str:
        return "DOUBLE"


class Heaviest(DecayedStatistic):
    """At most n keys with their weights.

    State: the keys with their weights, heaviest first, and `rest`. They are cut once per batch.

    `top` keeps the n heaviest keys, and `rest` is the sum of the absolute weights that were cut. It is exact until a
    key is cut; then a weight is wrong by at most `rest`. Weights may be negative.

    `frequent` contains every key heavier than 1 / (n + 1) of the total weight. A weight is too low by at most `rest`,
    which is at most 1 / (n + 1) of the total; weights must not be negative.
    """

    stores_values: ClassVar[bool] = True
    adds_weights: ClassVar[bool] = True
    empty_value: ClassVar[str] = "empty"
    kind: Literal["top", "frequent"]
    n: int = Field(ge=1, le=1000)

    @property
    def kernel(self) -> Kernel:
        return HeaviestKernel(self.kind, self.n)

    @property
    def value_type(self) -> str:
        return "string"

    @property
    def ddl(self) -> str:
        return f"STRUCT<weights: {self.readable_ddl}, rest: DOUBLE>"

    @property
    def result_ddl(self) -> str:
        return _WEIGHTS

    @property
    def readable_ddl(self) -> str:
        return "ARRAY<STRUCT<key: STRING, weight: DOUBLE>>"

    @property
    def hidden_ddl(self) -> str:
        """Of the rest; the weights are stored once, in the readable column."""
        return "DOUBLE"


class TypedStatistic(StatisticBase):
    """Base of kinds that store values. `type` is the SQL type of `of`."""

    type: Literal["double", "string", "timestamp", "bigint", "boolean"] = "double"

    @property
    def value_type(self) -> str:
        """The declared type."""
        return self.type


class Extreme(TypedStatistic):
    """Smallest or largest value. State: the value, null without events."""

    stores_values: ClassVar[bool] = True
    kind: Literal["min", "max"]

    @property
    def kernel(self) -> Kernel:
        return ExtremeKernel(self.kind, ARROW_TYPES[self.type])

    @property
    def ddl(self) -> str:
        return self.type.upper()


class Latest(TypedStatistic):
    """Values of the newest (`last`) or oldest (`first`) k events, by time, source and id.

    State: array of order and value, best first; so ties do not depend on the order of rows. The value for users is an
    array when k is more than 1.
    """

    stores_values: ClassVar[bool] = True
    kind: Literal["first", "last"]
    k: int = Field(default=1, ge=1, le=1000)

    @property
    def kernel(self) -> Kernel:
        return LatestKernel(self.kind, self.k, ARROW_TYPES[self.type])

    @property
    def ddl(self) -> str:
        return f"ARRAY<STRUCT<order: {_ORDER}, value: {self.type.upper()}>>"

    @property
    def result_ddl(self) -> str:
        return self.type.upper() if self.k == 1 else f"ARRAY<{self.type.upper()}>"


class LatestByKey(StatisticBase):
    """The newest value of each key; `of` is a MAP<STRING, STRING>, and null values do not count.

    State: MAP<STRING, STRUCT<order, value>>.
    """

    stores_values: ClassVar[bool] = True
    empty_value: ClassVar[str] = "empty"
    kind: Literal["last_by_key"]

    @property
    def value_type(self) -> str:
        return "map<string,string>"

    @property
    def kernel(self) -> Kernel:
        return LatestByKeyKernel()

    @property
    def ddl(self) -> str:
        return f"MAP<STRING, STRUCT<order: {_ORDER}, value: STRING>>"

    @property
    def result_ddl(self) -> str:
        return "MAP<STRING, STRING>"


class Distinct(TypedStatistic):
    """Number of distinct values, by a theta sketch; the estimate does not depend on the order of merges.

    State: BINARY, null without events. Events with negative weights count like others.
    """

    stores_values: ClassVar[bool] = True
    empty_value: ClassVar[str] = "0"
    kind: Literal["distinct"]
    type: Literal["string"] = "string"
    log_nominal_entries: int = Field(default=9, ge=4, le=26)

    @property
    def kernel(self) -> Kernel:
        return DistinctKernel(self.log_nominal_entries)

    @property
    def ddl(self) -> str:
        return "BINARY"

    @property
    def result_ddl(self) -> str:
        return "BIGINT"

    @property
    def exact_limit(self) -> int:
        """The largest number that is exact; the estimate of a larger number is never below it."""
        return int(2**self.log_nominal_entries)
