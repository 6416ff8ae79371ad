"""Which raw columns can be which canonical column: candidates by name and by content, best first."""

import re
from dataclasses import dataclass

from profilestream.capture.detection import column_names, content_roles, number_formats, time_formats
from profilestream.capture.detection.event_type_values import canonical_type, code_types
from profilestream.capture.detection.log_sample import LogSample, SampleColumn
from profilestream.capture.detection.number_formats import NumberFormat
from profilestream.capture.detection.time_formats import TimeFormat

TARGETS = tuple(column_names.PATTERNS)
IDS = ("user_id", "item_id", "session_id", "order_id")
NUMBERS = ("price", "value", "quantity", "rating")
_MIN_SCORE = {"event_time": 0.35, "event_type": 0.45, "event_id": 0.85, "text": 0.5, "category": 0.5}
_DEFAULT_MIN_SCORE = 0.5
_MAX_TYPES = 100
# Values are checked on this many present ones.
_CHECKED = 4000


@dataclass(frozen=True)
class Candidate:
    """A raw column that can be a canonical column.

    Args:
        score: 0 to 1.
        evidence: why, as a part of a sentence.
        time, number: format of its values, for times and numbers.
    """

    column: SampleColumn
    score: float
    evidence: str
    time: TimeFormat | None = None
    number: NumberFormat | None = None


Roles = dict[str, list[Candidate]]


def rank(sample: LogSample) -> Roles:
    """Candidates by canonical column, best first; a raw column is the first candidate of one canonical column only."""
    scored = [column_names.scores(column.path) if column.path != ("",) else {} for column in sample.columns]
    roles = _rank(sample, scored, by_name=True)
    if "user_id" not in roles and "item_id" not in roles and "session_id" not in roles:
        by_content = content_roles.scores(sample.columns)
        missing = {target for target in TARGETS if target not in roles}
        merged = [
            {**{t: s for t, s in content.items() if t in missing or not name}, **name}
            for name, content in zip(scored, by_content, strict=True)
        ]
        roles = _rank(sample, merged, by_name=False)
    return roles


def coverage(roles: Roles) -> float:
    """How completely the candidates describe events; a log without a time has less than 1."""
    weights = {"event_time": 1.0, "user_id": 0.6, "item_id": 0.5, "event_type": 0.4, "session_id": 0.2, "order_id": 0.1}
    return sum(weight for target, weight in weights.items() if roles.get(target))


def _rank(sample: LogSample, scored: list[dict[str, float]], *, by_name: bool) -> Roles:
    candidates: list[tuple[str, Candidate]] = []
    for column, by_target in zip(sample.columns, scored, strict=True):
        for target in TARGETS:
            candidate = _candidate(target, column, by_target.get(target, 0.0), sample)
            if candidate is not None and candidate.score >= _MIN_SCORE.get(target, _DEFAULT_MIN_SCORE):
                candidates.append((target, candidate))
    candidates.sort(key=lambda pair: -pair[1].score)
    chosen: dict[str, SampleColumn] = {}
    for target, candidate in candidates:
        if target not in chosen and candidate.column not in chosen.values():
            chosen[target] = candidate.column
    roles: Roles = {}
    for target, column in chosen.items():
        same = [c for t, c in candidates if t == target]
        first = [c for c in same if c.column == column]
        roles[target] = first + [c for c in same if c.column not in chosen.values()]
    return roles


def _candidate(target: str, column: SampleColumn, name_score: float, sample: LogSample) -> Candidate | None:
    if not column.present:
        return None
    if target == "event_time":
        return _time_candidate(column, name_score)
    if column.kind in ("timestamp", "date"):
        return None
    if target == "event_type":
        return _type_candidate(column, name_score)
    if name_score == 0.0:
        return None
    evidence = "by the name" if column.path != ("",) else "by the values"
    if target in NUMBERS:
        number = number_formats.detect(column.present[:_CHECKED])
        score = name_score - 0.1 * column.null_share
        return None if number is None else Candidate(column, score, evidence, number=number)
    if target == "event_id":
        return _event_id_candidate(column, name_score, sample)
    if target in IDS:
        # Ids of web analytics such as 1234567.1612069510 look like decimals.
        if name_score < 0.75 and not _is_id(column):
            return None
        repeated = f"{len(column.distinct):,} different values in {len(column.present):,} rows"
        return Candidate(
            column, name_score - 0.2 * column.null_share - _constant_penalty(column), f"{evidence}; {repeated}"
        )
    is_free_text = sum(len(value) for value in column.present[:200]) > 200 * 300
    return (
        None if is_free_text and target != "text" else Candidate(column, name_score - 0.1 * column.null_share, evidence)
    )


def _constant_penalty(column: SampleColumn) -> float:
    return 0.2 if len(column.distinct) == 1 and len(column.present) > 20 else 0.0


def _time_candidate(column: SampleColumn, name_score: float) -> Candidate | None:
    missing = 0.5 * column.null_share
    if column.kind in ("timestamp", "date"):
        is_day = column.kind == "date" or all(v.endswith(" 00:00:00") for v in column.present[:_CHECKED])
        is_instant = bool(re.search(r"[+-]\d\d:\d\d$", column.present[0]))
        detected = TimeFormat("{}", "", 1.0, "day" if is_day else "second", is_instant, f"of type {column.kind}")
    else:
        detected_or_none = time_formats.detect(column.present[:_CHECKED])
        if detected_or_none is None or column.kind == "boolean":
            return None
        detected = detected_or_none
    is_plain_number = detected.sql.startswith("timestamp_") or re.fullmatch(r"[0-9]+", column.present[0]) is not None
    base = max(name_score, 0.0 if name_score or is_plain_number else 0.5)
    score = base * detected.share - missing - (0.25 if detected.resolution == "day" else 0.0)
    if detected.resolution == "day" and name_score >= 0.5:
        score = max(score, 0.36 * detected.share - missing)
    return Candidate(column, score, f"{detected.share:.0%} of the values are {detected.evidence}", time=detected)


def _type_candidate(column: SampleColumn, name_score: float) -> Candidate | None:
    values = column.present[:_CHECKED]
    if len(column.distinct) > min(_MAX_TYPES, max(10, len(values) // 5)) or column.kind in ("double", "boolean"):
        return None
    mapped = sum(canonical_type(value)[0] != "" for value in values) / len(values)
    exact = sum(canonical_type(value)[1] for value in values) / len(values)
    codes, logs = code_types(column.distinct)
    missing = 0.3 * column.null_share
    if codes and name_score >= 0.6:
        return Candidate(column, 0.6 * name_score + 0.2 - missing, f"codes as in {logs}")
    if re.fullmatch(r"-?[\d.]+", values[0]) and name_score < 0.8:
        return None
    evidence = f"{mapped:.0%} of the values have a built-in type"
    if name_score:
        is_enough = mapped >= 0.2 or name_score >= 0.9
        return Candidate(column, 0.6 * name_score + 0.4 * mapped - missing, evidence) if is_enough else None
    return Candidate(column, 0.55 - missing, evidence) if exact >= 0.9 else None


def _event_id_candidate(column: SampleColumn, name_score: float, sample: LogSample) -> Candidate | None:
    """A column whose values are unique, apart from rows that are equal in every column (the same record twice)."""
    if "explode" in sample.input or column.null_share > 0.001 or len(column.present) < 3:
        return None
    repeated = len(column.present) - len(column.distinct)
    if repeated:
        rows = set(zip(*(c.values for c in sample.columns), strict=True))
        if len(rows) > len(column.distinct) * 1.001:
            return None
    return Candidate(column, name_score, "unique in the sample" + (", apart from equal rows" if repeated else ""))


def _is_id(column: SampleColumn) -> bool:
    values = column.present[:500]
    decimals = sum(bool(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", value)) for value in values)
    return decimals < 0.1 * len(values) and sum(map(len, values)) / len(values) <= 80
