"""The log of a Delta table in a local file system, followed and extended without Spark.

delta-rs neither shows nor writes the deletion vectors of files, so this module reads and writes the entries of the log
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md). An entry is created by a hard link, which fails if the
entry exists and never shows a part of it.
"""

import json
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from deltalake import DeltaTable

Action = dict[str, Any]

# Spark writes a checkpoint of the log only at its own commits.
CHECKPOINT_INTERVAL = 10
# Features that change neither the entries below nor what a reader of files has to do.
_KNOWN_FEATURES = {"deletionVectors", "changeDataFeed", "appendOnly", "invariants"}


def latest_version(folder: Path) -> int:
    """The latest version of the table in a folder; -1 if its log does not begin here."""
    version = _checkpoint_version(folder)
    while _entry(folder, version + 1).exists():
        version += 1
    return version


class DeltaLog:
    """The state of a table at the latest version that `refresh` saw.

    Args:
        folder: of the table.

    Attributes:
        files: `add` actions of the data files by path.
        transactions: last version by application id.
        is_supported: whether the protocol of the table has no feature that this module does not know.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = -1
        self.files: dict[str, Action] = {}
        self.transactions: dict[str, int] = {}
        self.is_supported = True

    def refresh(self) -> None:
        """Read the entries that were written since the last call."""
        if self.version < 0 or not _entry(self.folder, self.version + 1).exists():
            self._read_newer_checkpoint()
        while (entry := _entry(self.folder, self.version + 1)).exists():
            self._apply(map(json.loads, entry.read_text().splitlines()))
            self.version += 1

    def commit(self, actions: list[Action], app_id: str, batch_id: int) -> bool:
        """Write the next entry; false if another writer wrote it first.

        Args:
            actions: `add`, `remove` and `cdc` actions.
            app_id, batch_id: stored as the transaction of the commit.
        """
        now = int(time.time() * 1000)
        info = {
            "timestamp": now, "operation": "MERGE", "operationParameters": {}, "readVersion": self.version,
            "isolationLevel": "Serializable", "isBlindAppend": False, "engineInfo": "profilestream",
        }  # fmt: skip
        transaction = {"appId": app_id, "version": batch_id, "lastUpdated": now}
        entries = [{"commitInfo": info}, {"txn": transaction}, *actions]
        temporary = self.folder / "_delta_log" / f".{uuid.uuid4()}.tmp"
        temporary.write_text("\n".join(json.dumps(entry) for entry in entries))
        try:
            os.link(temporary, _entry(self.folder, self.version + 1))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        self.version += 1
        self._apply(entries)
        if self.version % CHECKPOINT_INTERVAL == 0:
            DeltaTable(self.folder).create_checkpoint()
        return True

    def _read_newer_checkpoint(self) -> None:
        """Start at the last checkpoint; or continue there, if Delta has removed older entries after their retention."""
        version = _checkpoint_version(self.folder)
        if version <= self.version:
            return
        self.files, self.transactions, self.version = {}, {}, version
        self.is_supported = False  # until the protocol is read: a newer kind of checkpoint has other files
        for file in (self.folder / "_delta_log").glob(f"{version:020d}.checkpoint*.parquet"):
            rows = pq.read_table(file, columns=["protocol", "txn", "add"]).to_pylist()
            self._apply({name: action} for row in rows for name, action in row.items() if action is not None)

    def _apply(self, actions: Iterable[Action]) -> None:
        added: dict[str, Action] = {}
        for action in actions:
            if "add" in action:
                added[action["add"]["path"]] = {name: v for name, v in action["add"].items() if v is not None}
            elif "remove" in action:
                self.files.pop(action["remove"]["path"], None)
            elif "txn" in action:
                self.transactions[action["txn"]["appId"]] = action["txn"]["version"]
            elif "protocol" in action:
                features = [action["protocol"].get(f"{kind}Features") or [] for kind in ("reader", "writer")]
                self.is_supported = set().union(*features) <= _KNOWN_FEATURES
        # An entry removes the earlier state of a file and adds the new one, in any order.
        self.files |= added


def _entry(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020d}.json"


def _checkpoint_version(folder: Path) -> int:
    """The version of the last checkpoint; -1 without one."""
    pointer = folder / "_delta_log" / "_last_checkpoint"
    return int(json.loads(pointer.read_text())["version"]) if pointer.exists() else -1
