"""The checkpoint folder of a query: its epoch, started and finished batches, and the plan of each batch.

Layout, next to Spark's own `offsets/` and `commits/`:

    epoch                 a UUID, written when the folder is new
    plans/<batch id>      the plan of the batch (JSON)
    start_offsets         where the source starts in this epoch (JSON), if another epoch was in this folder before
    restart               the next `start_offsets`, while the other files of the earlier epoch are removed
"""

import json
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from profilestream.base import files

# Index in a Delta offset that means "no file of this version was read": DeltaSourceOffset.BASE_INDEX, in versions 1 and
# 3 of the source's offset format.
START_OF_VERSION = (-1, -100)
_PLANS_STORED = 100


@dataclass(frozen=True)
class Plan:
    """Inputs of a batch that a retry must use again.

    Args:
        fingerprint: fingerprint of the mapping and of the settings that change what is written.
        settings: the text that the fingerprint is computed from, so that a user can restore the settings.
        versions: Delta version of every table read other than the source.
        skipped_units: units of the source, such as files, that the user requested to skip.
        is_without_commits: whether the batch ended without rows to write, so that no table contains it.
    """

    fingerprint: str
    settings: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    skipped_units: list[str] = field(default_factory=list)
    is_without_commits: bool = False


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

    def last_written(self) -> int | None:
        """Latest finished batch that the tables contain; null when there is none, or its plan is no longer stored."""
        batch_id = self.last_finished()
        while batch_id is not None and (plan := self.plan(batch_id)) is not None:
            if not plan.is_without_commits:
                return batch_id
            batch_id -= 1
        return None

    def unfinished(self) -> int | None:
        """Id of the batch that was started and not committed; null when there is none."""
        started = self.last_started()
        return started if started is not None and started != self.last_finished() else None

    def last_offset(self) -> dict[str, Any]:
        """The offset at which the last started batch ends, as its source wrote it; empty before the first batch."""
        started = self.last_started()
        return {} if started is None else self.end_offset(started)

    def finished_offset(self) -> dict[str, Any]:
        """The offset at which the last finished batch ends, as its source wrote it; empty before the first batch."""
        finished = self.last_finished()
        return {} if finished is None else self.end_offset(finished)

    def next_offset(self) -> dict[str, Any]:
        """The offset at which the next batch starts, or the unfinished one; empty if the source did not write one."""
        started, unfinished = self.last_started(), self.unfinished()
        if started is None or unfinished is not None:
            return self.first_offset(unfinished or 0)
        return self.end_offset(started)

    def first_offset(self, batch_id: int) -> dict[str, Any]:
        """The offset at which a batch starts, as its source wrote it; empty if the source did not write one."""
        return (
            self.end_offset(batch_id - 1) if batch_id else _last_json(files.read_text(self.spark, self._initial_offset))
        )

    def end_offset(self, batch_id: int) -> dict[str, Any]:
        """The offset at which a batch ends, as its source wrote it; empty when there is no such batch."""
        return _last_json(files.read_text(self.spark, f"{self.path}/offsets/{batch_id}"))

    def batch_micros(self, batch_id: int) -> int:
        """The time of a started batch, microseconds since 1970 UTC; a retry of the batch has the same time."""
        lines = (files.read_text(self.spark, f"{self.path}/offsets/{batch_id}") or "").splitlines()
        return int(json.loads(lines[1])["batchTimestampMs"]) * 1000

    @property
    def _initial_offset(self) -> str:
        """Path of the offset at which the first batch starts, which some sources of Spark write."""
        return f"{self.path}/sources/0/0"

    def start_offsets(self) -> dict[str, Any] | None:
        """Where the source starts in this epoch, if it continues an earlier one; null otherwise."""
        text = files.read_text(self.spark, f"{self.path}/start_offsets")
        return None if text is None else dict(json.loads(text))

    def restart(self, start_offsets: dict[str, Any]) -> None:
        """Begin a new epoch, in which the source starts at these offsets; `finish_restart` repeats it after a crash."""
        files.write_text(self.spark, f"{self.path}/restart", json.dumps(start_offsets))
        self.finish_restart()

    def finish_restart(self) -> None:
        """Finish a restart that was begun."""
        text = files.read_text(self.spark, f"{self.path}/restart")
        if text is None:
            return
        for name in files.names(self.spark, self.path):
            if name != "restart":
                files.delete(self.spark, f"{self.path}/{name}")
        files.write_text(self.spark, f"{self.path}/start_offsets", text)
        files.delete(self.spark, f"{self.path}/restart")

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

    def drop_plan(self, batch_id: int) -> None:
        """Remove the plan of a batch that has written nothing, so that another mapping can plan it."""
        files.delete(self.spark, f"{self.path}/plans/{batch_id}")

    def last_complete_version(self, batch_id: int) -> int | None:
        """Latest version of the Delta source whose files were all read by the batches before this one.

        Null when the batch continues within a commit or within the initial snapshot, and when nothing was read yet.
        """
        offset = self.end_offset(batch_id - 1)
        if offset.get("index") not in START_OF_VERSION or offset["isStartingVersion"]:
            return None
        return int(offset["reservoirVersion"]) - 1

    def snapshot_part(self, batch_id: int) -> SnapshotPart | None:
        """The part of the initial snapshot that a batch reads; null when it reads later commits only."""
        begin, end = self.end_offset(batch_id - 1), self.end_offset(batch_id)
        is_first = not begin
        if not is_first and not begin["isStartingVersion"]:
            return None
        first_file = 0 if is_first else int(begin["index"]) + 1
        if end["isStartingVersion"]:
            return SnapshotPart(int(end["reservoirVersion"]), first_file, int(end["index"]) + 1, False)
        if is_first:
            return None  # the complete snapshot
        version = int(begin["reservoirVersion"])
        is_exact = end["reservoirVersion"] == version + 1 and end["index"] in START_OF_VERSION
        return SnapshotPart(version, first_file, None, not is_exact)

    def needed_version(self) -> int | None:
        """The oldest version of the Delta source that a restart reads; null without a Delta source.

        This is the version before the one in which the last started batch starts. Spark lists the rows of this batch
        again at a restart, also if it was finished. A learner may read all rows of the version at which the next batch
        starts (`last_complete_version`), which is not an earlier one.
        """
        started = self.last_started()
        if started is None:
            return None
        offset = self.end_offset(started - 1) or self.end_offset(started)
        if "reservoirVersion" not in offset:
            return None
        return int(offset["reservoirVersion"]) - (0 if offset["isStartingVersion"] else 1)

    def source_table_id(self) -> str | None:
        """Delta's id of the source table; null before the first batch, and for sources other than Delta."""
        table_id = self.last_offset().get("reservoirId")
        return None if table_id is None else str(table_id)


def _last_json(text: str | None) -> dict[str, Any]:
    """The JSON object in the last line of a file; empty without one."""
    lines = (text or "").splitlines()
    value = json.loads(lines[-1]) if lines else {}
    return value if isinstance(value, dict) else {}
