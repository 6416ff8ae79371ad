"""What the rows of Spark (`spark_rows`) and of the driver (`local_rows`) have in common.

Both have the number of records `rows_in`, and a `summary` by GROUP (`event_date` as ISO text, null for rejected rows):
number of rows `n`, smallest and largest event time `first` and `last` in microseconds, `currencies`, and by name the
numbers of rows with `conditions` and the sums of `batch_monitor.sums`.
"""

from dataclasses import dataclass
from typing import Any

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
