"""The files of a Delta table by its log: which of them the versions from a first one on refer to."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from profilestream.base import deletion_vectors, files
from profilestream.base.delta_table import log_entry
from profilestream.base.errors import StateCorrupt

_LOG = "_delta_log/"
_OF_VERSION = re.compile(rf"{_LOG}(\d{{20}})\.(.+)")
_ENTRY, _CHECKPOINT = "json", "checkpoint.parquet"
# Parts of a checkpoint's actions that name files.
_FILE_COLUMNS = ("add.path", "add.deletionVector.storageType", "add.deletionVector.pathOrInlineDv")
# Files by path relative to the table, with their bytes.
Files = dict[str, int]


@dataclass(frozen=True)
class TableFiles:
    """All files in the folder of a table when it was listed.

    Args:
        uri: of the table.
        files: bytes and modification time (ms) by path relative to the table.
        versions: paths of the files of the log by version and extension.
    """

    spark: SparkSession
    uri: str
    files: dict[str, tuple[int, int]]
    versions: dict[int, dict[str, str]]

    @property
    def bytes(self) -> int:
        """The bytes of all files."""
        return sum(size for size, _ in self.files.values())

    @property
    def latest(self) -> int:
        """The latest version."""
        return max(version for version, paths in self.versions.items() if _ENTRY in paths)

    def version_at(self, time: datetime) -> int:
        """The latest version that was committed at a time or before; the oldest one in the log if all are later."""
        millis = time.timestamp() * 1000
        entries = {version: paths[_ENTRY] for version, paths in self.versions.items() if _ENTRY in paths}
        return max((v for v, path in entries.items() if self.files[path][1] <= millis), default=min(entries))

    def first_version(self, needed: int) -> int | None:
        """The last version at or before the needed one that has a checkpoint; null without one."""
        with_checkpoint = (v for v, paths in self.versions.items() if {_ENTRY, _CHECKPOINT} <= paths.keys())
        return max((version for version in with_checkpoint if version <= needed), default=None)

    def removable(self, first: int, written_before: datetime) -> Files:
        """Data files, deletion vectors and files of changes that no version from `first` on refers to.

        They are named by an older entry of the log. Files that no entry names are removable if they were written before
        a time, because a running writer names its files later.

        Raises:
            StateCorrupt: the log lacks an entry after `first`.
        """
        needed = self._files_at(first)
        for version in range(first + 1, self.latest + 1):
            needed |= self._files_of_entry(version)
        older: set[str] = set()
        for version in (v for v, paths in self.versions.items() if v <= first and _ENTRY in paths):
            older |= self._files_of_entry(version)
        millis = written_before.timestamp() * 1000
        return {
            path: size
            for path, (size, modified) in self.files.items()
            if _is_of_writer(path) and path not in needed and (path in older or modified < millis)
        }

    def old_entries(self, first: int) -> Files:
        """Entries, checksums and checkpoints of the log before a version, the oldest first."""
        paths = [path for v in sorted(self.versions) if v < first for path in self.versions[v].values()]
        return {path: self.files[path][0] for path in paths}

    def _files_at(self, version: int) -> set[str]:
        """The files of a version with a checkpoint."""
        content = files.read_bytes(self.spark, f"{self.uri}/{self.versions[version][_CHECKPOINT]}")
        # Columns that the checkpoint lacks are ignored: a table may have no deletion vectors.
        adds = pq.ParquetFile(pa.BufferReader(content)).read(columns=list(_FILE_COLUMNS))["add"].to_pylist()
        return set(_file_names({"add": add} for add in adds if add is not None and add["path"] is not None))

    def _files_of_entry(self, version: int) -> set[str]:
        """The files that an entry of the log adds or removes."""
        actions = log_entry(self.spark, self.uri, version)
        if actions is None:
            raise StateCorrupt(
                f"the log has no entry of version {version}, but later ones", where=self.uri,
                do="restore the entry; or derive the table again: --rebuild",
            )  # fmt: skip
        return set(_file_names(actions))


def list_table(spark: SparkSession, uri: str) -> TableFiles:
    """The files of the table at a URI now."""
    listed, versions = files.listing(spark, uri), dict[int, dict[str, str]]()
    for path in listed:
        if match := _OF_VERSION.fullmatch(path):
            versions.setdefault(int(match[1]), {})[match[2]] = path
    return TableFiles(spark, uri, listed, versions)


def _file_names(actions: Iterable[dict[str, Any]]) -> Iterator[str]:
    for action in actions:
        for kind in action.keys() & {"add", "remove", "cdc"}:
            yield unquote(action[kind]["path"])
            if vector := deletion_vectors.file_name(action[kind].get("deletionVector")):
                yield vector


def _is_of_writer(path: str) -> bool:
    """Whether writers of Delta create such files: data, changes, deletion vectors, temporary files of the log."""
    if path.startswith(_LOG):
        return path.endswith(".tmp")
    is_hidden = any(part.startswith(("_", ".")) for part in path.removeprefix("_change_data/").split("/"))
    return path.endswith((".parquet", ".bin")) and not is_hidden
