"""Gaps: offsets after the last one that was read, whose records are no longer available."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.settings import Paths
from profilestream.capture.sources.kafka_client import Offsets, Topic

log = logging.getLogger(__name__)

Reason = Literal["retention", "recreated", "removed"]
Action = Literal["refused", "accepted"]


@dataclass(frozen=True)
class Gap:
    """Missing offsets of a partition.

    Args:
        last_offset: null if it is unknown.
    """

    topic: str
    partition: int
    first_offset: int
    last_offset: int | None
    reason: Reason

    def __str__(self) -> str:
        last = "unknown" if self.last_offset is None else self.last_offset
        return f"{self.topic}/{self.partition} from {self.first_offset} to {last} ({self.reason})"


def compare(next_offsets: Offsets, ids: dict[str, str], topics: dict[str, Topic]) -> tuple[list[Gap], Offsets]:
    """The gaps between what was read and what is available, and the offsets at which reading continues after them.

    Args:
        next_offsets: the offset after the last one that was read; 0 for a partition that is not in it.
        ids: of the topics that were read; the id of a topic that is not in it is not compared.
        topics: as they are now.
    """
    gaps = [*_removed(next_offsets, topics)]
    starts: Offsets = {}
    for name, topic in topics.items():
        is_recreated = ids.get(name, topic.id) != topic.id
        starts[name] = {}
        for number, earliest in topic.earliest.items():
            expected = next_offsets.get(name, {}).get(number, 0)
            starts[name][number] = max(expected, earliest)
            if is_recreated or expected > topic.latest[number]:
                gaps.append(Gap(name, int(number), expected, None, "recreated"))
                starts[name][number] = earliest
            elif expected < earliest:
                gaps.append(Gap(name, int(number), expected, earliest - 1, "retention"))
    return sorted(gaps, key=lambda gap: (gap.topic, gap.partition)), starts


def _removed(next_offsets: Offsets, topics: dict[str, Topic]) -> Iterator[Gap]:
    for name, by_partition in next_offsets.items():
        for number, offset in by_partition.items():
            if name not in topics or number not in topics[name].earliest:
                yield Gap(name, int(number), offset, None, "removed")


def store(spark: SparkSession, paths: Paths, source: str, epoch: str, gaps: list[Gap], action: Action) -> None:
    """Append the gaps to `capture_gaps`, without those that it contains; the first gap creates the table. Logs each."""
    table = tables.CAPTURE_GAPS
    table.create(spark, paths)
    table.register(spark, paths)
    is_same = (F.col("source") == source) & (F.col("epoch") == epoch) & (F.col("action") == action)
    columns = ("topic", "partition", "first_offset", "last_offset", "reason")
    stored = {tuple(row) for row in table.read(spark, paths).where(is_same).select(*columns).collect()}
    new = [gap for gap in gaps if tuple(asdict(gap).values()) not in stored]
    for gap in new:
        log.warning("%s: gap %s: %s", source, action, gap)
    more = {"source": source, "action": action, "found_at": int(time.time() * 1e6), "epoch": epoch}
    if new:
        commits.append_untracked(spark, table.arrow_rows([{**asdict(gap), **more} for gap in new]), table, paths)
