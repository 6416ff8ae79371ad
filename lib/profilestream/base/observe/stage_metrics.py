"""Exported metrics of the stages of a run, and what they cost per million rows."""

from dataclasses import dataclass
from typing import Any

from profilestream.base.observe import exported_metrics as m
from profilestream.base.observe.metrics_file import MetricsFile, metrics_path
from profilestream.base.observe.stage_measures import Lag
from profilestream.base.queries import BatchResult
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Settings

# The share of rejected rows is over at least half of this number of rows, if there are as many.
_RATIO_ROWS = 10_000
# With fewer rows, the fixed costs of a batch would be most of the result.
_MIN_ROWS_OF_COST = 1_000


@dataclass
class StageCost:
    """Sums over the batches of a run whose CPU time and bytes are known."""

    rows: int = 0
    cpu_seconds: float = 0.0
    bytes_written: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add a row of `stage_batches`."""
        cpu, size = row["cpu_seconds"], row.get("bytes_written")
        if cpu is not None and size is not None:
            self.rows += row["rows_in"]
            self.cpu_seconds += cpu
            self.bytes_written += size

    def text(self) -> str:
        """Core-seconds and megabytes per million rows; empty if the rows are too few."""
        if self.rows < _MIN_ROWS_OF_COST:
            return ""
        millions = self.rows / 1e6
        return (
            f"per million rows: {self.cpu_seconds / millions:,.1f} core-seconds, "
            f"{self.bytes_written / millions / 1e6:,.1f} MB written"
        )


class StageMetrics:
    """Metrics of the queries of a run, and the costs by name of the query."""

    def __init__(self, settings: Settings) -> None:
        self._file = MetricsFile(metrics_path(settings))
        self._restarts: dict[str, int] = {}
        self._rejects: dict[str, tuple[float, float]] = {}
        self.costs: dict[str, StageCost] = {}

    def add_batch(self, runner: QueryRunner, row: dict[str, Any], result: BatchResult | None) -> None:
        """Count a finished batch.

        Args:
            row: of `stage_batches`.
        """
        file, labels = self._file, (row["stage"], row["source"])
        self.costs.setdefault(runner.query.name, StageCost()).add(row)
        file.add(m.STAGE_BATCHES, 1, *labels)
        file.add(m.STAGE_ROWS, row["rows_in"], *labels)
        file.add(m.STAGE_SECONDS, row["seconds"], *labels)
        file.add(m.STAGE_COMMIT_SECONDS, row["commit_seconds"], *labels)
        file.add(m.STAGE_CPU_SECONDS, row["cpu_seconds"], *labels)
        file.add(m.STAGE_BYTES, row.get("bytes_written"), *labels)
        file.set(m.STAGE_LAST_BATCH, row["started_at"].timestamp() + row["seconds"], *labels)
        file.set(m.STAGE_LAST_BATCH_SECONDS, row["seconds"], *labels)
        file.set(m.STAGE_FAILED, 0, *labels)
        if (event_time := row.get("event_time_max")) is not None:
            file.set(m.STAGE_EVENT_TIME, event_time.timestamp(), *labels)
        if result is not None and runner.query.reads.external is not None:
            self._add_capture(row["source"], result)

    def _add_capture(self, source: str, result: BatchResult) -> None:
        counts = {"clean": result.rows_out, "rejected": result.rows_rejected, "duplicate": result.rows_duplicate}
        for outcome, rows in counts.items():
            self._file.add(m.CAPTURE_ROWS, rows, source, outcome)
        before, rejected_before = self._rejects.get(source, (0.0, 0.0))
        weight = _RATIO_ROWS / 2 / before if before > _RATIO_ROWS else 1.0
        total, rejected = before * weight + result.rows_in, rejected_before * weight + result.rows_rejected
        self._rejects[source] = total, rejected
        if total:
            self._file.set(m.CAPTURE_REJECT_RATIO, rejected / total, source)

    def set_state(self, runner: QueryRunner, lag: Lag, is_over: bool) -> None:
        """Set lag, failure and restarts of a query now.

        Args:
            is_over: whether the run ends: a query that did not fail has then succeeded, also without a batch.
        """
        labels, name = (runner.query.stage, runner.query.source), runner.query.name
        self._file.set(m.STAGE_LAG_ROWS, lag.rows, *labels)
        self._file.set(m.STAGE_LAG_SECONDS, lag.seconds, *labels)
        self._file.set(m.STAGE_LAG_FILES, runner.progress.files_left, *labels)
        if runner.failure() is not None:
            self._file.set(m.STAGE_FAILED, 1, *labels)
        elif is_over:
            self._file.set(m.STAGE_FAILED, 0, *labels)
        self._file.add(m.STAGE_RESTARTS, runner.progress.restarts - self._restarts.get(name, 0), *labels)
        self._restarts[name] = runner.progress.restarts

    def write(self, now: float) -> None:
        """Update the file."""
        self._file.set(m.LAST_UPDATE, now)
        self._file.write()
