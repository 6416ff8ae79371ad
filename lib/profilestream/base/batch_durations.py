"""Writes the table `stage_batches`: duration by phase of every micro-batch, from Spark's progress. Not exactly once."""

import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.streaming.listener import StreamingQueryProgress

from profilestream.base import commits, tables
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Settings

# Spark stores the last 100 progress records of a query, including idle triggers (one in 10 s).
_POLL_SECONDS = 10.0


def create(spark: SparkSession, settings: Settings) -> None:
    """Create and register the table if it does not exist."""
    tables.STAGE_BATCHES.create(spark, settings.paths)
    tables.STAGE_BATCHES.register(spark, settings.paths)


class StageBatches:
    """Polls the progress of the queries, and appends it to the table at intervals and at the end of the run.

    It polls instead of using a StreamingQueryListener: a listener costs about 200 JVM calls per event, and Spark waits
    for it.
    """

    def __init__(self, spark: SparkSession, settings: Settings, runners: Sequence[QueryRunner]) -> None:
        self._spark, self._settings, self._runners = spark, settings, runners
        self._last_batch: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._polled = self._flushed = time.monotonic()

    def __enter__(self) -> "StageBatches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()

    def flush_when_due(self) -> None:
        """Append the collected rows when `stream.stage_batches_every_seconds` have passed."""
        now = time.monotonic()
        if now - self._flushed > self._settings.stream.stage_batches_every_seconds:
            self._flush()
        elif now - self._polled > _POLL_SECONDS:
            self._poll()

    def _poll(self) -> None:
        self._polled = time.monotonic()
        for runner in self._runners:
            for progress in [] if runner.handle is None else runner.handle.recentProgress:
                if "addBatch" in progress.durationMs and progress.batchId > self._last_batch.get(runner.query.name, -1):
                    self._last_batch[runner.query.name] = progress.batchId
                    self._rows.append(_row(runner, progress))

    def _flush(self) -> None:
        self._poll()
        self._flushed = time.monotonic()
        rows, self._rows = self._rows, []
        if rows:
            table = tables.STAGE_BATCHES
            commits.append_untracked(self._spark, table.arrow_rows(rows), table, self._settings.paths)


def _row(runner: QueryRunner, progress: StreamingQueryProgress) -> dict[str, Any]:
    phases = {name: ms / 1000 for name, ms in progress.durationMs.items()}
    batch, result = runner.batches.pop(progress.batchId, None), runner.results.pop(progress.batchId, None)
    values = (
        runner.query.stage,
        runner.query.source,
        runner.epoch,
        progress.batchId,
        datetime.fromisoformat(progress.timestamp.replace("Z", "+00:00")),
        0 if result is None else result.rows_in,
        runner.progress.files_left,
        phases.pop("triggerExecution"),
        list({**phases, **({} if batch is None else batch.seconds)}.items()),
    )
    return dict(zip(tables.STAGE_BATCHES.names, values, strict=True))
