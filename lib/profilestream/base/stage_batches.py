"""Seconds by phase of every micro-batch, told by a listener to `stage_batches`. Outside exactly-once."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession
from pyspark.sql.streaming.listener import (
    QueryIdleEvent,
    QueryProgressEvent,
    QueryStartedEvent,
    QueryTerminatedEvent,
    StreamingQueryListener,
)

from profilestream.base import tables
from profilestream.base.settings import Settings

if TYPE_CHECKING:
    from profilestream.base.stream import Running


class _Listener(StreamingQueryListener):
    def __init__(self) -> None:
        self.progress: list[Any] = []

    def onQueryStarted(self, event: QueryStartedEvent) -> None:
        pass

    def onQueryProgress(self, event: QueryProgressEvent) -> None:
        if "addBatch" in event.progress.durationMs:
            self.progress.append(event.progress)

    def onQueryIdle(self, event: QueryIdleEvent) -> None:
        pass

    def onQueryTerminated(self, event: QueryTerminatedEvent) -> None:
        pass


class StageBatches:
    """Keeps what the listener hears and appends it to the table now and then, and at the end."""

    def __init__(self, spark: SparkSession, settings: Settings, running: "Sequence[Running]") -> None:
        self._spark, self._settings = spark, settings
        self._running: Mapping[str, Running] = {one.query.name: one for one in running}
        self._listener = _Listener()
        self._flushed = time.monotonic()

    def __enter__(self) -> "StageBatches":
        tables.STAGE_BATCHES.create(self._spark, self._settings.paths)
        tables.STAGE_BATCHES.register(self._spark, self._settings.paths)
        self._spark.streams.addListener(self._listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spark._jsc.sc().listenerBus().waitUntilEmpty()
        self._spark.streams.removeListener(self._listener)
        self._flush()

    def flush_when_due(self) -> None:
        """Append what was heard, when the last time is long enough ago."""
        if time.monotonic() - self._flushed > self._settings.stream.stage_batches_every_seconds:
            self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        heard, self._listener.progress = self._listener.progress, []
        rows = [row for progress in heard if (row := self._row(progress)) is not None]
        if rows:
            frame = self._spark.createDataFrame(rows, tables.STAGE_BATCHES.schema)
            frame.coalesce(1).write.format("delta").mode("append").save(tables.STAGE_BATCHES.uri(self._settings.paths))

    def _row(self, progress: Any) -> tuple[Any, ...] | None:
        one = self._running.get(progress.name)
        if one is None:
            return None
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
