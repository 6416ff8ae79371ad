"""Model cards: means by weight with intervals, and the text for MLflow."""

import numpy as np
from profilestream.learn.kernels.batch_intervals import Interval, mean_interval
from profilestream.learn.model_card import CardMetric, ModelCard


def test_an_interval_contains_the_weighted_mean_and_shrinks_with_the_number_of_batches() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.random(10), rng.random(1000)
    weights = np.arange(1.0, 11.0)
    small = mean_interval(few, weights)
    assert small.low < small.mean < small.high
    np.testing.assert_allclose(small.mean, np.average(few, weights=weights))
    large = mean_interval(many, np.ones(1000))
    # 90 % of the means of 1,000 uniform numbers are within 1.645 standard errors of sqrt(1 / 12 / 1000).
    np.testing.assert_allclose(large.high - large.low, 2 * 1.645 * (1 / 12 / 1000) ** 0.5, rtol=0.1)


def test_batches_without_weight_do_not_count() -> None:
    values, weights = np.array([0.5, np.nan, 0.5]), np.array([1.0, 0.0, 2.0])
    assert mean_interval(values, weights) == Interval(0.5, 0.5, 0.5)


def test_the_text_states_data_metrics_differences_and_limits() -> None:
    metrics = (
        CardMetric("recall_20", "share", "blend", Interval(0.2, 0.1, 0.3), None),
        CardMetric("recall_20", "share", "popularity", Interval(0.1, 0.0, 0.2), Interval(0.1, 0.05, 0.15)),
    )
    card = ModelCard("shop", 3, "blend", None, None, 1_000, 20, metrics, "{}", ("Never shown items have no chance.",))
    lines = card.markdown().splitlines()
    assert lines[0] == "**shop, version 3: learned from 1,000 rows, at unknown times**"
    assert "| recall_20 | share | popularity | 0.1000 (0.0000 to 0.2000) | 0.1000 (0.0500 to 0.1500) |" in lines
    assert "- Never shown items have no chance." in lines and any("last 20 evaluated batches" in line for line in lines)
