"""Forecasts of units by a global ridge regression on logarithms, and by a level times a day-of-week profile.

Each forecast of a past period uses earlier periods only, so its error is prequential. Arrays of units have the shape
(keys, periods), with 0 for periods without a sale; forecasts are NaN before the first sale of a key.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.sums import Sums

LAGS, FEATURES = 4, 11
# Half-lives of the decayed means of an item, in weeks.
_HALF_LIVES = (4.0, 12.0)
# L2 penalty of the ridge, in rows, and the largest logarithm that it forecasts.
_PENALTY, _MAX_LOG = 1.0, 25.0


@dataclass(frozen=True)
class DemandParams:
    """See settings.Demand."""

    half_life_weeks: float = 26.0
    level_half_life_days: float = 10.0
    profile_half_life_weeks: float = 6.0
    history_days: int = 730
    error_days: int = 91


@dataclass(frozen=True)
class RidgeSums(Sums):
    """The normal equations [X'X | X'y] of each week, (weeks, FEATURES, FEATURES + 1)."""

    weeks: Floats

    def coefficients(self, half_life_weeks: float) -> Floats:
        """Coefficients of each week and of the next one, from earlier weeks only, (weeks + 1, FEATURES).

        NaN while no row was learned.
        """
        sums, decay = np.zeros((FEATURES, FEATURES + 1)), 0.5 ** (1 / half_life_weeks)
        coefficients = np.full((len(self.weeks) + 1, FEATURES), np.nan)
        for n in range(len(coefficients)):
            if sums[0, 0]:
                coefficients[n] = np.linalg.solve(sums[:, :-1] + _PENALTY * np.eye(FEATURES), sums[:, -1])
            if n < len(self.weeks):
                sums = decay * sums + self.weeks[n]
        return coefficients


def sum_weeks(units: Floats) -> RidgeSums:
    """The normal equations of each week: a row per item with an earlier sale; the target is log(1 + units)."""
    sums = np.zeros((units.shape[1], FEATURES, FEATURES + 1))
    for week, (x, is_active) in enumerate(_features(units)):
        if week < len(sums):
            x = x[is_active]
            sums[week] = x.T @ np.column_stack([x, np.log1p(units[is_active, week])])
    return RidgeSums(sums)


def forecast_items(units: Floats, coefficients: Floats) -> Floats:
    """Units of each week and of the next one, (items, weeks + 1), with the coefficients of that week."""
    forecasts = np.full((len(units), units.shape[1] + 1), np.nan)
    for week, (x, is_active) in enumerate(_features(units)):
        forecasts[is_active, week] = np.expm1(np.clip(x[is_active] @ coefficients[week], 0, _MAX_LOG))
    return forecasts


def _features(units: Floats) -> Iterator[tuple[Floats, Bools]]:
    """Of each week and the next one: features of all items, (items, FEATURES), and the items with an earlier sale.

    Features: 1; the logarithms of the units of the last LAGS weeks; by half-life, the logarithm of the decayed mean,
    and the decayed mean of logarithms; the share of weeks with a sale; the mean logarithm. Means are over the weeks
    from the first sale on.
    """
    logs, count = np.log1p(units), len(units)
    decays = 0.5 ** (1 / np.array(_HALF_LIVES))[:, None]
    weights, means, log_means = np.zeros((3, len(decays), count))
    weeks, sold, total = np.zeros((3, count))
    for week in range(units.shape[1] + 1):
        lags = [logs[:, week - lag] if week >= lag else np.zeros(count) for lag in range(1, LAGS + 1)]
        weight, age = np.maximum(weights, 1.0), np.maximum(weeks, 1.0)
        x = [np.ones(count), *lags, *np.log1p(means / weight), *(log_means / weight), sold / age, total / age]
        yield np.column_stack(x), weeks > 0
        if week < units.shape[1]:
            now = units[:, week]
            is_active = (weeks > 0) | (now > 0)
            weights = decays * weights + is_active
            means, log_means = decays * means + now, decays * log_means + logs[:, week]
            weeks, sold, total = weeks + is_active, sold + (now > 0), total + logs[:, week]


def forecast_categories(units: Floats, first_weekday: int, params: DemandParams) -> Floats:
    """Units of each day and of the next 7 days, (categories, days + 7): level times profile of the day of the week.

    The level is a decayed mean. The profile is the decayed mean of a day of the week divided by the mean over these
    days; 1 in the first week of a category.

    Args:
        first_weekday: of the first day, 0 to 6.
    """
    count, days = units.shape
    level_decay, decay = 0.5 ** (1 / params.level_half_life_days), 0.5 ** (1 / params.profile_half_life_weeks)
    level, weight, age = np.zeros((3, count))
    sums, weights = np.zeros((2, count, 7))
    forecasts = np.full((count, days + 7), np.nan)
    for day in range(days + 7):
        weekday, means = (first_weekday + day) % 7, sums / np.maximum(weights, 1e-9)
        profile = np.where(age < 7, 1.0, means[:, weekday] / np.maximum(means.mean(axis=1), 1e-9))
        forecasts[:, day] = np.where(age > 0, profile * level / np.maximum(weight, 1.0), np.nan)
        if day < days:
            is_active = (age > 0) | (units[:, day] > 0)
            level, weight = level_decay * level + units[:, day], level_decay * weight + is_active
            sums[:, weekday] = decay * sums[:, weekday] + units[:, day]
            weights[:, weekday] = decay * weights[:, weekday] + is_active
            age = age + is_active
    return forecasts


def previous(units: Floats, periods: int) -> Floats:
    """The naive forecast: the units some periods earlier; 0 before the first period."""
    return np.column_stack([np.zeros((len(units), periods)), units])[:, : units.shape[1]]


# Groups of forecasts: less than 1 unit, less than 4, and so on.
_GROUP_BOUNDS = np.array([1.0, 4.0, 16.0, 64.0])


def groups_of(forecasts: Floats) -> Longs:
    """The group of each forecast by its size, 0 to 4."""
    return np.asarray(np.digitize(forecasts, _GROUP_BOUNDS), np.int64)


@dataclass(frozen=True)
class ErrorSums(Sums):
    """By period and group, absolute errors of the forecast and of the naive forecast, and units: (periods, 5, 3)."""

    periods: Floats

    @classmethod
    def of(cls, units: Floats, forecasts: Floats, naive: Floats) -> "ErrorSums":
        """Of all periods with a forecast; shapes (keys, periods)."""
        sums = np.zeros((units.shape[1], len(_GROUP_BOUNDS) + 1, 3))
        key, period = np.nonzero(np.isfinite(forecasts))
        actual, forecast = units[key, period], forecasts[key, period]
        values = np.column_stack([abs(forecast - actual), abs(naive[key, period] - actual), actual])
        np.add.at(sums, (period, groups_of(forecast)), values)
        return cls(sums)

    def last(self, periods: int) -> Floats:
        """The sums over the groups in the last periods, (3,); 0 if `periods` is not positive."""
        return np.asarray(self.periods[len(self.periods) - max(periods, 0) :].sum(axis=(0, 1)))

    def error_of_groups(self, periods: int) -> Floats:
        """WAPE of each group in the last periods; that of all groups for a group without units, NaN without any."""
        by_group = self.periods[-periods:].sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = by_group[:, 0] / by_group[:, 2]
            total = by_group[:, 0].sum() / by_group[:, 2].sum()
        return np.asarray(np.where(by_group[:, 2] > 0, errors, total))
