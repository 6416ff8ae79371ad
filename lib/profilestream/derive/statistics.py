"""The statistics: states that merge and decay, as Spark columns. More kinds: latest.py, arrays.py, maps.py.

Each kind has five verbs. A *state* is a column of the type `ddl`; null stands for the state of nothing.

    zero()           the state of nothing
    lift(event)      aggregate a group of events
    merge(a, b)      two states of one time -> one; commutative and associative
    decay(s, f)      a state after its weights were multiplied by f = decay.factor(...)
    read(s)          what a person asks for

`gather(state, factor)` aggregates a group of states: what `merge` does for two. All weights may be negative (returns,
uncart), unless a kind says otherwise. Events are told apart by (event_time, source, event_id), never by row order.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base.settings import Frozen


@dataclass(frozen=True)
class Event:
    """One event as a statistic sees it, in columns.

    Args:
        value: what the statistic is of; null when the event does not count.
        weight: its weight, decayed to the time of the group; null when `value` is.
        order: struct of event_time, source, event_id.
    """

    value: Column
    weight: Column
    order: Column


class Declared(Frozen):
    """What every declared statistic has.

    Args:
        of: SQL over an event; events for which it is null do not count.
        where: SQL condition; other events do not count.
        weight: SQL over an event.
    """

    of: str = "1"
    where: str = "true"
    weight: str = "1"

    @property
    def sql(self) -> str:
        """SQL of the value that is taken from an event."""
        return self.of

    @property
    def half_life(self) -> float | None:
        """Days until a weight is halved; null when nothing decays."""
        return getattr(self, "half_life_days", None)

    @property
    def value_type(self) -> str:
        """The type to which `of` is cast."""
        return "double"

    def decay(self, state: Column, factor: Column) -> Column:
        """Unchanged: this kind has no weights."""
        return state

    def trimmed(self, state: Column) -> Column:
        """A state of states summed up, brought back to its declared size; the engine does it once a batch."""
        return state


class Count(Declared):
    """Sum of whole weights: the number of events, less what was taken back. State: BIGINT."""

    kind: Literal["count"]

    @property
    def ddl(self) -> str:
        return "BIGINT"

    def zero(self) -> Column:
        return F.lit(0).cast("bigint")

    def lift(self, event: Event) -> Column:
        return F.coalesce(F.sum(event.weight.cast("bigint")), self.zero())

    def merge(self, a: Column, b: Column) -> Column:
        return F.coalesce(a, self.zero()) + F.coalesce(b, self.zero())

    def gather(self, state: Column, factor: Column) -> Column:
        return F.coalesce(F.sum(state), self.zero())

    def read(self, state: Column) -> Column:
        return F.coalesce(state, self.zero())


class Sum(Declared):
    """Weighted sum, decayed when it has a half-life. State: DOUBLE."""

    kind: Literal["sum"]
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def ddl(self) -> str:
        return "DOUBLE"

    def zero(self) -> Column:
        return F.lit(0.0)

    def lift(self, event: Event) -> Column:
        return F.coalesce(F.sum(event.value * event.weight), self.zero())

    def merge(self, a: Column, b: Column) -> Column:
        return F.coalesce(a, self.zero()) + F.coalesce(b, self.zero())

    def gather(self, state: Column, factor: Column) -> Column:
        return F.coalesce(F.sum(state * factor), self.zero())

    def decay(self, state: Column, factor: Column) -> Column:
        """The sum times the factor."""
        return state * factor

    def read(self, state: Column) -> Column:
        return F.coalesce(state, self.zero())


def or_zero(column: Column) -> Column:
    """0 where the column is null."""
    return F.coalesce(column, F.lit(0.0))


class Typed(Declared):
    """Kinds that keep values as they are. `type` is the SQL type of `of`."""

    type: Literal["double", "string", "timestamp", "bigint", "boolean"] = "double"

    @property
    def value_type(self) -> str:
        """As declared."""
        return self.type


class Extreme(Typed):
    """Smallest or largest value. State: the value, null when there is none."""

    kind: Literal["min", "max"]

    @property
    def ddl(self) -> str:
        return self.type.upper()

    def zero(self) -> Column:
        return F.lit(None).cast(self.type)

    def lift(self, event: Event) -> Column:
        return F.min(event.value) if self.kind == "min" else F.max(event.value)

    def merge(self, a: Column, b: Column) -> Column:
        return F.least(a, b) if self.kind == "min" else F.greatest(a, b)

    def gather(self, state: Column, factor: Column) -> Column:
        return F.min(state) if self.kind == "min" else F.max(state)

    def read(self, state: Column) -> Column:
        return state


class Moments(Declared):
    """Weighted mean and variance; weights must not be negative. State: weight, mean, m2 = sum of w (x - mean)^2.

    Merged as in Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample
    variances".
    """

    kind: Literal["moments"]
    half_life_days: float | None = Field(default=None, gt=0)

    @property
    def ddl(self) -> str:
        return "STRUCT<weight: DOUBLE, mean: DOUBLE, m2: DOUBLE>"

    def zero(self) -> Column:
        return _moments(F.lit(0.0), F.lit(0.0), F.lit(0.0))

    def lift(self, event: Event) -> Column:
        return self._sums(event.weight, event.value, F.lit(0.0))

    def merge(self, a: Column, b: Column) -> Column:
        (a_weight, a_mean, a_m2), (b_weight, b_mean, b_m2) = (
            [F.coalesce(state[part], F.lit(0.0)) for part in ("weight", "mean", "m2")] for state in (a, b)
        )
        weight, apart = a_weight + b_weight, b_mean - a_mean
        share = F.coalesce(F.try_divide(b_weight, weight), F.lit(0.0))
        return _moments(weight, a_mean + share * apart, a_m2 + b_m2 + apart * apart * a_weight * share)

    def gather(self, state: Column, factor: Column) -> Column:
        return self._sums(state["weight"] * factor, state["mean"], state["m2"] * factor)

    def _sums(self, weight: Column, mean: Column, m2: Column) -> Column:
        total = F.coalesce(F.sum(weight), F.lit(0.0))
        first = F.coalesce(F.sum(weight * mean), F.lit(0.0))
        second = F.coalesce(F.sum(weight * mean * mean + m2), F.lit(0.0))
        middle = F.coalesce(F.try_divide(first, total), F.lit(0.0))
        return _moments(total, middle, F.greatest(second - first * middle, F.lit(0.0)))

    def decay(self, state: Column, factor: Column) -> Column:
        """The weights times the factor; the mean stays."""
        return _moments(state["weight"] * factor, state["mean"], state["m2"] * factor)

    def read(self, state: Column) -> Column:
        """Struct of mean and variance (of the whole weight, not of a sample); null when there is no weight."""
        has = state["weight"] > 0
        return F.struct(
            F.when(has, state["mean"]).alias("mean"),
            F.when(has, state["m2"] / state["weight"]).alias("variance"),
        )


def _moments(weight: Column, mean: Column, m2: Column) -> Column:
    return F.struct(weight.alias("weight"), mean.alias("mean"), m2.alias("m2"))


class Distinct(Typed):
    """Number of different values, by Spark's theta sketch: its answer does not depend on the order of merges.

    State: BINARY, null when there is none. Events of negative weight count as any other.
    """

    kind: Literal["distinct"]
    type: Literal["string"] = "string"
    log_nominal_entries: int = Field(default=9, ge=4, le=26)

    @property
    def ddl(self) -> str:
        return "BINARY"

    def zero(self) -> Column:
        return F.lit(None).cast("binary")

    def lift(self, event: Event) -> Column:
        sketch = F.theta_sketch_agg(event.value, self.log_nominal_entries)
        return F.when(F.count(event.value) > 0, sketch)

    def merge(self, a: Column, b: Column) -> Column:
        return F.when(a.isNull(), b).when(b.isNull(), a).otherwise(F.theta_union(a, b, self.log_nominal_entries))

    def gather(self, state: Column, factor: Column) -> Column:
        return F.when(F.count(state) > 0, F.theta_union_agg(state, self.log_nominal_entries))

    def read(self, state: Column) -> Column:
        """BIGINT; exact up to 2^log_nominal_entries values."""
        return F.coalesce(F.theta_sketch_estimate(state), F.lit(0).cast("bigint"))
