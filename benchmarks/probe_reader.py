"""Polls tables, and prints when the event of a probe and the rows of its user are visible, in a process of its own.

Each line of standard input is a JSON object of load_writer. Each line of output is a JSON object with `second`, `table`
and `at`, in seconds since 1970. It ends with its input.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

EVENTS = "events"
_POLL_SECONDS = 0.1


class TableFiles:
    """The files that are added to a table after the first call; to a table that does not exist then, all files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, set[str]()
        self._table = self._open()
        self._version = -1
        if self._table is not None:
            self._files, self._version = set(self._table.file_uris()), self._table.version()

    def _open(self) -> DeltaTable | None:
        try:
            return DeltaTable(self._folder)
        except TableNotFoundError:
            return None

    def added(self, columns: list[str]) -> Iterator[pa.Table]:
        """The columns of each new file."""
        if self._table is None:
            self._table = self._open()
        else:
            self._table.update_incremental()
        if self._table is None or self._table.version() == self._version:
            return
        self._version = self._table.version()
        files = set(self._table.file_uris())
        for file in sorted(files - self._files):
            yield pq.ParquetFile(file).read(columns)
        self._files = files


class Probes:
    """The probes that are not visible yet in a table.

    Args:
        tables: `events` and tables with a column `user_id`.
    """

    def __init__(self, warehouse: Path, tables: list[str]) -> None:
        self._files = {name: TableFiles(warehouse / name) for name in tables}
        self._seconds: dict[str, int] = {}  # by position
        self._users: dict[str, dict[str, int]] = {name: {} for name in tables if name != EVENTS}

    def add(self, second: int, position: str) -> None:
        """Wait for the event at this position."""
        self._seconds[position] = second

    def visible(self) -> Iterator[tuple[int, str]]:
        """Second and table of the probes that have become visible."""
        for rows in self._files[EVENTS].added(["position", "user_id"]):
            for position, user in _selected(rows, "position", self._seconds):
                second = self._seconds.pop(position)
                yield second, EVENTS
                for users in self._users.values() if user is not None else ():
                    users[user] = second
        for name, users in self._users.items():
            for rows in self._files[name].added(["user_id"]):
                for user, *_ in _selected(rows, "user_id", users):
                    if user in users:  # a file may have several rows of a user
                        yield users.pop(user), name


def _selected(rows: pa.Table, column: str, values: dict[str, int]) -> list[tuple[str, ...]]:
    """The rows whose column has one of the values."""
    wanted = rows.filter(pc.is_in(rows[column], pa.array(list(values), pa.string())))
    return list(zip(*(wanted[name].to_pylist() for name in wanted.column_names), strict=True))


def main(argv: list[str]) -> int:
    probes, has_ended = Probes(Path(argv[0]), argv[1:]), threading.Event()

    def read_probes() -> None:
        for line in sys.stdin:
            probe = json.loads(line)
            probes.add(probe["second"], probe["position"])
        has_ended.set()

    threading.Thread(target=read_probes, daemon=True).start()
    while not has_ended.is_set():
        for second, table in probes.visible():
            print(json.dumps({"second": second, "table": table, "at": time.time()}), flush=True)
        time.sleep(_POLL_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
