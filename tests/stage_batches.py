"""Runs a stage on batches that a test defines, without a stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.queries import Batch, Query
from profilestream.base.settings import Settings
from pyspark.sql import DataFrame, SparkSession


@dataclass
class StageBatches:
    """The batches of a query, numbered from 0, in the epoch `epoch`; all tables exist."""

    spark: SparkSession
    settings: Settings
    query: Query
    batches: int = 0

    def __post_init__(self) -> None:
        for table in self.query.tables:
            table.create(self.spark, self.settings.paths)

    def write(
        self, rows: DataFrame, *, versions: Mapping[str, int] = MappingProxyType({}), local_max_rows: int = 0
    ) -> None:
        """Write the next batch.

        Args:
            versions: of other tables that the batch reads, besides those that the query pins itself.
            local_max_rows: as the setting; 0: Spark processes the batch.
        """
        pinned = {**self.query.versions(self.spark, Checkpoint(self.spark, ""), self.batches), **versions}
        stream = self.settings.stream
        batch = Batch(
            self.spark, self.settings.paths, Txn(self.query.stage, "epoch", self.batches), Plan("", versions=pinned),
            local_max_rows=local_max_rows, local_max_keys=stream.local_max_keys,
        )  # fmt: skip
        self.query.write(rows, batch)
        self.batches += 1
