"""What a checkpoint folder knows: its epoch, which batches were begun and finished, and the plan of each.

Layout, beside Spark's own `offsets/` and `commits/`:

    epoch                 a UUID, made when the folder is new
    plans/<batch id>      what the batch was begun with (JSON)
"""

import json
import sys
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from profilestream.base import files

# How Delta writes that a stream has come to a version and taken no file of it: DeltaSourceOffset.BASE_INDEX, by the
# version of the source's log, 1 and 3.
_NOTHING_OF_IT_YET = (-1, -100)


@dataclass(frozen=True)
class Plan:
    """What a batch was begun with; a replay of the batch must find the same.

    Args:
        fingerprint: of mapping and settings, those that change what is written.
        settings: the settings behind the fingerprint, so that a person can restore them.
        versions: Delta version of every table read other than the source.
        skip_files: files that the person who started the run asked to pass over.
    """

    fingerprint: str
    settings: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    skip_files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """One query's checkpoint folder."""

    spark: SparkSession
    path: str

    def epoch(self) -> str:
        """The epoch of this checkpoint; made, once, when the folder is new."""
        found = files.read_text(self.spark, f"{self.path}/epoch")
        if found is not None:
            return found.strip()
        made = str(uuid.uuid4())
        files.write_text(self.spark, f"{self.path}/epoch", made + "\n")
        return made

    def is_new(self) -> bool:
        """True while no batch was ever begun from this folder."""
        return self.last_begun() is None

    def last_begun(self) -> int | None:
        """Newest batch id with logged offsets; null when there is none."""
        return self._last("offsets")

    def last_finished(self) -> int | None:
        """Newest batch id that was committed; null when there is none."""
        return self._last("commits")

    def _last(self, log: str) -> int | None:
        return max((int(n) for n in files.names(self.spark, f"{self.path}/{log}") if n.isdigit()), default=None)

    def plan(self, batch_id: int) -> Plan | None:
        """The plan that a batch was begun with; null when it was never begun."""
        text = files.read_text(self.spark, f"{self.path}/plans/{batch_id}")
        return None if text is None else Plan(**json.loads(text))

    def store_plan(self, batch_id: int, plan: Plan) -> None:
        """Write the plan of a batch, and drop plans that no replay can ask for any more."""
        files.write_text(self.spark, f"{self.path}/plans/{batch_id}", json.dumps(asdict(plan), indent=1))
        if batch_id >= 100:
            files.delete(self.spark, f"{self.path}/plans/{batch_id - 100}")

    def whole_version(self, batch_id: int) -> int | None:
        """The version of the Delta source up to which the batches before this one took everything.

        Null when the batch goes on within a commit, or within the first snapshot, and when nothing was taken yet.
        """
        offset = self._offset(batch_id - 1)
        if offset.get("index") not in _NOTHING_OF_IT_YET or offset["isStartingVersion"]:
            return None
        return int(offset["reservoirVersion"]) - 1

    def source_id(self) -> str | None:
        """What Delta calls the table that is followed; null before the first batch."""
        begun = self.last_begun()
        found = None if begun is None else self._offset(begun).get("reservoirId")
        return None if found is None else str(found)

    def _offset(self, batch_id: int) -> dict[str, Any]:
        """Up to where a batch goes; empty when there is no such batch, or its source does not say it so."""
        lines = (files.read_text(self.spark, f"{self.path}/offsets/{batch_id}") or "").splitlines()
        offset = json.loads(lines[-1]) if lines else {}
        return offset if isinstance(offset, dict) else {}

    def drop_unbegun_files(self) -> None:
        """Forget files that were listed for a batch that was never begun.

        Spark logs the files of a batch before the batch itself. After a crash between the two it would put them and the
        next ones into one batch: no row is lost, but batches are cut otherwise than in a run without the crash. Every
        tenth list is compact and holds the earlier ones too, which Spark keeps for 100 batches more.
        """
        begun = self.last_begun()
        last = -1
        if begun is not None:
            offset = (files.read_text(self.spark, f"{self.path}/offsets/{begun}") or "").splitlines()[-1]
            last = int(json.loads(offset)["logOffset"]) if offset.startswith('{"logOffset"') else sys.maxsize
        for name in files.names(self.spark, f"{self.path}/sources/0"):
            number = name.removesuffix(".compact")
            if number.isdigit() and int(number) > last:
                files.delete(self.spark, f"{self.path}/sources/0/{name}")

    def files_seen(self) -> dict[str, int]:
        """Every input file that a file source has taken up: path -> its modification time (ms) then."""
        return {entry["path"]: entry["timestamp"] for entry in self._file_entries()}

    def files_of(self, batch_id: int) -> int:
        """How many files a batch of a file source takes."""
        return sum(entry["batchId"] == batch_id for entry in self._file_entries())

    def _file_entries(self) -> list[dict[str, Any]]:
        folder = f"{self.path}/sources/0"
        logs = files.names(self.spark, folder)
        compacted = max((int(n.removesuffix(".compact")) for n in logs if n.endswith(".compact")), default=-1)
        wanted = [n for n in logs if n == f"{compacted}.compact" or (n.isdigit() and int(n) > compacted)]
        entries: list[dict[str, Any]] = []
        for name in wanted:
            lines = (files.read_text(self.spark, f"{folder}/{name}") or "").splitlines()
            entries += [json.loads(line) for line in lines if line.startswith("{")]
        return entries
