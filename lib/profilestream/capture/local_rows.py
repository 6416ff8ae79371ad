"""The evaluated rows of a small batch, in the memory of the driver."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base import event_period, tables
from profilestream.base.delta_table import Table
from profilestream.base.session import frame_of_arrow
from profilestream.base.settings import PartitionBy
from profilestream.capture import batch_monitor, cleaning_rules, currency, dedupe, execute_mapping, local_repeats
from profilestream.capture.batch_rows import (
    GROUP,
    REJECTED_COLUMNS,
    REUSED_REASON,
    BatchContext,
    conditions,
    skipped_files,
)
from profilestream.capture.cleaning_rules import BOT_WARNING
from profilestream.capture.known_ids import hashes_of
from profilestream.capture.mapping import Mapping


def summarized_columns(mapping: Mapping, partition_by: PartitionBy) -> list[Column]:
    """The columns that LocalRows needs in addition to those of `ingest.apply_mapping`."""
    values = {**conditions(mapping), **batch_monitor.sums(mapping), "micros": "unix_micros(event_time)"}
    values["event_period"] = event_period.sql(partition_by)
    return [F.expr(sql).alias(name) for name, sql in values.items()]


@dataclass
class LocalRows:
    """The rows of a batch as an Arrow table.

    Args:
        rows: as `ingest.apply_mapping` returns them with all payloads, and `summarized_columns`.
    """

    rows: pa.Table
    mapping: Mapping
    rows_in: int = 0
    summary: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows_in = len(pc.unique(self.rows["position"]))
        self.summary = self._summarize()

    def _summarize(self) -> list[dict[str, Any]]:
        sums = [*conditions(self.mapping), *batch_monitor.sums(self.mapping)]
        has_currencies = currency.has_currencies(self.mapping)
        options = pc.CountOptions(mode="only_valid")
        aggregates: list[Any] = [([], "count_all"), ("micros", "min"), ("micros", "max"), *[(n, "sum") for n in sums]]
        aggregates += [("currency", "distinct", options)] if has_currencies else []
        # With several threads, the order in which floating-point numbers are added up is not fixed.
        groups = self.rows.group_by(list(GROUP), use_threads=False).aggregate(aggregates)
        return [
            {
                **{name: row[name] for name in GROUP},
                "event_date": None if row["event_date"] is None else row["event_date"].isoformat(),
                "n": row["count_all"],
                "first": row["micros_min"],
                "last": row["micros_max"],
                "currencies": row["currency_distinct"] if has_currencies else [],
                **{name: row[f"{name}_sum"] or 0 for name in sums},
            }
            for row in groups.to_pylist()
        ]

    @property
    def _good(self) -> pa.Table:
        return self.rows.filter(pc.is_null(self.rows["rule"]))

    def find_repeats(self, context: BatchContext, dates: list[date]) -> list[dict[str, Any]]:
        """As SparkRows. Duplicates are removed from the rows, and reused ids become rejected rows."""
        repeats = _repeats(self._good, context, dates)
        if not repeats:
            return []
        outcomes = {row["position"]: row["outcome"] for row in repeats}
        found = [outcomes.get(position) for position in self.rows["position"].to_pylist()]
        is_reused = pa.array([outcome == "id_reused" for outcome in found])
        reasons = pa.array(
            [None if name is None else REUSED_REASON + name for name in self.rows["event_id"].to_pylist()]
        )
        self._set("rule", pc.if_else(is_reused, "id_reused", self.rows["rule"]))
        self._set("reason", pc.if_else(is_reused, reasons, self.rows["reason"]))
        self.rows = self.rows.filter(pa.array([outcome != "duplicate" for outcome in found]))
        _, names = cleaning_rules.names(self.mapping)
        by_outcome = {o: [row["warnings"] for row in repeats if row["outcome"] == o] for o in set(outcomes.values())}
        return [
            {
                "outcome": outcome,
                "n": len(rows),
                **{f"warned {name}": sum(name in row for row in rows) for name in names},
            }
            for outcome, rows in by_outcome.items()
        ]

    def add_bot_warnings(self, max_events_per_minute: int) -> int:
        """As SparkRows."""
        minutes = pc.floor_temporal(self.rows["event_time"], unit="minute").to_pylist()
        is_clean = pc.is_null(self.rows["rule"]).to_pylist()
        keys = [
            (user, minute) if user is not None and clean else None
            for user, minute, clean in zip(self.rows["user_id"].to_pylist(), minutes, is_clean, strict=True)
        ]
        counts = Counter(keys)
        is_busy = [key is not None and counts[key] > max_events_per_minute for key in keys]
        if any(is_busy):
            names: list[Any] = self.rows["warnings"].to_pylist()
            warnings = [[*row, BOT_WARNING] if busy else row for row, busy in zip(names, is_busy, strict=True)]
            self._set("warnings", pa.array(warnings, pa.list_(pa.string())))
        return sum(is_busy)

    def _set(self, name: str, column: Any) -> None:
        self.rows = self.rows.set_column(self.rows.column_names.index(name), name, column)

    def count_currencies(self, codes: list[str]) -> int:
        """As SparkRows."""
        return len(self._good.filter(pc.is_in(self._good["currency"], pa.array(codes))))

    def count_records(self) -> int:
        """As SparkRows."""
        return self.rows_in

    def events(self, context: BatchContext, rows: dict[date, int]) -> pa.Table:
        """As SparkRows."""
        events = table_rows(self._good, tables.EVENTS, context.constants)
        return events.take(pc.sort_indices(events["event_date"]))

    def rejected(self, context: BatchContext, count: int, reused: int) -> pa.Table:
        """As SparkRows."""
        rejected = self.rows.filter(pc.is_valid(self.rows["rule"])).select(list(REJECTED_COLUMNS))
        skipped = pa.Table.from_pylist(skipped_files(context.inputs), rejected.schema)
        return table_rows(pa.concat_tables([rejected, skipped]), tables.REJECTED_EVENTS, context.constants)


def table_rows(rows: pa.Table, table: Table, constants: dict[str, Any]) -> pa.Table:
    """The rows with the columns and types of a table; columns that are neither in the rows nor constant are null."""
    columns: dict[str, Any] = {}
    for column in table.arrow_schema:
        if column.name in rows.column_names:
            columns[column.name] = rows[column.name].cast(column.type)
        elif column.name in constants:
            columns[column.name] = pa.repeat(pa.scalar(constants[column.name], column.type), len(rows))
        else:
            columns[column.name] = pa.nulls(len(rows), column.type)
    return pa.table(columns, schema=table.arrow_schema)


def _repeats(good: pa.Table, context: BatchContext, dates: list[date]) -> list[dict[str, Any]]:
    """As dedupe.find_repeats. Only rows whose ids repeat by their hash are compared."""
    batch, mapping, known = context.batch, context.mapping, context.known_ids
    folder = tables.EVENTS.local_folder(batch.paths)
    assert folder is not None
    searched = dedupe.searched_dates(dates, mapping)
    if not known.load(folder, searched):
        all_stored = dedupe.stored_events_of_batch(batch, context.source, dates, mapping)
        found = dedupe.find_repeats(_frame(good, context), all_stored, mapping)
        return [] if found is None else found.toArrow().to_pylist()
    hashes = hashes_of(good["event_id"])
    _, places, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    is_suspect = known.contain(hashes) | (counts[places] > 1)
    known.add(hashes, good["event_date"].to_numpy())
    if not is_suspect.any():
        return []
    suspects = good.filter(pa.array(is_suspect))
    stored = known.stored(folder, searched, suspects["event_id"], batch.txn)
    return local_repeats.repeats_among(suspects, stored, mapping)


def _frame(rows: pa.Table, context: BatchContext) -> DataFrame:
    names = {*execute_mapping.content_columns(context.mapping), "event_id", "event_date", "position", "warnings"}
    names.add(dedupe.ID_HASH)
    return frame_of_arrow(context.batch.spark, rows.select([n for n in rows.column_names if n in names]))
