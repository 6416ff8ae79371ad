"""The checkpoint folder of a query: its epoch, started and finished batches, and the plan of each batch.

Layout, next to Spark's own `offsets/` and `commits/`:

    epoch                 a UUID, written when the folder is new
    plans/<batch id>      the plan of the batch (JSON)
"""

import json
import sys
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from profilestream.base import files

# Index in a Delta offset that means "no file of this version was read": DeltaSourceOffset.BASE_INDEX, in versions 1 and
# 3 of the source's offset format.
_START_OF_VERSION = (-1, -100)
_PLANS_STORED = 100


@dataclass(frozen=True)
class Plan:
    """Inputs of a batch that a retry must use again.

    Args:
        fingerprint: fingerprint of the mapping and of the settings that change what is written.
        settings: the text that the fingerprint is computed from, so that a user can restore the settings.
        versions: Delta version of every table read other than the source.
        skip_files: files that the user requested to skip.
    """

    fingerprint: str
    settings: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    skip_files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SnapshotPart:
    """The files of the initial snapshot of a Delta source that one batch reads, as numbers in the order of the source.

    Args:
        version: of the table.
        first_file: number of the first file, from 0.
        end_file: number after that of the last file; null: all files from the first one on.
        has_later_commits: whether the batch also reads files of later commits.
    """

    version: int
    first_file: int
    end_file: int | None
    has_later_commits: bool


@dataclass(frozen=True)
class Checkpoint:
    """One query's checkpoint folder."""

    spark: SparkSession
    path: str

    def epoch(self) -> str:
        """The epoch of this checkpoint; created once, when the folder is new."""
        stored = files.read_text(self.spark, f"{self.path}/epoch")
        if stored is not None:
            return stored.strip()
        epoch = str(uuid.uuid4())
        files.write_text(self.spark, f"{self.path}/epoch", epoch + "\n")
        return epoch

    def is_new(self) -> bool:
        """True while no batch was started from this folder."""
        return self.last_started() is None

    def last_started(self) -> int | None:
        """Latest batch id with logged offsets; null when there is none."""
        return self._last("offsets")

    def last_finished(self) -> int | None:
        """Latest batch id that was committed; null when there is none."""
        return self._last("commits")

    def _last(self, log: str) -> int | None:
        return max((int(n) for n in files.names(self.spark, f"{self.path}/{log}") if n.isdigit()), default=None)

    def plan(self, batch_id: int) -> Plan | None:
        """The plan of a batch; null when the batch was never planned."""
        text = files.read_text(self.spark, f"{self.path}/plans/{batch_id}")
        return None if text is None else Plan(**json.loads(text))

    def store_plan(self, batch_id: int, plan: Plan) -> None:
        """Write the plan of a batch, and delete the oldest plan, which no retry needs."""
        files.write_text(self.spark, f"{self.path}/plans/{batch_id}", json.dumps(asdict(plan), indent=1))
        if batch_id >= _PLANS_STORED:
            files.delete(self.spark, f"{self.path}/plans/{batch_id - _PLANS_STORED}")

    def last_complete_version(self, batch_id: int) -> int | None:
        """Latest version of the Delta source whose files were all read by the batches before this one.

        Null when the batch continues within a commit or within the initial snapshot, and when nothing was read yet.
        """
        offset = self._offset(batch_id - 1)
        if offset.get("index") not in _START_OF_VERSION or offset["isStartingVersion"]:
            return None
        return int(offset["reservoirVersion"]) - 1

    def snapshot_part(self, batch_id: int) -> SnapshotPart | None:
        """The part of the initial snapshot that a batch reads; null when it reads later commits only."""
        begin, end = self._offset(batch_id - 1), self._offset(batch_id)
        is_first = not begin
        if not is_first and not begin["isStartingVersion"]:
            return None
        first_file = 0 if is_first else int(begin["index"]) + 1
        if end["isStartingVersion"]:
            return SnapshotPart(int(end["reservoirVersion"]), first_file, int(end["index"]) + 1, False)
        if is_first:
            return None  # the complete snapshot
        version = int(begin["reservoirVersion"])
        is_exact = end["reservoirVersion"] == version + 1 and end["index"] in _START_OF_VERSION
        return SnapshotPart(version, first_file, None, not is_exact)

    def source_table_id(self) -> str | None:
        """Delta's id of the source table; null before the first batch, and for sources other than Delta."""
        started = self.last_started()
        table_id = None if started is None else self._offset(started).get("reservoirId")
        return None if table_id is None else str(table_id)

    def _offset(self, batch_id: int) -> dict[str, Any]:
        """The offset at which a batch ends; empty when there is no such batch."""
        lines = (files.read_text(self.spark, f"{self.path}/offsets/{batch_id}") or "").splitlines()
        offset = json.loads(lines[-1]) if lines else {}
        return offset if isinstance(offset, dict) else {}

    def drop_unstarted_files(self) -> None:
        """Remove files that were listed for a batch that was never started.

        Spark logs the files of a batch before it logs the batch. After a crash between the two, Spark would read these
        files in one batch with the next files: no row is lost, but batches differ from a run without the crash.
        Every tenth list is compact: it repeats the earlier lists. Spark deletes those after 100 more batches.
        """
        started = self.last_started()
        last = -1
        if started is not None:
            offset = (files.read_text(self.spark, f"{self.path}/offsets/{started}") or "").splitlines()[-1]
            last = int(json.loads(offset)["logOffset"]) if offset.startswith('{"logOffset"') else sys.maxsize
        for name in files.names(self.spark, f"{self.path}/sources/0"):
            number = name.removesuffix(".compact")
            if number.isdigit() and int(number) > last:
                files.delete(self.spark, f"{self.path}/sources/0/{name}")

    def listed_files(self) -> dict[str, int]:
        """Every input file that a file source has listed: path -> modification time when it was listed, in ms."""
        return {entry["path"]: entry["timestamp"] for entry in self._file_entries()}

    def files_of(self, batch_id: int) -> int:
        """Number of input files of a batch of a file source."""
        return sum(entry["batchId"] == batch_id for entry in self._file_entries())

    def _file_entries(self) -> list[dict[str, Any]]:
        folder = f"{self.path}/sources/0"
        logs = files.names(self.spark, folder)
        compacted = max((int(n.removesuffix(".compact")) for n in logs if n.endswith(".compact")), default=-1)
        selected = [n for n in logs if n == f"{compacted}.compact" or (n.isdigit() and int(n) > compacted)]
        entries: list[dict[str, Any]] = []
        for name in selected:
            lines = (files.read_text(self.spark, f"{folder}/{name}") or "").splitlines()
            entries += [json.loads(line) for line in lines if line.startswith("{")]
        return entries
