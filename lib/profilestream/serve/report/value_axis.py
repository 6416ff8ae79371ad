"""The range of the value axis of a chart: all values, except a few that would hide the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from profilestream.base.language import join_list, translate

_MIN_VALUES, _OUTSIDE_SHARE = 5, 0.05
# A value is outside of the axis if the axis would be longer than this many times the range of the other values.
_MAX_RATIO = 4.0
_MARGIN = 0.15
_MAX_LABELS = 3


@dataclass(frozen=True)
class ValueAxis:
    """The range of an axis, and the positions of the values outside of it, the largest first."""

    low: float
    high: float
    outside: tuple[int, ...]


def choose_axis(values: Sequence[float]) -> ValueAxis | None:
    """The range from 0 and the quantiles 5 % to 95 % of the values, if the others make it four times as long.

    At least one value on each side is not in the quantiles. Null if all values fit, for less than five values, and if
    one is infinite.
    """
    if len(values) < _MIN_VALUES or not all(map(math.isfinite, values)):
        return None
    ordered = sorted(values)
    outside = max(1, int(len(values) * _OUTSIDE_SHARE))
    low, high = min(0.0, ordered[outside]), max(0.0, ordered[-1 - outside])
    length = high - low
    if not length or max(ordered[-1], high) - min(ordered[0], low) <= _MAX_RATIO * length:
        return None
    low, high = low - _MARGIN * length if ordered[0] < low else low, high + _MARGIN * length
    positions = [n for n, value in enumerate(values) if not low <= value <= high]
    return ValueAxis(low, high, tuple(sorted(positions, key=lambda n: -abs(values[n]))))


def note(axis: ValueAxis | None, labels: Sequence[str], texts: Sequence[str]) -> str:
    """A sentence about the values outside of the axis; empty when there are none.

    Args:
        labels, texts: name of each value, and the value as text.
    """
    if axis is None or not axis.outside:
        return ""
    shown = [translate("{text} ({label})", text=texts[n], label=labels[n]) for n in axis.outside[:_MAX_LABELS]]
    others = len(axis.outside) - _MAX_LABELS
    if others > 0:
        values = join_list(shown)
        return translate("Beyond the end of the axis: {values} and {others:,} others.", values=values, others=others)
    return translate("Beyond the end of the axis: {values}.", values=join_list(shown))
