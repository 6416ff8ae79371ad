"""Repeated event ids among few rows, in the driver: as dedupe.find_repeats, without a Spark job in each batch."""

import math
import re
from collections import defaultdict
from datetime import date
from typing import Any, NamedTuple

import pyarrow as pa

from profilestream.capture.dedupe import days_apart
from profilestream.capture.execute_mapping import content_columns
from profilestream.capture.mapping import Mapping

_NUMBER_IN_FILE = re.compile(r"[:/][0-9+#]+$")


class _Row(NamedTuple):
    """An event; those with one id are sorted by all fields but the last two."""

    in_batch: bool
    file: str  # or topic and partition
    position_length: int
    position: str
    day: date
    warnings: list[str]
    content: tuple[Any, ...]


def repeats_among(candidates: pa.Table, stored: pa.Table, mapping: Mapping) -> list[dict[str, Any]]:
    """The candidates that repeat the id of an earlier row: position, event_id, warnings, outcome.

    Args:
        candidates: rows of the batch.
        stored: earlier events.
    """
    columns = content_columns(mapping)
    by_id = defaultdict[str, list[_Row]](list)
    for in_batch, rows in ((False, stored), (True, candidates)):
        ids: list[Any] = rows["event_id"].to_pylist()
        for event_id, row in zip(ids, _rows(rows, columns, in_batch), strict=True):
            by_id[event_id].append(row)
    return [
        {"position": row.position, "event_id": event_id, "warnings": row.warnings, "outcome": outcome}
        for event_id, rows_of_id in by_id.items()
        for row, outcome in _repeats(sorted(rows_of_id, key=lambda row: row[:-2]), days_apart(mapping))
        if row.in_batch
    ]


def _rows(rows: pa.Table, columns: list[str], in_batch: bool) -> list[_Row]:
    contents = list(zip(*[map(_comparable, _values(rows[name])) for name in columns], strict=True))
    parts: list[list[Any]] = [rows[name].to_pylist() for name in ("position", "event_date", "warnings")]
    return [
        _Row(in_batch, _NUMBER_IN_FILE.sub("", position), len(position), position, day, warnings, content)
        for position, day, warnings, content in zip(*parts, contents or [()] * len(rows), strict=True)
    ]


def _values(column: "pa.ChunkedArray[Any]") -> list[Any]:
    """The values; a time as microseconds, which all time zones share."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
    return column.to_pylist()


def _comparable(value: Any) -> Any:
    """A value that is equal to another one if execute_mapping.content_hash is."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, list):  # the entries of a map; no map is the same as an empty one
        return sorted(value) or None
    return value


def _repeats(rows: list[_Row], days: int) -> list[tuple[_Row, str]]:
    """The rows with one id, in order, that repeat an earlier accepted one, with their outcome (dedupe.py)."""
    accepted: list[_Row] = []
    repeats = []
    for row in rows:
        near = next((one for one in accepted if abs((one.day - row.day).days) <= days), None)
        if near is None:
            accepted.append(row)
        else:
            repeats.append((row, "duplicate" if near.content == row.content else "id_reused"))
    return repeats
