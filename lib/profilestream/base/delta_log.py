"""The log of a Delta table in a local file system, followed and extended without Spark.

delta-rs neither shows nor writes the deletion vectors of files, so this module reads and writes the entries of the log
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md). An entry is created by a hard link, which fails if the
entry exists and never shows a part of it.
"""

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

Action = dict[str, Any]
log = logging.getLogger(__name__)

# Spark writes a checkpoint of the log only at its own commits.
_CHECKPOINT_INTERVAL = 10
# Features that change neither the entries below nor what a reader of files has to do.
_KNOWN_FEATURES = {"deletionVectors", "changeDataFeed", "appendOnly", "invariants"}
# Fields of an `add` action that are written again with a new deletion vector; checkpoints contain others.
_ADD_FIELDS = ("path", "size", "modificationTime", "stats", "deletionVector")


def latest_version(folder: Path) -> int:
    """The latest version of the table in a folder; -1 without one."""
    version = _checkpoint_version(folder)
    while _entry(folder, version + 1).exists():
        version += 1
    return version


def write_checkpoint_if_due(folder: Path, version: int) -> None:
    """Write a checkpoint at every tenth version. Without it, the log is read more slowly."""
    if version % _CHECKPOINT_INTERVAL == 0:
        try:
            DeltaTable(folder, version=version).create_checkpoint()
        except (DeltaError, OSError) as error:
            log.warning("no checkpoint of %s at version %s: %s", folder, version, error)


class DeltaLog:
    """The state of a table at the latest version that `refresh` saw.

    Args:
        folder: of the table.

    Attributes:
        files: `add` actions of the data files by path.
        transactions: last version by application id.
        metadata: id, columns and properties of the table.
        is_supported: whether the table has deletion vectors, and no feature that this module does not know.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reset()

    def _reset(self) -> None:
        self.version = -1
        self.files: dict[str, Action] = {}
        self.transactions: dict[str, int] = {}
        self.metadata: Action = {}
        self.is_supported = False
        self._identity: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Read the entries that were written since the last call; all of them if the table was created again."""
        if self.version < 0 or _identity(self.folder, self.version) != self._identity:
            self._reset()
            self._read_checkpoint()
        while (entry := _entry(self.folder, self.version + 1)).exists():
            self._apply(json.loads(line) for line in entry.read_bytes().split(b"\n") if line)
            self.version += 1
        self._identity = _identity(self.folder, self.version)

    def commit(self, actions: list[Action], app_id: str, batch_id: int) -> bool:
        """Write the next entry; false if another writer wrote it first, or the log is not the one that was read.

        Args:
            actions: `add`, `remove` and `cdc` actions.
            app_id, batch_id: stored as the transaction of the commit.
        """
        if self._identity is None or _identity(self.folder, self.version) != self._identity:
            return False
        now = int(time.time() * 1000)
        info = {
            "timestamp": now, "operation": "MERGE", "operationParameters": {}, "readVersion": self.version,
            "isolationLevel": "Serializable", "isBlindAppend": False, "engineInfo": "profilestream",
        }  # fmt: skip
        transaction = {"appId": app_id, "version": batch_id, "lastUpdated": now}
        entries = [{"commitInfo": info}, {"txn": transaction}, *actions]
        temporary = self.folder / "_delta_log" / f".{uuid.uuid4()}.tmp"
        temporary.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
        try:
            os.link(temporary, _entry(self.folder, self.version + 1))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        self.version += 1
        self._apply(entries)
        self._identity = _identity(self.folder, self.version)
        write_checkpoint_if_due(self.folder, self.version)
        return True

    def _read_checkpoint(self) -> None:
        """Start at the last checkpoint, if there is one. Older entries may have been removed after their retention."""
        self.version = _checkpoint_version(self.folder)
        for file in (self.folder / "_delta_log").glob(f"{self.version:020d}.checkpoint*.parquet"):
            rows = pq.read_table(file, columns=["protocol", "metaData", "txn", "add"]).to_pylist()
            self._apply({name: action} for row in rows for name, action in row.items() if action is not None)

    def _apply(self, actions: Iterable[Action]) -> None:
        added: dict[str, Action] = {}
        for action in actions:
            if "add" in action:
                fields = {name: action["add"].get(name) for name in _ADD_FIELDS}
                added[fields["path"]] = {name: value for name, value in fields.items() if value is not None}
            elif "remove" in action:
                self.files.pop(action["remove"]["path"], None)
            elif "txn" in action:
                self.transactions[action["txn"]["appId"]] = action["txn"]["version"]
            elif "metaData" in action:
                self.metadata = {name: action["metaData"][name] for name in ("id", "schemaString")}
            elif "protocol" in action:
                features = [set(action["protocol"].get(f"{kind}Features") or ()) for kind in ("reader", "writer")]
                has_vectors = all("deletionVectors" in part for part in features)
                self.is_supported = has_vectors and set().union(*features) <= _KNOWN_FEATURES
        # An entry removes the earlier state of a file and adds the new one, in any order.
        self.files |= added


def _entry(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020d}.json"


def _identity(folder: Path, version: int) -> tuple[int, int] | None:
    """Changes if the entry of this version was removed, or if the table was created again."""
    try:
        status = _entry(folder, version).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _checkpoint_version(folder: Path) -> int:
    """The version of the last checkpoint; -1 without one."""
    try:
        return int(json.loads((folder / "_delta_log" / "_last_checkpoint").read_bytes())["version"])
    except (FileNotFoundError, ValueError):  # it is optional, and Hadoop replaces it in two steps
        found = (re.match(r"(\d{20})\.checkpoint", path.name) for path in (folder / "_delta_log").glob("*.checkpoint*"))
        return max((int(match[1]) for match in found if match), default=-1)
