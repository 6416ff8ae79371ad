"""The questions of docs/for_analysts.md: their queries by engine, and the first rows of their results as text."""

import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "for_analysts.md"
ENGINES = ("spark", "duckdb", "polars")
UPDATE = 'make test ARGS="tests/flow/test_analysts.py --update-docs"'
_SHOWN_ROWS = 4
_MAX_WIDTH = 84
_CODE = re.compile(r"^```(sql|python)([ \w]*)\n(.*?)^```$", re.S | re.M)
_RESULT = re.compile(r"^```text\n(.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class Code:
    """A query in SQL, or lines of Python that assign a lazy frame of Polars to `result`."""

    text: str
    is_sql: bool


@dataclass(frozen=True)
class Question:
    """A heading of the page, its section, its code by engine, and the result below it; empty without one."""

    title: str
    section: str
    code: dict[str, Code]
    shown: str


def questions(page: str) -> list[Question]:
    """All questions of a page, in order. A block that names no engine is for all of them."""
    read = []
    for section in page.split("\n## ")[1:]:
        for text in section.split("\n### ")[1:]:
            code = {
                engine: Code(body, language == "sql")
                for language, engines, body in _CODE.findall(text)
                for engine in engines.split() or ENGINES
            }
            read.append(Question(text.split("\n")[0], section.split("\n")[0], code, "".join(_RESULT.findall(text))))
    return read


def with_result(page: str, title: str, result: str) -> str:
    """The page with the result below the code of a question."""
    before, heading, after = page.partition(f"\n### {title}\n")
    section, *others = re.split(r"(?=\n##)", after, maxsplit=1)
    code = _RESULT.sub("", section).rstrip("\n")
    return f"{before}{heading}{code}\n\n```text\n{result}```\n{''.join(others)}"


def as_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The first rows with aligned columns, and the number of the others."""
    cells = [list(columns), *[[_cell(value) for value in row] for row in rows[:_SHOWN_ROWS]]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    others = len(rows) - _SHOWN_ROWS
    lines += [f"... {others} more row{'s' * (others > 1)}"] if others > 0 else []
    return "".join(f"{line}\n" for line in lines)


def _cell(value: Any) -> str:
    """At least four digits of a number: sums and predictions differ in their last digits between runs and machines."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, list):
        value = f"[{', '.join(value)}]"
    if isinstance(value, (str, datetime.date)):
        text = str(value)
        return text if len(text) <= _MAX_WIDTH else f"{text[: _MAX_WIDTH - 3]}..."
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    # First to 6 decimals, so that 1231.4999999 and 1231.5 are equal.
    return f"{round(round(float(value), 6), max(0, digits)):.15g}"


def are_equal(one: Any, other: Any) -> bool:
    """Whether two results are equal: numbers of any type within 1e-9, times without their time zone."""
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(are_equal, one, other))
    if isinstance(one, datetime.datetime) and isinstance(other, datetime.datetime):
        return one.replace(tzinfo=None) == other.replace(tzinfo=None)
    if one is None or other is None or isinstance(one, (str, datetime.date)) or isinstance(other, (str, datetime.date)):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
