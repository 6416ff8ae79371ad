"""Metrics of scores from mergeable sums, and calibration behind a gate."""

import numpy as np
import pytest
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY, total
from profilestream.learn.outcomes.kernels import calibration, outcome_scores
from profilestream.learn.outcomes.kernels.calibration import Calibration, ComparedScores
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums
from sklearn.isotonic import IsotonicRegression  # type: ignore[import-untyped]
from sklearn.metrics import log_loss, roc_auc_score  # type: ignore[import-untyped]

from tests import naive_outcomes

DAY = MICROS_PER_DAY


def scored(count: int, seed: int = 0, slope: float = 1.0) -> tuple[Floats, Floats, Floats]:
    """Logits, labels and probabilities; calibrated if the slope is 1."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1.2, count)
    eta = (slope * truth).clip(-8, 8)
    return eta, (rng.random(count) < sigmoid(truth)).astype(float), sigmoid(eta)


def sigmoid(eta: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-eta)))


def test_metrics_of_binary_labels_equal_those_of_scikit_learn_and_of_loops() -> None:
    eta, labels, p = scored(1500)
    metrics = ScoreSums.of(eta, labels, p, as_of=DAY).binary_metrics()
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, p), rel=1e-9)
    assert metrics["auc"] == pytest.approx(roc_auc_score(labels, eta), abs=3e-4)
    assert metrics["auc"] == pytest.approx(naive_outcomes.auc(np.floor(eta * 100), labels), abs=1e-9)
    assert metrics["ece"] == pytest.approx(naive_outcomes.calibration_error(p, labels), abs=2e-3)
    top = np.argsort(-eta)[:150]
    assert metrics["lift_10"] == pytest.approx(labels[top].mean() / labels.mean(), rel=0.02)
    assert metrics["base_rate"] == labels.mean()


def test_sums_of_parts_are_those_of_all_rows() -> None:
    eta, labels, p = scored(400)
    whole = ScoreSums.of(eta, labels, p, as_of=DAY)
    parts = [ScoreSums.of(eta[n::7], labels[n::7], p[n::7], as_of=DAY) for n in range(7)]
    total = sum(parts[::-1], ScoreSums())
    np.testing.assert_array_equal(total.counts, whole.counts)
    for name, value in whole.binary_metrics().items():
        assert total.binary_metrics()[name] == pytest.approx(value, rel=1e-9), name


def test_rows_without_a_label_are_not_evaluated_and_metrics_without_a_value_are_left_out() -> None:
    eta, labels, p = scored(100)
    labels[:50], labels[49] = np.nan, np.inf
    assert ScoreSums.of(eta, labels, p, as_of=0).rows == 50
    assert ScoreSums().binary_metrics() == {} and ScoreSums().amount_metrics() == {}
    one_class = ScoreSums.of(eta, np.ones(100), p, as_of=0).binary_metrics()
    assert "auc" not in one_class and one_class["base_rate"] == 1


def test_labels_that_were_learned_too_early_are_found_by_the_calibration_error_and_not_by_auc() -> None:
    eta, labels, p = scored(5000)
    early = (eta - 1.5).clip(-8, 8)
    honest, wrong = (ScoreSums.of(one, labels, sigmoid(one), as_of=0).binary_metrics() for one in (eta, early))
    assert abs(honest["auc"] - wrong["auc"]) < 3e-3 and honest["ece"] < 0.03 and wrong["ece"] > 0.1


def test_metrics_of_amounts() -> None:
    rng = np.random.default_rng(1)
    eta = rng.normal(0, 1, 2000)
    predicted = 20 * np.exp(eta)
    labels = predicted * rng.gamma(0.5, 2.4, 2000)
    metrics = ScoreSums.of(eta, labels, predicted, as_of=0).amount_metrics()
    assert metrics["bias"] == pytest.approx(predicted.sum() / labels.sum())
    assert metrics["relative_mae"] == pytest.approx(np.abs(predicted - labels).sum() / labels.sum())
    top = np.argsort(-eta)[:200]
    assert metrics["top_10_share"] == pytest.approx(labels[top].sum() / labels.sum(), rel=0.02)


def test_isotonic_values_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        values, weights = rng.integers(0, 5, 20).astype(float), rng.random(20) + 0.1
        expected = IsotonicRegression().fit_transform(np.arange(20), values, sample_weight=weights)
        np.testing.assert_allclose(calibration.isotonic(values, weights), expected, rtol=1e-9)


def calibrated(slope: float, weeks: int) -> tuple[Calibration, list[dict[str, float]], list[dict[str, float]]]:
    """After weeks of scores, with the metrics of each week with and without calibration."""
    state, raw_metrics, metrics = Calibration(), [], []
    for week in range(1, weeks + 1):
        eta, labels, p = scored(1000, week, slope)
        raw = ScoreSums.of(eta, labels, p, as_of=7 * week * DAY)
        on_curve = None
        if state.curve is not None:
            p = outcome_scores.on_curve(state.curve, eta)
            on_curve = ScoreSums.of(eta, labels, p, as_of=7 * week * DAY)
            raw_metrics.append(raw.binary_metrics())
            metrics.append(on_curve.binary_metrics())
        state = state.updated(ComparedScores(raw, on_curve))
    return state, raw_metrics, metrics


def test_calibration_corrects_overconfident_scores_and_is_used_then() -> None:
    state, raw, corrected = calibrated(slope=3.0, weeks=12)
    assert state.is_used and state.losses.shape == (8, 3)
    assert np.mean([week["ece"] for week in raw[4:]]) > 0.1 > 2 * np.mean([week["ece"] for week in corrected[4:]])
    assert state.curve is not None
    p = outcome_scores.on_curve(state.curve, np.linspace(-8, 8, 200))
    assert np.all(np.diff(p) >= 0) and p.min() > 0 and p.max() < 1


def test_calibration_is_not_used_for_calibrated_scores_nor_before_it_was_evaluated() -> None:
    state, _, _ = calibrated(slope=1.0, weeks=10)
    assert not state.is_used
    first, _, _ = calibrated(slope=3.0, weeks=1)
    assert not first.is_used and not len(first.losses)
    assert first.updated(ComparedScores(ScoreSums())) is first


def test_removed_rows_leave_the_calibration_that_was_never_with_them() -> None:
    parts = [ScoreSums.of(*scored(400, week, 2.0), as_of=7 * week * DAY) for week in (1, 2, 3)]
    removed = [ScoreSums.of(*scored(90, week, 2.0), as_of=7 * week * DAY) for week in (1, 3)]
    without, state = Calibration(), Calibration()
    for part in parts:
        state, without = state.updated(ComparedScores(part)), without.updated(ComparedScores(part))
    for part in removed:
        state = Calibration(total([state.sums, part], calibration.HALF_LIFE_DAYS))
    left = state.without(removed)
    np.testing.assert_allclose(left.sums.counts, without.sums.counts, atol=1e-9)
    np.testing.assert_allclose(left.sums.labels, without.sums.labels, atol=1e-9)
