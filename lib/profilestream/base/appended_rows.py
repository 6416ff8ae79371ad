"""Rows of an appended table, found by key and time in the process of the driver.

The log contains the times of each data file, and each file those of its row groups, so only row groups with times in
use are read. Those of recent reads are in memory: a file never changes.
"""

import json
from collections import OrderedDict
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from profilestream.base import deletion_vectors
from profilestream.base.deletion_vectors import Positions
from profilestream.base.delta_log import Action, DeltaLog
from profilestream.base.delta_table import Table
from profilestream.base.keyed_rows import cast_rows, partition_values
from profilestream.base.settings import Paths
from profilestream.base.time_ranges import ALWAYS, TimeRanges

# About 100 MB of the columns that sessions are computed from.
_CACHED_ROWS = 500_000
# Delta cuts the times of its statistics to milliseconds.
_ROUNDING_MICROS = 1000


class AppendedRows:
    """Some columns of the rows of one table in a local file system. It is used by one thread at a time."""

    def __init__(self, table: Table, paths: Paths, columns: tuple[str, ...], cached_rows: int = _CACHED_ROWS) -> None:
        folder = table.local_folder(paths)
        assert folder is not None
        self._folder, self._schema, self._columns = folder, table.arrow_schema, columns
        self._log = DeltaLog(folder)
        self._cached_rows = cached_rows
        self._metadata: dict[str, pq.FileMetaData] = {}
        self._row_groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()  # the last used one is the last
        self._deleted: dict[str, tuple[Action, Positions]] = {}  # with the deletion vector, by path

    def refresh(self) -> bool:
        """Follow the log; false if the table has a feature that is not supported."""
        self._log.refresh()
        changed = [
            path
            for path, add in self._log.files.items()
            if (vector := add.get("deletionVector")) and self._deleted.get(path, (None,))[0] != vector
        ]
        if changed and self._log.is_readable:
            positions = deletion_vectors.read(DeltaTable(self._folder, version=self._log.version))
            for path in changed:
                deleted = positions.get(path.rsplit("/", 1)[-1], np.zeros(0, np.int64))
                self._deleted[path] = self._log.files[path]["deletionVector"], deleted
                for key in [key for key in self._row_groups if key[0] == path]:
                    del self._row_groups[key]
        return self._log.is_readable

    def find(self, key: str, values: Any, ranges: TimeRanges) -> pa.Table:
        """The rows with one of these keys in the row groups that may contain a time in the ranges, in any order.

        Rows with other times may be among them.

        Args:
            key: one of the columns.
            ranges: of a time column.
        """
        paths = [*self._log.files]
        low, high = np.array([_times_of(self._log.files[path], ranges.first) for path in paths]).reshape(-1, 2).T
        in_range = [path for path, is_in in zip(paths, ranges.overlap(low, high), strict=True) if is_in]
        parts = [self._row_group(path, n) for path in in_range for n in self._groups(path, ranges)]
        rows = pa.concat_tables([self._schema.empty_table().select(self._columns), *parts])
        self._drop_old_row_groups()
        return rows.filter(pc.is_in(rows[key], value_set=pc.unique(values)))

    def _groups(self, path: str, ranges: TimeRanges) -> list[int]:
        if path not in self._metadata:
            self._metadata[path] = pq.read_metadata(self._folder / unquote(path))
        return [int(n) for n in np.flatnonzero(ranges.row_groups(self._metadata[path]))]

    def _row_group(self, path: str, number: int) -> pa.Table:
        if (path, number) not in self._row_groups:
            metadata = self._metadata[path]
            with pq.ParquetFile(self._folder / unquote(path), metadata=metadata) as file:
                stored = file.read_row_group(number, columns=[*self._columns])
            partition = partition_values(self._log.files[path], self._schema)
            rows = cast_rows(stored, self._schema, self._columns, partition).select(self._columns)
            if path in self._deleted:
                start = sum(metadata.row_group(n).num_rows for n in range(number))
                deleted = self._deleted[path][1] - start
                is_left = np.ones(len(rows), bool)
                is_left[deleted[(deleted >= 0) & (deleted < len(rows))]] = False
                rows = rows.filter(pa.array(is_left))
            self._row_groups[path, number] = rows
        self._row_groups.move_to_end((path, number))
        return self._row_groups[path, number]

    def _drop_old_row_groups(self) -> None:
        rows = sum(map(len, self._row_groups.values()))
        while rows > self._cached_rows:
            _, dropped = self._row_groups.popitem(last=False)
            rows -= len(dropped)


def _times_of(add: Action, column: str) -> tuple[int, int]:
    """The first and the last time of a file in the statistics of the log; all times if they are unknown."""
    statistics: dict[str, Any] = json.loads(add.get("stats") or "{}")
    bounds = [statistics.get(name, {}).get(column) for name in ("minValues", "maxValues")]
    try:
        low, high = (int(np.datetime64(text.removesuffix("Z"), "us").astype(np.int64)) for text in bounds)
    except (AttributeError, ValueError):
        return ALWAYS
    return low, high + _ROUNDING_MICROS
