"""Lag, bytes and event time of the queries of a run, from the logs of their tables and Spark's progress."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.streaming.listener import StreamingQueryProgress

from profilestream.base.commits import Txn
from profilestream.base.observe.followed_log import FollowedLog, first_unread_version, follow
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Paths


@dataclass(frozen=True)
class Lag:
    """How far a query is behind its source; null values are unknown (columns of `stage_batches`)."""

    rows: int | None = None
    seconds: float | None = None


class StageMeasures:
    """Follows the logs of the tables that the queries read and write.

    Args:
        runners: the queries before they are started.
    """

    def __init__(self, spark: SparkSession, paths: Paths, runners: Sequence[QueryRunner]) -> None:
        self._offsets: dict[str, Mapping[str, Any]] = {}
        self._kafka_lags: dict[str, int] = {}
        self._logs: dict[str, FollowedLog] = {}
        first: dict[str, int] = {}
        tables = {table.name: table for runner in runners for table in runner.query.tables}
        for runner in runners:
            if (source := runner.query.reads.table) is None or not source.exists(spark, paths):
                continue
            tables[source.name] = source
            offset = self._offsets[runner.query.name] = runner.finished_offset()
            if "reservoirVersion" in offset:
                version = int(offset["reservoirVersion"])
                first[source.name] = min(version, first.get(source.name, version))
        for name, table in tables.items():
            self._logs[name] = follow(spark, table, paths, first.get(name))

    def refresh(self) -> None:
        """Read the new entries of all logs."""
        for log in self._logs.values():
            log.refresh()

    def columns(self, runner: QueryRunner, progress: StreamingQueryProgress) -> dict[str, Any]:
        """Values of columns of `stage_batches` for a finished batch, and the new position of the query."""
        name, result = runner.query.name, runner.results.get(progress.batchId)
        ended = start_time(progress) + progress.durationMs["triggerExecution"] / 1000
        start, end = (_offset(getattr(progress.sources[0], f"{side}Offset")) for side in ("start", "end"))
        self._offsets[name] = end
        if (rows := kafka_lag(end, _offset(progress.sources[0].latestOffset))) is not None:
            self._kafka_lags[name] = rows
        lag = self.lag(runner, ended)
        event_time = None if result is None or result.event_time_max is None else result.event_time_max / 1e6
        if (log := self._source_log(runner)) is not None:
            event_time = log.event_time_max(start, end)
        return {
            "event_time_max": None if event_time is None else datetime.fromtimestamp(event_time, UTC),
            "lag_rows": lag.rows,
            "lag_seconds": lag.seconds,
            "bytes_written": self._bytes_written(runner, progress.batchId),
        }

    def lag(self, runner: QueryRunner, until: float) -> Lag:
        """What the source contained at a time (seconds since 1970) and the query has not read."""
        reads, name = runner.query.reads, runner.query.name
        if (log := self._source_log(runner)) is None:
            return Lag(self._kafka_lags.get(name))
        unread = log.unread(self._offsets.get(name, {}), until, is_change_feed=reads.is_change_feed)
        if unread is None:
            return Lag()
        return Lag(unread.rows, 0.0 if unread.since is None else max(until - unread.since, 0.0))

    def forget(self, runners: Sequence[QueryRunner]) -> None:
        """Drop the log entries that all queries have read."""
        for name, log in self._logs.items():
            readers = [r.query.name for r in runners if r.query.reads.table and r.query.reads.table.name == name]
            versions = [first_unread_version(self._offsets.get(reader, {})) for reader in readers]
            unread = [version for version in versions if version is not None]
            if len(unread) == len(versions):
                log.forget_before(min(unread, default=log.next_version))

    def _source_log(self, runner: QueryRunner) -> FollowedLog | None:
        table = runner.query.reads.table
        return None if table is None else self._logs.get(table.name)

    def _bytes_written(self, runner: QueryRunner, batch_id: int) -> int | None:
        txn = Txn(runner.query.name, runner.epoch, batch_id)
        sizes = [self._logs[table.name].bytes_of(txn.app_id(table), batch_id) for table in runner.query.tables]
        return None if None in sizes else sum(filter(None, sizes))


def start_time(progress: StreamingQueryProgress) -> float:
    """When the trigger started, in seconds since 1970."""
    return datetime.fromisoformat(progress.timestamp).timestamp()


def kafka_lag(end: Mapping[str, Any], latest: Mapping[str, Any]) -> int | None:
    """Offsets of Kafka that are not read yet, of all partitions; null for other sources.

    Args:
        end, latest: `{topic: {partition: offset}}`.
    """
    if not latest or not all(isinstance(partitions, dict) for partitions in latest.values()):
        return None
    return sum(
        max(int(offset) - int(end.get(topic, {}).get(partition, 0)), 0)
        for topic, partitions in latest.items()
        for partition, offset in partitions.items()
    )


def _offset(text: str | None) -> dict[str, Any]:
    """An offset in Spark's progress; empty if there is none, or if it is no JSON object."""
    try:
        offset = json.loads(text or "{}")
    except ValueError:
        return {}
    return offset if isinstance(offset, dict) else {}
