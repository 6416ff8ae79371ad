"""Appends of few rows in the process of the driver: pyarrow writes the files, and delta-rs commits them.

A commit of Spark takes 0.5 s or more. The commit here has the same application id and version as one of Spark
(commits.py), so a batch that one of them began may be finished by the other. Partitions are written in ascending order,
one file each, because a stream reads the files of a commit in their order.
"""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction, RemoveAction

from profilestream.base.delta_log import after_commit, latest_version
from profilestream.base.delta_table import Table
from profilestream.base.settings import Paths

# Rows of tables that are updated by key have many small states, which zstd makes smaller than snappy does.
UPDATED_CODEC: Final = "zstd"
# Of a table that is updated by key. A reader of one row decodes the row group.
_ROW_GROUP_ROWS = 500
_LONGEST_STATISTIC = 32  # characters, as of Spark


def is_possible(table: Table, paths: Paths) -> bool:
    """Whether the table is in a local file system, where a commit cannot replace another one."""
    return table.local_folder(paths) is not None


def append(rows: pa.Table, table: Table, paths: Paths, writer: tuple[str, int] | None = None) -> None:
    """Append the rows, unless the table already contains this batch of the writer.

    Args:
        rows: with the columns of the table.
        writer: application id and batch; null: append in any case.
    """
    folder = table.local_folder(paths)
    assert folder is not None
    stored = DeltaTable(folder)
    last = stored.transaction_version(writer[0]) if writer else None
    if writer and last is not None and last >= writer[1]:
        return
    rows = rows.select(table.names).cast(table.arrow_schema)
    parts = partitions(rows, table.partitioned_by)
    written = [write_file(part, folder, values, table) for values, part in parts]
    added: list[AddAction | RemoveAction] = [
        AddAction(
            unquote(add["path"]),  # delta-rs escapes it
            add["size"],
            add["partitionValues"],
            add["modificationTime"],
            add["dataChange"],
            add["stats"],
        )
        for add in written
    ]
    stored.create_write_transaction(
        added,
        "append",
        stored.schema(),
        list(table.partitioned_by) or None,
        commit_properties=CommitProperties(app_transactions=[Transaction(*writer)] if writer else None),
    )
    after_commit(folder, latest_version(folder))


def partitions(rows: pa.Table, by: tuple[str, ...]) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    """The values of each partition as texts, and its rows without these columns; nothing without rows."""
    if not by:
        if len(rows):
            yield {}, rows
        return
    distinct = rows.select(list(by)).group_by(list(by)).aggregate([]).to_pylist()
    for values in sorted(distinct, key=lambda one: [(value is not None, value) for value in one.values()]):
        part = rows
        for name, value in values.items():
            part = part.filter(pc.is_null(part[name]) if value is None else pc.equal(part[name], value))
        yield {name: _partition_text(value) for name, value in values.items()}, part.drop_columns(list(by))


def _partition_text(value: Any) -> str | None:
    """A partition value as Delta writes it: times in UTC without their zone, an empty text as null."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ")
    return None if value is None or value == "" else str(value)


def write_file(rows: pa.Table, folder: Path, partition: dict[str, str | None], table: Table) -> dict[str, Any]:
    """Write a data file of one partition; returns its `add` action."""
    file = new_file(folder, partition)
    write_parquet(rows, file, is_updated=table.is_updated)
    columns = table.properties.get("delta.dataSkippingStatsColumns", ",".join(rows.column_names)).split(",")
    return {
        **file_fields(file, folder, partition),
        "modificationTime": int(time.time() * 1000),
        "dataChange": True,
        "stats": json.dumps(_statistics(pq.read_metadata(file), columns)),
    }


def new_file(folder: Path, partition: dict[str, str | None]) -> Path:
    """The path of a new Parquet file below a folder, in the folder of its partition, which is created."""
    folders = [f"{name}={quote(value or '__HIVE_DEFAULT_PARTITION__', safe='')}" for name, value in partition.items()]
    file = folder.joinpath(*folders, f"part-{uuid.uuid4()}.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def file_fields(file: Path, folder: Path, partition: dict[str, str | None]) -> dict[str, Any]:
    """The fields that an `add` and a `cdc` action of a file share; the path is relative to the table and escaped."""
    path = quote(file.relative_to(folder).as_posix(), safe="/=")
    return {"path": path, "partitionValues": partition, "size": file.stat().st_size}


def write_parquet(rows: pa.Table, path: Path, *, is_updated: bool) -> None:
    """Write a Parquet file that Spark filters correctly.

    Parquet leaves NaN out of the bounds of a row group. For Spark, NaN is the largest number, so it would skip the row
    group. So columns of numbers with a point have no bounds, and nested columns, which may contain some, neither.

    Args:
        is_updated: rows of a table that is updated by key: they are read one by one, each with its row group.
    """
    with_bounds = [
        field.name
        for field in rows.schema
        if not pa.types.is_nested(field.type) and not pa.types.is_floating(field.type)
    ]
    pq.write_table(
        rows,
        path,
        compression=UPDATED_CODEC if is_updated else "snappy",
        row_group_size=_ROW_GROUP_ROWS if is_updated else None,
        write_statistics=cast(Any, with_bounds),
    )


def _statistics(metadata: pq.FileMetaData, columns: list[str]) -> dict[str, Any]:
    """Delta's statistics of a file: number of rows, and smallest and largest values of columns that are not nested."""
    smallest: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    unknown: set[str] = set()
    chunks = [
        metadata.row_group(n).column(c) for n in range(metadata.num_row_groups) for c in range(metadata.num_columns)
    ]
    for chunk in chunks:
        name, statistics = chunk.path_in_schema, cast(Any, chunk.statistics)
        if name not in columns or statistics is None or statistics.null_count is None:
            continue
        nulls[name] = nulls.get(name, 0) + statistics.null_count
        bounds = _bounds(statistics)
        if bounds is not None:
            smallest[name] = min(smallest.get(name, bounds[0]), bounds[0])
            largest[name] = max(largest.get(name, bounds[1]), bounds[1])
        elif statistics.null_count < chunk.num_values:
            unknown.add(name)
    names = [name for name in smallest if name not in unknown]
    return {
        "numRecords": metadata.num_rows,
        "minValues": {name: _as_json(smallest[name], timedelta()) for name in names},
        "maxValues": {name: _as_json(largest[name], timedelta(milliseconds=1)) for name in names},
        "nullCount": nulls,
    }


def _bounds(statistics: Any) -> tuple[Any, Any] | None:
    """The smallest and the largest value of a row group; null if they are unknown or cannot be written."""
    try:
        bounds = (statistics.min, statistics.max) if statistics.has_min_max else None
        if bounds is None or not isinstance(bounds[0], (int, str, date)):
            return None
        if isinstance(bounds[1], datetime):
            bounds[1] + timedelta(milliseconds=1)
    except OverflowError:  # a time outside of the years of Python
        return None
    is_long = isinstance(bounds[0], str) and max(map(len, bounds)) > _LONGEST_STATISTIC
    return None if is_long else bounds


def _as_json(value: Any, rounding: timedelta) -> Any:
    """A statistic as Delta writes it; times in milliseconds, a largest time rounded up."""
    if isinstance(value, datetime):
        return (value + rounding).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value
