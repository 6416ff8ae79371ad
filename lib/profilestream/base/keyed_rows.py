"""Rows of a table that is updated by key, found and replaced in the process of the driver.

A MERGE of Spark reads every file that may contain a key of the batch. Here, an index in memory contains the file and
the position of each key, so only the row groups with these rows are read. A commit adds one small file with the new
rows, deletes the old rows by deletion vectors, and adds a file for the change feed. Many small files are combined: the
old rows of a batch are in most of them, and each of these needs a new deletion vector.

The index follows the log of the table, so commits of Spark may come between. If another writer commits first, the rows
are located again. If the rows themselves changed, the commit is refused.
"""

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from numpy.typing import NDArray

from profilestream.base import deletion_vectors, local_appends
from profilestream.base.deletion_vectors import Positions
from profilestream.base.delta_log import Action, DeltaLog
from profilestream.base.delta_table import Table
from profilestream.base.errors import Conflict
from profilestream.base.settings import Paths
from profilestream.base.time_ranges import TimeRanges

_ATTEMPTS = 5
_CHANGE_TYPE = "_change_type"
# Bytes of the rows in memory that were written last: active users are in many batches, one after the other.
_MAX_WRITTEN_BYTES = 256 << 20
# This number of files of a partition with fewer rows than this are combined.
_SMALL_FILES, _SMALL_ROWS = 16, 50_000
_Wanted = dict[str, list[Any]]  # values of a scan by column
_ScannedFile = tuple[pa.Table, Positions]  # rows with these values, and their positions


@dataclass
class _IndexedFile:
    """The keys of a data file.

    Args:
        hashes: of the keys, ascending.
        rows: the position of the key of each hash.
        metadata: of the Parquet file.
        vector: the deletion vector in the log that `deleted` was read from.
        deleted: positions of deleted rows, ascending.
    """

    hashes: NDArray[np.int64]
    rows: Positions
    metadata: pq.FileMetaData
    vector: Action | None = None
    deleted: Positions = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def live(self) -> Positions:
        """Positions of the rows that are not deleted, ascending."""
        return np.setdiff1d(self.rows, self.deleted)


@dataclass(frozen=True)
class StoredRows:
    """Rows of some keys.

    Args:
        rows: with the columns of the table, or some of them; keys without a stored row are left out.
        places: their positions by data file, in the order of the rows.
        version: of the table.
    """

    rows: pa.Table
    places: dict[str, Positions]
    version: int

    def where(self, mask: NDArray[np.bool_]) -> "StoredRows":
        """The rows where a mask is true."""
        ends = np.cumsum([len(positions) for positions in self.places.values()])
        masks = zip(self.places.items(), np.split(mask, ends[:-1]), strict=True) if self.places else ()
        places = {path: positions[is_left] for (path, positions), is_left in masks if is_left.any()}
        return StoredRows(self.rows.filter(pa.array(mask)), places, self.version)


class KeyedRows:
    """The rows of one table in a local file system. It is used by one thread at a time.

    Partition columns contain texts, dates or integers. An indexed key takes 16 bytes; in addition, the footer of each
    Parquet file is in memory, the result of the last `scan` of each list of columns, and up to 256 MB of the rows that
    `update` wrote last.
    """

    def __init__(self, table: Table, paths: Paths) -> None:
        folder = table.local_folder(paths)
        assert folder is not None
        self._table, self._folder = table, folder
        self._schema = table.arrow_schema
        self._found_by = table.found_by or table.key
        self._log = DeltaLog(self._folder)
        self._files: dict[str, _IndexedFile] = {}
        self._metadata: Action = {}
        self._scans: dict[tuple[str, ...], tuple[_Wanted, dict[str, _ScannedFile]]] = {}
        self._written: dict[str, pa.Table] = {}  # rows of the latest files, without partition columns, oldest first

    @property
    def version(self) -> int:
        """The version of the table at the last refresh."""
        return self._log.version

    @property
    def _has_change_feed(self) -> bool:
        return self._table.properties.get("delta.enableChangeDataFeed") == "true"

    def refresh(self, max_keys: int) -> bool:
        """Follow the log; false if the table has more than `max_keys` rows, or a feature that is not supported."""
        self._log.refresh()
        self._metadata = self._log.metadata
        indexed = sum(len(one.rows) for path, one in self._files.items() if path in self._log.files)
        new = [
            _stored_statistics(add).get("numRecords", max_keys + 1)
            for path, add in self._log.files.items()
            if path not in self._files
        ]
        if not self._log.is_supported or indexed + sum(new) > max_keys:
            return False
        self._index_new_files()
        return True

    def find(
        self, keys: pa.Table, columns: Sequence[str] | None = None, ranges: TimeRanges | None = None
    ) -> StoredRows:
        """The stored rows of the keys, at the version of the last refresh.

        Args:
            keys: the key columns of the table, or those that it is `found_by`; never null.
            columns: of the rows; null: all.
            ranges: row groups that contain no time in these ranges are not read.
        """
        names = self._schema.names if columns is None else columns
        keys = self._cast(keys)
        wanted = set(_tuples(keys))
        hashes = np.unique(_hashes(_tuples(keys.select(self._found_by))))
        parts, places = [], {}
        for path, positions in self._positions_by_file(hashes, ranges):
            rows = self._written_or_read(path, positions, {*names, *keys.column_names})
            # Two keys can have one hash.
            is_wanted = np.array([key in wanted for key in _tuples(rows.select(keys.column_names))])
            if is_wanted.any():
                parts.append(rows.select(names).filter(pa.array(is_wanted)))
                places[path] = positions[is_wanted]
        found = pa.concat_tables([self._schema.empty_table().select(names), *parts])
        return StoredRows(found, places, self._log.version)

    def scan(self, columns: tuple[str, ...], /, **values: str | Sequence[int]) -> pa.Table:
        """The stored rows with some values, at the version of the last refresh, in any order.

        Files of other partitions are not read, nor row groups whose statistics exclude the values. A file that the last
        scan of these columns and values used is not read again: files never change.

        Args:
            columns: of the result.
            values: for each named column, the text or the numbers that it may contain.
        """
        wanted = {name: [one] if isinstance(one, str) else list(one) for name, one in values.items()}
        last_wanted, scanned = self._scans.get(columns, ({}, {}))
        scanned = {
            path: scanned[path] if path in scanned and last_wanted == wanted else self._scanned(path, columns, wanted)
            for path in self._files
            if all(one.as_py() in wanted[name] for name, one in self._partition(path).items() if name in wanted)
        }
        self._scans[columns] = wanted, scanned
        parts = [self._schema.empty_table().select(columns)]
        for path, (rows, positions) in scanned.items():
            is_deleted = np.isin(positions, self._files[path].deleted)
            parts.append(rows.filter(pa.array(~is_deleted)) if is_deleted.any() else rows)
        return pa.concat_tables(parts)

    def update(
        self, rows: pa.Table, app_id: str, batch_id: int, *, deleted: pa.Table | None = None,
        before: StoredRows | None = None, read_version: int | None = None,
    ) -> None:  # fmt: skip
        """Insert or replace rows by key, unless the table already contains this batch of the application id.

        Args:
            rows: with the columns of the table; one per key.
            deleted: keys whose rows are deleted.
            before: the stored rows that the rows were computed from.
            read_version: the version of the table that the rows were computed from, if they depend on rows that
                `before` does not contain.

        Raises:
            Conflict: the rows of `before` or the columns of the table changed, rows of the table changed after
                `read_version`, or other writers committed at every attempt.
        """
        new = self._cast(rows)
        keys = new.select(self._table.key)
        if deleted is not None:
            keys = pa.concat_tables([keys, self._cast(deleted).select(self._table.key)])
        parts = [
            (values, one.combine_chunks()) for values, one in local_appends.partitions(new, self._table.partitioned_by)
        ]
        added = [local_appends.write_file(part, self._folder, values, self._table) for values, part in parts]
        for _ in range(_ATTEMPTS):
            self._log.refresh()
            if not self._log.is_supported or self._log.metadata != self._metadata:
                break
            self._index_new_files()
            if self._log.transactions.get(app_id, -1) >= batch_id:
                return
            if read_version is not None and self._log.rows_version > read_version:
                break
            # The values of old rows are compared with `before`, or written to the change feed.
            columns = None if before is not None or self._has_change_feed else self._table.key
            old = before if before is not None and before.version == self._log.version else self.find(keys, columns)
            if before is not None and not self._is_equal(old.rows, before.rows):
                break
            vectors = self._new_vectors(old)
            actions = [{"add": one} for one in added]
            actions += [*self._file_actions(old, vectors), *self._change_actions(new, old.rows)]
            if self._log.commit(actions, (app_id, batch_id)):
                for path, positions in vectors.items():
                    one = self._files[path]
                    one.deleted, one.vector = positions, self._log.files.get(path, {}).get("deletionVector")
                self._index_new_files()
                self._keep_written({add["path"]: part for add, (_, part) in zip(added, parts, strict=True)})
                self._combine_small_files()
                return
        raise Conflict(
            f"{self._table.name} changed during a batch, up to version {self._log.version}",
            where=str(self._folder),
            do="run the job again; the batch is then computed from the latest rows",
        )

    def _combine_small_files(self) -> None:
        """Rewrite the small files of each partition that has many; not if another writer commits meanwhile."""
        by_partition = defaultdict[tuple[str | None, ...], list[str]](list)
        for path in sorted(self._files, key=lambda path: self._log.files[path]["modificationTime"]):
            one, values = self._files[path], self._log.files[path]["partitionValues"]
            if len(one.rows) - len(one.deleted) < _SMALL_ROWS:
                by_partition[tuple(values[name] for name in self._table.partitioned_by)].append(path)
        names = [name for name in self._schema.names if name not in self._table.partitioned_by]
        for paths in by_partition.values():
            if len(paths) < _SMALL_FILES:
                continue
            parts = [self._written_or_read(path, self._files[path].live, names) for path in paths]
            rows = pa.concat_tables(parts).select(names).combine_chunks()
            partition = self._log.files[paths[0]]["partitionValues"]
            added = {**local_appends.write_file(rows, self._folder, partition, self._table), "dataChange": False}
            removed = [self._remove_action(path, changes_rows=False) for path in paths]
            if self._log.commit([*removed, {"add": added}], None, "OPTIMIZE"):
                self._index_new_files()
                self._keep_written({added["path"]: rows})

    def _keep_written(self, files: dict[str, pa.Table]) -> None:
        """Keep the rows of new files in memory, and drop those of the oldest ones beyond the limit."""
        kept = {path: rows for path, rows in self._written.items() if path in self._files} | files
        size = sum(rows.nbytes for rows in kept.values())
        for path in list(kept):
            if size <= _MAX_WRITTEN_BYTES:
                break
            size -= kept.pop(path).nbytes
        self._written = kept

    def _index_new_files(self) -> None:
        """Index the files of the log whose keys or deletion vectors are not indexed yet."""
        stored = self._log.files
        for path in self._files.keys() - stored.keys():
            del self._files[path]
        for path in stored.keys() - self._files.keys():
            self._files[path] = self._indexed(path)
        changed = [path for path, one in self._files.items() if one.vector != stored[path].get("deletionVector")]
        if changed:
            deleted = deletion_vectors.read(DeltaTable(self._folder, version=self._log.version))
            for path in changed:
                one = self._files[path]
                one.vector = stored[path].get("deletionVector")
                one.deleted = deleted.get(path.rsplit("/", 1)[-1], np.zeros(0, np.int64))

    def _indexed(self, path: str) -> _IndexedFile:
        key, partition = self._found_by, self._partition(path)
        with self._open(path) as file:
            # Tuples of all keys of a large file would take ten times as much memory as their hashes.
            tables = (pa.Table.from_batches([part]) for part in file.iter_batches(columns=list(key)))
            hashes = [_hashes(_tuples(self._cast(rows, key, partition).select(key))) for rows in tables]
            all_hashes = np.concatenate([np.zeros(0, np.int64), *hashes])
            order = np.argsort(all_hashes)
            return _IndexedFile(all_hashes[order], order, file.metadata)

    def _positions_by_file(
        self, hashes: NDArray[np.int64], ranges: TimeRanges | None = None
    ) -> Iterator[tuple[str, Positions]]:
        """The positions of undeleted rows with these hashes, by file, in row groups with times in the ranges."""
        for path, one in self._files.items():
            first, last = (np.searchsorted(one.hashes, hashes, side) for side in ("left", "right"))
            rows = [one.rows[first[n] : last[n]] for n in np.flatnonzero(first < last)]
            if not rows:
                continue
            positions = np.setdiff1d(np.concatenate(rows), one.deleted)
            if ranges is not None and len(positions):
                sizes = [group.num_rows for group in _row_groups(one.metadata)]
                positions = positions[np.repeat(ranges.row_groups(one.metadata), sizes)[positions]]
            if len(positions):
                yield path, positions

    def _open(self, path: str, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
        return pq.ParquetFile(self._folder / unquote(path), metadata=metadata)

    def _partition(self, path: str) -> dict[str, Any]:
        return partition_values(self._log.files[path], self._schema)

    def _scanned(self, path: str, columns: tuple[str, ...], wanted: _Wanted) -> _ScannedFile:
        """The rows of a file with the wanted values, also deleted ones."""
        groups = _row_groups(self._files[path].metadata)
        is_read = np.array([_may_contain(group, wanted) for group in groups], bool)
        positions = np.flatnonzero(np.repeat(is_read, [group.num_rows for group in groups]))
        rows = self._read(path, positions, {*columns, *wanted})
        for name in wanted.keys() - set(self._table.partitioned_by):
            is_wanted = pc.is_in(rows[name], value_set=pa.array(wanted[name], rows[name].type))
            rows, positions = rows.filter(is_wanted), positions[is_wanted.to_numpy()]
        return rows.select(columns), positions

    def _written_or_read(self, path: str, positions: Positions, names: Collection[str]) -> pa.Table:
        """As `_read`, from memory if possible; `names` contain a column that is no partition column."""
        if (written := self._written.get(path)) is None:
            return self._read(path, positions, names)
        rows = written.select([name for name in written.column_names if name in names]).take(positions)
        return self._cast(rows, names, self._partition(path))

    def _read(self, path: str, positions: Positions, names: Collection[str]) -> pa.Table:
        """The rows at positions, which are ascending."""
        metadata = self._files[path].metadata
        sizes = np.array([group.num_rows for group in _row_groups(metadata)], np.int64)
        ends = np.cumsum(sizes)
        of_row = np.searchsorted(ends, positions, side="right")
        groups, numbers = np.unique(of_row, return_inverse=True)
        start_in_result = np.cumsum([0, *sizes[groups[:-1]]])
        in_result = positions - (ends - sizes)[of_row] + start_in_result[numbers]
        with self._open(path, metadata) as file:
            rows = file.read_row_groups(groups.tolist(), columns=[*names])
        rows = rows.take(pa.array(in_result)) if len(positions) < len(rows) else rows
        return self._cast(rows, names, self._partition(path))

    def _cast(
        self, rows: pa.Table, names: Collection[str] | None = None, partition: dict[str, Any] | None = None
    ) -> pa.Table:
        return cast_rows(rows, self._schema, names or rows.column_names, partition or {})

    def _keys_of(self, rows: pa.Table) -> list[tuple[Any, ...]]:
        return _tuples(rows.select(self._table.key))

    def _is_equal(self, one: pa.Table, other: pa.Table) -> bool:
        if one is other:
            return True
        order: list[tuple[str, Literal["ascending", "descending"]]] = [(name, "ascending") for name in self._table.key]
        # As text, NaN is equal to NaN.
        return str(one.sort_by(order).to_pylist()) == str(other.sort_by(order).to_pylist())

    def _new_vectors(self, old: StoredRows) -> dict[str, Positions]:
        """The deleted positions of each file with old rows, after these rows are deleted."""
        return {path: np.union1d(self._files[path].deleted, positions) for path, positions in old.places.items()}

    def _file_actions(self, old: StoredRows, vectors: dict[str, Positions]) -> Iterator[Action]:
        """The actions that give each file its deletion vector; a file without remaining rows is removed."""
        is_left = {path: len(positions) < len(self._files[path].rows) for path, positions in vectors.items()}
        remaining = {path: positions for path, positions in vectors.items() if is_left[path]}
        descriptors = deletion_vectors.write(self._folder, remaining) if remaining else {}
        for path in vectors:
            yield self._remove_action(path, changes_rows=True)
            if is_left[path]:
                add = self._log.files[path]
                stats = json.dumps({**_stored_statistics(add), "tightBounds": False})
                yield {"add": {**add, "dataChange": True, "stats": stats, "deletionVector": descriptors[path]}}

    def _remove_action(self, path: str, *, changes_rows: bool) -> Action:
        add, now = self._log.files[path], int(time.time() * 1000)
        fields = ("path", "partitionValues", "size", "deletionVector", "stats")
        removed = {name: add[name] for name in fields if name in add}
        more = {"dataChange": changes_rows, "deletionTimestamp": now, "extendedFileMetadata": True}
        return {"remove": {**removed, **more}}

    def _change_actions(self, new: pa.Table, old: pa.Table) -> Iterator[Action]:
        """The actions that add files of changes. Without old rows, the change feed reads the added files as inserts."""
        if not len(old) or not self._has_change_feed:
            return
        old_keys, new_keys = self._keys_of(old), self._keys_of(new)
        updated = set(old_keys) & set(new_keys)
        types = ["update_preimage" if key in updated else "delete" for key in old_keys]
        types += ["update_postimage" if key in updated else "insert" for key in new_keys]
        changes = pa.concat_tables([old, new]).append_column(_CHANGE_TYPE, pa.array(types))
        for values, part in local_appends.partitions(changes, self._table.partitioned_by):
            file = local_appends.new_file(self._folder / "_change_data", values)
            local_appends.write_parquet(part, file, is_updated=False)
            yield {"cdc": {**local_appends.file_fields(file, self._folder, values), "dataChange": False}}


def partition_values(add: Action, schema: pa.Schema) -> dict[str, Any]:
    """The Arrow scalars of the partition columns of a file, which it does not contain; an empty text is null."""
    texts = add["partitionValues"]
    return {name: pa.scalar(text or None, pa.string()).cast(schema.field(name).type) for name, text in texts.items()}


def cast_rows(rows: pa.Table, schema: pa.Schema, names: Collection[str], partition: dict[str, Any]) -> pa.Table:
    """Columns of the rows of a file in the types and in the order of the table.

    A file has no partition columns, and no column that was added to the table later; its values are null.
    """
    schema = pa.schema([one for one in schema if one.name in names])
    stored = {one.name: rows[one.name].cast(one.type) for one in schema if one.name in rows.column_names}
    stored |= {name: pa.repeat(value, len(rows)) for name, value in partition.items()}
    columns = [stored[one.name] if one.name in stored else pa.nulls(len(rows), one.type) for one in schema]
    return pa.table(columns, schema=schema)


def _row_groups(metadata: pq.FileMetaData) -> list[pq.RowGroupMetaData]:
    return [metadata.row_group(n) for n in range(metadata.num_row_groups)]


def _may_contain(group: pq.RowGroupMetaData, wanted: _Wanted) -> bool:
    """Whether the statistics of a row group include, for each column, one of the wanted values."""
    for chunk in (group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema in wanted):
        bounds, values = chunk.statistics, wanted[chunk.path_in_schema]
        if bounds is None or not bounds.has_min_max:
            continue
        if not any(bounds.min <= value <= bounds.max for value in values):
            return False
    return True


def _stored_statistics(add: Action) -> dict[str, Any]:
    return dict(json.loads(add.get("stats") or "{}"))


def _tuples(keys: pa.Table) -> list[tuple[Any, ...]]:
    """The keys as tuples; times as microseconds since 1970, which are faster than datetime objects."""
    columns = [
        (one.cast(pa.int64()) if pa.types.is_timestamp(one.type) else one).to_pylist() for one in keys.itercolumns()
    ]
    return list(zip(*columns, strict=True))


def _hashes(keys: list[tuple[Any, ...]]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, keys), np.int64, len(keys))
