"""The event type of a proposed mapping: a column with its values, or a constant; and what marks a return."""

import re
from collections import Counter
from dataclasses import dataclass

from profilestream.capture.detection import column_names
from profilestream.capture.detection.column_roles import Candidate, Roles
from profilestream.capture.detection.event_type_values import canonical_type, code_types
from profilestream.capture.detection.log_sample import LogSample, SampleColumn, literal
from profilestream.capture.detection.mapping_lines import Confidence, Line, line

# The value of a type is part of the mapping if at least this share of the rows has it.
_MIN_TYPE_SHARE = 0.0005
# Below it, a number that was recognized by its values only is not evidence against a name such as clicks.csv.
_MIN_SALES_SCORE = 0.6
# Rarer negative prices or amounts are errors, not returns.
_MIN_NEGATIVE_SHARE = 0.002


@dataclass(frozen=True)
class _Returns:
    """What marks a return in a log.

    Args:
        sql: condition; empty: nothing marks it.
        columns: the columns that the condition reads.
        signed: canonical numbers that are negative on a return.
    """

    sql: str
    evidence: str
    columns: tuple[SampleColumn, ...]
    signed: frozenset[str]


def event_type_line(sample: LogSample, roles: Roles, *, constant: str = "") -> tuple[Line, list[str], frozenset[str]]:
    """The line of `event_type`, values that are not built-in types, and numbers whose minus sign is to be removed.

    Args:
        constant: the type of all events, if it was chosen.
    """
    if roles.get("event_type") and not constant:
        returns = _returns(roles, ("quantity",))
        event_type, unknown = _mapped_types(roles["event_type"], returns)
        return event_type, unknown, returns.signed
    returns = _returns(roles, ("quantity", "value", "price"))
    type_line = Line(f"'{constant}'", "sure", "as chosen") if constant else _constant_type(sample, roles)
    if not returns.sql or type_line.value != "'purchase'":
        return type_line, [], returns.signed
    sql = f"CASE WHEN {returns.sql} THEN 'return' ELSE 'purchase' END"
    evidence = f"{type_line.evidence}; a return if {returns.evidence}"
    return Line(sql, type_line.confidence, evidence, returns.columns), [], returns.signed


def _returns(roles: Roles, numbers: tuple[str, ...]) -> _Returns:
    """A negative number of the first of the canonical columns that has some, or an invoice number such as C536379."""
    conditions, evidence, columns, signed = [], [], [], []
    order = roles["order_id"][0].column if roles.get("order_id") else None
    if order is not None and order.kind == "text" and _has_canceled_numbers(order):
        conditions.append(f"{order.sql} LIKE 'C%'")
        evidence.append(f"{order.name} starts with C")
        columns.append(order)
    for target in numbers:
        number = roles[target][0].number if roles.get(target) else None
        negative = sum(n < 0 for n in number.numbers) if number else 0
        if number and negative and (target == "quantity" or negative >= _MIN_NEGATIVE_SHARE * len(number.numbers)):
            signed.append(target)
            column = roles[target][0].column
            if len(signed) == 1:
                conditions.append(f"{column.sql} LIKE '-%'" if column.kind == "text" else f"{column.sql} < 0")
                evidence.append(f"{column.name} is negative")
                columns.append(column)
    return _Returns(" OR ".join(conditions), " or ".join(evidence), tuple(columns), frozenset(signed))


def _has_canceled_numbers(order: SampleColumn) -> bool:
    canceled = sum(bool(re.fullmatch(r"C\d+", v)) for v in order.present)
    digits = sum(v.isdigit() for v in order.present)
    return 0 < canceled < digits and canceled + digits >= 0.95 * len(order.present)


def _constant_type(sample: LogSample, roles: Roles) -> Line:
    """The type of all events, by the other columns and by the names of columns and files."""
    group = sample.group
    names = [column_names.normalize(part) for column in sample.columns for part in column.path]
    text = " ".join([*names, group.root.name.lower(), *[path.name.lower() for path in group.paths[:1]]])
    is_view = bool(column_names.VIEW_HINT.search(text))
    by_target = {target: roles[target][0].score for target in ("quantity", "order_id", "value") if roles.get(target)}
    sells = [target for target, score in by_target.items() if score >= _MIN_SALES_SCORE or not is_view]
    if roles.get("rating") and not sells:
        return Line("'rate'", "likely", "the log has ratings and no event types")
    if sells:
        return Line("'purchase'", "likely", f"the log has no event types, but columns for {', '.join(sells)}")
    if column_names.PURCHASE_HINT.search(text) and not is_view:
        return Line("'purchase'", "likely", "the log has no event types; its names are those of purchases")
    if roles.get("query") and not roles.get("item_id"):
        return Line("'search'", "unsure", "the log has no event types, but search queries")
    if roles.get("price") and not is_view:
        return Line("'purchase'", "unsure", "the log has no event types, but prices")
    return Line("'view'", "likely" if is_view else "unsure", "the log has no event types")


def _mapped_types(candidates: list[Candidate], returns: _Returns) -> tuple[Line, list[str]]:
    base = line("event_type", candidates, _type_sql)
    values = _values(base.columns)
    counts = Counter(values)
    codes, logs = code_types(set(counts))
    types = codes or _canonical_types(counts)
    cases = {value: event_type for value, event_type in types.items() if event_type}
    unknown = [value for value, event_type in types.items() if not event_type]
    sql = str(base.value)
    if len({v.lower() for v in counts}) < len(counts) or any(value != value.lower() for value in cases):
        sql = f"lower({sql})"
        cases = {value.lower(): event_type for value, event_type in cases.items()}
        unknown = sorted({value.lower() for value in unknown})
    translated = sql
    if any(value != event_type for value, event_type in cases.items()):
        whens = " ".join(f"WHEN {literal(value)} THEN '{event_type}'" for value, event_type in cases.items())
        translated = f"CASE {sql} {whens} ELSE {sql} END"
    columns = base.columns
    sold = [value for value, event_type in cases.items() if event_type == "purchase"]
    if returns.sql and _has_negative_sales(base.columns, returns.columns, sold):
        is_sold = f"{sql} IN ({', '.join(map(literal, sold))})"
        translated = f"CASE WHEN {is_sold} AND ({returns.sql}) THEN 'return' ELSE {translated} END"
        columns = (*columns, *[c for c in returns.columns if c not in columns])
    evidence = f"numeric codes as in {logs}: check their meaning" if codes else base.evidence
    return Line(translated, _type_confidence(base, types, bool(codes)), evidence, columns), unknown


def _values(columns: tuple[SampleColumn, ...]) -> list[str]:
    """Per record, the value of the first column that has one, without blanks around it."""
    by_record = zip(*[[None if v in c.null_texts else v for v in c.values] for c in columns], strict=True)
    first = (next((v.strip() for v in row if v and v.strip()), "") for row in by_record)
    return [value for value in first if value]


def _canonical_types(counts: Counter[str]) -> dict[str, str]:
    """The canonical type of each value that is not rare; "" if there is none."""
    total = counts.total()
    least = max(2, _MIN_TYPE_SHARE * total) if total > 200 else 1
    return {value: canonical_type(value)[0] for value, count in counts.items() if count >= least}


def _type_confidence(base: Line, types: dict[str, str], is_code: bool) -> Confidence:
    if is_code or not all(canonical_type(value)[1] for value in types):
        return "unsure"
    return "likely" if base.confidence == "unsure" else base.confidence


def _has_negative_sales(types: tuple[SampleColumn, ...], marks: tuple[SampleColumn, ...], sold: list[str]) -> bool:
    """Whether a record of a purchase has a negative number or a canceled invoice."""
    pairs = zip(types[0].values, *[column.values for column in marks], strict=True)
    return any(
        event_type is not None
        and event_type.strip().lower() in sold
        and any((m or "")[:1] in ("-", "C") for m in others)
        for event_type, *others in pairs
    )


def _type_sql(column: SampleColumn) -> str:
    if column.kind != "text":
        return f"CAST({column.sql} AS STRING)"
    return f"trim({column.clean_sql})" if any(v != v.strip() for v in column.present[:4000]) else column.clean_sql
