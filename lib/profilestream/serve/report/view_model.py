"""Contents of the report as plain values, one per section. This module reads no table and writes no HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from profilestream.learn.model_card import ModelCard
from profilestream.serve.report.view_demand import DemandView
from profilestream.serve.report.view_outcomes import OutcomesView
from profilestream.serve.report.view_pipeline import PipelineView
from profilestream.serve.report.view_shop import ShopView
from profilestream.serve.report.view_users import (
    EventsView,
    PreferencesView,
    SegmentsView,
    TagsView,
    UnusualDay,
    UsersView,
)


@dataclass(frozen=True)
class MetricPoint:
    """The value of a metric of one ranker or model for one batch, evaluated before the batch was learned.

    Args:
        weight: number of users or profile vectors that the value is the mean of.
    """

    learner: str
    model: str
    epoch: str
    batch_id: int
    state_as_of: datetime
    weight: float
    value: float


@dataclass(frozen=True)
class PublishedVersion:
    """A published version of a model.

    Args:
        aliases: such as `champion`.
        metric: gate metric and ranker or model, such as `recall_20 of blend`; `value` is its value at publishing.
        learned_until: `state_as_of` of the version's last evaluated batch; null when it is unknown.
        has_rows: whether the version's rows are still stored.
    """

    model: str
    number: int
    aliases: tuple[str, ...]
    metric: str
    value: float | None
    learned_until: datetime | None
    has_rows: bool


@dataclass(frozen=True)
class ReportView:
    """Contents of the report; null or empty where a table does not exist or has no rows.

    Args:
        cards: of the champions.
        enabled: names of the learners and steps that the settings enable.
        has_people: whether user ids are people, and not sessions.
    """

    pipeline: PipelineView
    events: EventsView | None
    users: UsersView | None
    segments: SegmentsView | None
    tags: TagsView | None
    preferences: tuple[PreferencesView, ...]
    outcomes: OutcomesView | None
    demand: tuple[DemandView, ...]
    unusual_days: tuple[UnusualDay, ...]
    recall: tuple[MetricPoint, ...]
    cost: tuple[MetricPoint, ...]
    versions: tuple[PublishedVersion, ...]
    cards: tuple[ModelCard, ...]
    enabled: frozenset[str]
    shop: ShopView | None = None
    has_people: bool = True


def weighted_mean(points: Sequence[MetricPoint]) -> float:
    """Mean of the values by weight."""
    return sum(point.value * point.weight for point in points) / sum(point.weight for point in points)


def format_utc(time: datetime | date) -> str:
    """A time in UTC to the minute, such as `2025-03-30 09:41 UTC`; a date as it is."""
    if not isinstance(time, datetime):
        return f"{time:%Y-%m-%d}"
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
