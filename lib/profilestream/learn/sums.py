"""Small partial sums of a batch: added in any order, decayed to one time, and moved from executors to the driver.

Runs on executors, so it imports numpy and pyarrow only.
"""

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields, replace
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any, Self, TypeVar, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MICROS_PER_DAY = 86_400_000_000
# Decayed weights are at least this, so that a mean over old contributions is defined.
MIN_WEIGHT = 1e-100
# Metadata of fields. By default, two values are added; flags are combined by "or".
LATEST, EARLIEST = MappingProxyType({"combine": max}), MappingProxyType({"combine": min})
FIRST = MappingProxyType({"combine": lambda one, other: one})
DECAYS = MappingProxyType({"decays": True})
# Columns of `Sums.to_batch`, as Spark DDL.
COLUMNS = "sums binary"


@dataclass(frozen=True)
class Sums:
    """Base class of sums over rows. A field is a number, a null, an array, or other sums; null is neutral."""

    def __add__(self, other: Self) -> Self:
        """The sums over the rows of both; commutative and associative."""

        def combined(each: Field[Any]) -> Any:
            one, two = getattr(self, each.name), getattr(other, each.name)
            if one is None or two is None:
                return two if one is None else one
            return each.metadata.get("combine", add)(one, two)

        return type(self)(**{each.name: combined(each) for each in fields(self)})

    @property
    def as_of(self) -> int:
        """Time at which decayed weights are valid, microseconds since 1970; 0: no weight depends on a time."""
        return max((one.as_of for one in self._nested_sums().values()), default=0)

    def decayed_to(self, as_of: int, half_life_days: float | None) -> Self:
        """The sums as of a later time; unchanged if that time is not later. `half_life_days` null: no decay."""
        nested = self._nested_sums().items()
        return replace(self, **{name: one.decayed_to(as_of, half_life_days) for name, one in nested})

    def _nested_sums(self) -> dict[str, "Sums"]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Sums)}

    def to_cell(self) -> bytes:
        """The sums as one typed row in Arrow's IPC format."""
        return write_cell(pa.Table.from_struct_array(_column(self)))

    def to_batch(self) -> pa.RecordBatch:
        """One row of COLUMNS, for the driver."""
        return pa.RecordBatch.from_pydict({"sums": [self.to_cell()]})

    @classmethod
    def from_cell(cls, cell: Any) -> Self:
        """The inverse of `to_cell`."""
        return _from_struct(cls, read_cell(cell).to_struct_array().combine_chunks())


@dataclass(frozen=True)
class DecayedSums(Sums):
    """Sums whose fields with DECAYS contain weights 2^(-(as_of - time) / half-life)."""

    as_of: int = field(default=0, kw_only=True, metadata=LATEST)

    def decayed_to(self, as_of: int, half_life_days: float | None) -> Self:
        if as_of <= self.as_of:
            return self
        factor = 1.0
        if self.as_of:
            factor = max(float(decay_factors(np.array([self.as_of]), as_of, half_life_days)[0]), MIN_WEIGHT)
        names = [each.name for each in fields(self) if each.metadata.get("decays")]
        return replace(self, as_of=as_of, **{name: getattr(self, name) * factor for name in names})


SumsT = TypeVar("SumsT", bound=Sums)


def total(parts: Iterable[SumsT], half_life_days: float | None) -> SumsT:
    """The sum of at least one part, as of the latest of their times."""
    parts = list(parts)
    as_of = max(part.as_of for part in parts)
    return reduce(add, [part.decayed_to(as_of, half_life_days) for part in parts])


def decay_factors(
    times: NDArray[np.int64], now: int | NDArray[np.int64], half_life_days: float | None
) -> NDArray[np.float64]:
    """2^(-(now - time) / half-life) for times in microseconds; 1 for times after `now`.

    Args:
        now: one time for all, or one per element of `times`.
        half_life_days: null: no decay, so all factors are 1.
    """
    if half_life_days is None:
        return np.ones(len(times))
    age = np.maximum(now - times, 0) / MICROS_PER_DAY
    factors: NDArray[np.float64] = np.exp2(-age / half_life_days)
    return factors


def write_cell(table: pa.Table) -> bytes:
    """A table as one binary value."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def read_cell(cell: Any) -> pa.Table:
    """The inverse of `write_cell`."""
    return pa.ipc.open_stream(cell).read_all()


def _column(value: Any) -> Any:
    """A field as an Arrow array of length 1: sums as struct, an array as its shape and its values in a flat list."""
    if isinstance(value, Sums):
        names = [each.name for each in fields(value)]
        return pa.StructArray.from_arrays([_column(getattr(value, name)) for name in names], names)
    if isinstance(value, np.ndarray):
        values = pa.ListArray.from_arrays(pa.array([0, value.size], pa.int32()), pa.array(value.ravel()))
        return pa.StructArray.from_arrays([pa.array([value.shape], pa.list_(pa.int64())), values], ["shape", "values"])
    return pa.array([value])


def _from_struct(cls: type[SumsT], row: Any) -> SumsT:
    """Sums from a StructArray of length 1."""

    def value(name: str, kind: Any) -> Any:
        cell = row.field(name)
        if not pa.types.is_struct(cell.type):
            return cell[0].as_py()
        nested = [one for one in get_args(kind) or (kind,) if isinstance(one, type) and issubclass(one, Sums)]
        if nested:
            return _from_struct(nested[0], cell)
        values, shape = cell.field("values").flatten(), cell.field("shape").flatten().to_pylist()
        return values.to_numpy(zero_copy_only=False).reshape(shape)

    return cls(**{each.name: value(each.name, each.type) for each in fields(cls)})
