"""Alarms: whether a batch differs from the earlier batches of its source. Plain Python, without Spark.

Each measure of a batch is compared by an EWMA control chart (S. W. Roberts, Control Chart Tests Based on Geometric
Moving Averages, Technometrics 1(3), 1959). The mean m and the variance v of the earlier values are weighted by
w = 2^(-age / half-life), in event time. A batch raises an alarm when

    |x - m| > max_deviations * max(sqrt(v * (1 + sum(w^2) / sum(w)^2)), sampling deviation, minimum deviation)

The factor of v adds the uncertainty of m, which is large while there are few values. The sampling deviation is the
deviation by chance alone: sqrt(p (1 - p) / n) for a share p of n rows, and 1 / sqrt(rows) for the logarithm of a number
of rows (Shewhart's p and u charts).

In the trend, a value outside the limits is replaced by the nearest limit (Gelper, Fried and Croux, Robust Forecasting
with Exponential and Holt-Winters Smoothing, Journal of Forecasting 29(3), 2010). So one unusual day does not hide the
next one, and a lasting change raises alarms for a limited time only. Amounts are compared by their logarithms: 10 times
the mean and a tenth of it have the same distance from the mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from profilestream.base.settings import Alarms

_MICROS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Trend:
    """Decayed mean and variance of the values of a measure. Trends merge in any order with the same result.

    Args:
        batches: number of values, not decayed.
        as_of: microseconds since 1970; the time at which the weights are valid.
        weight, weight_squares: sums of the weights and of the squared weights.
        squared_deviations: weighted sum of squared distances from the mean.
    """

    batches: int
    as_of: int
    weight: float
    weight_squares: float
    mean: float
    squared_deviations: float

    @classmethod
    def from_value(cls, value: float, as_of: int) -> "Trend":
        """The trend of a single value."""
        return cls(1, as_of, 1.0, 1.0, value, 0.0)

    def decayed_to(self, as_of: int, half_life_days: float) -> "Trend":
        """The trend at a later time."""
        factor = math.exp2(-(as_of - self.as_of) / (half_life_days * _MICROS_PER_DAY))
        return replace(
            self, as_of=as_of, weight=self.weight * factor, weight_squares=self.weight_squares * factor**2,
            squared_deviations=self.squared_deviations * factor,
        )  # fmt: skip

    def merge(self, other: "Trend", half_life_days: float) -> "Trend":
        """The trend of both, as of the later one; variances by Chan, Golub and LeVeque (1979)."""
        latest = max(self.as_of, other.as_of)
        a, b = self.decayed_to(latest, half_life_days), other.decayed_to(latest, half_life_days)
        weight = a.weight + b.weight
        difference = b.mean - a.mean
        between = difference**2 * a.weight * b.weight / weight
        return Trend(
            batches=a.batches + b.batches,
            as_of=latest,
            weight=weight,
            weight_squares=a.weight_squares + b.weight_squares,
            mean=a.mean + difference * b.weight / weight,
            squared_deviations=a.squared_deviations + b.squared_deviations + between,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation of the next value from the mean; 0 when one value has all the weight."""
        freedom = self.weight - self.weight_squares / self.weight
        if freedom <= 1e-9 * self.weight:
            return 0.0
        return math.sqrt(self.squared_deviations / freedom * (1 + self.weight_squares / self.weight**2))


@dataclass(frozen=True)
class MeasureType:
    """How values of a measure are compared and formatted.

    Args:
        sampling_deviation: deviation by chance alone, from the expected value and the number of parts.
        natural: converts a value from the scale of comparison to its natural unit.
        template: format string for the number and for the `part` of the measure.
        is_share: the value is between 0 and 1 and is formatted in percent.
        is_one_sided: only a value above the upper limit raises an alarm.
    """

    sampling_deviation: Callable[[float, float], float]
    natural: Callable[[float], float]
    template: str
    is_share: bool = False
    is_one_sided: bool = False


_ROWS = MeasureType(lambda mean, parts: math.exp(-mean / 2) / math.sqrt(parts), math.exp, "{} rows per {part}")
_SHARE = MeasureType(lambda p, rows: math.sqrt(p * (1 - p) / rows), lambda p: p, "{} of rows {part}", is_share=True)
_LEVEL = MeasureType(lambda mean, parts: 0.0, math.exp, "a geometric mean of {}")
# Compared as log(1 + hours): differences of less than an hour have little effect.
_HOURS = MeasureType(
    lambda mean, parts: 0.0, lambda x: math.exp(x) - 1, "{} hours late on average", is_one_sided=True
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A measure of one batch.

    Args:
        value: on the scale of comparison.
        parts: number of rows or files that the value is a mean of.
        part: name of one part in the message, such as `file`.
    """

    name: str
    type: MeasureType
    value: float
    parts: float
    part: str = ""

    @property
    def natural_value(self) -> float:
        """The value in its natural unit."""
        return self.type.natural(self.value)

    @property
    def text(self) -> str:
        """The measure in words."""
        return self.type.template.format(self.format(self.value), part=self.part)

    def format(self, value: float) -> str:
        """A value on the scale of comparison as text in its natural unit."""
        natural = self.type.natural(value)
        if self.type.is_share:
            return f"{min(max(natural, 0.0), 1.0):.1%}"
        return f"{natural:,.0f}" if natural >= 100 else f"{natural:.3g}"


def volume(rows: int, parts: float, part: str) -> Measure:
    """Rows per file or per day."""
    return Measure("volume", _ROWS, math.log(max(rows, 0.5) / parts), parts, part)


def reject_share(rejected: int, rows: int) -> Measure:
    """Share of all rows that were rejected."""
    return Measure("reject_share", replace(_SHARE, is_one_sided=True), rejected / rows, rows, "rejected")


def null_share(column: str, nulls: int, rows: int) -> Measure:
    """Share of the clean rows without a value in a column."""
    return Measure(f"null_{column}", _SHARE, nulls / rows, rows, f"without {column}")


def level(column: str, logarithms: float, rows: int) -> Measure:
    """Geometric mean of a column over the rows in which it is above 0.

    Args:
        logarithms: sum of the natural logarithms of these values.
    """
    return Measure(f"{column}_level", _LEVEL, logarithms / rows, rows)


def lateness(seconds: float, rows: int) -> Measure:
    """Mean time from event to capture."""
    return Measure("lateness", _HOURS, math.log1p(max(seconds, 0.0) / 3600), rows)


@dataclass(frozen=True)
class Alarm:
    """A measure outside its limits, in its natural unit.

    Args:
        deviations: number of deviations between the value and the expected one; negative when the value is lower.
    """

    measure: str
    value: float
    expected: float
    deviations: float
    message: str


def evaluate(
    measures: list[Measure], trends: dict[str, Trend], as_of: int | None, settings: Alarms
) -> tuple[list[Alarm], dict[str, Trend]]:
    """The alarms of a batch, and the trends updated with the batch.

    Args:
        trends: of the earlier batches, by name of the measure.
        as_of: newest event time of the batch, microseconds since 1970. Null when the batch has no clean row: existing
            trends keep their time, and no new trend is created.
    """
    alarms = []
    updated_trends = dict(trends)
    for measure in measures:
        value = measure.value
        trend = trends.get(measure.name)
        if trend is not None and trend.batches >= settings.min_batches:
            alarm, value = _check_limits(measure, trend, settings)
            alarms += [alarm] if alarm else []
        time = as_of if as_of is not None or trend is None else trend.as_of
        if time is not None:
            new_trend = Trend.from_value(value, time)
            if trend is not None:
                new_trend = trend.merge(new_trend, settings.half_life_days)
            updated_trends[measure.name] = new_trend
    return alarms, updated_trends


def _check_limits(measure: Measure, trend: Trend, settings: Alarms) -> tuple[Alarm | None, float]:
    """The alarm if the measure is outside its limits, else null; and the value that updates the trend."""
    kind, mean = measure.type, trend.mean
    minimum = settings.min_share_deviation if kind.is_share else settings.min_deviation
    expected = min(max(mean, minimum), 1 - minimum) if kind.is_share else mean
    deviation = max(trend.deviation, kind.sampling_deviation(expected, measure.parts), minimum)
    deviations = (measure.value - mean) / deviation
    if abs(deviations) <= settings.max_deviations or (kind.is_one_sided and deviations < 0):
        return None, measure.value
    lower, upper = mean - settings.max_deviations * deviation, mean + settings.max_deviations * deviation
    limits = f"up to {measure.format(upper)}"
    if not kind.is_one_sided:
        limits = f"{measure.format(lower)} to {measure.format(upper)}"
    alarm = Alarm(
        measure=measure.name,
        value=measure.natural_value,
        expected=kind.natural(mean),
        deviations=deviations,
        message=f"{measure.text}, expected {measure.format(mean)} ({limits})",
    )
    return alarm, min(max(measure.value, lower), upper)
