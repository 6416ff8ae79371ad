"""Small partial sums of a batch: added in any order, and decayed to one time.

Runs on executors, so it imports numpy only.
"""

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields, replace
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

MICROS_PER_DAY = 86_400_000_000
# Decayed weights are at least this, so that a mean over old contributions is defined.
MIN_WEIGHT = 1e-100
# Metadata of fields. By default, two values are added; flags are combined by "or".
LATEST, EARLIEST = MappingProxyType({"combine": max}), MappingProxyType({"combine": min})
FIRST = MappingProxyType({"combine": lambda one, other: one})
DECAYS = MappingProxyType({"decays": True})


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
