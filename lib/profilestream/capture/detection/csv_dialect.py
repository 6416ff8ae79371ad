"""Separator, quote, header and preamble of CSV files, from sample lines."""

import csv
import re
from collections import Counter
from dataclasses import dataclass

from profilestream.capture.detection import column_names, number_formats, time_formats

_SEPARATORS = (",", ";", "\t", "|", "\x01", "^", "~")
_MIN_SHARE = 0.85


@dataclass(frozen=True)
class Dialect:
    """The form of CSV lines; the names are those of `[input]`.

    Args:
        share: share of the sample lines with the most common number of cells.
        width: this number of cells.
    """

    separator: str
    quote: str
    escape: str
    comment: str
    skip_lines: int
    share: float
    width: int


def detect(lines: list[str]) -> Dialect | None:
    """The dialect of most lines of a file; null if the lines have no common number of cells above one."""
    start = 1 if lines and re.fullmatch(r"sep=.", lines[0].strip(), re.IGNORECASE) else 0
    is_comment = lines[start : start + 1] != [] and lines[start].startswith("#")
    numbers = [
        n for n in range(start, len(lines)) if lines[n].strip() and not (is_comment and lines[n].startswith("#"))
    ]
    body = [lines[n] for n in numbers[:2000]]
    quote = _quote(body)
    escape = "\\" if sum('\\"' in line for line in body) > sum('""' in line for line in body) else ""
    best: Dialect | None = None
    for separator in _SEPARATORS:
        rows = [split(line, separator, quote, escape) for line in body]
        # A title or a note above the header makes the first lines differ, so the most common width counts.
        width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (1, 0)
        share = count / max(1, len(rows))
        is_better = best is None or (round(share, 1), width) > (round(best.share, 1), best.width)
        if width > 1 and share >= _MIN_SHARE and is_better:
            skipped = _preamble(rows, width)
            skip_lines = numbers[skipped] if skipped else start
            best = Dialect(separator, quote, escape, "#" if is_comment else "", skip_lines, share, width)
    return best


def _preamble(rows: list[list[str]], width: int) -> int:
    """Number of rows above the header: they have another number of cells, or most of their cells are blank."""
    filled = [len(row) == width and sum(bool(cell.strip()) for cell in row) * 2 > width for row in rows]
    return filled.index(True) if len(rows) > 3 and sum(filled) * 2 > len(rows) else 0


def split(line: str, separator: str, quote: str, escape: str) -> list[str]:
    """The cells of a line; one cell if the line is not valid."""
    try:
        return next(csv.reader([line], delimiter=separator, quotechar=quote, escapechar=escape or None,
                               doublequote=not escape), [])  # fmt: skip
    except csv.Error:
        return [line]


def has_header(rows: list[list[str]]) -> bool:
    """Whether the first row contains names: no numbers or times, no repetition, and other values below it."""
    first, others = [cell.strip() for cell in rows[0]], rows[1:201]
    names = [cell for cell in first if cell]
    if not names or len(set(names)) < len(names) or any(_is_value(name) for name in names):
        return False
    if not others or sum(bool(column_names.scores((name,))) for name in names) * 2 >= len(names):
        return True
    columns = [[row[i].strip() for row in others if i < len(row) and row[i].strip()] for i in range(len(first))]
    if any(column and sum(map(_is_value, column)) >= 0.9 * len(column) for column in columns):
        return True
    return not any(name in column for name, column in zip(first, columns, strict=True)) and all(
        re.fullmatch(r"[\w .#%()/-]{1,40}", name) for name in names
    )


def _is_value(text: str) -> bool:
    return (
        bool(re.fullmatch(r"[-+$€£]?[\d., ]*\d%?", text))
        or time_formats.detect([text]) is not None
        or (number_formats.detect([text]) is not None)
    )


def _quote(lines: list[str]) -> str:
    """A single quote if most lines have cells in single quotes and none in double quotes."""
    single = sum(bool(re.search(r"(^|[,;\t|])'[^']*'([,;\t|]|$)", line)) for line in lines)
    return "'" if single * 2 > len(lines) and not any('"' in line for line in lines) else '"'
