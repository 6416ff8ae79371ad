"""The interface of a source: what capture needs to know of files, tables and topics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from pyspark.sql import DataFrame, SparkSession

from profilestream.base import files
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.errors import ProfilestreamError, SourceMissing
from profilestream.base.queries import RunOptions
from profilestream.base.session import conf_set

# Collected lines by what they have in common, such as the header of their files; the columns of a line are those of
# `RecordSource.line_schema`.
FewLines = dict[Hashable, list[dict[str, Any]]]

_READ_SETTINGS = {
    # Positions must not depend on the number of cores: with these settings every file is split at multiples of 32 MB,
    # and no partition contains parts of two files.
    "spark.sql.files.maxPartitionBytes": str(32 << 20),
    "spark.sql.files.openCostInBytes": str(32 << 20),
    "spark.sql.files.minPartitionNum": "1",
    # Parquet columns whose names differ in capital letters only, and times in nanoseconds.
    "spark.sql.caseSensitive": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}


def reading(spark: SparkSession) -> AbstractContextManager[None]:
    """Settings for every Spark action that reads records: only with them are positions correct."""
    return conf_set(spark, _READ_SETTINGS)


@dataclass(frozen=True)
class InputBatch:
    """The input of one micro-batch.

    Args:
        read_records: returns `records`.
        ingest_micros: time of the batch, microseconds since 1970 UTC; a retry of the batch has the same time.
        units: what the batch covers, such as the paths of its files; empty for a table or topic.
        skipped_units: unreadable units that the user excluded; each is one rejected row.
        reprocessed_rows: rejected rows that are reprocessed (`position`, `reprocessed_from`); null for a source.
        max_rows: an upper bound of the number of records before arrays are exploded; null if it is unknown.
        few_lines: all lines of the batch, if they are few; null: Spark reads them.
    """

    read_records: Callable[[], DataFrame] = field(repr=False)
    ingest_micros: int
    units: list[str]
    skipped_units: list[str]
    reprocessed_rows: DataFrame | None = None
    max_rows: int | None = None
    few_lines: FewLines | None = field(default=None, repr=False)

    @cached_property
    def records(self) -> DataFrame:
        """The records, with columns as in `raw_records.COLUMNS`; building them takes half a second.

        `position` identifies a record in its source and orders the records of a batch, by its length first; a retry of
        the batch has the same positions.
        """
        return self.read_records()


class RecordSource(ABC):
    """A source of records, as Spark streams it.

    Args:
        name: of the source in the settings.
        path: of its folder, file or table.
        line_schema: columns of its `few_lines`, as DDL; empty if it has none.
    """

    name: str
    path: str
    line_schema: ClassVar[str] = ""

    def check_exists(self, spark: SparkSession) -> None:
        """Raise SourceMissing when there is nothing at the path."""
        if not files.exists(spark, self.path):
            raise SourceMissing(
                f"there is no input at {self.path}",
                where=f"query capture_events/{self.name}",
                do="correct the path of the source in the settings",
            )

    @abstractmethod
    def read_stream(self, spark: SparkSession) -> DataFrame:
        """The source as a streaming frame."""

    @abstractmethod
    def read_batch(self, frame: DataFrame, batch_id: int, skipped: list[str]) -> InputBatch:
        """What a micro-batch of `read_stream` covers, and its records with their positions.

        Args:
            skipped: units that the user excluded.
        """

    def records_of_lines(self, lines: DataFrame, layout: Any) -> DataFrame:
        """The records of `few_lines` with this layout, with `_ingest_time`."""
        raise NotImplementedError

    @abstractmethod
    def read_once(self, spark: SparkSession, path: str, ingest_micros: int) -> InputBatch:
        """A file or table with records of this source as the only input of a batch.

        Args:
            ingest_micros: time of the batch, microseconds since 1970 UTC.
        """

    @abstractmethod
    def check(self, spark: SparkSession, checkpoint: Checkpoint, options: RunOptions) -> None:
        """Compare the source with the checkpoint before the query starts.

        May restart the checkpoint.

        Raises:
            Refused: the source changed in a way that would lose or repeat rows.
            SourceMissing: there is no such source.
            SourceUnreadable: it contains a part that no batch can read.
        """

    @abstractmethod
    def new_units(self, spark: SparkSession, checkpoint: Checkpoint) -> int | None:
        """Number of units that the run will read, for the progress display; null when it is unknown."""

    @abstractmethod
    def explain(self, error: Exception, checkpoint: Checkpoint) -> ProfilestreamError | None:
        """The error for a user when Spark's streaming source failed because the source changed; null otherwise."""
