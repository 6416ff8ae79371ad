"""Contents of the report about events, users, segments, tags and preferences, as plain values."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from profilestream.base.language import message
from profilestream.serve.report.time_axis import TimeAxis
from profilestream.serve.report.time_grains import TimeGrain

OTHER_DAY = message("purchased on another day")  # a funnel step


@dataclass(frozen=True)
class EventsView:
    """Totals of the clean events.

    Args:
        by_hour: events by (weekday with Monday = 0, hour) in the shop time zone.
        by_type: events by event type.
        guests: events without a user id.
        value: total value of the purchases; null for several currencies without rates.
        currency: currency of `value`; empty when the events contain no currency, or several.
        timezone: the shop time zone.
    """

    first: datetime
    last: datetime
    by_hour: dict[tuple[int, int], int]
    by_type: dict[str, int]
    guests: int
    value: float | None
    currency: str
    timezone: str

    @property
    def events(self) -> int:
        """Number of events."""
        return sum(self.by_type.values())


@dataclass(frozen=True)
class ActivePeriod:
    """Number of users with an event, and of users with a purchase, in one period."""

    start: datetime
    active: int
    buyers: int


@dataclass(frozen=True)
class Cohort:
    """Users with their first event in one period; `users[n]` of them have an event n periods later."""

    start: datetime
    users: tuple[int, ...]


@dataclass(frozen=True)
class UsersView:
    """Users with an id.

    Args:
        period_grain: length of the periods.
        cohort_grain: length of the periods of the cohorts.
        steps: number of users who took each funnel step at least once, by step.
        cart_buyers: number of users who put an item in the cart and bought.
        axis: time range of `periods` and `cohorts`; events outside of it count for `steps` only.
    """

    period_grain: TimeGrain
    cohort_grain: TimeGrain
    periods: tuple[ActivePeriod, ...]
    cohorts: tuple[Cohort, ...]
    steps: dict[str, int]
    cart_buyers: int
    axis: TimeAxis


@dataclass(frozen=True)
class SegmentRow:
    """One segment after the newest batch.

    Args:
        rule: of the decision tree, with its `precision` and `recall`.
        rule_in_words: the same rule for readers who do not know the dimensions.
    """

    segment_id: int
    users: int
    description: str
    rule: str
    precision: float | None
    recall: float | None
    rule_in_words: str = ""


@dataclass(frozen=True)
class SegmentsView:
    """The segments of the newest epoch.

    Args:
        current: the segments after the newest batch, largest first.
        as_of: as-of times of the batches.
        sizes: number of users after each batch, by segment id; the smaller segments are summed under `OTHERS`.
        moves: as-of time and description of the newest split/merge moves.
    """

    OTHERS = -1
    current: tuple[SegmentRow, ...]
    as_of: tuple[datetime, ...]
    sizes: dict[int, tuple[int, ...]]
    moves: tuple[tuple[datetime, str], ...]

    @property
    def users(self) -> int:
        """Number of users in all segments."""
        return sum(segment.users for segment in self.current)

    @property
    def compared(self) -> int | None:
        """Position of the batch that sizes are compared with: the last one at least four weeks before the newest.

        The first one if there is none; null for a single batch.
        """
        if len(self.as_of) < 2:
            return None
        limit = self.as_of[-1] - timedelta(weeks=4)
        return max((n for n, time in enumerate(self.as_of) if time <= limit), default=0)


@dataclass(frozen=True)
class TagRow:
    """Number of users with a tag, and of users who gained or lost it within `TagsView.CHANGE_PERIOD`.

    Args:
        unknown_start: users with the tag of whom no run shows when they gained it; they are not in `gained`.
    """

    tag: str
    users: int
    gained: int
    lost: int
    unknown_start: int = 0


@dataclass(frozen=True)
class TagsView:
    """All tags at `as_of`, and the number of users that tag rules were evaluated for."""

    CHANGE_PERIOD = timedelta(days=30)
    as_of: datetime
    tags: tuple[TagRow, ...]
    users: int


@dataclass(frozen=True)
class UnusualDay:
    """A day of a user that differs from the user's earlier days.

    Args:
        share: estimated share of the days of all users that differ as much.
    """

    user_id: str
    day: date
    share: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PreferencesView:
    """Mean preferences of the users for one attribute of items.

    Args:
        attribute: `categories`, `brands` or `items`.
        users: number of users with a preference.
        shares: value of the attribute and its share of a user's preferences, mean over users, largest first.
        others: share of all values that are not in `shares`.
    """

    attribute: str
    users: int
    shares: tuple[tuple[str, float], ...]
    others: float
