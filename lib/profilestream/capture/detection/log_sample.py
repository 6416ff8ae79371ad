"""A sample of a log as columns of texts, with the SQL that reads each column in a mapping."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa

from profilestream.base.columns import quoted
from profilestream.capture import raw_records
from profilestream.capture.detection.sample_files import FileGroup

Kind = Literal["text", "bigint", "double", "boolean", "timestamp", "date"]
# Texts that logs write for a missing value. A blank text is one too, except in CSV, where capture reads it as null.
NULL_TEXTS = {
    "na", "n/a", "#n/a", "null", "(null)", "none", "nan", "nil", "\\n", "-", "--", "undefined", "(not set)", "not set",
    "[null]", "missing", "?", "",
}  # fmt: skip
# Name of the column with the date in the path of the file.
SOURCE_FILE_DATE = "source_file_date"
_RESERVED = {*raw_records.COLUMNS, "source_file"}
_KEYWORDS = frozenset(
    (
        "all and any as between case cast cross current_date current_time current_timestamp current_user desc "
        "distinct else end exists extract false for from group having if in inner interval into is join left "
        "like not null on or order outer right select session_user table then to true union unique user using "
        "when where with"
    ).split()
)


@dataclass(frozen=True)
class SampleColumn:
    """A raw column, a nested field, or a part of a text line.

    Args:
        path: names from the raw column to the field.
        sql: SQL that reads it; the result is a text unless `kind` differs.
        uses: paths to declare in `input.columns`, each from the raw column on; `[]` is the element of an array.
        values: the value of each record as a text; null where it is missing.
        kind: type of the stored value.
        blank_is_null: whether capture reads a blank text as null, as in CSV.
    """

    path: tuple[str, ...]
    sql: str
    uses: tuple[tuple[str, ...], ...]
    values: tuple[str | None, ...] = field(repr=False)
    kind: Kind = "text"
    blank_is_null: bool = True

    @property
    def name(self) -> str:
        """The names of the path with dots between them."""
        return ".".join(self.path)

    @cached_property
    def present(self) -> list[str]:
        """The values without those that are missing."""
        return [value for value in self.values if value is not None and value.strip().lower() not in NULL_TEXTS]

    @cached_property
    def distinct(self) -> set[str]:
        """The different values of `present`."""
        return set(self.present)

    @property
    def null_share(self) -> float:
        """Share of the records without a value."""
        return 1 - len(self.present) / max(1, len(self.values))

    @cached_property
    def null_texts(self) -> list[str]:
        """The texts of missing values that occur, such as NA; not the blank text if capture reads it as null."""
        texts = {value for value in self.values if value is not None and value.strip().lower() in NULL_TEXTS}
        return sorted(text for text in texts if text or not self.blank_is_null)

    @property
    def clean_sql(self) -> str:
        """SQL that is null where the value is missing."""
        return null_if(self.sql, self.null_texts) if self.kind == "text" else self.sql


@dataclass(frozen=True)
class LogSample:
    """A sample of a log.

    Args:
        group: the files of the log; for a Delta table, a group without files.
        input: keys of `[input]` that differ from their defaults, without `columns`.
        columns: everything that can be read from a record.
        raw_types: types of the raw columns, in order, of a typed format or of a CSV file without a header; else empty.
        evidence: what was detected, by key of `[input]`.
        unsure: sentences on what is not certain.
        files: by relative path, the sampled lines with their separator, or a table.
        explode_path: names from the raw column to the exploded array; empty if there is none.
    """

    group: FileGroup
    input: dict[str, str | bool | int]
    columns: list[SampleColumn] = field(repr=False)
    raw_types: dict[str, str]
    evidence: dict[str, str]
    unsure: list[str]
    files: dict[str, bytes | pa.Table] = field(repr=False)
    explode_path: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Number of records of the sample."""
        return len(self.columns[0].values) if self.columns else 0


def quote(name: str) -> str:
    """An identifier for SQL and DDL, in backticks where needed."""
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in _KEYWORDS
    return name if is_plain else quoted(name)


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def null_if(sql: str, texts: list[str]) -> str:
    """SQL that is null where the value is one of the texts."""
    if len(texts) > 1:
        return f"CASE WHEN {sql} NOT IN ({', '.join(literal(text) for text in texts)}) THEN {sql} END"
    return f"nullif({sql}, {literal(texts[0])})" if texts else sql


def raw_column_sql(name: str, names: list[str]) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """SQL and uses of a raw column. A name that cannot be declared is read from `extra`."""
    same = [other for other in names if other.lower() == name.lower()]
    if name.lower() in _RESERVED or len(same) > 1:
        return f"extra[{literal(name)}]", ()
    return quote(name), ((name,),)


def relative_name(path: Path, root: Path) -> str:
    """The path of a sampled file relative to the source."""
    return str(path.relative_to(root))
