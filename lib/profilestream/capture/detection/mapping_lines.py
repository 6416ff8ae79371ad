"""One key of a proposed mapping, and the SQL of canonical columns from their candidates."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from profilestream.capture.detection.column_roles import Candidate
from profilestream.capture.detection.log_sample import SampleColumn, null_if

Confidence = Literal["sure", "likely", "unsure"]
ToSql = Callable[[SampleColumn], str]
# Texts in the column of the user that are not users. Numbers count only if they are far more frequent than other ids.
_NOT_USERS = {"anonymous", "guest", "unknown", "gast", "unbekannt", "匿名", "游客", "not logged in", "0.0",
              "00000000-0000-0000-0000-000000000000"}  # fmt: skip
_NOT_USER_NUMBERS = {"0", "-1"}
# A column completes another one if it has a value in at least this share of the records, where the other has none.
_MIN_FILLED, _MIN_COMPLETING_SCORE = 0.02, 0.5
_COMPLETED = ("event_type", "user_id", "item_id", "order_id", "session_id", "category", "text", "price", "quantity")


@dataclass(frozen=True)
class Line:
    """One key of the mapping.

    Args:
        value: the value as in TOML: a text, a list of texts, a number or a truth value.
        evidence: why it was chosen.
        columns: names of the raw columns that it reads.
    """

    value: str | list[str] | bool | int
    confidence: Confidence = "sure"
    evidence: str = ""
    columns: tuple[SampleColumn, ...] = field(default=(), repr=False)


def confidence_of(candidates: list[Candidate]) -> Confidence:
    """`sure` if the first candidate is good and no other one is nearly as good."""
    score = candidates[0].score
    rival = candidates[1].score if len(candidates) > 1 else 0.0
    if score >= 0.85 and rival < score - 0.05:
        return "sure"
    return "likely" if score >= 0.65 else "unsure"


def line(target: str, candidates: list[Candidate], to_sql: ToSql, explode_as: str = "") -> Line:
    """The first candidate, and for some columns the next one where it completes the first.

    Args:
        explode_as: name of the exploded element; its fields are first in `coalesce`.
    """
    first = candidates[0].column
    completing = _completing(candidates) if target in _COMPLETED else None
    if completing is None:
        return Line(to_sql(first), confidence_of(candidates), candidates[0].evidence, (first,))
    if completing.path[0] == explode_as:
        first, completing = completing, first
    evidence = f"{first.name}, or {completing.name} where that is missing"
    return Line(f"coalesce({to_sql(first)}, {to_sql(completing)})", "likely", evidence, (first, completing))


def _completing(candidates: list[Candidate]) -> SampleColumn | None:
    first = candidates[0].column
    missing = [i for i, value in enumerate(first.values) if value is None or value in first.null_texts]
    for candidate in candidates[1:]:
        values, nulls = candidate.column.values, candidate.column.null_texts
        filled = sum(values[i] is not None and values[i] not in nulls for i in missing)
        if filled >= max(1, _MIN_FILLED * len(values)) and candidate.score >= _MIN_COMPLETING_SCORE:
            return candidate.column
    return None


def plain_sql(column: SampleColumn) -> str:
    """SQL of a free text."""
    return column.sql


def text_sql(column: SampleColumn) -> str:
    """SQL of a name; null where the log has a text for a missing value."""
    return column.clean_sql


def id_sql(column: SampleColumn) -> str:
    """SQL of an id: without blanks around it, and without `.0` of numbers that were stored with decimals."""
    return null_if(_bare_id_sql(column), column.null_texts) if column.kind == "text" else _bare_id_sql(column)


def user_sql(column: SampleColumn) -> str:
    """As `id_sql`; placeholders are null too, so their events are anonymous."""
    counts = Counter(column.present)
    usual = len(column.present) / max(1, len(counts))
    texts = [v for v in counts if v.strip().lower() in _NOT_USERS]
    texts += [v for v in counts if v in _NOT_USER_NUMBERS and counts[v] > max(20, 10 * usual)]
    if not texts or column.kind != "text":
        return id_sql(column)
    return null_if(_bare_id_sql(column), sorted([*column.null_texts, *texts]))


def _bare_id_sql(column: SampleColumn) -> str:
    values = column.present[:4000]
    if column.kind == "double":
        return f"try_cast({column.sql} AS BIGINT)"
    if column.kind != "text":
        return column.sql
    sql = f"trim({column.sql})" if any(value != value.strip() for value in values) else column.sql
    if values and all(re.fullmatch(r"\s*\d+\.0\s*", value) for value in values):
        sql = f"regexp_replace({sql}, '[.]0$', '')"
    return sql


def number_line(target: str, candidates: list[Candidate], explode_as: str, *, is_signed: bool) -> Line:
    """A number, without its minus sign if that marks a return."""

    def to_sql(column: SampleColumn) -> str:
        number = next(c.number for c in candidates if c.column is column)
        if column.kind != "text" or number is None:
            return f"abs({column.sql})" if is_signed else column.sql
        sql = number.sql.format(column.clean_sql)
        # Not cast to a number, so texts that are not numbers are rejected.
        return f"regexp_replace({sql}, '^-', '')" if is_signed else sql

    return line(target, candidates, to_sql, explode_as)
