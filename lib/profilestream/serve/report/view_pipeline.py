"""Contents of the report about capture and the stages, as plain values."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class SourceRows:
    """Row accounting of one source; `kind` is `source`, or `reprocess` for reprocessed rows."""

    source: str
    kind: str
    batches: int
    rows_in: int
    rows_clean: int
    rows_rejected: int
    rows_duplicate: int


@dataclass(frozen=True)
class RejectedByRule:
    """Number of rows of a source that a rule rejected, and the reason of the rule."""

    source: str
    rule: str
    reason: str
    rows: int


@dataclass(frozen=True)
class CaptureBatch:
    """One batch of a source.

    Args:
        lateness: seconds from the oldest event of the batch to its capture; null for a batch without clean events.
    """

    source: str
    batch_id: int
    ingest_time: datetime
    rows_clean: int
    rows_rejected: int
    rows_duplicate: int
    lateness: float | None


@dataclass(frozen=True)
class StageDurations:
    """Batch durations of one stage in seconds, and its cost.

    Args:
        seconds: total over all batches.
        median: median over all batches.
        newest: durations of the newest batches, oldest first.
        cpu_per_million, bytes_per_million: CPU seconds and bytes written per million rows, over the batches for which
            they are known; null without any.
    """

    stage: str
    batches: int
    rows: int
    seconds: float
    median: float
    newest: tuple[float, ...]
    cpu_per_million: float | None = None
    bytes_per_million: float | None = None


@dataclass(frozen=True)
class AlarmRow:
    """One alarm; `event_time_max` is the newest event time of the batch."""

    source: str
    batch_id: int
    event_time_max: datetime | None
    measure: str
    message: str


@dataclass(frozen=True)
class PipelineView:
    """Row accounting, newest batches of capture (oldest first), stage durations and newest alarms (newest first)."""

    sources: tuple[SourceRows, ...]
    rejected: tuple[RejectedByRule, ...]
    capture_batches: tuple[CaptureBatch, ...]
    stages: tuple[StageDurations, ...]
    alarms: tuple[AlarmRow, ...]
    alarm_count: int

    def total(self, column: str) -> int:
        """Sum of a column over all sources. Reprocessed rows are excluded because their source already counts them."""
        return sum(getattr(source, column) for source in self.sources if source.kind == "source")
