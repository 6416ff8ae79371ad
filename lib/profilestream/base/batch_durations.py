"""Writes the table `stage_batches`, from Spark's progress, and exports the metrics of stages. Not exactly once."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from pyspark.sql import SparkSession
from pyspark.sql.streaming.listener import StreamingQueryProgress

from profilestream.base import commits, tables
from profilestream.base.observe.alerts import Alerts
from profilestream.base.observe.stage_measures import StageMeasures, start_time
from profilestream.base.observe.stage_metrics import StageMetrics
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Settings

# Spark stores the last 100 progress records of a query, including idle triggers (one in 10 s).
_POLL_SECONDS = 10.0
log = logging.getLogger(__name__)


def create(spark: SparkSession, settings: Settings) -> None:
    """Make the table ready for writing."""
    tables.STAGE_BATCHES.prepare(spark, settings.paths)


class StageBatches:
    """Polls the progress of the queries, and appends it to the table at intervals and at the end of the run.

    It polls instead of using a StreamingQueryListener: a listener costs about 200 JVM calls per event, and Spark waits
    for it. After each poll, metrics are exported and alerts are evaluated; their errors are logged.
    """

    def __init__(self, spark: SparkSession, settings: Settings, runners: Sequence[QueryRunner]) -> None:
        self._spark, self._settings, self._runners = spark, settings, runners
        self._last_batch: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._polled = self._flushed = time.monotonic()
        self._measures = StageMeasures(spark, settings.paths, runners)
        self.metrics = StageMetrics(settings)
        self._alerts = Alerts(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush(is_over=True)
        self._alerts.finish()

    def flush_when_due(self) -> None:
        """Append the collected rows when `stream.stage_batches_every_seconds` have passed."""
        now = time.monotonic()
        if now - self._flushed > self._settings.stream.stage_batches_every_seconds:
            self._flush()
        elif now - self._polled > _POLL_SECONDS:
            self._poll()

    def _poll(self, *, is_over: bool = False) -> None:
        self._polled = time.monotonic()
        new = [
            (runner, progress)
            for runner in self._runners
            for progress in ([] if runner.handle is None else runner.handle.recentProgress)
            if "addBatch" in progress.durationMs and progress.batchId > self._last_batch.get(runner.query.name, -1)
        ]
        is_measured = self._is_done(self._measures.refresh)
        for runner, progress in new:
            self._last_batch[runner.query.name] = progress.batchId
            row = _row(runner, progress)
            if is_measured:
                self._is_done(partial(self._measure, runner, progress, row))
            self._is_done(partial(self.metrics.add_batch, runner, row, runner.results.pop(progress.batchId, None)))
            runner.batches.pop(progress.batchId, None)
            self._rows.append(row)
        self._is_done(partial(self._export, is_over))

    def _measure(self, runner: QueryRunner, progress: StreamingQueryProgress, row: dict[str, Any]) -> None:
        row.update(self._measures.columns(runner, progress))

    def _export(self, is_over: bool) -> None:
        now = time.time()
        for runner in self._runners:
            self.metrics.set_state(runner, self._measures.lag(runner, now), is_over)
        self._measures.forget(self._runners)
        self.metrics.write(now)
        if not is_over:
            self._alerts.evaluate_in_background()

    def _is_done(self, call: Callable[[], object]) -> bool:
        """Call a function for observation only: its error is logged, and does not end the run."""
        try:
            call()
        except Exception as error:
            log.warning("measures of stages are incomplete: %s: %s", type(error).__name__, error)
            return False
        return True

    def _flush(self, *, is_over: bool = False) -> None:
        self._poll(is_over=is_over)
        self._flushed = time.monotonic()
        rows, self._rows = self._rows, []
        if rows:
            table = tables.STAGE_BATCHES
            commits.append_untracked(self._spark, table.arrow_rows(rows), table, self._settings.paths)


def _row(runner: QueryRunner, progress: StreamingQueryProgress) -> dict[str, Any]:
    """The row of a batch, without the columns of StageMeasures."""
    phases = {name: ms / 1000 for name, ms in progress.durationMs.items()}
    batch, result = runner.batches.get(progress.batchId), runner.results.get(progress.batchId)
    return {
        "stage": runner.query.stage,
        "source": runner.query.source,
        "epoch": runner.epoch,
        "batch_id": progress.batchId,
        "started_at": datetime.fromtimestamp(start_time(progress), UTC),
        "rows_in": 0 if result is None else result.rows_in,
        "lag_files": runner.progress.files_left,
        "seconds": phases.pop("triggerExecution"),
        "seconds_by_phase": list({**phases, **({} if batch is None else batch.seconds)}.items()),
        "commit_seconds": None if batch is None else batch.commit_seconds,
        "cpu_seconds": None if batch is None else batch.cpu_seconds,
    }
