"""Decay in event time: a weight is multiplied by 2^(-age / half-life)."""

import numpy as np
from numpy.typing import NDArray

_MICROS_PER_DAY = 86_400_000_000


def decay_factors(
    start: NDArray[np.int64], end: NDArray[np.int64], half_life_days: float | None
) -> NDArray[np.float64]:
    """The factors by which weights decay from `start` to `end`; 1 without a half-life.

    Args:
        start, end: microseconds since 1970, of equal shape. A `start` after `end` gives more than 1.
    """
    if half_life_days is None:
        return np.ones(len(start))
    return np.exp2((start - end) / (half_life_days * _MICROS_PER_DAY))
