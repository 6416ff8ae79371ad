"""Trends of series with a known slope, outliers and gaps; significance; and the series of each measure."""

from datetime import date

import numpy as np
import pytest
from profilestream.serve.trends import purchase_series, trend_estimates, trend_view
from profilestream.serve.trends.purchase_series import Floats, GroupSeries, PurchaseSums, TrendPeriods
from profilestream.serve.trends.trend_estimates import SeriesTrend

WEEKS = 40
WEEKS_PER_YEAR = 365.25 / 7


def noise(seed: int, scale: float = 1.0) -> Floats:
    return np.random.default_rng(seed).normal(0, scale, WEEKS)


def estimate(*values: Floats) -> list[SeriesTrend]:
    series = [GroupSeries("mean_price", f"g{n}", "c", array) for n, array in enumerate(values)]
    return trend_estimates.estimate_trends(series, 7)


def test_outliers_and_gaps_do_not_change_the_slope() -> None:
    rising: Floats = 20 + 0.1 * np.arange(WEEKS, dtype=np.float64)
    disturbed = rising + noise(1, 0.1)
    disturbed[[3, 20, 37]] = [500.0, -300.0, np.nan]
    exact, estimated = estimate(rising, disturbed)
    assert [exact.low, exact.slope, exact.high] == pytest.approx([0.1 * WEEKS_PER_YEAR / np.median(rising)] * 3)
    assert estimated.low < exact.slope < estimated.high
    assert estimated.slope == pytest.approx(exact.slope, rel=0.05)
    assert estimated.is_significant
    is_present = np.isfinite(disturbed)
    least_squares_slope = np.polyfit(np.flatnonzero(is_present), disturbed[is_present], 1)[0]
    assert abs(least_squares_slope - 0.1) > 1, "the outliers are large enough to change a slope that is not robust"
    np.testing.assert_allclose(exact.line, (20, 0.1))


def test_few_of_many_series_without_a_trend_are_significant() -> None:
    constant = [10 + noise(seed) for seed in range(100)]
    falling = 10 - 0.08 * np.arange(WEEKS) + noise(999)
    *others, last = trends = estimate(*constant, falling)
    assert last.is_significant and last.high < 0
    assert sum(not trend.low <= 0 <= trend.high for trend in others) > 2, "some single intervals exclude 0 by chance"
    assert sum(trend.is_significant for trend in trends) <= 2
    assert trend_estimates.largest_trends(trends, "mean_price", 1)[0] == last
    assert trend_estimates.largest_trends(trends, "spend_share", 1) == []


def test_series_without_enough_values_have_no_trend() -> None:
    sparse = np.where(np.arange(WEEKS) % 2, np.nan, 5.0)
    mostly_zero = np.where(np.arange(WEEKS) % 3, 0.0, 5.0)
    assert estimate(sparse, mostly_zero) == []
    (constant,) = estimate(np.full(WEEKS, 5.0))
    assert (constant.slope, constant.is_significant) == (0, False)


def test_measures_are_ratios_of_the_sums() -> None:
    bread, milk, other = ("g", "bread"), ("g", "milk"), ("g", "(other)")
    spend = {bread: np.array([6.0, 0.0]), milk: np.array([2.0, 4.0]), other: np.array([2.0, 0.0])}
    quantity = {bread: np.array([3.0, 0.0]), milk: np.array([1.0, 4.0]), other: np.array([1.0, 0.0])}
    reference_cost = {bread: np.array([5.0, 0.0]), milk: np.array([4.0, 4.0]), other: np.array([2.0, 0.0])}
    sums = PurchaseSums({"g": 5, "group without purchases": 2}, spend, quantity, reference_cost)
    all_series = purchase_series.build_series(sums)
    assert {(series.measure, series.category): series.values.tolist() for series in all_series} == {
        ("spend", "(all)"): [2.0, 0.8],
        ("mean_price", "bread"): [2.0, pytest.approx(np.nan, nan_ok=True)],
        ("price_index", "bread"): [1.2, pytest.approx(np.nan, nan_ok=True)],
        ("spend_share", "bread"): [0.6, 0.0],
        ("mean_price", "milk"): [2.0, 1.0],
        ("price_index", "milk"): [0.5, 1.0],
        ("spend_share", "milk"): [0.2, 1.0],
    }


def test_text_and_figure_contain_the_largest_trends() -> None:
    all_series = [
        GroupSeries("spend", "g", "(all)", 50 + noise(1)),
        GroupSeries("mean_price", "g", "MILK", np.linspace(3, 4, WEEKS)),
        GroupSeries("price_index", "g", "MILK", np.full(WEEKS, 1.0)),
        GroupSeries("spend_share", "g", "MILK", 0.2 + noise(2, 0.01)),
    ]
    trends = trend_estimates.estimate_trends(all_series, 7)
    periods = TrendPeriods(date(2026, 1, 1), 7, WEEKS, "UTC")
    lines = trend_view.as_text(trends, PurchaseSums({"g": 7}, {}, {}, {}), periods, 5).splitlines()
    assert lines[0] == "40 periods of 7 days from 2026-01-01; users: g 7"
    assert lines[3].startswith("  g   ") and lines[3].endswith("  not significant")
    assert lines[5:] == [
        "mean price: 1 of 1 trends are significant; largest changes per year",
        f"  {'g: MILK':44}   +38.2%  (+38.2% to +38.2%)  price index +0.0% (+0.0% to +0.0%)",
        "",
        "price index (same items): 0 of 1 trends are significant; largest changes per year",
        "",
        "share of the group's spend: 0 of 1 trends are significant; largest changes per year",
    ]
    traces = trend_view.trends_figure(trends, periods, 5).data
    np.testing.assert_array_equal(traces[0].y, all_series[0].values)
    assert [list(trace.y) for trace in traces[2:]] == [["milk"], ["milk"], []]
