"""Demand by loops over all sales: sums, and forecasts of each key from the earlier periods of its own."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

DAY = 86_400_000_000
# Level, key, time in microseconds, units.
Sale = tuple[str, str, int, float]
# Level -> days of a period, a day on which one begins.
PERIODS = {"item": (7, 4), "category": (1, 0)}


@dataclass
class NaiveDemand:
    """All sales so far.

    Args:
        first_day: of the log; null: that of the sales.
    """

    sales: list[Sale] = field(default_factory=list)
    first_day: int | None = None

    def units(self, level: str) -> dict[str, dict[int, float]]:
        """Units by key and period."""
        days, first = PERIODS[level]
        units: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for one, key, time, amount in self.sales:
            if one == level:
                units[key][(time // DAY - first) // days] += amount
        return units

    def complete_units(self, level: str) -> dict[str, dict[int, float]]:
        """Units by key and period, without a period in which the log begins."""
        first_day = min(time // DAY for _, _, time, _ in self.sales) if self.first_day is None else self.first_day
        days, first = PERIODS[level]
        units = {
            key: {period: amount for period, amount in one.items() if period * days + first >= first_day}
            for key, one in self.units(level).items()
        }
        return {key: one for key, one in units.items() if one}

    def until(self, level: str) -> int:
        """The first period that is not complete: the one of the day with the .999 quantile."""
        sold = sorted(time // DAY for one, _, time, _ in self.sales if one == "item")
        days, first = PERIODS[level]
        return (sold[int(np.ceil(0.999 * len(sold))) - 1] - first) // days

    def forecasts(self, level: str, until: int, ahead: int = 0) -> dict[str, float]:
        """Units of the period `until` + `ahead` of each key with a sale before `until`."""
        history = {
            key: [units.get(n, 0.0) for n in range(min(units), until)]
            for key, units in self.complete_units(level).items()
            if min(units) < until
        }
        if level == "category":
            return {key: _level_times_profile(one, until - len(one), until + ahead) for key, one in history.items()}
        a, b = np.eye(11), np.zeros(11)
        for one in history.values():
            for n in range(1, len(one)):
                x, weight = np.array(_features(one[:n])), 0.5 ** ((len(one) - n - 1) / 26)
                a += weight * np.outer(x, x)
                b += weight * x * np.log1p(one[n])
        if not b.any() and (a == np.eye(11)).all():
            return {}
        beta = np.linalg.solve(a, b)
        return {key: float(np.expm1(max(np.dot(_features(one), beta), 0.0))) for key, one in history.items()}

    def errors(self, level: str, periods: range, naive_periods: int) -> tuple[float, float, float]:
        """Absolute errors of forecasts, and of the naive forecast, and units, of all keys with a forecast."""
        sums = np.zeros(3)
        for period in periods:
            for key, forecast in self.forecasts(level, period).items():
                units = self.complete_units(level)[key]
                actual, naive = units.get(period, 0.0), units.get(period - naive_periods, 0.0)
                sums += [abs(forecast - actual), abs(naive - actual), actual]
        error, naive_error, total = sums.tolist()
        return error, naive_error, total


def _features(units: list[float]) -> list[float]:
    logs, newest_first = [float(np.log1p(x)) for x in units], units[::-1]
    lags = [float(np.log1p(newest_first[n])) if n < len(units) else 0.0 for n in range(4)]
    means, log_means = [], []
    for half_life in (4, 12):
        weights = [0.5 ** ((len(units) - 1 - n) / half_life) for n in range(len(units))]
        means.append(float(np.log1p(np.dot(weights, units) / sum(weights))))
        log_means.append(float(np.dot(weights, logs) / sum(weights)))
    return [1.0, *lags, *means, *log_means, sum(x > 0 for x in units) / len(units), sum(logs) / len(units)]


def _level_times_profile(units: list[float], first: int, day: int) -> float:
    """The forecast of a day from the units of the days from `first` on."""
    weights = [0.5 ** ((len(units) - 1 - n) / 10) for n in range(len(units))]
    level = float(np.dot(weights, units) / sum(weights))
    if len(units) < 7:
        return level
    means = []
    for weekday in range(7):
        own = [units[n] for n in range(len(units)) if (first + n) % 7 == weekday]
        own_weights = [0.5 ** ((len(own) - 1 - n) / 6) for n in range(len(own))]
        means.append(float(np.dot(own_weights, own) / sum(own_weights)))
    return level * means[day % 7] / max(sum(means) / 7, 1e-9)
