"""How prices, categories and spend move by group of users (docs/trends.md).

A trend is the median of the slopes between all pairs of points (Theil 1950; Sen 1968, JASA 63), which a quarter of wild
points does not carry away; the interval is Sen's. Whether there is one says Kendall's rank correlation with time (Mann
1945, Econometrica 13). Of many series some look as if they moved, so what is told is bounded by its share of false ones
(Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.stats import false_discovery_control, kendalltau, theilslopes  # type: ignore[import-untyped]

from profilestream.base.errors import BadSettings
from profilestream.base.session import broadcast_if_small, materialize

Floats = NDArray[np.float64]
Measure = Literal["price", "level", "share", "spend"]

ALL = "(all)"
_OTHER = "(other)"
_DAYS_A_YEAR = 365.25
_FEWEST = 8
_MOST_GROUPS = 50


@dataclass(frozen=True)
class Periods:
    """Whole periods of the log.

    Args:
        first: its first day, where the shop is.
        days: length of each.
    """

    first: date
    days: int
    count: int
    zone: str

    @property
    def starts(self) -> list[date]:
        """The first day of each."""
        return [self.first + timedelta(days=n * self.days) for n in range(self.count)]


@dataclass(frozen=True)
class Series:
    """A measure of a group over the periods; not a number where it has none.

    `price`: money a piece of the category, so it also moves when cheaper items are bought. `level`: money over what the
    same pieces cost at the mean price of their item over all periods, a Paasche index: the price of the same items.
    `share`: of the group's money that goes to the category. `spend`: money that a user of the group spends, on all.
    """

    measure: Measure
    group: str
    category: str
    values: Floats


@dataclass(frozen=True)
class Trend:
    """How a series moves.

    Args:
        slope, low, high: what it gains a year, over its median: 0.1 is a tenth.
        line: its value at the first period, by slope and median, and what it gains a period.
        false_share: of the measure's series that move at least as surely as this one, how many are thought not to.
    """

    series: Series
    slope: float
    low: float
    high: float
    line: tuple[float, float]
    false_share: float

    @property
    def moves(self) -> bool:
        """Whether it is told as a mover."""
        return self.false_share <= 0.05


@dataclass(frozen=True)
class Sums:
    """What groups bought, by period: what all measures are made of. Keys are group and category.

    Args:
        users: of each group, those that the log knows.
        usual: what the pieces cost at the mean price of their item.
    """

    users: dict[str, int]
    money: dict[tuple[str, str], Floats]
    pieces: dict[tuple[str, str], Floats]
    usual: dict[tuple[str, str], Floats]


def periods(events: DataFrame, days: int, zone: str, since: date | None, until: date | None) -> Periods:
    """Whole periods from the log's first day (or a later one that is named) to its last one.

    Raises:
        BadSettings: there are fewer than eight.
    """
    local = F.to_date(F.from_utc_timestamp("event_time", zone))
    row = events.agg(F.min(local), F.max(local)).head()
    nothing = (date.min, date.min)
    begun, last = nothing if row is None or row[0] is None else row
    first = max(begun, since or begun)
    count = (min(last + timedelta(days=1), until or date.max) - first).days // days
    if count < _FEWEST:
        do = "name shorter periods with --every, or wait for a longer log"
        raise BadSettings(f"{count} periods of {days} days; {_FEWEST} are needed", where="--every", do=do)
    return Periods(first, days, count, zone)


def sums(events: DataFrame, groups: DataFrame, span: Periods, most: int) -> Sums:
    """Money and pieces bought, by group, category and period.

    Args:
        groups: `user_id` and `group`, a row a user; who has no event is in none.
        most: categories that are told apart, those of the most money; the others are one.

    Raises:
        BadSettings: there are no groups, or very many.
    """
    known = materialize(groups.join(events.select("user_id"), "user_id", "left_semi"))
    sizes = {row["group"]: row["count"] for row in known.groupBy("group").count().limit(_MOST_GROUPS + 1).collect()}
    if not 0 < len(sizes) <= _MOST_GROUPS:
        what = f"users of the log are in {'no' if not sizes else f'more than {_MOST_GROUPS}'} groups"
        raise BadSettings(what, where="--groups, --group", do="name ids as events has them, and few groups")
    local = F.to_date(F.from_utc_timestamp("event_time", span.zone))
    bought = events.where("event_type = 'purchase' AND value IS NOT NULL AND quantity > 0").select(
        "user_id",
        "item_id",
        F.coalesce("category", F.lit(_OTHER)).alias("category"),
        F.floor(F.date_diff(local, F.lit(span.first)) / span.days).cast("int").alias("period"),
        F.col("value").alias("money"),
        F.col("quantity").alias("pieces"),
    )
    inside = bought.where(F.col("period").between(0, span.count - 1))
    means = inside.groupBy("item_id").agg((F.sum("money") / F.sum("pieces")).alias("mean"))
    joined = inside.join(broadcast_if_small(known, sum(sizes.values())), "user_id").join(means, "item_id", "left")
    largest = joined.groupBy("category").agg(F.sum("money").alias("money")).orderBy(F.desc("money"), "category")
    kept = largest.limit(most).select("category", F.lit(True).alias("is_kept"))
    named = joined.join(F.broadcast(kept), "category", "left").withColumn(
        "category", F.when(F.col("is_kept"), F.col("category")).otherwise(_OTHER)
    )
    usual = F.sum(F.col("pieces") * F.col("mean")).alias("usual")
    found = named.groupBy("group", "category", "period").agg(
        F.sum("money").alias("money"), F.sum("pieces").alias("pieces"), usual
    )
    told = Sums(sizes, {}, {}, {})
    for row in found.collect():
        for into, column in ((told.money, "money"), (told.pieces, "pieces"), (told.usual, "usual")):
            series = into.setdefault((row["group"], row["category"]), np.zeros(span.count))
            series[row["period"]] = row[column] or 0.0
    return told


def series(found: Sums) -> Iterator[Series]:
    """Every measure of every group."""
    for group, users in sorted(found.users.items()):
        mine = {category: money for (one, category), money in found.money.items() if one == group}
        if not mine:
            continue
        total = np.sum(list(mine.values()), axis=0)
        yield Series("spend", group, ALL, total / users)
        for category in sorted(mine.keys() - {_OTHER}):
            yield Series("price", group, category, _over(mine[category], found.pieces[group, category]))
            yield Series("level", group, category, _over(mine[category], found.usual[group, category]))
            yield Series("share", group, category, _over(mine[category], total))


def _over(one: Floats, other: Floats) -> Floats:
    return np.divide(one, other, out=np.full_like(one, np.nan), where=other > 0)


def trends(every: Iterator[Series], days: int, confidence: float = 0.95) -> list[Trend]:
    """The trend of each series that has a value in most of the periods and a median above 0; no order.

    Args:
        days: of a period.
    """
    by_measure: dict[Measure, list[Series]] = {}
    for one in every:
        if _is_usable(one.values):
            by_measure.setdefault(one.measure, []).append(one)
    return [trend for alike in by_measure.values() for trend in _together(alike, days, confidence)]


def _together(alike: list[Series], days: int, confidence: float) -> list[Trend]:
    """Trends of the series of a measure, which are sure or not among each other."""
    fits = [_fit(one.values, confidence) for one in alike]
    shares = false_discovery_control([chance for *_, chance in fits])
    found = []
    for one, (slope, low, high, start, _), share in zip(alike, fits, shares, strict=True):
        scale = _DAYS_A_YEAR / days / float(np.nanmedian(one.values))
        found.append(Trend(one, slope * scale, low * scale, high * scale, (start, slope), float(share)))
    return found


def _is_usable(values: Floats) -> bool:
    told = np.isfinite(values)
    return told.sum() >= max(_FEWEST, 0.8 * len(values)) and float(np.nanmedian(values)) > 0


def _fit(values: Floats, confidence: float) -> tuple[float, float, float, float, float]:
    """Slope a period, its interval, the value at the first period, and how likely such a run of ranks is by chance."""
    at = np.flatnonzero(np.isfinite(values))
    fit = theilslopes(values[at], at, alpha=confidence)
    chance = float(kendalltau(at, values[at]).pvalue)
    # Of values that are all alike Kendall's correlation is not defined: they do not move.
    sure = chance if np.isfinite(chance) else 1.0
    return float(fit.slope), float(fit.low_slope), float(fit.high_slope), float(fit.intercept), sure


def movers(found: list[Trend], measure: Measure, most: int) -> list[Trend]:
    """What moves the most of a measure, up or down, among what is sure to move."""
    sure = [one for one in found if one.series.measure == measure and one.moves]
    return sorted(sure, key=lambda one: (-abs(one.slope), one.series.group, one.series.category))[:most]
