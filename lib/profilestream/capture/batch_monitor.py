"""Measures each batch of a source and raises its alarms (the limits are in `alarms.py`).

The trends of a source are in its latest row of `capture_batches`. A batch reads only this row, and reads nothing if
the same run wrote it. The measures are computed from sums that the batch needs anyway.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import Refused
from profilestream.base.queries import Batch
from profilestream.base.settings import Alarms
from profilestream.capture import alarms
from profilestream.capture.alarms import Alarm, Measure, Trend
from profilestream.capture.cleaning_rules import EXPRESSION_FAILED
from profilestream.capture.mapping import Mapping
from profilestream.capture.sources.record_source import InputBatch

log = logging.getLogger(__name__)

NULL_SHARE_COLUMNS = (
    "user_id", "item_id", "order_id", "category", "brand", "price", "quantity", "value", "rating", "session_id",
)  # fmt: skip
LEVEL_COLUMNS = ("price", "value")  # only the first mapped one: price times quantity changes whenever price does


@dataclass
class TrendCache:
    """The trends after the last batch of this run."""

    epoch: str = ""
    batch_id: int = -1
    trends: dict[str, Trend] = field(default_factory=dict)

    def trends_before(self, batch: Batch, source: str) -> dict[str, Trend]:
        """The trends of all earlier batches of the epoch, by measure; empty for the first batch."""
        epoch, last = batch.txn.epoch, batch.txn.batch_id - 1
        if last < 0:
            return {}
        if (epoch, last) == (self.epoch, self.batch_id):
            return self.trends
        is_last = (F.col("source") == source) & (F.col("kind") == "source") & (F.col("batch_id") == last)
        with batch.phase("read trends"):
            stored = tables.CAPTURE_BATCHES.read(batch.spark, batch.paths).where(is_last & (F.col("epoch") == epoch))
            rows: list[Any] = stored.select("measures").collect()
        measures = (rows[0]["measures"] if rows else None) or {}
        fields = Trend.__dataclass_fields__
        return {measure: Trend(**{name: row[name] for name in fields}) for measure, row in measures.items()}

    def store(self, batch: Batch, trends: dict[str, Trend]) -> None:
        """Store the trends for the next batch of this run."""
        self.epoch, self.batch_id, self.trends = batch.txn.epoch, batch.txn.batch_id, trends


@dataclass(frozen=True)
class BatchMeasures:
    """The measures of a batch.

    Args:
        as_of: newest event time of the batch, microseconds since 1970; null when no row is clean.
    """

    measures: list[Measure]
    as_of: int | None


@dataclass(frozen=True)
class AlarmResult:
    """The alarms of a batch, and the trends updated with it.

    Args:
        column: value of the column `measures` of `capture_batches`.
    """

    alarms: list[Alarm]
    trends: dict[str, Trend]
    column: dict[str, dict[str, Any]]


def conditions(mapping: Mapping) -> dict[str, str]:
    """The conditions for which `measure_batch` reads the number of rows, by name, as SQL."""
    columns = {f"has_{column}": f"{column} IS NOT NULL" for column in _null_share_columns(mapping)}
    for column in _level_columns(mapping):
        columns["positive"] = f"{column} > 0"
    return columns


def sums(mapping: Mapping) -> dict[str, str]:
    """The values of which `measure_batch` reads the sum, by name, as SQL."""
    columns = {"seconds": "double(event_time)"}
    for column in _level_columns(mapping):
        columns["logarithms"] = f"CASE WHEN {column} > 0 THEN ln({column}) END"
    return columns


def _null_share_columns(mapping: Mapping) -> list[str]:
    return [column for column in NULL_SHARE_COLUMNS if column in mapping.columns]


def _level_columns(mapping: Mapping) -> list[str]:
    return [column for column in LEVEL_COLUMNS if column in mapping.columns][:1]


def measure_batch(
    summary: list[Any], rows: int, rejected: int, inputs: InputBatch, mapping: Mapping, min_rows: int
) -> BatchMeasures:
    """The measures of a batch, from its sums by rule and date.

    Args:
        rows, rejected: counts without skipped files.
        min_rows: below this number of rows only the volume is measured.
    """
    clean_rows = [row for row in summary if row["rule"] is None]
    count = sum(row["n"] for row in clean_rows)
    measures = list(_volumes(summary, rows, inputs, mapping))
    if rows >= min_rows:
        measures.append(alarms.reject_share(rejected, rows))
    if count >= min_rows:
        for column in _null_share_columns(mapping):
            nulls = count - sum(r[f"has_{column}"] for r in clean_rows)
            measures.append(alarms.null_share(column, nulls, count))
        seconds = inputs.ingest_micros / 1e6 - sum(r["seconds"] for r in clean_rows) / count
        measures.append(alarms.lateness(seconds, count))
    for column in _level_columns(mapping):
        positive = sum(r["positive"] for r in clean_rows)
        if positive >= min_rows:
            logarithms = sum(r["logarithms"] or 0.0 for r in clean_rows)
            measures.append(alarms.level(column, logarithms, positive))
    return BatchMeasures(measures, max((row["last"] for row in clean_rows), default=None))


def _volumes(summary: list[Any], rows: int, inputs: InputBatch, mapping: Mapping) -> Iterator[Measure]:
    """Rows per file, since batches differ in their number of files. For a Delta table, rows per day.

    The mean over days is weighted by the rows of each day, so a few late rows of other days hardly change it.
    """
    if inputs.units:
        yield alarms.volume(rows, len(inputs.units), "file")
    by_day: dict[Any, int] = {}
    for row in summary if mapping.input.format == "delta" else []:
        if row["event_date"] is not None:
            by_day[row["event_date"]] = by_day.get(row["event_date"], 0) + row["n"]
    if by_day:
        yield alarms.volume(round(sum(n * n for n in by_day.values()) / sum(by_day.values())), 1, "day")


def failing_expression(key: str, settings: Alarms) -> Alarm:
    """The alarm for an expression of the mapping that raises on every row of a batch."""
    return Alarm(EXPRESSION_FAILED, 1.0, 0.0, 1 / settings.min_share_deviation, f"{key} fails on every row")


def evaluate_batch(
    batch_measures: BatchMeasures, certain: list[Alarm], source: str, cache: TrendCache, batch: Batch, settings: Alarms,
    inputs: InputBatch,
) -> AlarmResult:  # fmt: skip
    """The alarms of a batch, compared with the earlier batches of the source in this epoch. Logs each alarm.

    Args:
        certain: alarms that need no comparison.

    Raises:
        Refused: there is an alarm, `action` is `stop`, and no table contains rows of the batch yet.
    """
    measures, txn = batch_measures.measures, batch.txn
    earlier = cache.trends_before(batch, source)
    batch_alarms, trends = alarms.evaluate(measures, earlier, batch_measures.as_of, settings)
    batch_alarms = [*certain, *batch_alarms]
    values = {measure.name: measure.natural_value for measure in measures}
    column = {name: {"value": values.get(name), **asdict(trend)} for name, trend in trends.items()}
    for alarm in batch_alarms:
        log.warning(
            "query=%s epoch=%s batch_id=%s alarm=%s: %s", txn.query, txn.epoch, txn.batch_id, alarm.measure,
            alarm.message,
        )  # fmt: skip
    first_tables = (tables.EVENTS, tables.REJECTED_EVENTS)
    if batch_alarms and settings.action == "stop" and not any(batch.is_done(table) for table in first_tables):
        names = [alarm.measure for alarm in batch_alarms]
        messages = "; ".join(f"{alarm.measure}: {alarm.message}" for alarm in batch_alarms)
        skip = ", or exclude its files with --skip-file PATH" if inputs.units else ""
        raise Refused(
            f"batch {txn.batch_id} of {source} differs from earlier batches: {names}",
            where=f"{txn.query}, batch {txn.batch_id} (nothing was written); files {inputs.units[:3]}",
            do=f"{messages}; if the data is correct, run once with --set capture.alarms.action=warn{skip}",
        )
    return AlarmResult(batch_alarms, trends, column)


def append_alarms(
    result: AlarmResult, constants: dict[str, Any], last: int | None, batch: Batch, settings: Alarms
) -> None:
    """Append the alarms of a batch to `capture_alarms`; the first alarm creates the table.

    Args:
        constants: source, ingest time, epoch and batch id.
        last: newest event time, as `BatchMeasures.as_of`.
    """
    if not result.alarms:
        return
    table = tables.CAPTURE_ALARMS
    table.create(batch.spark, batch.paths)
    table.register(batch.spark, batch.paths)
    more = {**constants, "event_time_max": last, "action": settings.action}
    batch.append(table.arrow_rows([{**asdict(alarm), **more} for alarm in result.alarms]), table)
