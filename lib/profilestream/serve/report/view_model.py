"""What the page says, as plain numbers: one value a section. Nothing here reads, draws or knows HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

Grain = Literal["ten minutes", "hour", "day", "week", "month"]
_DAYS: tuple[tuple[float, Grain, Grain], ...] = (
    (0.5, "ten minutes", "hour"),
    (4, "hour", "day"),
    (21, "day", "day"),
    (120, "day", "week"),
    (1100, "week", "month"),
)
# Periods are numbered, so that they can be counted apart; of a local time, in SQL.
NUMBERED: dict[Grain, str] = {
    "ten minutes": "unix_micros({0}) div 600000000",
    "hour": "unix_micros({0}) div 3600000000",
    "day": "datediff({0}, DATE'1970-01-01')",
    "week": "(datediff({0}, DATE'1970-01-01') + 3) div 7",
    "month": "12 * year({0}) + month({0}) - 1",
}


def begin(grain: Grain, number: int) -> datetime:
    """When a numbered period begins, on the clock by which it was numbered; without a zone."""
    match grain:
        case "ten minutes" | "hour":
            return datetime(1970, 1, 1) + number * timedelta(minutes=10 if grain == "ten minutes" else 60)
        case "day":
            return datetime(1970, 1, 1) + timedelta(days=number)
        case "week":
            return datetime(1969, 12, 29) + timedelta(weeks=number)
        case "month":
            return datetime(number // 12, number % 12 + 1, 1)


def grains(first: datetime, last: datetime) -> tuple[Grain, Grain]:
    """How finely users are counted over time, and in which periods they count as coming together (cohorts)."""
    days = (last - first) / timedelta(days=1)
    return next(((fine, coarse) for limit, fine, coarse in _DAYS if days <= limit), ("month", "month"))


@dataclass(frozen=True)
class Account:
    """What became of the rows of a source; `kind` tells replays from the rest."""

    source: str
    kind: str
    batches: int
    rows_in: int
    rows_clean: int
    rows_rejected: int
    rows_duplicate: int


@dataclass(frozen=True)
class Rejects:
    """Rows of a source that a rule rejected, and why."""

    source: str
    rule: str
    reason: str
    rows: int


@dataclass(frozen=True)
class Captured:
    """A batch: `lateness` of its oldest event when it came in, and how long it took, both in seconds."""

    source: str
    batch_id: int
    ingest_time: datetime
    rows_clean: int
    rows_rejected: int
    rows_duplicate: int
    lateness: float | None


@dataclass(frozen=True)
class Pace:
    """How long batches of a stage took, in seconds; `newest` ones one by one, oldest first."""

    stage: str
    batches: int
    rows: int
    seconds: float
    median: float
    newest: tuple[float, ...]


@dataclass(frozen=True)
class Alarm:
    """One of a batch that was unlike the earlier ones."""

    source: str
    batch_id: int
    until: datetime | None
    measure: str
    message: str


@dataclass(frozen=True)
class Health:
    """How capture and the stages went; `captured` and `alarms` are the newest ones, oldest (newest) first."""

    accounts: tuple[Account, ...]
    rejects: tuple[Rejects, ...]
    captured: tuple[Captured, ...]
    paces: tuple[Pace, ...]
    alarms: tuple[Alarm, ...]
    alarm_count: int

    def total(self, column: str) -> int:
        """Rows over all sources; those put through again came in before."""
        return sum(getattr(one, column) for one in self.accounts if one.kind == "source")


@dataclass(frozen=True)
class Log:
    """The clean events as a whole.

    Args:
        by_hour: events by (weekday from Monday = 0, hour) of the shop's clock.
        by_type: events by type.
        value: of purchases; `currency` is empty unless there is just one.
    """

    first: datetime
    last: datetime
    by_hour: dict[tuple[int, int], int]
    by_type: dict[str, int]
    guests: int
    value: float
    currency: str
    zone: str

    @property
    def events(self) -> int:
        """All of them."""
        return sum(self.by_type.values())


@dataclass(frozen=True)
class Period:
    """Users of a period who did anything, and who bought."""

    begin: datetime
    active: int
    buyers: int


@dataclass(frozen=True)
class Cohort:
    """Users who first came in a period: how many of them were there so many periods later, from 0 on."""

    begin: datetime
    users: tuple[int, ...]


@dataclass(frozen=True)
class Users:
    """Known users. `steps`: how many ever did what, in order of the way to a purchase; `bought_carted` did both."""

    fine: Grain
    coarse: Grain
    periods: tuple[Period, ...]
    cohorts: tuple[Cohort, ...]
    steps: dict[str, int]
    bought_carted: int


@dataclass(frozen=True)
class Segment:
    """A segment as the newest batch left it."""

    segment_id: int
    users: int
    description: str
    rule: str
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Segments:
    """`sizes`: users after each batch, by segment; those without a place in the picture together under `OTHERS`."""

    OTHERS = -1
    now: tuple[Segment, ...]
    as_of: tuple[datetime, ...]
    sizes: dict[int, tuple[int, ...]]
    moves: tuple[tuple[datetime, str], ...]

    @property
    def users(self) -> int:
        """Of all segments."""
        return sum(one.users for one in self.now)


@dataclass(frozen=True)
class Tag:
    """How many users hold a tag, and how many came to it and lost it lately."""

    tag: str
    users: int
    gained: int
    lost: int


@dataclass(frozen=True)
class Tags:
    """All tags at a time, among so many users."""

    LATELY = timedelta(days=30)
    as_of: datetime
    tags: tuple[Tag, ...]
    users: int


@dataclass(frozen=True)
class Taste:
    """What users prefer: the share of each in the mean user's preferences, greatest first; the rest in `others`."""

    of: str
    users: int
    shares: tuple[tuple[str, float], ...]
    others: float


@dataclass(frozen=True)
class Judged:
    """A learner's ranking (or clustering) over a batch, before it was learned from."""

    learner: str
    ranker: str
    epoch: str
    batch_id: int
    as_of: datetime
    users: int
    value: float


@dataclass(frozen=True)
class Version:
    """A published version of a model: what it was judged by and how it did, and up to when it had learned."""

    model: str
    number: int
    aliases: tuple[str, ...]
    judged_by: str
    value: float | None
    learned_until: datetime | None
    has_rows: bool


@dataclass(frozen=True)
class Numbers:
    """All of the page; null what there is no table of, or an empty one."""

    health: Health
    log: Log | None
    users: Users | None
    segments: Segments | None
    tags: Tags | None
    tastes: tuple[Taste, ...]
    recall: tuple[Judged, ...]
    cost: tuple[Judged, ...]
    versions: tuple[Version, ...]


def mean(rows: Sequence[Judged]) -> float:
    """By users."""
    return sum(row.value * row.users for row in rows) / sum(row.users for row in rows)


def utc(moment: datetime | date) -> str:
    """A time to the minute, with its zone."""
    if not isinstance(moment, datetime):
        return f"{moment:%Y-%m-%d}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
