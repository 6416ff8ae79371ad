"""The length of the partitions of `events` that suits a log: long enough that a partition has enough rows."""

import zlib
from datetime import date

import pyarrow.parquet as pq
from deltalake import DeltaTable

from profilestream.base.settings import PartitionBy
from profilestream.capture.detection.log_sample import LogSample
from profilestream.capture.detection.mapping_lines import Line

# A partition with fewer rows costs more time than its rows.
_MIN_ROWS = 1_000
# Up to this number of partitions, their cost does not matter.
_MAX_PARTITIONS = 62


def partition_line(sample: LogSample, dates: list[date]) -> Line | None:
    """The line `capture.partition_by`; null when the default, one partition per day, suits the log.

    Args:
        dates: of the events of the sample.
    """
    if not dates:
        return None
    rows, days = estimated_rows(sample), (max(dates) - min(dates)).days + 1
    length = _partition_by(rows, days)
    if length == "day":
        return None
    return Line(length, "likely", f"about {rows:,} records in {days:,} days; a partition per day would have few rows")


def _partition_by(rows: int, days: int) -> PartitionBy:
    lengths: dict[PartitionBy, float] = {"day": days, "month": days / 30.4}
    for length, partitions in lengths.items():
        if partitions <= _MAX_PARTITIONS or rows / partitions >= _MIN_ROWS:
            return length
    return "year"


def estimated_rows(sample: LogSample) -> int:
    """Number of records of the log. An estimate for text, by the bytes of the sample and of the files."""
    file_format, paths = sample.input["format"], sample.group.paths
    if file_format == "delta":
        return int(DeltaTable(str(sample.group.root)).count())
    if file_format == "parquet":
        return sum(pq.read_metadata(path).num_rows for path in paths)
    text = b"".join(content for content in sample.files.values() if isinstance(content, bytes))
    is_compressed = paths[0].suffix.lower() != sample.group.extension
    return round(sample.group.size * sample.rows / max(1, len(zlib.compress(text) if is_compressed else text)))
