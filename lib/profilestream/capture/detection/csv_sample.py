"""Columns of CSV lines; files with a header may have different columns, in any order."""

from pathlib import Path

from profilestream.capture.detection import csv_dialect
from profilestream.capture.detection.csv_dialect import Dialect
from profilestream.capture.detection.log_sample import LogSample, SampleColumn, raw_column_sql
from profilestream.capture.detection.sample_files import FileGroup

_DEFAULTS = {"separator": ",", "quote": '"', "escape": "", "comment": "", "skip_lines": 0}


def read(group: FileGroup, texts: list[tuple[Path, list[str]]], dialect: Dialect) -> LogSample:
    """The sample of CSV files.

    Args:
        texts: sampled lines by file.
        dialect: of the first file.
    """
    tables = [_rows(lines, dialect) for _, lines in texts]
    first = [row for row in tables[0] if len(row) == dialect.width]
    has_header = csv_dialect.has_header(first)
    numbered = [f"column_{i + 1}" for i in range(dialect.width)]
    headers = [[name.strip() for name in table[0]] if has_header and table else numbered for table in tables]
    names = list(dict.fromkeys(name for header in headers for name in header if name))
    columns = []
    for name in names:
        repeated = max((header for header in headers), key=lambda header: header.count(name))
        sql, uses = raw_column_sql(name, repeated)
        values = [
            v for table, header in zip(tables, headers, strict=True) for v in _values(table, header, name, has_header)
        ]
        columns.append(SampleColumn((name if has_header else "",), sql, uses, tuple(values)))
    keys = {key: getattr(dialect, key) for key, default in _DEFAULTS.items() if getattr(dialect, key) != default}
    if not has_header:
        keys["header"] = False
    evidence = {
        "format": f"{dialect.share:.0%} of the sampled lines have {dialect.width} cells with the separator "
        f"{dialect.separator!r}",
        "header": "the first line contains names" if has_header else "the first line contains values, not names",
    }
    raw_types = {} if has_header else dict.fromkeys(names, "string")
    return LogSample(group, {"format": "csv", **keys}, columns, raw_types, evidence, [], {})


def _rows(lines: list[str], dialect: Dialect) -> list[list[str]]:
    body = [line for line in lines[dialect.skip_lines :] if line.strip()]
    body = [line for line in body if not (dialect.comment and line.startswith(dialect.comment))]
    return [csv_dialect.split(line, dialect.separator, dialect.quote, dialect.escape) for line in body]


def _values(table: list[list[str]], header: list[str], name: str, has_header: bool) -> list[str | None]:
    """The cells of one column of a file; null if the file lacks it. Lines with another number of cells are left out."""
    rows = [row for row in table[1 if has_header else 0 :] if len(row) == len(header)]
    if name not in header:
        return [None] * len(rows)
    return [row[header.index(name)] or None for row in rows]
