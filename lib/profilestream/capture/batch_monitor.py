"""What is measured of a batch on the way, and what becomes of its alarms (`alarms.py` says when there is one).

The trends of a source stand in the newest row of `capture_batches`, so a batch needs that one row, or none when the
same run wrote it. What is measured comes out of the sums that the batch makes anyway.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.errors import Refused
from profilestream.base.queries import Batch
from profilestream.base.session import frame_of_dicts
from profilestream.base.settings import Alarms
from profilestream.capture import alarms
from profilestream.capture.alarms import Alarm, Measure, Trend
from profilestream.capture.mapping import Mapping
from profilestream.capture.sources import Arrived

log = logging.getLogger(__name__)

NULLS_OF = ("user_id", "item_id", "order_id", "category", "brand", "price", "quantity", "value", "rating", "session_id")
LEVELS = ("price", "value")  # the first that is mapped: price times quantity moves when price does


@dataclass
class Memory:
    """The trends as a batch of this run left them."""

    epoch: str = ""
    batch_id: int = -1
    trends: dict[str, Trend] = field(default_factory=dict)

    def before(self, batch: Batch, source: str) -> dict[str, Trend]:
        """The trends of all batches before this one, by measure; empty when there are none."""
        epoch, last = batch.txn.epoch, batch.txn.batch_id - 1
        if last < 0:
            return {}
        if (epoch, last) == (self.epoch, self.batch_id):
            return self.trends
        of_last = (F.col("source") == source) & (F.col("kind") == "source") & (F.col("batch_id") == last)
        with batch.phase("read trends"):
            stored = tables.CAPTURE_BATCHES.read(batch.spark, batch.paths).where(of_last & (F.col("epoch") == epoch))
            found: list[Any] = stored.select("measures").collect()
        measures = (found[0]["measures"] if found else None) or {}
        names = Trend.__dataclass_fields__
        return {measure: Trend(**{n: row[n] for n in names}) for measure, row in measures.items()}

    def keep(self, batch: Batch, trends: dict[str, Trend]) -> None:
        """Have them at hand for the next batch of this run."""
        self.epoch, self.batch_id, self.trends = batch.txn.epoch, batch.txn.batch_id, trends


@dataclass(frozen=True)
class Seen:
    """What was measured of a batch.

    Args:
        as_of: its newest event, microseconds since 1970; null when no row is good.
    """

    measures: list[Measure]
    as_of: int | None


@dataclass(frozen=True)
class Outcome:
    """A batch against the earlier ones.

    Args:
        row: the column `measures` of its row in `capture_batches`.
    """

    alarms: list[Alarm]
    trends: dict[str, Trend]
    row: dict[str, dict[str, Any]]


def sums(mapping: Mapping) -> Column:
    """What `measured` needs of a group of rows, as the column `sums`. One text: a Column object each takes longer."""
    parts = {f"has_{column}": f"count({column})" for column in _nulls_of(mapping)}
    parts["seconds"] = "sum(double(event_time))"
    for column in _level_of(mapping):
        parts["above"] = f"count_if({column} > 0)"
        parts["logarithms"] = f"sum(CASE WHEN {column} > 0 THEN ln({column}) END)"
    return F.expr(f"named_struct({', '.join(f'{name!r}, {sql}' for name, sql in parts.items())})").alias("sums")


def _nulls_of(mapping: Mapping) -> list[str]:
    return [column for column in NULLS_OF if column in mapping.columns]


def _level_of(mapping: Mapping) -> list[str]:
    return [column for column in LEVELS if column in mapping.columns][:1]


def measured(summary: list[Any], rows: int, rejected: int, came: Arrived, mapping: Mapping, least: int) -> Seen:
    """The measures of a batch, from its sums by rule and date.

    Args:
        rows, rejected: without files that were passed over.
        least: rows below which only the volume is measured.
    """
    good = [row for row in summary if row["rule"] is None]
    count = sum(row["n"] for row in good)
    measures = list(_volume(summary, rows, came, mapping))
    if rows >= least:
        measures.append(alarms.reject_share(rejected, rows))
    if count >= least:
        for column in _nulls_of(mapping):
            measures.append(alarms.null_share(column, count - sum(r["sums"][f"has_{column}"] for r in good), count))
        late = came.ingest_micros / 1e6 - sum(r["sums"]["seconds"] for r in good) / count
        measures.append(alarms.lateness(late, count))
    for column in _level_of(mapping):
        above = sum(r["sums"]["above"] for r in good)
        if above >= least:
            logarithms = sum(r["sums"]["logarithms"] or 0.0 for r in good)
            measures.append(alarms.level(column, logarithms, above))
    return Seen(measures, max((row["last"] for row in good), default=None))


def _volume(summary: list[Any], rows: int, came: Arrived, mapping: Mapping) -> Iterator[Measure]:
    """Rows a file: a batch may take one file or many. A table has no files; of it the rows of a day, as the day of an
    average row has them, so that a few late rows of other days do not count as days."""
    if came.paths:
        yield alarms.volume(rows, len(came.paths), "file")
    by_day: dict[Any, int] = {}
    for row in summary if mapping.input.format == "delta" else []:
        if row["event_date"] is not None:
            by_day[row["event_date"]] = by_day.get(row["event_date"], 0) + row["n"]
    if by_day:
        yield alarms.volume(round(sum(n * n for n in by_day.values()) / sum(by_day.values())), 1, "day")


def compared(seen: Seen, source: str, memory: Memory, batch: Batch, rules: Alarms, came: Arrived) -> Outcome:
    """The batch against the earlier ones of the source, in this epoch.

    Raises:
        Refused: there is an alarm, the settings say stop, and nothing of the batch is written yet.
    """
    found, trends = alarms.judged(seen.measures, memory.before(batch, source), seen.as_of, rules)
    values = {measure.name: measure.scale.natural(measure.value) for measure in seen.measures}
    row = {name: {"value": values.get(name), **asdict(trend)} for name, trend in trends.items()}
    txn = batch.txn
    for alarm in found:
        log.warning(
            "query=%s epoch=%s batch_id=%s alarm=%s: %s", txn.query, txn.epoch, txn.batch_id, alarm.measure,
            alarm.message,
        )  # fmt: skip
    begun = (tables.EVENTS, tables.REJECTED_EVENTS)
    if found and rules.action == "stop" and not any(batch.is_done(table) for table in begun):
        told = "; ".join(f"{alarm.measure}: {alarm.message}" for alarm in found)
        skipping = ", or leave its files out with --skip-file PATH" if came.paths else ""
        raise Refused(
            f"batch {txn.batch_id} of {source} is unlike the earlier ones: {[alarm.measure for alarm in found]}",
            where=f"{txn.query}, batch {txn.batch_id}, of which nothing is written; {came.paths[:3]}",
            do=f"{told}; if that is right, run once with --set capture.alarms.action=warn{skipping}",
        )
    return Outcome(found, trends, row)


def append(found: Outcome, stamp: dict[str, Column], last: int | None, batch: Batch, rules: Alarms) -> None:
    """Add the alarms of a batch to `capture_alarms`, which is made with the first one.

    Args:
        stamp: source, ingest time, epoch and batch.
        last: as `Seen.as_of`.
    """
    if not found.alarms:
        return
    table = tables.CAPTURE_ALARMS
    table.create(batch.spark, batch.paths)
    table.register(batch.spark, batch.paths)
    made = frame_of_dicts(batch.spark, [asdict(alarm) for alarm in found.alarms], table.schema)
    more = {"event_time_max": F.timestamp_micros(F.lit(last).cast("bigint")), "action": F.lit(rules.action)}
    batch.append(made.withColumns({**stamp, **more}).select(*table.columns), table)
