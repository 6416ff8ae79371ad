"""Days of a user that differ from its earlier ones: robust z, tails, scores and reasons. Arrow tables in and out.

Runs on executors. Sources: docs/decisions/0050-unusual-activity.md.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.lists import flatten, lists_by_row
from profilestream.serve.scores.kernels.user_days import HABITS, MEASURES, by_rank

MAX_REASONS = 3
# A mean or median absolute deviation times this is the standard deviation of normal values.
_MEAN_TO_SD, _MEDIAN_TO_SD = 1.2533, 1.4826
_LOW, _HIGH, _MIN_SPREAD = 0.95, 0.99, 1e-6
_MAX_EXCESS, _MIN_SCALE = 20.0, 0.25
_TEXTS = {
    "events": "events", "times": "distinct times of events", "value": "mean value of a purchase",
    "returns": "returns per purchase", "hour": "share of earlier days with this hour",
    "category": "share of earlier days with these categories", "region": "share of earlier days with this region",
    "event_type": "share of earlier days with these event types",
}  # fmt: skip
_REASON_FIELDS: dict[str, pa.DataType] = {
    "measure": pa.string(), "observed": pa.float64(), "expected": pa.float64(), "z": pa.float64(), "text": pa.string(),
}  # fmt: skip
_REASON = pa.struct([pa.field(name, type_) for name, type_ in _REASON_FIELDS.items()])
_TYPES: dict[str, pa.DataType] = {
    "user_id": pa.string(), "day": pa.int64(), "score": pa.float64(), "share_of_days": pa.float64(),
    "reasons": pa.list_(_REASON),
}  # fmt: skip
UNUSUAL_DAY = pa.schema([pa.field(name, type_) for name, type_ in _TYPES.items()])


@dataclass(frozen=True)
class BaselineRule:
    """How a user's baseline is computed.

    Args:
        half_life_days: half-life of the weight of an earlier day.
        prior_days: weight of the population, in days.
        max_deviations: a day enters the baseline with at most this many deviations.
    """

    half_life_days: float
    prior_days: float = 5.0
    max_deviations: float = 3.0


@dataclass(frozen=True)
class Tail:
    """An exponential tail: 5 % of the values are above `low`, and 1 % above `low` + log(5) * `scale`."""

    low: Floats
    scale: Floats

    def excess(self, values: Floats) -> Floats:
        """-log(share of values that are at least as large / 5 %), from 0 to 20; 0 for NaN."""
        return np.clip(np.nan_to_num((values - self.low) / self.scale, nan=0.0), 0.0, _MAX_EXCESS)


@dataclass(frozen=True)
class DayPopulation:
    """Statistics of the days of many users: center and spread of each measure, tails of z and of the scores."""

    center: Floats
    spread: Floats
    tail: Tail
    score_tail: Tail


def fit_population(days: pa.Table, rule: BaselineRule) -> DayPopulation:
    """The population of all days of some users, in any order; at least one day.

    Returns:
        Center and spread are NaN where no day has a value of a measure.
    """
    days = _ordered(days)
    x = _matrix(days)
    center, spread = np.array([_center_and_spread(column[~np.isnan(column)]) for column in x.T]).T
    z = _directed(z_scores(days, rule, center, spread)[0])
    tail = _tail(z)
    return DayPopulation(center, spread, tail, _tail(tail.excess(z).sum(axis=1)[:, None]))


def unusual_days(
    days: pa.Table, *, rule: BaselineRule, population: DayPopulation, since_day: int, max_share: float
) -> dict[str, pa.Table]:
    """`unusual`: rows with UNUSUAL_DAY of the days from `since_day` on with a share of at most `max_share`.

    `score`: the sum over measures of -log(share of days with at least this z / 5 %), where it is positive.
    `share_of_days`: share of the days of the population with at least this score. `reasons`: the measures that add
    most to the score.

    Args:
        days: rows with DAY, all days of each user, in any order.
        max_share: at most .05.
    """
    days = _ordered(days)
    z, expected = z_scores(days, rule, population.center, population.spread)
    excess = population.tail.excess(_directed(z))
    score = excess.sum(axis=1)
    share = (1 - _LOW) * np.exp(-population.score_tail.excess(score))
    is_unusual = (share <= max_share) & (score > population.score_tail.low) & (days["day"].to_numpy() >= since_day)
    rows = np.flatnonzero(is_unusual)
    columns = {
        "user_id": days["user_id"].take(rows), "day": days["day"].take(rows), "score": score[rows],
        "share_of_days": share[rows],
        "reasons": _reasons(excess[rows], _matrix(days)[rows], expected[rows], z[rows]),
    }  # fmt: skip
    return {"unusual": pa.table(columns, schema=UNUSUAL_DAY)}


def z_scores(days: pa.Table, rule: BaselineRule, center: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Deviation of each day from the user's earlier days in their standard deviations, and the expected measures.

    (days, measures) each. z is NaN where the measure is.

    Args:
        days: rows with DAY, ordered by user and day.
    """
    x, day = _matrix(days), days["day"].to_numpy()
    user = np.asarray(days["user_id"].combine_chunks().dictionary_encode().indices.to_numpy(), np.int64)
    z, expected = np.empty_like(x), np.empty_like(x)
    # Decayed sums by user: days, values, absolute deviations.
    sums = np.zeros((3, user.max(initial=0) + 1, x.shape[1]))
    for number, rows in enumerate(by_rank(user)):
        if number:
            sums[:, user[rows]] *= np.exp2(-(day[rows] - day[rows - 1]) / rule.half_life_days)[:, None]
        weight, total, deviation = sums[:, user[rows]]
        mean = (total + rule.prior_days * center) / (weight + rule.prior_days)
        scale = (_MEAN_TO_SD * deviation + rule.prior_days * spread) / (weight + rule.prior_days)
        z[rows], expected[rows] = (x[rows] - mean) / scale, mean
        limited = np.clip(x[rows] - mean, -rule.max_deviations * scale, rule.max_deviations * scale)
        is_value = ~np.isnan(x[rows])
        added = np.stack([np.ones_like(mean), mean + limited, abs(limited)])
        sums[:, user[rows]] += np.where(is_value, added, 0.0)
    return z, expected


def _ordered(days: pa.Table) -> pa.Table:
    return days.sort_by([("user_id", "ascending"), ("day", "ascending")])


def _matrix(days: pa.Table) -> Floats:
    measures: Floats = flatten(days, "measures")[1].to_numpy()
    return measures.reshape(len(days), len(MEASURES))


def _directed(z: Floats) -> Floats:
    """z, larger for more unusual days: a mean value is unusual if it is high or low."""
    return np.where([name == "value" for name in MEASURES], abs(z), z)


def _center_and_spread(values: Floats) -> tuple[float, float]:
    """Median, and the median absolute deviation as a standard deviation, or the mean one if the median one is 0."""
    if not len(values):
        return np.nan, np.nan
    center = np.median(values)
    deviations = abs(values - center)
    spread = _MEDIAN_TO_SD * np.median(deviations) or _MEAN_TO_SD * deviations.mean()
    return float(center), max(float(spread), _MIN_SPREAD)


def _tail(values: Floats) -> Tail:
    """The tail of each column; a day without a value is usual: its value is 0."""
    low, high = np.quantile(np.nan_to_num(values, nan=0.0), [_LOW, _HIGH], axis=0)
    return Tail(low, np.maximum((high - low) / np.log((1 - _LOW) / (1 - _HIGH)), _MIN_SCALE))


def _reasons(excess: Floats, x: Floats, expected: Floats, z: Floats) -> Any:
    """The reasons of each row, an array of lists."""
    order = np.argsort(-excess, axis=1, kind="stable")[:, :MAX_REASONS]
    row, position = np.nonzero(np.take_along_axis(excess, order, axis=1))
    measure = order[row, position]
    names = [MEASURES[number] for number in measure]
    observed, usual = (_readable(names, values[row, measure]) for values in (x, expected))
    texts = [
        f"{_TEXTS[name]}: {_number(one)} instead of {_number(other)}"
        for name, one, other in zip(names, observed.tolist(), usual.tolist(), strict=True)
    ]
    columns: list[Any] = [names, observed, usual, z[row, measure], texts]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _REASON, strict=True)]
    return lists_by_row(row, len(excess), pa.StructArray.from_arrays(arrays, fields=list(_REASON)))


def _readable(names: list[str], values: Floats) -> Floats:
    """Numbers, means and shares instead of their logarithms."""
    is_habit, is_log = np.isin(names, HABITS), np.isin(names, ("events", "times", "value"))
    return np.select([is_habit, is_log], [np.exp(-values), np.expm1(values)], values)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
