"""Seconds by phase of every micro-batch, as Spark tells them of a query, in `stage_batches`. Outside exactly-once."""

import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.streaming.listener import StreamingQueryProgress

from profilestream.base import tables
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Settings

# Spark keeps the last 100 of a query, those of idle triggers (one in 10 s) among them.
_HEAR_EVERY_SECONDS = 10.0


def make(spark: SparkSession, settings: Settings) -> None:
    """Make the table when it is not there, and name it."""
    tables.STAGE_BATCHES.create(spark, settings.paths)
    tables.STAGE_BATCHES.register(spark, settings.paths)


class StageBatches:
    """Asks the queries now and then what they did, and appends it to the table now and then, and at the end.

    A listener would be told, and keep Spark waiting: PySpark makes some 200 calls into the JVM of every word of it.
    """

    def __init__(self, spark: SparkSession, settings: Settings, running: Sequence[QueryRunner]) -> None:
        self._spark, self._settings, self._running = spark, settings, running
        self._newest: dict[str, int] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._heard = self._flushed = time.monotonic()

    def __enter__(self) -> "StageBatches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()

    def flush_when_due(self) -> None:
        """Append what the queries did, when the last time is long enough ago."""
        now = time.monotonic()
        if now - self._flushed > self._settings.stream.stage_batches_every_seconds:
            self._flush()
        elif now - self._heard > _HEAR_EVERY_SECONDS:
            self._hear()

    def _hear(self) -> None:
        self._heard = time.monotonic()
        for one in self._running:
            for progress in [] if one.handle is None else one.handle.recentProgress:
                if "addBatch" in progress.durationMs and progress.batchId > self._newest.get(one.query.name, -1):
                    self._newest[one.query.name] = progress.batchId
                    self._rows.append(_row(one, progress))

    def _flush(self) -> None:
        self._hear()
        self._flushed = time.monotonic()
        rows, self._rows = self._rows, []
        if rows:
            frame = self._spark.createDataFrame(rows, tables.STAGE_BATCHES.schema)
            frame.coalesce(1).write.format("delta").mode("append").save(tables.STAGE_BATCHES.uri(self._settings.paths))


def _row(one: QueryRunner, progress: StreamingQueryProgress) -> tuple[Any, ...]:
    phases = {name: ms / 1000 for name, ms in progress.durationMs.items()}
    batch, done = one.batches.pop(progress.batchId, None), one.done.pop(progress.batchId, None)
    return (
        one.query.stage,
        one.query.source,
        one.epoch,
        progress.batchId,
        datetime.fromisoformat(progress.timestamp.replace("Z", "+00:00")),
        0 if done is None else done.rows_in,
        one.progress.files_left,
        phases.pop("triggerExecution"),
        {**phases, **({} if batch is None else batch.seconds)},
    )
