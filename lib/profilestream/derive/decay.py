"""Decay in event time: what was seen at one time weighs 2^(-age / half-life) at another."""

from pyspark.sql import Column
from pyspark.sql import functions as F

_MICROS_A_DAY = 86_400_000_000


def factor(since: Column, until: Column, half_life_days: float | None) -> Column:
    """What a weight of 1 at `since` is worth at `until`; always 1 without a half-life, null when a time is null.

    Args:
        since, until: timestamps. A later `since` gives more than 1: reading back before what was merged.
    """
    if half_life_days is None:
        return F.lit(1.0)
    age = F.unix_micros(until) - F.unix_micros(since)
    return F.pow(F.lit(2.0), -age / F.lit(half_life_days * _MICROS_A_DAY))
