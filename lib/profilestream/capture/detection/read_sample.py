"""Reads a sample of a log and detects its format: JSON lines, CSV, text lines, Parquet, Delta."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from profilestream.base.errors import BadSettings, SourceUnreadable
from profilestream.capture.detection import charset, csv_dialect, csv_sample, nested_records, sample_files, text_lines
from profilestream.capture.detection.csv_dialect import Dialect
from profilestream.capture.detection.log_sample import (
    SOURCE_FILE_DATE,
    Kind,
    LogSample,
    SampleColumn,
    quote,
    relative_name,
)
from profilestream.capture.detection.nested_records import Explode
from profilestream.capture.detection.sample_files import FileGroup

_PARQUET_MAGIC = b"PAR1"
_FILE_DATE = re.compile(r"(20\d\d)-?([01]\d)-?([0-3]\d)")


def read(group: FileGroup) -> LogSample:
    """A sample of the files of a group.

    Raises:
        SourceUnreadable: a file cannot be read, or is in a format that capture does not read.
    """
    with open(group.paths[0], "rb") as file:
        is_parquet = file.read(4) == _PARQUET_MAGIC
    if is_parquet:
        return _read_parquet(group)
    lines_by_file = sample_files.sample_lines(group)
    raw_lines = [line for _, lines in lines_by_file for line in lines]
    encoding = charset.detect(raw_lines)
    texts = [(path, [charset.decode(line, encoding) for line in lines]) for path, lines in lines_by_file]
    separator = sample_files.line_separator(raw_lines[0] if raw_lines else b"")
    if encoding.java.startswith(("UTF-16", "UTF-32")):
        separator = "\n".encode(encoding.python)
    sample = _read_texts(group, texts)
    sample.files.update(
        {_plain_name(path, group.root): separator.join(lines) + separator for path, lines in lines_by_file}
    )
    if encoding.java != "UTF-8":
        sample.input["encoding"] = encoding.java
    sample.evidence["encoding"] = encoding.evidence
    if not encoding.is_sure:
        sample.unsure.append(f"input.encoding: {encoding.evidence}")
    return _with_columns_of_paths(sample, texts)


def read_delta(path: Path) -> LogSample:
    """A sample of the first rows of a Delta table.

    Raises:
        SourceUnreadable: the table has features that the reader does not support.
    """
    try:
        table = DeltaTable(str(path)).to_pyarrow_dataset().head(sample_files.MAX_LINES)
    except Exception as error:
        raise SourceUnreadable(
            f"the Delta table cannot be read: {error}", where=str(path), do="check the table"
        ) from None
    return _from_table(FileGroup(path, "", ()), table, "delta")


def _read_texts(group: FileGroup, texts: list[tuple[Path, list[str]]]) -> LogSample:
    lines = [line for _, file_lines in texts for line in file_lines if line.strip()]
    if not lines:
        raise SourceUnreadable("the files contain no line", where=str(group.paths[0]), do="name a file with a log")
    records = [record for line in lines if (record := nested_records.parse_json(line)) is not None]
    if len(records) * 2 > len(lines):
        return _from_json(group, records, len(lines))
    _check_not_document(lines, group.paths[0])
    dialect = csv_dialect.detect(texts[0][1])
    if dialect is not None and not _is_text(texts[0][1], dialect):
        return csv_sample.read(group, texts, dialect)
    return _from_text(group, texts, lines)


def _check_not_document(lines: list[str], path: Path) -> None:
    first = lines[0].lstrip()
    if first.startswith("[") and (len(lines) == 1 or first in ("[", "[{")) or (first == "{" and len(lines) > 1):
        raise SourceUnreadable(
            "the file is one JSON document; capture reads one JSON object per line",
            where=str(path),
            do="convert it: jq -c '.[]' log.json > log.jsonl",
        )
    if first.startswith("<"):
        raise SourceUnreadable("the file is XML", where=str(path), do="convert it to JSON lines or CSV")


def _from_json(group: FileGroup, records: list[dict[str, Any]], lines: int) -> LogSample:
    columns, explode = nested_records.columns(records)
    evidence = {"format": f"{len(records):,} of {lines:,} sampled lines are JSON objects"}
    return LogSample(group, {"format": "jsonl", **_explode_keys(explode)}, columns, {}, evidence, [], {},
                     explode.path if explode else ())  # fmt: skip


def _is_text(lines: list[str], dialect: Dialect) -> bool:
    """Whether the cells are not those of CSV: lines of a web server, key=value, a separator of two characters."""
    rows = [csv_dialect.split(line, dialect.separator, dialect.quote, dialect.escape) for line in lines[:200]]
    complete = [row for row in rows if len(row) == dialect.width]
    is_padded = dialect.width > 2 and all(not cell for row in complete for cell in row[1::2])
    is_pairs = all(re.match(r"\s*[A-Za-z_][\w.]*=", cell) for row in complete for cell in row)
    return is_padded or is_pairs or text_lines.is_access_log(lines[:200])


def _from_text(group: FileGroup, texts: list[tuple[Path, list[str]]], lines: list[str]) -> LogSample:
    columns, description, has_header = text_lines.columns([line for line in lines if not line.startswith("#")])
    if not columns:
        raise SourceUnreadable(
            "the lines are neither JSON, nor CSV, nor another form that is detected",
            where=str(group.paths[0]),
            do='write the mapping with format = "text" and regexp_extract(line, ...); see docs/mappings.md',
        )
    keys: dict[str, str | bool | int] = {"format": "text"}
    if has_header:
        keys["skip_lines"] = 1
    return LogSample(group, keys, columns, {"line": "string"}, {"format": description}, [], {})


def _read_parquet(group: FileGroup) -> LogSample:
    paths = sample_files.first_middle_last(group.paths)
    tables = [_first_rows(path, sample_files.MAX_LINES // len(paths)) for path in paths]
    sample = _from_table(group, tables[0] if len(tables) == 1 else _concat(tables), "parquet")
    sample.files.update({relative_name(path, group.root): table for path, table in zip(paths, tables, strict=True)})
    return _with_columns_of_paths(sample, [(p, t) for p, t in zip(paths, tables, strict=True)])


def _first_rows(path: Path, rows: int) -> pa.Table:
    """Rows of the first, middle and last row group of a file."""
    try:
        file = pq.ParquetFile(path)
        count = file.num_row_groups
        groups = sorted({0, count // 2, count - 1}) if count else []
        parts = []
        for group in groups:
            table = file.read_row_group(group)
            steps = max(1, rows // len(groups) // 100)
            starts = range(0, table.num_rows, max(steps, table.num_rows // 100))
            parts += [table.slice(start, steps) for start in starts]
        return pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()
    except (OSError, pa.ArrowException) as error:
        raise SourceUnreadable(
            f"a file cannot be read: {error}", where=str(path), do="repair or remove the file"
        ) from None


def _concat(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive")


def _from_table(group: FileGroup, table: pa.Table, file_format: str) -> LogSample:
    kinds: dict[str, Kind] = {}
    columns, explode = nested_records.columns(_python_rows(table), kinds)
    raw_types = {field.name: _ddl(field.type) for field in table.schema}
    evidence = {"format": "a Delta table" if file_format == "delta" else "the files are Parquet"}
    keys = {"format": file_format, **_explode_keys(explode)}
    files: dict[str, bytes | pa.Table] = {"": table} if file_format == "delta" else {}
    return LogSample(group, keys, columns, raw_types, evidence, [], files, explode.path if explode else ())


def _python_rows(table: pa.Table) -> list[dict[str, Any]]:
    nanoseconds = [
        i for i, field in enumerate(table.schema) if pa.types.is_timestamp(field.type) and field.type.unit == "ns"
    ]
    for i in nanoseconds:
        field = table.schema.field(i)
        table = table.set_column(i, field.name, table.column(i).cast(pa.timestamp("us", field.type.tz), safe=False))
    rows: list[dict[str, Any]] = table.to_pylist()
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


def _ddl(data_type: pa.DataType) -> str:
    """The Spark type of an Arrow type."""
    if pa.types.is_struct(data_type):
        fields = [data_type.field(i) for i in range(data_type.num_fields)]
        return f"struct<{', '.join(f'{quote(f.name)}: {_ddl(f.type)}' for f in fields)}>"
    if pa.types.is_map(data_type):
        return f"map<{_ddl(data_type.key_type)}, {_ddl(data_type.item_type)}>"
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return f"array<{_ddl(data_type.value_type)}>"
    if pa.types.is_decimal(data_type):
        return f"decimal({data_type.precision},{data_type.scale})"
    checks = (
        (pa.types.is_boolean, "boolean"), (pa.types.is_integer, "bigint"), (pa.types.is_floating, "double"),
        (pa.types.is_timestamp, "timestamp"), (pa.types.is_date, "date"),
    )  # fmt: skip
    return next((name for check, name in checks if check(data_type)), "string")


def _explode_keys(explode: Explode | None) -> dict[str, str | bool | int]:
    return {} if explode is None else {"explode": explode.sql, "explode_as": explode.element}


def _with_columns_of_paths(sample: LogSample, files: list[tuple[Path, Any]]) -> LogSample:
    """The sample with columns of folder names such as date=2026-03-01, or with the date in file names.

    As in capture, the columns of folder names replace columns of the same names in the files.
    """
    group, rows = sample.group, sample.rows
    by_file = [sample_files.partitions(path, group.root) for path, _ in files]
    counts = [max(1, len(content)) for _, content in files]

    def spread(values: list[str | None]) -> tuple[str | None, ...]:
        """One value per record: records are not assigned to files exactly, so values are spread by size of the file."""
        repeated = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
        return tuple(repeated[i * len(repeated) // rows] for i in range(rows))

    names = Counter(name for partition in by_file for name in partition)
    columns = [
        SampleColumn((name,), quote(name), ((name,),), spread([partition.get(name) for partition in by_file]))
        for name in names
    ]
    dates = [_FILE_DATE.search(relative_name(path, group.root)) for path, _ in files]
    if not columns and rows and all(dates):
        sql = "regexp_extract(source_file, '(20[0-9]{2})-?([01][0-9])-?([0-3][0-9])', 0)"
        columns = [SampleColumn((SOURCE_FILE_DATE,), sql, (), spread([m[0] if m else None for m in dates]))]
    return replace(
        sample,
        columns=[*[column for column in sample.columns if column.path[0] not in names], *columns],
        raw_types={name: raw_type for name, raw_type in sample.raw_types.items() if name not in names},
    )


def _plain_name(path: Path, root: Path) -> str:
    name = relative_name(path, root)
    return re.sub(r"\.(gz|zst|zstd|bz2)$", "", name)


def check_local(path: str) -> Path:
    """The local path.

    Raises:
        BadSettings: the path is on another file system.
    """
    if re.match(r"[a-z0-9]+://", path) and not path.startswith("file://"):
        raise BadSettings(
            f"{path} is not a local path", where="PATH", do="copy some files of the log to this machine, and name them"
        )
    return Path(path.removeprefix("file://"))
