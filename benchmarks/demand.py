"""Forecasts of `learn_demand` on real logs: WAPE over the last third of the periods, against naive forecasts.

Each period is forecast one step ahead from the periods before it, by the kernels with default settings; nothing is
random. The keys are the 1,000 items, and the 100 categories, with the most sales before the last third. The category of
an item of Online Retail is the first two digits of its stock code. Incomplete weeks at both ends are left out.
"""

from functools import cache

import numpy as np
from profilestream.learn.demand.kernels import demand_models
from profilestream.learn.demand.kernels.demand_models import DemandParams
from profilestream.learn.demand.kernels.demand_tasks import CATEGORY, ITEM, Level
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY

from benchmarks import baselines
from benchmarks.real_datasets import Log
from benchmarks.result import Result

# The second baseline is the mean of the units of this many weeks, or of this many same days of the week.
MEANS = 8
KEYS = {ITEM: 1000, CATEGORY: 100}
_log = cache(lambda name: baselines.LOGS[name]())


def demand_item_week_wape_vs_last_week() -> Result:
    """Units per item and week against those of the week before."""
    return _compare("demand_item_week_wape_vs_last_week", ITEM, 0.82, "the week before")


def demand_category_day_wape_vs_seasonal() -> Result:
    """Units per category and day against those of the same day of the week before."""
    return _compare("demand_category_day_wape_vs_seasonal", CATEGORY, 0.85, "the same day of the week before")


def _compare(bench: str, level: Level, bound: float, naive: str) -> Result:
    """On Online Retail; the detail has both logs."""
    sums = {name: _errors(_log(name), level) for name in ("online_retail", "complete_journey")}
    details = [
        f"{name}: {error / units:.3f} against {naive_error / units:.3f}, ratio {error / naive_error:.3f}, "
        f"mean of the last {MEANS} such periods {mean_error / units:.3f}, {units:,.0f} units"
        for name, (error, naive_error, mean_error, units) in sums.items()
    ]
    error, naive_error, *_ = sums["online_retail"]
    detail = f"last third of the {level.name} periods, one step ahead; WAPE of {'; '.join(details)}; no seed"
    return Result(bench, float(error / naive_error), "ratio of WAPE", bound, "lower", naive, detail)


def _errors(log: Log, level: Level) -> list[float]:
    """Absolute errors of the forecast, the naive forecast, and the mean of MEANS naive forecasts, and units."""
    units, first_day = _units(log, level)
    if level == ITEM:
        coefficients = demand_models.sum_weeks(units).coefficients(DemandParams().half_life_weeks)
        forecasts = demand_models.forecast_items(units, coefficients)
    else:
        forecasts = demand_models.forecast_categories(units, first_day % 7, DemandParams())
    naive = [demand_models.previous(units, n * level.naive_periods) for n in range(1, MEANS + 1)]
    last = slice(-(units.shape[1] // 3), None)
    actual = units[:, last]
    compared = (
        np.nan_to_num(one[:, : units.shape[1]])[:, last] for one in (forecasts, naive[0], np.mean(naive, axis=0))
    )
    return [*(float(abs(one - actual).sum()) for one in compared), float(actual.sum())]


def _units(log: Log, level: Level) -> tuple[Floats, int]:
    """Sold units of complete periods, (keys, periods), and the first day."""
    is_sale = (log.weight > 0) & (log.units > 0)
    day, units, item = log.time_micros[is_sale] // MICROS_PER_DAY, log.units[is_sale], log.item[is_sale]
    if level == ITEM:
        names = log.items[item]
    elif log.name == "online_retail":
        names = np.array([str(name)[:2] for name in log.items])[item]
    else:
        names = np.array([name or "" for name in log.category[is_sale]])
    first, end = int(-(-(day.min() - level.first_day) // level.days)), int(level.period(day.max() + 1))
    period = level.period(day) - first
    is_inside = (period >= 0) & (period < end - first)
    _, key = np.unique(names.astype(str), return_inverse=True)
    sums = np.zeros((key.max() + 1, end - first))
    np.add.at(sums, (key[is_inside], period[is_inside]), units[is_inside])
    is_earlier = period < (end - first) - (end - first) // 3
    counts = np.bincount(key[is_earlier], minlength=len(sums))
    most = np.argsort(-counts, kind="stable")[: KEYS[level]]
    return sums[most], level.day(first)
