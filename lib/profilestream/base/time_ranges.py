"""Ranges of time, and which data files and row groups may contain rows in them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Micros = NDArray[np.int64]  # microseconds since 1970

ALWAYS = (np.iinfo(np.int64).min, np.iinfo(np.int64).max)


@dataclass(frozen=True)
class TimeRanges:
    """Ranges of two columns of a table: a row is in a range if it starts before the end and ends after the start.

    Args:
        first, last: columns of the start and the end of a row, which may be the same.
        starts, ends: of the ranges, both inclusive.
    """

    first: str
    last: str
    starts: Micros
    ends: Micros

    @cached_property
    def _sorted(self) -> tuple[Micros, Micros]:
        """The starts, ascending, and the latest end of a range that starts then or before."""
        order = np.argsort(self.starts)
        return self.starts[order], np.maximum.accumulate(self.ends[order])

    def overlap(self, low: Micros, high: Micros) -> Any:
        """Whether any range and each interval from low to high have a time in common."""
        starts, ends = self._sorted
        count = np.searchsorted(starts, high, side="right")
        if not len(starts):
            return np.zeros(len(count), bool)
        return (count > 0) & (ends[np.maximum(count, 1) - 1] >= low)

    def row_groups(self, metadata: pq.FileMetaData) -> Any:
        """Whether each row group of a file may contain rows in a range, by its statistics."""
        paths = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
        positions = [paths.index(name) if name in paths else None for name in (self.first, self.last)]
        bounds = [
            (_bounds(metadata, n, positions[0])[0], _bounds(metadata, n, positions[1])[1])
            for n in range(metadata.num_row_groups)
        ]
        low, high = np.array(bounds, np.int64).reshape(-1, 2).T
        return self.overlap(low, high)


def times_as_micros(times: Any) -> Micros:
    """Times without nulls as microseconds."""
    return np.asarray(times.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(), np.int64)


def _bounds(metadata: pq.FileMetaData, group: int, column: int | None) -> tuple[int, int]:
    """The first and the last time of a column of a row group; all times if they are unknown."""
    statistics = None if column is None else cast(Any, metadata.row_group(group).column(column).statistics)
    if statistics is None or not statistics.has_min_max or "microseconds" not in str(statistics.logical_type):
        return ALWAYS
    return statistics.min_raw, statistics.max_raw
