"""Sums of sales as one view per source and segment that the filter offers; no Spark."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from profilestream.serve import usual_days
from profilestream.serve.report import time_grains
from profilestream.serve.report.offered import PERIOD_WEEKS, Offered
from profilestream.serve.report.view_shop import (
    CustomersAtRisk,
    PeriodSales,
    SalesPeriod,
    SalesSlice,
    ShopWeek,
    SoldItem,
)

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class SalesSums:
    """Rows of queries_sales, as it describes them.

    Args:
        weeks: numbers of the usual weeks; the last one is open.
        periods: of the items of the whole log, then those of `lengths`.
        lengths: in complete weeks.
        risk: name of the outcome of the customers at risk; null without one.
    """

    weeks: range
    periods: tuple[range, ...]
    lengths: tuple[int, ...]
    weekly: Sequence[Any]
    weekly_orders: Sequence[Any]
    by_segment: Sequence[Any]
    item_lists: dict[tuple[str | None, int | None, int], tuple[list[Any], list[Any]]]
    risk: str | None


def usual_weeks(weekly: Iterable[Any]) -> range:
    """Numbers of the weeks, without those far from all others; empty when there are none."""
    events: dict[int, int] = {}
    for row in weekly:
        events[row["week"]] = events.get(row["week"], 0) + row["events"]
    if not events:
        return range(0)
    numbers = sorted(events)
    # A week counts as one day, so that consecutive weeks are consecutive days.
    low, high = usual_days.usual_range([(_EPOCH + timedelta(days=n), events[n]) for n in numbers])
    return range(numbers[low], numbers[high] + 1)


def periods(weeks: range) -> tuple[tuple[range, ...], tuple[int, ...]]:
    """The weeks of the items of the whole log, and of each shorter period; and the lengths of the shorter periods.

    Items of the whole log are of its last four complete weeks, or of its open week if no week is complete.
    """
    complete = weeks[:-1] or weeks
    lengths = tuple(length for length in PERIOD_WEEKS if length < len(complete))
    return tuple(complete[-length:] for length in (PERIOD_WEEKS[0], *lengths)), lengths


def slices(sums: SalesSums, offered: Offered) -> tuple[SalesSlice, ...]:
    """A view per source and segment; the first one is of all sources and all users."""
    return tuple(
        _slice(sums, source, segment) for source in (None, *offered.sources) for segment in (None, *offered.segments)
    )


def monday(week: int) -> date:
    """First day of a numbered week."""
    return time_grains.period_start("week", week).date()


def _slice(sums: SalesSums, source: str | None, segment: int | None) -> SalesSlice:
    def total(rows: Sequence[Any], column: str, label: str = "segment") -> Callable[[range | None], float]:
        by_week: dict[int, float] = {}
        for row in rows:
            if segment in (None, row[label]):
                by_week[row["week"]] = by_week.get(row["week"], 0) + (row[column] or 0)
        return lambda weeks: sum(by_week.values() if weeks is None else (by_week.get(n, 0) for n in weeks))

    # Sums of values are by disjoint sources; orders have rows for all sources too, because an order can have several.
    weekly = [row for row in sums.weekly if source in (None, row["source"])]
    revenue, purchases = total(weekly, "revenue"), total(weekly, "purchases")
    orders = total([row for row in sums.weekly_orders if row["source"] == source], "orders")
    users = [row for row in sums.by_segment if row["source"] == source and segment in (None, row["segment_id"])]

    def count(column: str) -> int:
        return sum(row[column] for row in users)

    def period(number: int, length: int, weeks: range | None) -> PeriodSales:
        suffix = "" if weeks is None else f"_{number}"
        items = _items(sums, source, segment, number)
        counts = (int(orders(weeks)), count(f"customers{suffix}"), count(f"repeat_customers{suffix}"))
        return PeriodSales(length, float(revenue(weeks)), float(purchases(weeks)), *counts, items)

    shorter = [period(n, length, sums.periods[n]) for n, length in enumerate(sums.lengths, 1)]
    spent = sum(row["risk_spent"] or 0.0 for row in users)
    return SalesSlice(
        source=source,
        segment=segment,
        weeks=tuple(
            ShopWeek(monday(n), float(revenue(range(n, n + 1))), int(orders(range(n, n + 1)))) for n in sums.weeks
        ),
        at_risk=None if sums.risk is None else CustomersAtRisk(sums.risk, count("at_risk"), spent),
        periods=(period(0, 0, None), *shorter),
    )


def _items(sums: SalesSums, source: str | None, segment: int | None, number: int) -> SalesPeriod:
    weeks = sums.periods[number]
    best, rising = sums.item_lists.get((source, segment, number), ([], []))
    # The first week of the log may be incomplete, so it is not compared with others.
    has_before = weeks.start - len(weeks) > sums.weeks.start
    last = monday(weeks[-1]) + timedelta(days=6)
    return SalesPeriod(monday(weeks[0]), last, _sold(best), _sold(rising) if has_before else ())


def _sold(rows: Sequence[Any]) -> tuple[SoldItem, ...]:
    return tuple(SoldItem(row["item_id"], row["units"], row["revenue"], row["units_before"]) for row in rows)


def named(slices: Iterable[SalesSlice], names: dict[str, str]) -> tuple[SalesSlice, ...]:
    """The views with the names of the items; items without one have their id."""

    def rename(items: tuple[SoldItem, ...]) -> tuple[SoldItem, ...]:
        return tuple(replace(item, name=names.get(item.name, item.name)) for item in items)

    def rename_period(one: PeriodSales) -> PeriodSales:
        return replace(one, items=replace(one.items, best=rename(one.items.best), risers=rename(one.items.risers)))

    return tuple(replace(one, periods=tuple(map(rename_period, one.periods))) for one in slices)


def item_ids(slices: Iterable[SalesSlice]) -> set[str]:
    """Ids of all items in the lists."""
    lists = (period.items for one in slices for period in one.periods)
    return {item.name for items in lists for item in (*items.best, *items.risers)}
