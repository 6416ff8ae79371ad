"""Decay in event time: a weight is multiplied by 2^(-age / half-life)."""

from pyspark.sql import Column
from pyspark.sql import functions as F

_MICROS_PER_DAY = 86_400_000_000


def factor(start: Column, end: Column, half_life_days: float | None) -> Column:
    """The factor by which a weight decays from `start` to `end`; 1 without a half-life, null when a time is null.

    Args:
        start, end: timestamps. A `start` after `end` gives more than 1: a state read at a time before its `as_of`.
    """
    if half_life_days is None:
        return F.lit(1.0)
    age = F.unix_micros(end) - F.unix_micros(start)
    return F.pow(F.lit(2.0), -age / F.lit(half_life_days * _MICROS_PER_DAY))
