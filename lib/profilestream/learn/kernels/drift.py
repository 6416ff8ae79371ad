"""Detection of changes in a stream of values by batch: ADWIN and Page-Hinkley. Shapes: n values, in order of batches.

Both have no unit: they compare differences with the standard deviation of the values. They assume independent values,
so a weekly cycle in daily batches can be reported as a change.
"""

import numpy as np

from profilestream.learn.kernels.arrays import Floats

# Minimal number of values of a part of the window in ADWIN, and of the reference in Page-Hinkley.
_MIN_VALUES = 5
_MIN_REFERENCE = 20


def adwin(values: Floats, confidence: float = 0.002) -> list[int]:
    """The positions at which a change of the mean is detected by adaptive windowing (Bifet and Gavalda, 2007).

    The window has the W values since the last change. It is cut into n0 older and n1 newer values when their means
    differ by more than sqrt(2 d / m) + 2 d / (3 m) standard deviations of the window, with d = ln(2 ln W / confidence)
    and 1 / m = 1 / n0 + 1 / n1; the older part is dropped. A part has at least 5 values. Here all cuts are tried, not
    only those at the bounds of buckets. The paper divides values by their range, which is not known here.

    Args:
        values: (n,), finite.
        confidence: bound of the probability that a stationary window is cut.
    """
    detected, begin = [], 0
    for end in range(1, len(values) + 1):
        while (cut := _cut(values[begin:end], confidence)) is not None:
            begin += cut
            detected.append(end - 1)
    return detected


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


def page_hinkley(values: Floats, allowance: float = 0.5, threshold: float = 12.0) -> list[int]:
    """The positions at which a change of the mean is detected by cumulated differences (Page, 1954).

    With z = (value - mean) / standard deviation of the values since the last detection, the sum of increases is
    max(0, sum + z - allowance), and that of decreases has -z. A change is detected when one of them exceeds the
    threshold. The first 20 values are a reference only, also after a detection.

    Args:
        values: (n,), finite.
    """
    detected, begin, sums = [], 0, np.zeros(2)
    for n in range(len(values)):
        reference = values[begin:n]
        has_deviation = n - begin >= _MIN_REFERENCE and np.ptp(reference) > 0
        z = (values[n] - reference.mean()) / reference.std() if has_deviation else 0.0
        sums = np.maximum(0, sums + np.array([z, -z]) - allowance)
        if sums.max() > threshold:
            detected.append(n)
            begin, sums = n, np.zeros(2)
    return detected
