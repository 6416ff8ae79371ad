"""Detection of changes in a stream of values by batch: ADWIN and Page-Hinkley. Shapes: n values, in order of batches.

Both have no unit: they compare differences with the standard deviation of the values. They assume independent values,
so a weekly cycle in daily batches can be reported as a change.
"""

from typing import NamedTuple

import numpy as np

from profilestream.learn.kernels.arrays import Floats

# Values that a mean needs.
_MIN_VALUES = 5
_MIN_REFERENCE = 20


class Change(NamedTuple):
    """A change of the mean: the first value after it, and the value with which it was detected."""

    position: int
    detected_at: int


def adwin(values: Floats, confidence: float = 0.002) -> list[Change]:
    """Changes by adaptive windowing (Bifet and Gavalda, 2007), with all cuts of the window, not only those of buckets.

    The window has the W values since the last change. It is cut into n0 older and n1 newer values when their means
    differ by more than sqrt(2 d / m) + 2 d / (3 m) standard deviations of the window, with d = ln(2 ln W / confidence)
    and 1 / m = 1 / n0 + 1 / n1; the older part is dropped. The paper measures in units of the range of the values,
    which is not known here. A part has at least 5 values.

    Args:
        values: (n,), finite.
        confidence: bound of the probability that a stationary window is cut.
    """
    changes, begin = [], 0
    for end in range(1, len(values) + 1):
        while (cut := _cut(values[begin:end], confidence)) is not None:
            begin += cut
            changes.append(Change(begin, end - 1))
    return changes


def _cut(window: Floats, confidence: float) -> int | None:
    """Number of older values at the cut whose difference exceeds the bound most; null: at no cut."""
    count = len(window)
    if count < 2 * _MIN_VALUES or np.ptp(window) == 0:
        return None
    older = np.arange(_MIN_VALUES, count - _MIN_VALUES + 1)
    inverse_m = 1 / older + 1 / (count - older)
    # The values are centered, so the sum of the newer ones is minus the sum of the older ones.
    difference = np.abs(np.cumsum(window - window.mean())[older - 1]) * inverse_m
    d = np.log(2 * np.log(count) / confidence)
    excess = difference - (np.sqrt(2 * d * inverse_m) + 2 / 3 * d * inverse_m) * window.std()
    best = int(np.argmax(excess))
    return int(older[best]) if excess[best] > 0 else None


def page_hinkley(values: Floats, allowance: float = 0.5, threshold: float = 12.0) -> list[Change]:
    """Changes by the cumulated difference from the mean (Page, 1954), in both directions.

    With z = (value - mean) / standard deviation of the values since the last change, a direction has the sum
    s = max(0, s + z - allowance), the other one has -z. A change is detected when a sum exceeds the threshold; its
    position is the first value after the sum was 0. The first 20 values after a change are a reference only.

    Args:
        values: (n,), finite.
    """
    changes, begin = [], 0
    sums, starts = np.zeros(2), np.zeros(2, np.int64)
    for n in range(len(values)):
        reference = values[begin:n]
        has_deviation = n - begin >= _MIN_REFERENCE and np.ptp(reference) > 0
        z = (values[n] - reference.mean()) / reference.std() if has_deviation else 0.0
        sums = np.maximum(0, sums + np.array([z, -z]) - allowance)
        starts = np.where(sums > 0, starts, n + 1)
        if sums.max() > threshold:
            begin = int(starts[sums.argmax()])
            changes.append(Change(begin, n))
            sums, starts = np.zeros(2), np.full(2, n + 1)
    return changes
