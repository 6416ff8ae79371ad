"""Contents of the report for the merchant, as plain values."""

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, Self

from profilestream.serve.report.view_outcomes import ScoredUser

ExampleKind = Literal["at_risk", "highest", "new", "typical"]


@dataclass(frozen=True)
class ShopWeek:
    """One week from Monday on, in the shop time zone.

    Args:
        revenue: value of the purchases minus that of the returns.
    """

    start: date
    revenue: float
    orders: int


@dataclass(frozen=True)
class SoldItem:
    """An item in a period of weeks and in the period of equal length before it; units and revenue minus returns."""

    name: str
    units: float
    revenue: float
    units_before: float


@dataclass(frozen=True)
class SalesPeriod:
    """The best sellers and the risers of some weeks.

    Args:
        first, last: the first and the last day.
        best: by revenue, or by units if the log has no values; largest first.
        risers: by increase of units, largest first; empty without an equally long period before.
    """

    first: date
    last: date
    best: tuple[SoldItem, ...]
    risers: tuple[SoldItem, ...]


@dataclass(frozen=True)
class CustomersAtRisk:
    """Users whose probability not to buy again is above one half, and what they spent since `ShopView.year_start`."""

    outcome: str
    customers: int
    spent: float


@dataclass(frozen=True)
class ExampleCustomer:
    """A customer with a score.

    Args:
        kind: why this customer is an example, see queries_examples.
        spent: since `ShopView.year_start`.
    """

    kind: ExampleKind
    user: ScoredUser
    spent: float


@dataclass(frozen=True)
class PeriodSales:
    """Sales in a period: the last complete weeks, or the whole log.

    Args:
        weeks: number of complete weeks; 0 is the whole log.
        revenue: value of the purchases minus that of the returns.
        purchases: value of the purchases.
        orders: whose first purchase is in the period.
        customers: users with such an order.
        repeat_customers: users with at least two such orders.
        items: of the period; of the last four complete weeks for the whole log.
    """

    weeks: int
    revenue: float
    purchases: float
    orders: int
    customers: int
    repeat_customers: int
    items: SalesPeriod


@dataclass(frozen=True)
class SalesSlice:
    """Sales of a source to the users who are in a segment now.

    Args:
        source: null: all sources.
        segment: id; null: all customers and guests.
        weeks: as `ShopView.weeks`.
        at_risk: users at risk who bought from the source, and what they spent there; null without scores.
        periods: the whole log first.
    """

    source: str | None
    segment: int | None
    weeks: tuple[ShopWeek, ...]
    at_risk: CustomersAtRisk | None
    periods: tuple[PeriodSales, ...]


@dataclass(frozen=True)
class ShopView:
    """The shop in numbers.

    Args:
        weeks: without those that are far from all others; the last one is open: it contains the newest event.
        revenue: of all weeks.
        purchases: value of the purchases of all weeks, without subtracting returns.
        orders: number of pairs of user and order; a purchase without an order id is an order.
        customers: users with an order; guests are not counted.
        repeat_customers: users with at least two orders.
        year_start: first day of the last 52 weeks, of which one is open.
        at_risk: null without scores of such an outcome.
        spent_by_segment: by segment id, value of the purchases minus the returns since `year_start`.
        recommended: items with the number of users whom they are recommended to, largest first.
        examples: different kinds of customers.
        slices: by source and segment, for the filter; the first one is of all sources and all users.
    """

    weeks: tuple[ShopWeek, ...]
    revenue: float
    orders: int
    customers: int
    repeat_customers: int
    year_start: date
    sales: SalesPeriod
    at_risk: CustomersAtRisk | None
    spent_by_segment: dict[int, float]
    recommended: tuple[tuple[str, int], ...]
    examples: tuple[ExampleCustomer, ...]
    purchases: float = 0.0
    slices: tuple[SalesSlice, ...] = ()

    def change(self, position: int) -> float | None:
        """Change of the revenue of a week against the week before, 0.1 is 10% more.

        Null for the open week, for the first two weeks (the first one may be incomplete), and after a week without
        revenue.
        """
        if not 2 <= position < len(self.weeks) - 1 or self.weeks[position - 1].revenue <= 0:
            return None
        return self.weeks[position].revenue / self.weeks[position - 1].revenue - 1

    def selected(self, sales: SalesSlice, period: PeriodSales) -> Self:
        """The shop with the sales of a slice in a period; the other values are of the complete shop."""
        return replace(
            self,
            weeks=sales.weeks,
            revenue=period.revenue,
            purchases=period.purchases,
            orders=period.orders,
            customers=period.customers,
            repeat_customers=period.repeat_customers,
            sales=period.items,
            at_risk=sales.at_risk,
        )
