"""The log of a Delta table, each entry read once: bytes of a batch's commit, and rows that a query has not read yet."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyspark.sql import SparkSession

from profilestream.base import delta_log, files
from profilestream.base.checkpoints import START_OF_VERSION
from profilestream.base.commits import version
from profilestream.base.delta_table import Table
from profilestream.base.settings import Paths

# Entries that one refresh reads at most: a run that is far behind its source reads them in parts.
_MAX_ENTRIES = 500
# Commits of other writers than the queries of the run are never looked up.
_MAX_COMMITS = 1000
_EVENT_TIME = "event_time"


@dataclass(frozen=True)
class LogEntry:
    """One commit.

    Args:
        time: of the commit, in seconds since 1970.
        writer: application id and batch; null for other writers.
        bytes_added: size of the new data files and change files.
        has_changes: whether it changes rows.
        rows_appended: rows of a commit that only adds rows; null if a file has no statistics.
        event_time_max: newest event time of the added files, in seconds since 1970; null if unknown.
    """

    time: float
    writer: tuple[str, int] | None
    bytes_added: int
    has_changes: bool
    rows_appended: int | None
    event_time_max: float | None


@dataclass(frozen=True)
class Unread:
    """What a query has not read of a table.

    Args:
        rows: null if unknown.
        since: time of the oldest commit with unread rows, in seconds since 1970; null: everything was read.
    """

    rows: int | None
    since: float | None


def parse_entry(text: str | bytes) -> LogEntry:
    """The summary of a log entry."""
    actions = [json.loads(line) for line in text.splitlines() if line]
    infos = [action["commitInfo"] for action in actions if "commitInfo" in action]
    writers = [(one["txn"]["appId"], int(one["txn"]["version"])) for one in actions if "txn" in one]
    removed = [action["remove"] for action in actions if "remove" in action]
    added = [action["add"] for action in actions if "add" in action]
    changes = [action["cdc"] for action in actions if "cdc" in action]
    removed_paths = {one["path"] for one in removed}
    new = [one for one in added if one["path"] not in removed_paths]  # others get another deletion vector only
    appended = [one for one in added if one.get("dataChange", True)]
    is_append = not any(one.get("dataChange", True) for one in removed)
    statistics = [json.loads(one.get("stats") or "{}") for one in appended]
    counts = [one.get("numRecords") for one in statistics] if is_append else []
    times = [one.get("maxValues", {}).get(_EVENT_TIME) for one in statistics]
    return LogEntry(
        time=infos[0].get("timestamp", 0) / 1000 if infos else time.time(),
        writer=writers[0] if writers else None,
        bytes_added=sum(one["size"] for one in [*new, *changes]),
        has_changes=bool(appended or changes or not is_append),
        rows_appended=None if None in counts else sum(counts),
        event_time_max=max((datetime.fromisoformat(one).timestamp() for one in times if one), default=None),
    )


class FollowedLog:
    """Summaries of the entries of a log from a version on.

    Args:
        read: the text of the entry of a version; null if there is none yet.
        first: the first version; later ones than the latest are read when they are written.
        latest: the latest version at the start. If entries before it were removed, the rows before it are unknown.
    """

    def __init__(self, read: Callable[[int], str | bytes | None], first: int, latest: int) -> None:
        self._read, self._latest = read, latest
        self._first = self._next = first
        self._entries: dict[int, LogEntry] = {}
        self._bytes: dict[tuple[str, int], int] = {}
        self._is_current = False

    def refresh(self) -> None:
        """Read the entries since the last call."""
        for _ in range(_MAX_ENTRIES):
            text = self._read(self._next)
            if text is None and self._next <= self._latest:
                self._first = self._next = self._latest + 1
                text = self._read(self._next)
            self._is_current = text is None
            if text is None:
                return
            entry = self._entries[self._next] = parse_entry(text)
            if entry.writer is not None:
                self._bytes[entry.writer] = entry.bytes_added
                while len(self._bytes) > _MAX_COMMITS:
                    self._bytes.pop(next(iter(self._bytes)))
            self._next += 1

    def bytes_of(self, app_id: str, batch_id: int) -> int | None:
        """Bytes of the files that the commit of a batch added, once; 0 without a commit; null if unknown."""
        return self._bytes.pop((app_id, batch_id), 0 if self._is_current else None)

    def unread(self, offset: Mapping[str, Any], until: float, *, is_change_feed: bool = False) -> Unread | None:
        """What was committed until a time, after the offset of a query; null if unknown.

        A commit of which a part was read counts as unread.

        Args:
            offset: of Delta's source; empty: nothing was read.
            until: seconds since 1970.
            is_change_feed: whether the query reads the changes, whose number is unknown, or the appended rows.
        """
        start = first_unread_version(offset)
        if start is None or start < self._first:
            return None
        entries = [entry for number, entry in self._entries.items() if number >= start and entry.time <= until]
        unread = [entry for entry in entries if (entry.has_changes if is_change_feed else entry.rows_appended != 0)]
        counts = [entry.rows_appended for entry in unread]
        is_complete = self._is_current and None not in counts and not (is_change_feed and unread)
        rows = sum(filter(None, counts)) if is_complete else None
        return Unread(rows, min((entry.time for entry in unread), default=None))

    def event_time_max(self, start: Mapping[str, Any], end: Mapping[str, Any]) -> float | None:
        """Newest event time of the commits from one offset to another, in seconds since 1970; null if unknown."""
        first, last = first_unread_version(start), first_unread_version(end)
        if first is None or last is None or first < self._first:
            return None
        last += end.get("index") not in START_OF_VERSION  # a part of this commit was read
        times = [entry.event_time_max for number, entry in self._entries.items() if first <= number < last]
        return max((one for one in times if one is not None), default=None)

    @property
    def next_version(self) -> int:
        """The version of the next entry."""
        return self._next

    def forget_before(self, version: int) -> None:
        """Drop the entries before a version, which all queries have read."""
        for number in [number for number in self._entries if number < version]:
            del self._entries[number]
        self._first = max(self._first, min(version, self._next))


def first_unread_version(offset: Mapping[str, Any]) -> int | None:
    """The first version that an offset has not read to its end; null without an offset or within the snapshot."""
    if "reservoirVersion" not in offset or offset.get("isStartingVersion"):
        return None
    return int(offset["reservoirVersion"])


def follow(spark: SparkSession, table: Table, paths: Paths, first: int | None = None) -> FollowedLog:
    """Follow a stored table from a version on; by default from its next one."""
    latest = version(spark, table, paths)
    first = latest + 1 if first is None else min(first, latest + 1)
    folder, uri = table.local_folder(paths), table.uri(paths)
    if folder is not None:
        return FollowedLog(lambda number: delta_log.entry_text(folder, number), first, latest)
    return FollowedLog(lambda number: files.read_text(spark, f"{uri}/_delta_log/{number:020d}.json"), first, latest)
