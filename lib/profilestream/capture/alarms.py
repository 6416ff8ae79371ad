"""Whether a batch is unlike the earlier ones of its source: decayed means, deviations and limits, in plain Python.

Each measure of a batch is held against an EWMA control chart (S. W. Roberts, Control Chart Tests Based on Geometric
Moving Averages, Technometrics 1(3), 1959): mean m and variance v of the earlier values, each weighing
w = 2^(-age / half-life) in event time. There is an alarm when

    |x - m| > limit * max(sqrt(v * (1 + sum(w^2) / sum(w)^2)), chance, least deviation)

where the bracket widens v as long as m itself is known from a few values only, and chance is what rows so few vary by
alone: sqrt(p (1 - p) / n) of a share and 1 / sqrt(rows) of a logarithm of rows (Shewhart's p and u charts). What lies
beyond a limit is learned as the limit (Gelper, Fried and Croux, Robust Forecasting with Exponential and Holt-Winters
Smoothing, Journal of Forecasting 29(3), 2010): one odd day neither hides the next one nor is a lasting change told for
ever. Amounts are compared by their logarithms, so that ten times and a tenth are equally far.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from profilestream.base.settings import Alarms

_MICROS_A_DAY = 86_400_000_000


@dataclass(frozen=True)
class Trend:
    """Decayed mean and variance of the values of a measure. Any two can be merged, in any order.

    Args:
        batches: values in it, not decayed.
        as_of: microseconds since 1970; when the weights are true.
        weight, squares: sums of the weights and of their squares.
        spread: weighted sum of squared distances from the mean.
    """

    batches: int
    as_of: int
    weight: float
    squares: float
    mean: float
    spread: float

    @classmethod
    def of(cls, value: float, as_of: int) -> "Trend":
        """A single value."""
        return cls(1, as_of, 1.0, 1.0, value, 0.0)

    def at(self, as_of: int, half_life_days: float) -> "Trend":
        """The same at a later time."""
        factor = math.exp2(-(as_of - self.as_of) / (half_life_days * _MICROS_A_DAY))
        return replace(
            self, as_of=as_of, weight=self.weight * factor, squares=self.squares * factor**2,
            spread=self.spread * factor,
        )  # fmt: skip

    def merged(self, other: "Trend", half_life_days: float) -> "Trend":
        """Both together, as of the later one; variances by Chan, Golub and LeVeque (1979)."""
        latest = max(self.as_of, other.as_of)
        a, b = self.at(latest, half_life_days), other.at(latest, half_life_days)
        weight = a.weight + b.weight
        apart = b.mean - a.mean
        return Trend(
            batches=a.batches + b.batches,
            as_of=latest,
            weight=weight,
            squares=a.squares + b.squares,
            mean=a.mean + apart * b.weight / weight,
            spread=a.spread + b.spread + apart**2 * a.weight * b.weight / weight,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation of a next value from the mean; 0 when all weight lies on one value."""
        freedom = self.weight - self.squares / self.weight
        if freedom <= 1e-9 * self.weight:
            return 0.0
        return math.sqrt(self.spread / freedom * (1 + self.squares / self.weight**2))


@dataclass(frozen=True)
class Scale:
    """How a kind of measure is compared and told.

    Args:
        chance: deviation by chance alone, from the expected value and the number of parts.
        natural: from the compared value to the one that is told.
        told: words around a number, and around the measure's own word.
        is_share: its number is told in percent, and it stays between 0 and 1.
        upwards_only: less of it is no alarm.
    """

    chance: Callable[[float, float], float]
    natural: Callable[[float], float]
    told: str
    is_share: bool = False
    upwards_only: bool = False


_BY_ROWS = Scale(lambda mean, parts: math.exp(-mean / 2) / math.sqrt(parts), math.exp, "{} rows a {part}")
_SHARE = Scale(lambda p, rows: math.sqrt(p * (1 - p) / rows), lambda p: p, "{} of rows {part}", is_share=True)
_BY_LEVEL = Scale(lambda mean, parts: 0.0, math.exp, "a geometric mean of {}")
# An hour more or less is nothing, so hours are compared with one added.
_BY_HOURS = Scale(lambda mean, parts: 0.0, lambda x: math.exp(x) - 1, "{} hours late on average", upwards_only=True)


@dataclass(frozen=True)
class Measure:
    """What was measured of a batch.

    Args:
        value: on the scale on which it is compared.
        parts: rows, or files, that it is a mean of.
        part: a word for the message.
    """

    name: str
    scale: Scale
    value: float
    parts: float
    part: str = ""

    def number(self, value: float) -> str:
        """A value on the scale of comparison as it is told."""
        natural = self.scale.natural(value)
        if self.scale.is_share:
            return f"{min(max(natural, 0.0), 1.0):.1%}"
        return f"{natural:,.0f}" if natural >= 100 else f"{natural:.3g}"

    @property
    def told(self) -> str:
        """The measure in words."""
        return self.scale.told.format(self.number(self.value), part=self.part)


def volume(rows: int, parts: float, part: str) -> Measure:
    """Rows a file, or a day."""
    return Measure("volume", _BY_ROWS, math.log(max(rows, 0.5) / parts), parts, part)


def reject_share(rejected: int, rows: int) -> Measure:
    """Of the rows that came in, those that were rejected."""
    return Measure("reject_share", replace(_SHARE, upwards_only=True), rejected / rows, rows, "rejected")


def null_share(column: str, nulls: int, rows: int) -> Measure:
    """Of the rows that are good, those without a value."""
    return Measure(f"null_{column}", _SHARE, nulls / rows, rows, f"without {column}")


def level(column: str, logarithms: float, rows: int) -> Measure:
    """The geometric mean of a number over the rows where it is above 0."""
    return Measure(f"{column}_level", _BY_LEVEL, logarithms / rows, rows)


def lateness(seconds: float, rows: int) -> Measure:
    """The mean time from event to capture."""
    return Measure("lateness", _BY_HOURS, math.log1p(max(seconds, 0.0) / 3600), rows)


@dataclass(frozen=True)
class Alarm:
    """A measure beyond its limit, in the words and units in which it is told.

    Args:
        deviations: how many deviations the value is above (below: negative) what was expected.
    """

    measure: str
    value: float
    expected: float
    deviations: float
    message: str


def judged(
    measures: list[Measure], trends: dict[str, Trend], as_of: int | None, rules: Alarms
) -> tuple[list[Alarm], dict[str, Trend]]:
    """The alarms of a batch, and the trends with the batch learned.

    Args:
        trends: of the earlier batches, by name of the measure.
        as_of: the newest event of the batch, microseconds since 1970; null when it has none: then nothing is learned
            of a measure that has no trend yet.
    """
    found = []
    learned = dict(trends)
    for measure in measures:
        value = measure.value
        trend = trends.get(measure.name)
        if trend is not None and trend.batches >= rules.min_batches:
            alarm, value = _against(measure, trend, rules)
            found += [alarm] if alarm else []
        time = as_of if as_of is not None or trend is None else trend.as_of
        if time is not None:
            new = Trend.of(value, time)
            learned[measure.name] = new if trend is None else trend.merged(new, rules.half_life_days)
    return found, learned


def _against(measure: Measure, trend: Trend, rules: Alarms) -> tuple[Alarm | None, float]:
    """The alarm, if the measure is beyond a limit, and the value to learn."""
    scale, mean = measure.scale, trend.mean
    least = rules.least_share_deviation if scale.is_share else rules.least_deviation
    expected = min(max(mean, least), 1 - least) if scale.is_share else mean
    deviation = max(trend.deviation, scale.chance(expected, measure.parts), least)
    deviations = (measure.value - mean) / deviation
    if abs(deviations) <= rules.limit or (scale.upwards_only and deviations < 0):
        return None, measure.value
    lowest, highest = mean - rules.limit * deviation, mean + rules.limit * deviation
    within = f"up to {measure.number(highest)}"
    if not scale.upwards_only:
        within = f"{measure.number(lowest)} to {measure.number(highest)}"
    alarm = Alarm(
        measure=measure.name,
        value=scale.natural(measure.value),
        expected=scale.natural(mean),
        deviations=deviations,
        message=f"{measure.told}, expected {measure.number(mean)} ({within})",
    )
    return alarm, min(max(measure.value, lowest), highest)
