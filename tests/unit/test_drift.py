"""Detectors of drift: values computed with a pencil, planted shifts, and stationary noise."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from profilestream.base.settings import Gate
from profilestream.learn import metric_drift
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.drift import adwin, page_hinkley
from profilestream.learn.metrics import RANKING
from profilestream.learn.promotion_gate import GateMetric

from tests.metric_rows import metric_rows

DETECTORS = pytest.mark.parametrize("detect", [adwin, page_hinkley])
Detector = Callable[[Floats], list[int]]


def test_adwin_cuts_a_step_where_the_difference_exceeds_the_bound() -> None:
    """20 zeros and k ones: W = 20 + k, m = 20 k / W, the deviation is sqrt(20 k) / W, and the difference of means is 1.

    k = 15: d = ln(2 ln 35 / .002) = 8.178, m = 8.571, (sqrt(2 d / m) + 2 d / (3 m)) sqrt(300) / 35 = .998, less than 1.
    k = 14: d = 8.170, m = 8.235, (1.409 + .661) sqrt(280) / 34 = 1.019, more than 1.
    """
    assert adwin(np.repeat([0.0, 1.0], [20, 14])) == []
    assert adwin(np.repeat([0.0, 1.0], [20, 40])) == [34]
    assert adwin(np.repeat([5.0, -3.0], [20, 15])) == [34]


def test_page_hinkley_adds_the_differences_from_the_mean_less_the_allowance() -> None:
    """20 values of -1 and 1 have mean 0 and deviation 1. A value of 5 adds 4.5: 13.5 would need three of them.

    The second 5 is measured from the reference with the first: mean 5 / 21, variance 45 / 21 - (5 / 21)^2 = 2.086, so
    it adds 4.762 / 1.444 - .5 = 2.797. The third: mean 10 / 22, variance 70 / 22 - .2066 = 2.975, adds 2.135.
    """
    values = np.concatenate([np.tile([-1.0, 1.0], 10), np.full(3, 5.0)])
    sums = 4.5 + 2.797 + 2.135
    assert page_hinkley(values, threshold=sums - 0.005) == [22]
    assert page_hinkley(values, threshold=sums + 0.005) == []
    assert page_hinkley(-values, threshold=sums - 0.005) == [22]


@DETECTORS
@pytest.mark.parametrize("seed", range(20))
def test_stationary_noise_is_no_drift(detect: Detector, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert detect(rng.normal(0.3, 0.02, 300)) == []
    assert detect(1000 * rng.uniform(size=300)) == []


@DETECTORS
@pytest.mark.parametrize("values", [np.zeros(0), np.ones(1), np.full(200, 0.1), np.full(200, 1e300)])
def test_a_constant_is_no_drift(detect: Detector, values: Floats) -> None:
    assert detect(values) == []


@DETECTORS
@pytest.mark.parametrize("shift", [-0.1, 0.1])
@pytest.mark.parametrize("seed", range(10))
def test_a_shift_by_five_deviations_is_detected_once_within_12_batches(
    detect: Detector, shift: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(0.3, 0.02, 120)
    values[60:] += shift
    (detected_at,) = detect(values)
    assert 60 <= detected_at < 72


def test_only_a_recent_change_is_reported_with_its_batches() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.01, 100)
    values[60:] -= 0.1
    rows = pa.concat_tables([
        metric_rows("e", "m", values, metric="recall_20"), metric_rows("e", "other", np.full(100, 0.2)),
        metric_rows("before", "m", np.full(100, 0.2)),
    ])  # fmt: skip
    (recall,) = (metric for metric in RANKING if metric.name == "recall_20")
    gate_metric = GateMetric("learner", recall, "m", Gate(eval_batches=20))
    sentences = metric_drift.find_drift(gate_metric, rows, "e", up_to=75)
    assert sentences == [
        f"drift: {name} detected a change of recall_20 of m at batch {detect(values)[-1]}"
        for name, detect in (("ADWIN", adwin), ("Page-Hinkley", page_hinkley))
    ]
    assert metric_drift.find_drift(gate_metric, rows, "e", up_to=99) == []
    assert metric_drift.find_drift(gate_metric, rows, "e", up_to=59) == []
