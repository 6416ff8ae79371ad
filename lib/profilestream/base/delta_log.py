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

from profilestream.base.errors import StateCorrupt

Action = dict[str, Any]
log = logging.getLogger(__name__)

# Spark writes a checkpoint of the log only at its own commits.
_CHECKPOINT_INTERVAL = 10
# A checksum is computed from an earlier one and at most this number of entries.
_CHECKSUM_ENTRIES = 10
_ENGINE = "profilestream"
_ENGINES = (_ENGINE, "delta-rs")
# Features that change neither the entries below nor what a reader of files has to do.
_KNOWN_FEATURES = {"deletionVectors", "changeDataFeed", "appendOnly", "invariants"}
# Version 2 is column mapping; later ones list their features.
_READER_VERSIONS = (1, 3)
_CHECKSUM_FIELDS = (
    "tableSizeBytes", "numFiles", "numMetadata", "numProtocol", "setTransactions", "domainMetadata", "metadata",
    "protocol",
)  # fmt: skip
# Fields of an `add` action that are written again with a new deletion vector; checkpoints contain others.
_ADD_FIELDS = ("path", "partitionValues", "size", "modificationTime", "stats", "deletionVector")


def latest_version(folder: Path) -> int:
    """The latest version of the table in a folder; -1 without one."""
    version = _checkpoint_version(folder)
    while _entry(folder, version + 1).exists():
        version += 1
    return version


def entry_text(folder: Path, version: int) -> bytes | None:
    """The text of the entry of a version; null without this entry."""
    try:
        return _entry(folder, version).read_bytes()
    except FileNotFoundError:
        return None


def changes_rows(actions: Iterable[Action]) -> bool:
    """Whether a commit adds or removes rows; a compaction only moves them."""
    files = (content for action in actions for kind, content in action.items() if kind in ("add", "remove"))
    return any(file.get("dataChange", True) for file in files)


def create(folder: Path, schema: str, partitioned_by: Iterable[str], properties: dict[str, str], meaning: str) -> bool:
    """Create a table without rows, with the protocol that Spark gives it; false if the table exists.

    Args:
        schema: columns as Delta's JSON.

    Raises:
        StateCorrupt: the folder contains files of a table whose log is lost.
    """
    left = [*folder.glob("[!._]*"), *folder.glob("_delta_log/[!._]*")]
    if latest_version(folder) >= 0:
        return False
    if left:
        raise StateCorrupt(
            f"the folder has no log of a Delta table, but contains {left[0].name}",
            where=str(folder),
            do="restore the folder _delta_log, or remove the folder",
        )
    now = int(time.time() * 1000)
    info = {"timestamp": now, "operation": "CREATE TABLE", "operationParameters": {}, "engineInfo": _ENGINE}
    metadata = {
        "id": str(uuid.uuid4()), **({"description": meaning} if meaning else {}),
        "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
        "partitionColumns": list(partitioned_by), "configuration": properties, "createdTime": now,
    }  # fmt: skip
    (folder / "_delta_log").mkdir(parents=True, exist_ok=True)
    actions: list[Action] = [{"commitInfo": info}, {"metaData": metadata}, {"protocol": _protocol(properties)}]
    if not _write_entry(folder, 0, actions):
        return False
    write_checksum(folder, 0)
    return True


def _protocol(properties: dict[str, str]) -> Action:
    has_feed = properties.get("delta.enableChangeDataFeed") == "true"
    if properties.get("delta.enableDeletionVectors") != "true":
        return {"minReaderVersion": 1, "minWriterVersion": 4 if has_feed else 2}
    features = ["appendOnly", "invariants", "deletionVectors", *(["changeDataFeed"] if has_feed else [])]
    return {
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"], "writerFeatures": features,
    }  # fmt: skip


def after_commit(folder: Path, version: int) -> None:
    """Write the checksum of a version, and a checkpoint at every tenth one. Without them, readers are slower."""
    write_checksum(folder, version)
    if version % _CHECKPOINT_INTERVAL == 0:
        try:
            DeltaTable(folder, version=version).create_checkpoint()
        except (DeltaError, OSError) as error:
            log.warning("no checkpoint of %s at version %s: %s", folder, version, error)


def write_checksum(folder: Path, version: int) -> None:
    """Write the version checksum file: columns, properties, transactions, number and bytes of the files.

    Without it, Spark finds them by a job over the whole log (0.3 s). Spark refuses a table whose checksum is wrong, so
    nothing is written without a checksum of one of the versions before, or if an entry since then is not known.
    """
    checksum = {
        "tableSizeBytes": 0, "numFiles": 0, "numMetadata": 1, "numProtocol": 1, "setTransactions": [],
        "domainMetadata": [],
    }  # fmt: skip
    candidates = range(version + 1, max(-1, version - _CHECKSUM_ENTRIES), -1)
    first = next((n for n in candidates if n == 0 or _checksum(folder, n - 1).exists()), None)
    if first is None:
        return
    try:
        if first > 0:
            checksum = json.loads(_checksum(folder, first - 1).read_bytes())
        for number in range(first, version + 1):
            checksum = _next_checksum(checksum, _actions(folder, number))
    except (KeyError, TypeError, ValueError, OSError):
        return
    temporary = folder / "_delta_log" / f".{uuid.uuid4()}.tmp"
    temporary.write_text(json.dumps(checksum), encoding="utf-8")
    temporary.replace(_checksum(folder, version))


def _next_checksum(before: Action, actions: list[Action]) -> Action:
    """The checksum after an entry. Statistics that only Spark computes are left out; they are optional.

    Raises:
        KeyError, TypeError: the entry is of an unknown writer, which may add a file again that is part of the table; or
            it has an action that is not known, or no size of a file.
    """
    if not any(a.get("commitInfo", {}).get("engineInfo", "").startswith(_ENGINES) for a in actions):
        raise KeyError("engineInfo")
    after = {name: before[name] for name in _CHECKSUM_FIELDS if name in before}
    transactions = {txn["appId"]: txn for txn in before["setTransactions"]}
    for action in actions:
        ((kind, content),) = action.items()
        if kind in ("add", "remove"):
            sign = 1 if kind == "add" else -1
            after["numFiles"] += sign
            after["tableSizeBytes"] += sign * content["size"]
        elif kind == "txn":
            transactions[content["appId"]] = content
        elif kind in ("metaData", "protocol"):
            after[kind.lower()] = content
        elif kind not in ("commitInfo", "cdc"):
            raise KeyError(kind)
    if "inCommitTimestamp" in (after["protocol"].get("writerFeatures") or ()):
        raise KeyError("inCommitTimestamp")
    return after | {"setTransactions": list(transactions.values())}


class DeltaLog:
    """The state of a table at the latest version that `refresh` saw.

    Args:
        folder: of the table.

    Attributes:
        rows_version: the latest version that added or removed rows, or a later one.
        files: `add` actions of the data files by path.
        transactions: last version by application id.
        metadata: id, columns and partition columns of the table.
        is_readable: whether the table has no feature that this module does not know.
        is_supported: whether it has deletion vectors in addition, so that rows can be updated.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reset()

    def _reset(self) -> None:
        self.version = self.rows_version = -1
        self.files: dict[str, Action] = {}
        self.transactions: dict[str, int] = {}
        self.metadata: Action = {}
        self.is_readable = self.is_supported = False
        self._identity: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Read the entries that were written since the last call; all of them if the table was created again."""
        if self.version < 0 or _identity(self.folder, self.version) != self._identity:
            self._reset()
            self._read_checkpoint()
        while _entry(self.folder, self.version + 1).exists():
            self._apply_entry(_actions(self.folder, self.version + 1))
        self._identity = _identity(self.folder, self.version)

    def row_count(self) -> int | None:
        """The number of rows by the statistics of the files; null if a file has none."""
        count = 0
        for file in self.files.values():
            records = json.loads(file.get("stats") or "{}").get("numRecords")
            if records is None:
                return None
            count += records - (file.get("deletionVector") or {}).get("cardinality", 0)
        return count

    def commit(self, actions: list[Action], transaction: tuple[str, int] | None, operation: str = "MERGE") -> bool:
        """Write the next entry; false if another writer wrote it first, or the log is not the one that was read.

        Args:
            actions: `add`, `remove` and `cdc` actions.
            transaction: application id and batch id that the commit contains; null: none.
        """
        if self._identity is None or _identity(self.folder, self.version) != self._identity:
            return False
        now = int(time.time() * 1000)
        info = {
            "timestamp": now, "operation": operation, "operationParameters": {}, "readVersion": self.version,
            "isolationLevel": "Serializable", "isBlindAppend": False, "engineInfo": _ENGINE,
        }  # fmt: skip
        entries: list[Action] = [{"commitInfo": info}, *actions]
        if transaction is not None:
            app_id, batch_id = transaction
            entries.append({"txn": {"appId": app_id, "version": batch_id, "lastUpdated": now}})
        if not _write_entry(self.folder, self.version + 1, entries):
            return False
        self._apply_entry(entries)
        self._identity = _identity(self.folder, self.version)
        after_commit(self.folder, self.version)
        return True

    def _read_checkpoint(self) -> None:
        """Start at the last checkpoint, if there is one. Older entries may have been removed after their retention."""
        self.version = self.rows_version = _checkpoint_version(self.folder)
        for file in (self.folder / "_delta_log").glob(f"{self.version:020d}.checkpoint*.parquet"):
            rows = pq.read_table(file, columns=["protocol", "metaData", "txn", "add"]).to_pylist()
            self._apply({name: action} for row in rows for name, action in row.items() if action is not None)

    def _apply_entry(self, actions: list[Action]) -> None:
        self._apply(actions)
        self.version += 1
        if changes_rows(actions):
            self.rows_version = self.version

    def _apply(self, actions: Iterable[Action]) -> None:
        added: dict[str, Action] = {}
        for action in actions:
            if "add" in action:
                fields = {name: action["add"].get(name) for name in _ADD_FIELDS}
                fields["partitionValues"] = dict(fields["partitionValues"] or {})  # of a checkpoint: a list of pairs
                added[fields["path"]] = {name: value for name, value in fields.items() if value is not None}
            elif "remove" in action:
                self.files.pop(action["remove"]["path"], None)
            elif "txn" in action:
                self.transactions[action["txn"]["appId"]] = action["txn"]["version"]
            elif "metaData" in action:
                self.metadata = {name: action["metaData"][name] for name in ("id", "schemaString", "partitionColumns")}
            elif "protocol" in action:
                features = [set(action["protocol"].get(f"{kind}Features") or ()) for kind in ("reader", "writer")]
                has_vectors = all("deletionVectors" in part for part in features)
                is_known = action["protocol"]["minReaderVersion"] in _READER_VERSIONS
                self.is_readable = is_known and set().union(*features) <= _KNOWN_FEATURES
                self.is_supported = self.is_readable and has_vectors
        # An entry removes the earlier state of a file and adds the new one, in any order.
        self.files |= added


def _entry(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020d}.json"


def _checksum(folder: Path, version: int) -> Path:
    return _entry(folder, version).with_suffix(".crc")


def _actions(folder: Path, version: int) -> list[Action]:
    return [json.loads(line) for line in _entry(folder, version).read_bytes().split(b"\n") if line]


def _write_entry(folder: Path, version: int, actions: list[Action]) -> bool:
    """Write an entry as a whole; false if it exists."""
    temporary = folder / "_delta_log" / f".{uuid.uuid4()}.tmp"
    temporary.write_text("\n".join(json.dumps(action) for action in actions), encoding="utf-8")
    try:
        os.link(temporary, _entry(folder, version))
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


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
        matches = (
            re.match(r"(\d{20})\.checkpoint", path.name) for path in (folder / "_delta_log").glob("*.checkpoint*")
        )
        return max((int(match[1]) for match in matches if match), default=-1)
