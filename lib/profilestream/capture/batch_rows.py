"""The evaluated rows of a batch, as Spark's rows (`spark_rows`) or as the driver's (`local_rows`)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from profilestream.base.queries import Batch
from profilestream.base.settings import PartitionBy
from profilestream.capture import batch_monitor, cleaning_rules, raw_records
from profilestream.capture.execute_mapping import FAILED
from profilestream.capture.known_ids import KnownIds
from profilestream.capture.mapping import Mapping
from profilestream.capture.sources.record_source import InputBatch

# Columns whose values are the groups of a summary.
GROUP = ("rule", "event_date", FAILED)
REJECTED_COLUMNS = ("position", "rule", "reason", "payload", "payload_encoding", "payload_header")
REUSED_REASON = "another event with different content has the id "


@dataclass(frozen=True)
class BatchContext:
    """The batch to which rows belong.

    Args:
        source: name of the source.
        known_ids: ids of its stored events.
    """

    source: str
    mapping: Mapping
    partition_by: PartitionBy
    known_ids: KnownIds
    inputs: InputBatch
    batch: Batch

    @property
    def constants(self) -> dict[str, Any]:
        """Columns that are constant in a batch, for every table of capture; the time in microseconds since 1970."""
        txn, time = self.batch.txn, self.inputs.ingest_micros
        return {"source": self.source, "ingest_time": time, "epoch": txn.epoch, "batch_id": txn.batch_id}


class BatchRows(ABC):
    """The rows of a batch with rule, reason and warnings.

    Args:
        rows_in: number of records, counted while they were read.
        summary: by GROUP (`event_date` as ISO text, null for rejected rows): number of rows `n`, smallest and largest
            event time in microseconds `first` and `last`, `currencies`, and by name the numbers of rows with
            `conditions` and the sums of `batch_monitor.sums`.
    """

    rows_in: int
    summary: list[dict[str, Any]]

    @abstractmethod
    def find_repeats(self, context: BatchContext, dates: list[date]) -> list[dict[str, Any]]:
        """Find the rows that repeat the id of an earlier row. They are no clean rows.

        Args:
            dates: of the rows that no rule rejects.

        Returns:
            By `outcome` (duplicate, id_reused): the number of rows `n`, and of rows with each warning.
        """

    @abstractmethod
    def add_bot_warnings(self, max_events_per_minute: int) -> int:
        """Add a warning to the clean rows of users and minutes with more events; returns the number of such rows."""

    @abstractmethod
    def count_currencies(self, codes: list[str]) -> int:
        """Number of clean rows with one of these currencies."""

    @abstractmethod
    def count_records(self) -> int:
        """The number of records, counted again."""

    @abstractmethod
    def events(self, context: BatchContext, rows: dict[date, int]) -> DataFrame | pa.Table:
        """The clean rows as rows of `events`, in order of date.

        Args:
            rows: number of rows by date, in order of date.
        """

    @abstractmethod
    def rejected(self, context: BatchContext, count: int, reused: int) -> DataFrame | pa.Table:
        """The rows of `rejected_events`: rows rejected by a rule, reused ids with different content, skipped files.

        Args:
            count: number of these rows.
            reused: number of rows with reused ids.
        """


def warnings_of(mapping: Mapping) -> dict[str, str]:
    """Whether a row has each of the warnings of a mapping, as SQL."""
    _, names = cleaning_rules.names(mapping)
    return {f"warned {name}": f"array_contains(warnings, {_quoted(name)})" for name in names}


def conditions(mapping: Mapping) -> dict[str, str]:
    """The conditions whose rows a summary counts, by name; SQL text, since Columns take longer to build."""
    open_quotes = f"reason = {_quoted(raw_records.OPEN_QUOTE_REASON)}"
    return {"open_quotes": open_quotes, **warnings_of(mapping), **batch_monitor.conditions(mapping)}


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def skipped_files(inputs: InputBatch) -> list[dict[str, str | None]]:
    """One rejected row for each skipped file."""
    rows = [(path, "file_unreadable", "skipped by --skip-file", path, "utf8", None) for path in inputs.skipped_units]
    return [dict(zip(REJECTED_COLUMNS, row, strict=True)) for row in rows]
