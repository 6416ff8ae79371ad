"""Hashes of the stored event ids of a source in the memory of the driver, so that most batches need not read `events`.

They are a superset of the stored ids. Only the query that owns this object adds events of its source, because it holds
the lock of the source. Deleted events remain until the run ends; they only make an id a false suspect.
"""

import sys
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from profilestream.base import event_period
from profilestream.base.commits import Txn
from profilestream.base.tables import EVENTS

Hashes = npt.NDArray[np.int64]


def hashes_of(ids: "pa.ChunkedArray[Any]") -> Hashes:
    """64-bit hashes of texts, valid in this process."""
    return np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))


class KnownIds:
    """The hashes of the stored event ids of one source, sorted, by event date.

    Args:
        max_keys: maximum number of hashes; a hash has 8 bytes.
    """

    def __init__(self, source: str, max_keys: int) -> None:
        self._source, self._max_keys = source, max_keys
        self._by_date: dict[date, Hashes] = {}

    def load(self, folder: Path, dates: list[date]) -> bool:
        """Load the ids of these dates that are not in memory; false if there are more than `max_keys`.

        Args:
            folder: the local folder of `events`.
        """
        missing = [day for day in dates if day not in self._by_date]
        if not missing:
            return True
        paths, rows = _files_on(folder, missing)
        if rows + self._size() > self._max_keys:
            self._by_date = {day: hashes for day, hashes in self._by_date.items() if day in dates}
        if rows + self._size() > self._max_keys:
            self.clear()
            return False
        stored = self._read(paths, missing, ["event_id", "event_date"], ds.scalar(True))
        hashes, days = hashes_of(stored["event_id"]), stored["event_date"].to_numpy()
        for day in missing:
            self._by_date[day] = np.sort(hashes[days == np.datetime64(day)])
        return True

    def stored(self, folder: Path, dates: list[date], ids: "pa.ChunkedArray[Any]", txn: Txn) -> pa.Table:
        """The stored events of the source with these ids and dates, as `dedupe.stored_events` selects them."""
        is_same_batch = (ds.field("epoch") == txn.epoch) & (ds.field("batch_id") == txn.batch_id)
        columns = [name for name in EVENTS.names if name not in EVENTS.partitioned_by]
        condition = ds.field("event_id").isin(ids.to_pylist()) & ~is_same_batch
        return self._read(_files_on(folder, dates)[0], dates, columns, condition)

    def _read(self, paths: list[str], dates: list[date], columns: list[str], condition: ds.Expression) -> pa.Table:
        schema = pa.schema([field for field in EVENTS.arrow_schema if field.name not in EVENTS.partitioned_by])
        condition = condition & (ds.field("source") == self._source) & ds.field("event_date").isin(dates)
        return ds.dataset(paths, schema, format="parquet").to_table(columns, filter=condition)

    def contain(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Whether each hash is in memory, on any date."""
        result = np.zeros(len(hashes), np.bool_)
        for known in self._by_date.values():
            if len(known):
                places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                result |= known[places] == hashes
        return result

    def add(self, hashes: Hashes, dates: npt.NDArray[np.datetime64]) -> None:
        """Add the hashes of events that the batch will store; their dates were loaded."""
        for day in np.unique(dates):
            known, new = self._by_date[day.item()], np.sort(hashes[dates == day])
            self._by_date[day.item()] = np.insert(known, np.searchsorted(known, new), new)

    def clear(self) -> None:
        """Forget all ids, for example because Spark stores events without adding them here."""
        self._by_date.clear()

    def _size(self) -> int:
        return sum(map(len, self._by_date.values()))


def _files_on(folder: Path, dates: list[date]) -> tuple[list[str], int]:
    """The paths of the files of `events` that can contain events of these dates, and the number of their rows.

    The number is infinite if the table can have deletion vectors, which only Spark reads.
    """
    table = DeltaTable(folder)
    if "deletionVectors" in (table.protocol().reader_features or []):
        return [], sys.maxsize
    periods = event_period.periods_of(dates)
    paths, rows = [], 0
    for file in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        first, last = file.get("min.event_date") or date.min, file.get("max.event_date") or date.max
        if file["partition.event_period"] in periods and any(first <= day <= last for day in dates):
            paths.append(str(folder / unquote(file["path"])))
            rows += file["num_records"] or 0
    return paths, rows
