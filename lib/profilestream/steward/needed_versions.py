"""The versions of tables that stages still need, from their checkpoints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyspark.sql import SparkSession

from profilestream.base import files
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.settings import Settings
from profilestream.capture import reprocess

KEEP_HOURS = "keep_hours"


@dataclass(frozen=True)
class NeededVersion:
    """The oldest version of a table that a reader needs.

    Args:
        reader: such as `derive_profiles`; KEEP_HOURS: queries, which have no checkpoint.
    """

    version: int
    reader: str


@dataclass(frozen=True)
class Reader:
    """A query with a checkpoint; also one that the settings do not enable now, because they may enable it again.

    Args:
        source_id: Delta's id of the table that it follows; null if it follows none.
        source_version: the oldest version of this table that it reads.
        planned_versions: by name, the versions of tables in the plan of its unfinished batch.
    """

    name: str
    source_id: str | None
    source_version: int | None
    planned_versions: Mapping[str, int]

    def needed_versions(self, table_name: str, table_id: str) -> Iterator[NeededVersion]:
        """The versions of a table that it needs; usually none or one."""
        if self.source_version is not None and self.source_id == table_id:
            yield NeededVersion(self.source_version, self.name)
        if table_name in self.planned_versions:
            yield NeededVersion(self.planned_versions[table_name], f"{self.name}, unfinished batch")


def readers(spark: SparkSession, settings: Settings) -> list[Reader]:
    """All queries with a checkpoint."""
    return [_reader(spark, settings, name) for name in _query_names(spark, settings)]


def _query_names(spark: SparkSession, settings: Settings) -> Iterator[str]:
    """Names of the queries that have a checkpoint: `<stage>` or `<stage>/<source>`."""
    root = checkpoint_path(settings.paths, "").rstrip("/")
    for stage in files.names(spark, root):
        children = set(files.names(spark, f"{root}/{stage}"))
        if children & {"offsets", "plans"}:
            yield stage
        else:
            yield from (f"{stage}/{child}" for child in sorted(children) if "." not in child)


def _reader(spark: SparkSession, settings: Settings, name: str) -> Reader:
    checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, name))
    if name.startswith(f"{reprocess.STAGE}/"):
        plan = reprocess.unfinished_plan(spark, settings, name, checkpoint)
    else:
        unfinished = checkpoint.unfinished()
        plan = None if unfinished is None else checkpoint.plan(unfinished)
    versions = {} if plan is None else plan.versions
    return Reader(name, checkpoint.source_table_id(), checkpoint.needed_version(), versions)
