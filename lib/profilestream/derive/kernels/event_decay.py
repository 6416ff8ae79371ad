"""Decay in event time: a weight is multiplied by 2^(-age / half-life)."""

import numpy as np

_MICROS_PER_DAY = 86_400_000_000


def decay_factors(ages: np.ndarray, half_life_days: float | None) -> np.ndarray:
    """The factor of each age; 1 without a half-life.

    Args:
        ages: microseconds. A negative one gives more than 1: a state read at a time before its `as_of`.
    """
    if half_life_days is None:
        return np.ones(len(ages))
    return np.exp2(-ages / (half_life_days * _MICROS_PER_DAY))
