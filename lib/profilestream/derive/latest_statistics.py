"""Statistics that store values of single events: the newest or oldest events, or the newest event of each key.

Events are ordered by time, source and id. The state contains this order, so ties do not depend on the order of rows.
"""

from typing import Literal

from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.derive.kernels.kernel import ARROW_TYPES, Kernel
from profilestream.derive.kernels.latest_kernels import LatestByKeyKernel, LatestKernel
from profilestream.derive.statistics import EventColumns, StatisticBase, TypedStatistic

_ORDER = "STRUCT<event_time: TIMESTAMP, source: STRING, event_id: STRING>"


class Latest(TypedStatistic):
    """Values of the newest (`last`) or oldest (`first`) k events, by time, source and id. State: array, best first."""

    kind: Literal["first", "last"]
    k: int = Field(default=1, ge=1, le=1000)

    @property
    def kernel(self) -> Kernel:
        return LatestKernel(self.kind, self.k, ARROW_TYPES[self.type])

    @property
    def ddl(self) -> str:
        return f"ARRAY<STRUCT<order: {_ORDER}, value: {self.type.upper()}>>"

    def zero(self) -> Column:
        return F.array().cast(self.ddl)

    def aggregate_events(self, event: EventColumns) -> Column:
        entry = F.struct(event.order.alias("order"), event.value.alias("value"))
        if self.k == 1:
            best = (F.max if self.kind == "last" else F.min)(F.when(event.value.isNotNull(), entry))
            return F.when(best.isNotNull(), F.array(best)).otherwise(self.zero())
        return self._best(F.collect_list(F.when(event.value.isNotNull(), entry)))

    def merge(self, a: Column, b: Column) -> Column:
        return self._best(F.concat(F.coalesce(a, self.zero()), F.coalesce(b, self.zero())))

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return self._best(F.flatten(F.collect_list(state)))

    def _best(self, entries: Column) -> Column:
        return F.slice(F.sort_array(entries, asc=self.kind == "first"), 1, self.k)

    def read(self, state: Column) -> Column:
        """The value, or an array of values when k is more than 1."""
        return F.get(state, F.lit(0))["value"] if self.k == 1 else F.coalesce(state["value"], F.array())


class LatestByKey(StatisticBase):
    """The newest value of each key; `of` is a MAP<STRING, STRING>, and null values do not count.

    State: MAP<STRING, STRUCT<order, value>>.
    """

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

    def zero(self) -> Column:
        return F.create_map().cast(self.ddl)

    def aggregate_events(self, event: EventColumns) -> Column:
        values = F.map_filter(event.value, lambda _, value: value.isNotNull())
        entry = F.transform_values(values, lambda _, v: F.struct(event.order.alias("order"), v.alias("value")))
        return self._newest(F.collect_list(F.when(F.size(values) > 0, entry)))

    def merge(self, a: Column, b: Column) -> Column:
        return F.map_zip_with(F.coalesce(a, self.zero()), F.coalesce(b, self.zero()), lambda _, x, y: F.greatest(x, y))

    def aggregate_states(self, state: Column, factor: Column) -> Column:
        return self._newest(F.collect_list(state))

    def _newest(self, maps: Column) -> Column:
        return F.aggregate(maps, self.zero(), self.merge)

    def read(self, state: Column) -> Column:
        """MAP<STRING, STRING>."""
        return F.transform_values(F.coalesce(state, self.zero()), lambda _, entry: entry["value"])
