"""Trends of time series, with intervals and significance (docs/trends.md).

The trend is the Theil-Sen slope, the median of the slopes between all pairs of points, with Sen's interval (Theil 1950;
Sen 1968, JASA 63). It tolerates up to 29% outliers. The significance is that of Kendall's rank
correlation with time (Mann 1945, Econometrica 13). The p-values of all series of a measure are adjusted so that at most
5% of the series called significant are expected to have no trend (Benjamini and Hochberg 1995, Journal of the Royal
Statistical Society B 57).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, kendalltau, theilslopes  # type: ignore[import-untyped]

from profilestream.serve.trends.purchase_series import MIN_PERIODS, Floats, GroupSeries, TrendMeasure

_DAYS_PER_YEAR = 365.25
_MAX_FALSE_DISCOVERY_RATE = 0.05
_MIN_COVERAGE = 0.8


@dataclass(frozen=True)
class SeriesTrend:
    """The trend of a series.

    Args:
        slope, low, high: change per year divided by the median of the series, with its interval; 0.1 is 10% per year.
        line: value at the first period, and change per period.
        adjusted_p: p-value of Kendall's test, adjusted over all series of the measure.
    """

    series: GroupSeries
    slope: float
    low: float
    high: float
    line: tuple[float, float]
    adjusted_p: float

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p-value is at most 0.05."""
        return self.adjusted_p <= _MAX_FALSE_DISCOVERY_RATE


def estimate_trends(all_series: Iterable[GroupSeries], period_days: int, confidence: float = 0.95) -> list[SeriesTrend]:
    """Trends of the series with values in at least 80% of the periods (and in eight) and a positive median."""
    by_measure: dict[TrendMeasure, list[GroupSeries]] = {}
    for series in all_series:
        if _has_enough_values(series.values):
            by_measure.setdefault(series.measure, []).append(series)
    return [
        trend
        for series_of_measure in by_measure.values()
        for trend in _trends_of_measure(series_of_measure, period_days, confidence)
    ]


def _trends_of_measure(all_series: list[GroupSeries], period_days: int, confidence: float) -> list[SeriesTrend]:
    fits = [_fit(series.values, confidence) for series in all_series]
    adjusted = false_discovery_control([fit.p_value for fit in fits])
    trends = []
    for series, fit, adjusted_p in zip(all_series, fits, adjusted, strict=True):
        scale = _DAYS_PER_YEAR / period_days / float(np.nanmedian(series.values))
        slope, low, high = fit.slope * scale, fit.low * scale, fit.high * scale
        trends.append(SeriesTrend(series, slope, low, high, (fit.intercept, fit.slope), float(adjusted_p)))
    return trends


def _has_enough_values(values: Floats) -> bool:
    count = np.isfinite(values).sum()
    return count >= max(MIN_PERIODS, _MIN_COVERAGE * len(values)) and float(np.nanmedian(values)) > 0


@dataclass(frozen=True)
class _Fit:
    """Slope per period with its interval, value at the first period, and p-value of Kendall's test."""

    slope: float
    low: float
    high: float
    intercept: float
    p_value: float


def _fit(values: Floats, confidence: float) -> _Fit:
    periods = np.flatnonzero(np.isfinite(values))
    line = theilslopes(values[periods], periods, alpha=confidence)
    p_value = float(kendalltau(periods, values[periods]).pvalue)
    # Kendall's correlation of constant values is undefined; they have no trend.
    p_value = p_value if np.isfinite(p_value) else 1.0
    return _Fit(float(line.slope), float(line.low_slope), float(line.high_slope), float(line.intercept), p_value)


def largest_trends(trends: list[SeriesTrend], measure: TrendMeasure, max_trends: int) -> list[SeriesTrend]:
    """The significant trends of a measure with the largest absolute slope, largest first."""
    significant = [trend for trend in trends if trend.series.measure == measure and trend.is_significant]
    by_size = sorted(significant, key=lambda trend: (-abs(trend.slope), trend.series.group, trend.series.category))
    return by_size[:max_trends]
