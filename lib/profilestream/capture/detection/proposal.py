"""A proposed mapping: one SQL expression for each canonical column, with its confidence and the evidence for it."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from profilestream.capture.detection import column_names, column_roles, nested_records, time_formats
from profilestream.capture.detection.column_roles import Candidate, Roles
from profilestream.capture.detection.event_type_values import canonical_type, code_types
from profilestream.capture.detection.log_sample import (
    SOURCE_FILE_DATE,
    LogSample,
    SampleColumn,
    literal,
    null_if,
    quote,
)

Confidence = Literal["sure", "likely", "unsure"]
TimeZoneHint = Literal["instant", "wall clock", "none"]
ToSql = Callable[[SampleColumn], str]
# Texts in the column of the user that are not users. Numbers count only if they are far more frequent than other ids.
_NOT_USERS = {"anonymous", "guest", "unknown", "gast", "unbekannt", "匿名", "游客", "not logged in", "0.0",
              "00000000-0000-0000-0000-000000000000"}  # fmt: skip
_NOT_USER_NUMBERS = {"0", "-1"}
# A column completes another one if it has a value in at least this share of the records, where the other has none.
_MIN_FILLED, _MIN_COMPLETING_SCORE = 0.02, 0.5
_HOUR_NAME = re.compile(r"(.*_)?(time|hour|hours|uhrzeit|zeit|hour_of_day|hod|stunde|hh|clock)|.*(时刻|小时|时间)")
# The value of a type is part of the mapping if at least this share of the rows has it.
_MIN_TYPE_SHARE = 0.0005


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


@dataclass(frozen=True)
class Proposal:
    """A proposed mapping.

    Args:
        general, input, columns: lines by key, in the order of the file.
        sample: the sample that it was detected from.
    """

    general: dict[str, Line]
    input: dict[str, Line]
    columns: dict[str, Line]
    sample: LogSample

    @property
    def used(self) -> list[SampleColumn]:
        """Columns that an expression reads, in the order of the log."""
        used = [column for line in self.columns.values() for column in line.columns]
        return [column for column in self.sample.columns if column in used]

    @property
    def unused(self) -> list[str]:
        """Names of the columns that no expression reads."""
        used = {column.sql for column in self.used}
        return [c.name or c.sql for c in self.sample.columns if c.sql not in used and c.path != (SOURCE_FILE_DATE,)]

    def unsure(self) -> dict[str, Line]:
        """Lines that a person should check, by key."""
        lines = {**self.general, **{f"input.{k}": v for k, v in self.input.items()},
                 **{f"columns.{k}": v for k, v in self.columns.items()}}  # fmt: skip
        return {key: line for key, line in lines.items() if line.confidence == "unsure"}


def propose(sample: LogSample, roles: Roles, name: str, *, timezone: str = "", event_type: str = "") -> Proposal:
    """The mapping that the best candidates give.

    Args:
        name: namespace of the ids.
        timezone: of wall-clock times; empty: UTC, marked as unsure unless the log states the zone.
        event_type: type of all events, for a log without types; empty: it is chosen by the other columns.
    """
    sample, roles = _with_names(sample, roles)
    numbers = {target: roles[target][0] for target in column_roles.NUMBERS if roles.get(target)}
    element = str(sample.input.get("explode_as", ""))
    if element and "value" in numbers and numbers["value"].column.path[0] != element:
        del numbers["value"]  # the total of an order, which is not the value of one of its items
    columns: dict[str, Line] = {}
    return_sql, return_evidence, signed = _returns(roles, numbers)
    if roles.get("event_id"):
        columns["event_id"] = _line(roles["event_id"][:1], _id_sql)
    columns["event_type"], extra_types = _event_type(sample, roles, return_sql, return_evidence, event_type)
    time_line, time_format, zone = _event_time(sample, roles)
    if time_line is not None:
        columns["event_time"] = time_line
    if "user_id" in roles:
        columns["user_id"] = _line(roles["user_id"], _user_sql)
    elif "session_id" in roles:
        session = roles["session_id"][0].column
        evidence = "the log has no user, so a session is used as a user"
        columns["user_id"] = Line(f"concat('session-', {_id_sql(session)})", "likely", evidence, (session,))
    to_sql = {**dict.fromkeys(("item_id", "session_id", "order_id"), _id_sql),
              **dict.fromkeys(("category", "brand", "text", "query", "channel", "device", "region"), _text_sql),
              "text": _plain_sql, "query": _plain_sql}  # fmt: skip
    columns |= {target: _line(roles[target], sql, element) for target, sql in to_sql.items() if target in roles}
    for target in numbers:
        columns[target] = _number_line(roles[target], element, is_signed=target in signed)
    columns |= _currency(roles, numbers)
    general = {"timezone": _timezone(zone, timezone)}
    if time_format is not None:
        general["time_format"] = time_format
    if extra_types:
        general["event_types"] = Line(
            extra_types, "unsure", "values of the log that are not built-in types, and are stored unchanged"
        )
    general |= {"user_namespace": Line(name), "item_namespace": Line(name)}
    return Proposal(general, _input(sample, columns), columns, sample)


def _with_names(sample: LogSample, roles: Roles) -> tuple[LogSample, Roles]:
    """CSV columns of a file without a header get the names of their roles."""
    if sample.input.get("format") != "csv" or sample.input.get("header", True):
        return sample, roles
    by_sql = {candidates[0].column.sql: target for target, candidates in roles.items() if candidates}
    renamed = {}
    for column in sample.columns:
        name = by_sql.get(column.sql, column.sql)
        renamed[column.sql] = replace(column, path=(name,), sql=quote(name), uses=((name,),))
    raw_types = {by_sql.get(name, name): t for name, t in sample.raw_types.items()}
    new_roles = {
        target: [replace(c, column=renamed[c.column.sql]) for c in candidates] for target, candidates in roles.items()
    }
    return replace(sample, columns=[renamed[c.sql] for c in sample.columns], raw_types=raw_types), new_roles


def _confidence(candidates: list[Candidate]) -> Confidence:
    score = candidates[0].score
    rival = candidates[1].score if len(candidates) > 1 else 0.0
    if score >= 0.85 and rival < score - 0.05:
        return "sure"
    return "likely" if score >= 0.65 else "unsure"


def _line(candidates: list[Candidate], to_sql: ToSql, explode_as: str = "") -> Line:
    """The first candidate, and the next one where it completes the first; a field of the exploded element is first."""
    first = candidates[0].column
    completing = _completing(candidates)
    if completing is None:
        return Line(to_sql(first), _confidence(candidates), candidates[0].evidence, (first,))
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


def _plain_sql(column: SampleColumn) -> str:
    return column.sql


def _text_sql(column: SampleColumn) -> str:
    return column.clean_sql


def _id_sql(column: SampleColumn) -> str:
    """SQL of an id: without blanks around it, and without `.0` of numbers that were stored with decimals."""
    values = column.present[:4000]
    if column.kind == "double":
        return f"try_cast({column.sql} AS BIGINT)"
    if column.kind != "text":
        return column.sql
    sql = f"trim({column.sql})" if any(value != value.strip() for value in values) else column.sql
    if values and all(re.fullmatch(r"\s*\d+\.0\s*", value) for value in values):
        sql = f"regexp_replace({sql}, '[.]0$', '')"
    return null_if(sql, column.null_texts)


def _user_sql(column: SampleColumn) -> str:
    """As `_id_sql`; placeholders are null, so their events are anonymous."""
    counts = Counter(column.present)
    usual = len(column.present) / max(1, len(counts))
    texts = [v for v in counts if v.strip().lower() in _NOT_USERS]
    texts += [v for v in counts if v in _NOT_USER_NUMBERS and counts[v] > max(20, 10 * usual)]
    if not texts or column.kind != "text":
        return _id_sql(column)
    without = replace(column, blank_is_null=column.blank_is_null)
    sql = _id_sql(replace(without, values=tuple(column.present)))
    return null_if(sql, sorted([*column.null_texts, *texts]))


def _number_line(candidates: list[Candidate], element: str, *, is_signed: bool) -> Line:
    def to_sql(column: SampleColumn) -> str:
        number = next(c.number for c in candidates if c.column is column)
        if column.kind != "text" or number is None:
            return f"abs({column.sql})" if is_signed else column.sql
        sql = number.sql.format(column.clean_sql)
        # Not cast to a number, so texts that are not numbers are rejected.
        return f"regexp_replace({sql}, '^-', '')" if is_signed else sql

    return _line(candidates, to_sql, element)


def _returns(roles: Roles, numbers: dict[str, Candidate]) -> tuple[str, str, set[str]]:
    """SQL that is true for a return, its evidence, and the numbers whose minus sign marks it."""
    conditions, evidence, signed = [], [], set[str]()
    order = roles["order_id"][0].column if roles.get("order_id") else None
    if order is not None and order.kind == "text":
        canceled = sum(bool(re.fullmatch(r"C\d+", v)) for v in order.present)
        digits = sum(v.isdigit() for v in order.present)
        if canceled and canceled < digits and canceled + digits >= 0.95 * len(order.present):
            conditions.append(f"{order.sql} LIKE 'C%'")
            evidence.append(f"{order.name} starts with C")
    for target in ("quantity", "value", "price"):
        number = numbers[target].number if target in numbers else None
        negative = [n for n in (number.numbers if number else ()) if n < 0]
        if negative and (target == "quantity" or len(negative) >= 0.002 * len(number.numbers if number else ())):
            column = numbers[target].column
            signed.add(target)
            if not ({"quantity", "value"} & (signed - {target})):
                conditions.append(f"{column.sql} LIKE '-%'" if column.kind == "text" else f"{column.sql} < 0")
                evidence.append(f"{column.name} is negative")
    return " OR ".join(conditions), " or ".join(evidence), signed


def _event_type(
    sample: LogSample, roles: Roles, return_sql: str, return_evidence: str, constant: str
) -> tuple[Line, list[str]]:
    return_columns = tuple(roles[t][0].column for t in ("order_id", *column_roles.NUMBERS) if roles.get(t))
    return_columns = tuple(c for c in return_columns if c.sql in return_sql)
    if roles.get("event_type") and not constant:
        return _mapped_types(sample, roles["event_type"], return_sql, return_columns)
    chosen, confidence, evidence = (constant, "sure", "as chosen") if constant else _constant_type(sample, roles)
    if return_sql and chosen == "purchase":
        return Line(
            f"CASE WHEN {return_sql} THEN 'return' ELSE 'purchase' END", confidence,  # type: ignore[arg-type]
            f"{evidence}; a return if {return_evidence}", return_columns,
        ), []  # fmt: skip
    return Line(f"'{chosen}'", confidence, evidence), []  # type: ignore[arg-type]


def _constant_type(sample: LogSample, roles: Roles) -> tuple[str, Confidence, str]:
    names = " ".join([
        *[column_names.normalize(part) for column in sample.columns for part in column.path],
        sample.group.root.name.lower(), *[path.name.lower() for path in sample.group.paths[:1]],
    ])  # fmt: skip
    sells = [target for target in ("quantity", "order_id", "value") if roles.get(target)]
    if roles.get("rating") and not sells:
        return "rate", "likely", "the log has ratings and no event types"
    if sells:
        return "purchase", "likely", f"the log has no event types, but columns for {', '.join(sells)}"
    if column_names.PURCHASE_HINT.search(names) and not column_names.VIEW_HINT.search(names):
        return "purchase", "likely", "the log has no event types; its names are those of purchases"
    if roles.get("query") and not roles.get("item_id"):
        return "search", "unsure", "the log has no event types, but search queries"
    if roles.get("price") and not column_names.VIEW_HINT.search(names):
        return "purchase", "unsure", "the log has no event types, but prices"
    is_view = bool(column_names.VIEW_HINT.search(names))
    return "view", "likely" if is_view else "unsure", "the log has no event types"


def _mapped_types(
    sample: LogSample, candidates: list[Candidate], return_sql: str, return_columns: tuple[SampleColumn, ...]
) -> tuple[Line, list[str]]:
    base = _line(candidates, _type_sql)
    first = candidates[0].column
    by_record = zip(*[column.values for column in base.columns], strict=True)
    first_values = (next((v for v in row if v is not None and v.strip()), None) for row in by_record)
    values = [v for v in first_values if v is not None and v not in first.null_texts]
    counts = Counter(" ".join(v.split()) if v != v.strip() else v for v in values)
    sql = str(base.value)
    codes, logs = code_types(first.distinct)
    if codes:
        types = codes
        evidence, confidence = f"numeric codes as in {logs}: check their meaning", "unsure"
    else:
        least = max(2, _MIN_TYPE_SHARE * len(values)) if len(values) > 200 else 1
        types = {value: canonical_type(value)[0] for value, count in counts.items() if count >= least}
        all_exact = all(canonical_type(value)[1] for value in types)
        evidence, confidence = base.evidence, "unsure" if not all_exact else base.confidence
        if all_exact and confidence == "unsure":
            confidence = "likely"
    unmapped = [value for value, event_type in types.items() if not event_type]
    cases = {value: event_type for value, event_type in types.items() if event_type}
    is_lower = len({v.lower() for v in counts}) < len(counts) or any(value != value.lower() for value in cases)
    if is_lower:
        sql, cases = f"lower({sql})", {value.lower(): event_type for value, event_type in cases.items()}
        unmapped = sorted({value.lower() for value in unmapped})
    matched = sql
    if not all(value == event_type for value, event_type in cases.items()):
        whens = " ".join(f"WHEN {literal(value)} THEN '{event_type}'" for value, event_type in cases.items())
        sql = f"CASE {sql} {whens} ELSE {sql} END"
    sold = [value for value, event_type in cases.items() if event_type == "purchase"]
    if return_sql and _has_negative_sales(base.columns[0], return_columns, sold):
        is_sold = f"{matched} IN ({', '.join(map(literal, sold))})"
        sql = f"CASE WHEN {is_sold} AND ({return_sql}) THEN 'return' ELSE {sql} END"
    else:
        return_columns = ()
    columns = (*base.columns, *[c for c in return_columns if c not in base.columns])
    return Line(sql, confidence, evidence, columns), [value for value in unmapped if value]  # type: ignore[arg-type]


def _has_negative_sales(types: SampleColumn, numbers: tuple[SampleColumn, ...], sold: list[str]) -> bool:
    """Whether a record of a purchase has a negative number."""
    pairs = zip(types.values, *[column.values for column in numbers], strict=True)
    return any(
        event_type is not None and event_type.strip().lower() in sold and any((n or "").startswith("-") for n in others)
        for event_type, *others in pairs
    )


def _type_sql(column: SampleColumn) -> str:
    if column.kind != "text":
        return f"CAST({column.sql} AS STRING)"
    return f"trim({column.clean_sql})" if any(v != v.strip() for v in column.present[:4000]) else column.clean_sql


def _event_time(sample: LogSample, roles: Roles) -> tuple[Line | None, Line | None, TimeZoneHint]:
    if not roles.get("event_time"):
        return None, None, "none"
    candidates = roles["event_time"]
    best, column, detected = candidates[0], candidates[0].column, candidates[0].time
    assert detected is not None
    evidence = best.evidence
    zone: TimeZoneHint = "instant" if detected.is_instant else "wall clock"
    if detected.resolution == "day":
        combined = _date_and_time(sample, roles, candidates)
        if combined is not None:
            sql, pattern, parts = combined
            both = f"{parts[0].name} and {parts[1].name}: a date and a time of day in two columns"
            return Line(sql, "likely", both, parts), _pattern_line(pattern), zone
        evidence += "; the log has no time of day"
    is_text = column.kind == "text" or detected.pattern
    source = column.sql if column.kind == "text" or not detected.pattern else f"CAST({column.sql} AS STRING)"
    if column.kind == "bigint" and detected.sql != "{}":
        sql = detected.sql.replace("try_cast({} AS BIGINT)", "{}").format(column.sql)
    else:
        sql = detected.sql.format(source)
    confidence = "unsure" if detected.share < 0.95 else _confidence(candidates)
    rivals = [c for c in candidates[1:] if c.score > best.score - 0.1]
    if detected.share >= 0.99 and detected.resolution != "day" and not rivals:
        confidence = "sure" if best.score >= 0.7 else "likely"
    line = Line(sql, confidence, evidence, (column,))
    pattern_line = _pattern_line(detected.pattern) if is_text else None
    if pattern_line is not None and detected.other_order is not None:
        text = f"day and month are ambiguous in the sample; the other order is {detected.other_order.pattern}"
        pattern_line = Line(detected.pattern, "unsure", text)
    return line, pattern_line, zone


def _pattern_line(pattern: str) -> Line | None:
    return Line(pattern) if pattern else None


def _date_and_time(
    sample: LogSample, roles: Roles, candidates: list[Candidate]
) -> tuple[str, str, tuple[SampleColumn, SampleColumn]] | None:
    date, detected = candidates[0].column, candidates[0].time
    taken = {c[0].column.name for target, c in roles.items() if target in ("event_type", "user_id", "item_id") and c}
    assert detected is not None
    for column in sample.columns:
        if column is date or column.name in taken or len(column.present) < 0.95 * len(date.present):
            continue
        is_hour = bool(_HOUR_NAME.fullmatch(column_names.normalize(column.path[-1])))
        time = time_formats.time_of_day(column.present[:4000], is_hour=is_hour)
        if time is None:
            continue
        sql, pattern = time
        day = date.sql
        if date.kind == "timestamp" or (not detected.pattern and len(date.present[0]) > 10):
            day = f"left(CAST({date.sql} AS STRING), 10)"
        return (
            f"concat({day}, ' ', {sql.format(column.sql)})",
            time_formats.combine(detected, pattern),
            (date, column),
        )
    return None


def _timezone(hint: TimeZoneHint, timezone: str) -> Line:
    if hint == "instant":
        return Line("UTC", "sure", "the times have an offset or are epoch numbers")
    if timezone:
        return Line(timezone, "sure", "as chosen")
    return Line("UTC", "unsure", "the times have no offset; write the zone of the clock, such as Europe/Berlin")


def _currency(roles: Roles, numbers: dict[str, Candidate]) -> dict[str, Line]:
    if roles.get("currency"):
        return {"currency": _line(roles["currency"], _text_sql)}
    signs = {c.number.currency for c in numbers.values() if c.number and c.number.currency}
    if len(signs) == 1:
        return {"currency": Line(f"'{signs.pop()}'", "likely", "the sign in the prices")}
    return {}


def _input(sample: LogSample, columns: dict[str, Line]) -> dict[str, Line]:
    lines = {}
    for key, value in {"format": sample.input["format"], "glob": sample.group.glob, **sample.input}.items():
        if value != "":
            lines[key] = Line(value, "unsure" if any(u.startswith(f"input.{key}") for u in sample.unsure) else "sure",
                              sample.evidence.get(key, ""))  # fmt: skip
    lines["columns"] = Line(_declared(sample, columns))
    return lines


def _declared(sample: LogSample, columns: dict[str, Line]) -> str:
    """The list of raw columns: all of a CSV file without a header, otherwise those that expressions read."""
    uses = {use for line in columns.values() for column in line.columns for use in column.uses}
    if sample.input["format"] == "csv" and not sample.input.get("header", True):
        partitions = [use[0] for use in sorted(uses) if use[0] not in sample.raw_types]
        return ", ".join(f"{quote(name)} string" for name in [*sample.raw_types, *partitions])
    if sample.explode_path:
        uses.add((*sample.explode_path, "[]"))
    names = dict.fromkeys(column.uses[0][0] for column in sample.columns if column.uses)
    if sample.explode_path:
        names.setdefault(sample.explode_path[0])
    used = [name for name in names if any(use[0] == name for use in uses)]
    types = {
        name: sample.raw_types.get(name) or nested_records.declared_type({use[1:] for use in uses if use[0] == name})
        for name in used
    }
    return ", ".join(f"{quote(name)} {data_type}" for name, data_type in types.items())
