"""Columns of text lines that are neither JSON nor CSV: cells between several characters, access logs, key=value."""

import re
from collections import Counter
from collections.abc import Callable

from profilestream.capture.detection.csv_dialect import has_header
from profilestream.capture.detection.log_sample import SampleColumn, literal

_SEPARATORS = {"::": "::", "||": "[|][|]", "|||": "[|][|][|]", "\t\t": "\t\t", ";;": ";;", "@@": "@@", " | ": " [|] ",
               ",,": ",,", "~~": "~~", "^^": "[\\^][\\^]", "$$": "[$][$]"}  # fmt: skip
_ACCESS = r'^([^ ]+) [^ ]+ ([^ ]+) \[([^\]]+)\] "([A-Z]+) ([^ "]+)[^"]*" ([0-9]+) ([0-9-]+)( "([^"]*)" "([^"]*)")?'
_ACCESS_FIELDS = {"ip": 1, "user": 2, "time": 3, "method": 4, "url": 5, "status": 6, "bytes": 7, "user_agent": 10}
_PAIR = re.compile(r'(?:^|[\s,;&?|])([A-Za-z_][\w.]*)=("[^"]*"|[^\s,;&|]*)')
_USES = (("line",),)


def is_access_log(lines: list[str]) -> bool:
    """Whether most lines are those of a web server."""
    pattern = re.compile(_ACCESS)
    return sum(bool(pattern.match(line)) for line in lines) >= 0.8 * len(lines)


def columns(lines: list[str]) -> tuple[list[SampleColumn], str, bool]:
    """Columns of the lines, a description of their form, and whether the first line contains names."""
    for parse in (_access_log, _separated, _pairs, _blanks):
        parsed = parse(lines)
        if parsed:
            return parsed
    return [], "", False


def _access_log(lines: list[str]) -> tuple[list[SampleColumn], str, bool] | None:
    if not is_access_log(lines):
        return None
    pattern = re.compile(_ACCESS)
    matches = [pattern.match(line) for line in lines]
    sql_pattern = literal(_ACCESS)
    result = []
    for name, group in _ACCESS_FIELDS.items():
        values = tuple(m[group] if m and m[group] else None for m in matches)
        result.append(SampleColumn((name,), f"regexp_extract(line, {sql_pattern}, {group})", _USES, values,
                                   blank_is_null=False))  # fmt: skip
    return result, "lines of a web server (combined log format)", False


def _separated(lines: list[str]) -> tuple[list[SampleColumn], str, bool] | None:
    for separator, pattern in sorted(_SEPARATORS.items(), key=lambda item: -len(item[0])):
        if sum(separator in line for line in lines) >= 0.9 * len(lines):

            def cells(line: str, separator: str = separator) -> list[str]:
                return line.split(separator)

            parsed = _cells(lines, cells, f"split(line, {literal(pattern)})")
            if parsed:
                return parsed[0], f"cells between {separator!r}", parsed[1]
    return None


def _blanks(lines: list[str]) -> tuple[list[SampleColumn], str, bool] | None:
    blanks = "[ \t]+" if any("\t" in line for line in lines) else " +"
    parsed = _cells(lines, str.split, f"split(trim(line), '{blanks}')")
    return None if parsed is None else (parsed[0], "cells between blanks", parsed[1])


def _pairs(lines: list[str]) -> tuple[list[SampleColumn], str, bool] | None:
    records = [dict(_PAIR.findall(line)) for line in lines]
    counts = Counter(key for record in records for key in record)
    keys = [key for key, count in counts.items() if count >= 0.05 * len(lines)]
    if sum(len(record) >= 2 for record in records) < 0.8 * len(lines):
        return None
    result = []
    for key in keys:
        values = tuple(record[key].strip('"') if key in record else None for record in records)
        pattern = literal(rf'(^|[\s,;&?|]){re.escape(key)}=("[^"]*"|[^\s,;&|]*)')
        sql = f"""trim(BOTH '"' FROM regexp_extract(line, {pattern}, 2))"""
        result.append(SampleColumn((key,), sql, _USES, values, blank_is_null=False))
    return result, "key=value pairs", False


def _cells(lines: list[str], parse: Callable[[str], list[str]], sql: str) -> tuple[list[SampleColumn], bool] | None:
    rows = [parse(line) for line in lines]
    width, count = Counter(map(len, rows)).most_common(1)[0]
    if width < 2 or count < 0.85 * len(rows):
        return None
    complete = [row for row in rows if len(row) == width]
    header = complete[0] if rows[0] == complete[0] and has_header(complete) else None
    body = complete[1:] if header else complete
    return [
        SampleColumn((header[i].strip() if header else "",), f"get({sql}, {i})", _USES,
                     tuple(row[i] for row in body), blank_is_null=False)
        for i in range(width)
    ], header is not None  # fmt: skip
