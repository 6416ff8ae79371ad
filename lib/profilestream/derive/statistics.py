"""Kinds of statistics with scalar states, as Spark columns. Other kinds: latest_, array_ and map_statistics.

Each kind has these operations. A *state* is a column of the type `ddl`; null is the state of no events.

    zero()                          the state of no events
    aggregate_events(event)         the state of a group of events
    aggregate_states(state, factor) the state of a group of states, each decayed by its factor
    merge(a, b)                     the state of two states valid at the same time; commutative and associative
    decay(state, factor)            the state with its weights multiplied by decay.factor(...)
    read(state)                     the value for users

Weights may be negative (event types return and uncart) unless a kind excludes them. The order of events is
(event_time, source, event_id), never the order of rows.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.settings import Frozen
from profilestream.derive.kernels.kernel import ARROW_TYPES, Kernel
from profilestream.derive.kernels.latest_kernels import ExtremeKernel
from profilestream.derive.kernels.sum_kernels import CountKernel, MomentsKernel, SumKernel
from profilestream.derive.kernels.theta_sketch import DistinctKernel


@dataclass(frozen=True)
class EventColumns:
    """The columns of an event that a statistic uses.

    Args:
        value: null when the event does not count.
        weight: decayed to the time of the group; null when `value` is null.
        order: struct of event_time, source, event_id.
    """

    value: Column
    weight: Column
    order: Column


class StatisticBase(Frozen):
    """The fields of every declared statistic.

    Args:
        of: SQL over an event; events for which it is null do not count.
        where: SQL condition; other events do not count.
        weight: SQL over an event.
    """

    of: str = "1"
    where: str = "true"
    weight: str = "1"

    @property
    def kernel(self) -> Kernel:
        """The computation of the statistic."""
        raise NotImplementedError

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

    def decay(self, state: Column, factor: Column) -> Column:
        """The state itself: this kind has no decayed weights."""
        return state

    def trim(self, state: Column) -> Column:
        """A merged state, cut to its declared size; applied once per batch. Kinds without a size return the state."""
        return state


class Count(StatisticBase):
    """Sum of integer weights, such as the number of events; returns may subtract. State: BIGINT."""

    kind: Literal["count"]

    @property
    def kernel(self) -> Kernel:
        return CountKernel()

    @property
    def ddl(self) -> str:
        return "BIGINT"

    def zero(self) -> Column:
        return F.lit(0).cast("bigint")

    def aggregate_events(self, event: EventColumns) -> Column:
        return F.coalesce(F.sum(event.weight.cast("bigint")), self.zero())

    def merge(self, a: Column, b: Column) -> Column:
        return F.coalesce(a, self.zero()) + F.coalesce(b, self.zero())

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return F.coalesce(F.sum(state), self.zero())

    def read(self, state: Column) -> Column:
        return F.coalesce(state, self.zero())


class Sum(StatisticBase):
    """Weighted sum, decayed when it has a half-life. State: DOUBLE."""

    kind: Literal["sum"]
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def kernel(self) -> Kernel:
        return SumKernel()

    @property
    def ddl(self) -> str:
        return "DOUBLE"

    def zero(self) -> Column:
        return F.lit(0.0)

    def aggregate_events(self, event: EventColumns) -> Column:
        return F.coalesce(F.sum(event.value * event.weight), self.zero())

    def merge(self, a: Column, b: Column) -> Column:
        return F.coalesce(a, self.zero()) + F.coalesce(b, self.zero())

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return F.coalesce(F.sum(state * factor), self.zero())

    def decay(self, state: Column, factor: Column) -> Column:
        """The sum times the factor."""
        return state * factor

    def read(self, state: Column) -> Column:
        return F.coalesce(state, self.zero())


def or_zero(column: Column) -> Column:
    """0 where the column is null."""
    return F.coalesce(column, F.lit(0.0))


class TypedStatistic(StatisticBase):
    """Base of kinds that store values. `type` is the SQL type of `of`."""

    type: Literal["double", "string", "timestamp", "bigint", "boolean"] = "double"

    @property
    def value_type(self) -> str:
        """The declared type."""
        return self.type


class Extreme(TypedStatistic):
    """Smallest or largest value. State: the value, null without events."""

    kind: Literal["min", "max"]

    @property
    def kernel(self) -> Kernel:
        return ExtremeKernel(self.kind, ARROW_TYPES[self.type])

    @property
    def ddl(self) -> str:
        return self.type.upper()

    def zero(self) -> Column:
        return F.lit(None).cast(self.type)

    def aggregate_events(self, event: EventColumns) -> Column:
        return F.min(event.value) if self.kind == "min" else F.max(event.value)

    def merge(self, a: Column, b: Column) -> Column:
        return F.least(a, b) if self.kind == "min" else F.greatest(a, b)

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return F.min(state) if self.kind == "min" else F.max(state)

    def read(self, state: Column) -> Column:
        return state


class Moments(StatisticBase):
    """Weighted mean and variance; weights must not be negative. State: weight, mean, m2 = sum of w (x - mean)^2.

    Merged as in Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample
    variances".
    """

    kind: Literal["moments"]
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def kernel(self) -> Kernel:
        return MomentsKernel()

    @property
    def ddl(self) -> str:
        return "STRUCT<weight: DOUBLE, mean: DOUBLE, m2: DOUBLE>"

    def zero(self) -> Column:
        return _moments(F.lit(0.0), F.lit(0.0), F.lit(0.0))

    def aggregate_events(self, event: EventColumns) -> Column:
        return self._sums(event.weight, event.value, F.lit(0.0))

    def merge(self, a: Column, b: Column) -> Column:
        (a_weight, a_mean, a_m2), (b_weight, b_mean, b_m2) = (
            [F.coalesce(state[part], F.lit(0.0)) for part in ("weight", "mean", "m2")] for state in (a, b)
        )
        weight, difference = a_weight + b_weight, b_mean - a_mean
        share = F.coalesce(F.try_divide(b_weight, weight), F.lit(0.0))
        return _moments(weight, a_mean + share * difference, a_m2 + b_m2 + difference * difference * a_weight * share)

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return self._sums(state["weight"] * factor, state["mean"], state["m2"] * factor)

    def _sums(self, weight: Column, mean: Column, m2: Column) -> Column:
        total = F.coalesce(F.sum(weight), F.lit(0.0))
        first = F.coalesce(F.sum(weight * mean), F.lit(0.0))
        second = F.coalesce(F.sum(weight * mean * mean + m2), F.lit(0.0))
        middle = F.coalesce(F.try_divide(first, total), F.lit(0.0))
        return _moments(total, middle, F.greatest(second - first * middle, F.lit(0.0)))

    def decay(self, state: Column, factor: Column) -> Column:
        """The weights times the factor; the mean is unchanged."""
        return _moments(state["weight"] * factor, state["mean"], state["m2"] * factor)

    def read(self, state: Column) -> Column:
        """Struct of mean and population variance; null fields when the weight is 0."""
        has_weight = state["weight"] > 0
        return F.struct(
            F.when(has_weight, state["mean"]).alias("mean"),
            F.when(has_weight, state["m2"] / state["weight"]).alias("variance"),
        )


def _moments(weight: Column, mean: Column, m2: Column) -> Column:
    return F.struct(weight.alias("weight"), mean.alias("mean"), m2.alias("m2"))


class Distinct(TypedStatistic):
    """Number of distinct values, by Spark's theta sketch; the estimate does not depend on the order of merges.

    State: BINARY, null without events. Events with negative weights count like others.
    """

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
    def exact_limit(self) -> int:
        """The largest number that is exact; the estimate of a larger number is never below it."""
        return int(2**self.log_nominal_entries)

    def as_text(self, count: Column) -> Column:
        """The number as a text, such as `419`; `about 436` above the exact limit."""
        return F.concat(F.when(count > self.exact_limit, "about ").otherwise(""), count.cast("string"))

    def zero(self) -> Column:
        return F.lit(None).cast("binary")

    def aggregate_events(self, event: EventColumns) -> Column:
        sketch = F.theta_sketch_agg(event.value, self.log_nominal_entries)
        return F.when(F.count(event.value) > 0, sketch)

    def merge(self, a: Column, b: Column) -> Column:
        return F.when(a.isNull(), b).when(b.isNull(), a).otherwise(F.theta_union(a, b, self.log_nominal_entries))

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return F.when(F.count(state) > 0, F.theta_union_agg(state, self.log_nominal_entries))

    def read(self, state: Column) -> Column:
        """BIGINT; exact up to `exact_limit`."""
        return F.coalesce(F.theta_sketch_estimate(state), F.lit(0).cast("bigint"))
