"""Rules that reject rows, and rules that add warnings. A row is rejected by the first reject rule that is true."""

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Capture
from profilestream.capture import currency, execute_mapping, guarded_sql, placeholders
from profilestream.capture.execute_mapping import FAILED, FAILURE, NOTES, STORED_VALUE, note_where
from profilestream.capture.guarded_sql import Guarded
from profilestream.capture.mapping import NUMERIC_COLUMNS, Mapping
from profilestream.capture.text_parsers import BLANKS
from profilestream.capture.typed_values import any_of

TOMBSTONE = "tombstone"
FAULTS = (
    "line_too_long", "not_utf8", "header_unknown", "unparseable", "wrong_type", "nothing_to_explode", TOMBSTONE,
)  # fmt: skip
EXPRESSION_FAILED = "expression_failed"
# Rules that need more than the row: a file that cannot be read, an id of an earlier event.
BATCH_RULES = ("file_unreadable", "id_reused")
BOT_WARNING = "bot_suspected"


@dataclass(frozen=True)
class Check:
    """A named rule: a condition that is true on the rows it applies to, and the reason as a text for such a row."""

    name: str
    condition: Column
    reason: Column


@dataclass(frozen=True)
class RuleColumns:
    """The results of the rules, as columns. For a small batch, building them takes longer than evaluating them, so a
    run builds them once for all batches.

    Args:
        attempts: the conditions of the mapping.
        rule: the first reject rule that is true; null on good rows.
        warnings: names of placeholders, fills, clips and warn rules.
        reason: why the row was rejected; reads the column `rule`.
    """

    attempts: list[Guarded]
    rule: Column
    warnings: Column
    reason: Column


def conditions(mapping: Mapping) -> dict[str, str]:
    """The SQL of the rules of a mapping, by key."""
    kinds = {"reject": mapping.reject, "warn": mapping.warn}
    return {f"{kind}.{name}.when": rule.when for kind, rules in kinds.items() for name, rule in rules.items()}


def build_rules(events: DataFrame, mapping: Mapping, capture: Capture) -> RuleColumns:
    """The rules for rows with these columns: those of `apply_expressions`, and `_ingest_time`."""
    attempts = guarded_sql.guarded(events, conditions(mapping), execute_mapping.is_parsed())
    checks = _reject_checks(events.columns, mapping, capture, attempts)
    fault = F.col("fault")
    rule = reduce(lambda chain, c: chain.when(c.condition, c.name), checks, F.when(fault.isNotNull(), fault))
    fault_reason = F.when(fault.isNotNull(), F.col("fault_reason"))
    reason = reduce(lambda chain, c: chain.when(F.col("rule") == c.name, c.reason), checks, fault_reason)
    warnings = _warn_checks(events.columns, mapping, attempts)
    return RuleColumns(
        attempts=list(attempts.values()),
        rule=rule,
        warnings=F.concat(NOTES, *[note_where(c.condition, c.name) for c in warnings]),
        reason=F.when(F.col("rule").isNotNull(), F.coalesce(reason, F.col("rule"))),
    )


def evaluate(events: DataFrame, rules: RuleColumns) -> DataFrame:
    """Events with `rule` and `reason` (null on good rows) and `warnings`."""
    events = execute_mapping.with_failures(events, rules.attempts)
    return events.withColumns({"rule": rules.rule, "warnings": rules.warnings}).withColumn("reason", rules.reason)


def _reject_checks(columns: list[str], mapping: Mapping, capture: Capture, attempts: dict[str, Guarded]) -> list[Check]:
    """Reject rules in order: first those of the mapping, then the built-in rules of every source."""
    failed = Check(EXPRESSION_FAILED, F.col(FAILED).isNotNull(), F.col(FAILURE))
    own = [
        Check(n, attempts[f"reject.{n}.when"].value, F.lit(r.reason or f"{n}: {r.when}"))
        for n, r in mapping.reject.items()
    ]
    return [failed, *own, *_id_checks(mapping), *_type_checks(mapping),
            *_time_checks(columns, mapping, capture), *_user_checks(mapping),
            *_number_checks(columns, capture)]  # fmt: skip


def _warn_checks(columns: list[str], mapping: Mapping, attempts: dict[str, Guarded]) -> list[Check]:
    """Warn rules: those of the mapping, and an ambiguous local time."""
    own = [Check(n, attempts[f"warn.{n}.when"].value, F.lit(r.reason or n)) for n, r in mapping.warn.items()]
    if "_local_time" not in columns:
        return own
    # The same wall-clock time with the offset that is in force a day later, after the clocks were set back.
    local, next_day = F.col("_local_time"), F.col("event_time") + F.expr("INTERVAL 1 DAY")
    offset = F.unix_micros(F.from_utc_timestamp(next_day, mapping.timezone)) - F.unix_micros(next_day)
    second = F.timestamp_micros(F.unix_micros(local) - offset)
    is_ambiguous = (second != F.col("event_time")) & (F.from_utc_timestamp(second, mapping.timezone) == local)
    reason = F.lit("the clocks were set back, so the local time occurred twice; the first one is used")
    return [*own, Check("event_time_ambiguous", F.coalesce(is_ambiguous, F.lit(False)), reason)]


def names(mapping: Mapping) -> tuple[list[str], list[str]]:
    """Names of all reject rules and all warnings that a row of this source can have."""
    numbers = [c for c in NUMERIC_COLUMNS if c in mapping.columns]
    rejects = [
        *FAULTS, EXPRESSION_FAILED, *mapping.reject, *(["event_id_missing"] if "event_id" in mapping.columns else []),
        "event_type_missing", "event_type_unknown", "event_time_unreadable",
        "event_time_nonexistent", "event_time_before_min_date", "event_time_in_future", "user_id_placeholder",
        *(["user_missing"] if mapping.anonymous == "reject" else []), *[f"{c}_unreadable" for c in numbers],
        "number_not_finite", "number_absurd", "price_negative", "quantity_negative", *BATCH_RULES,
    ]  # fmt: skip
    warnings = [
        *mapping.warn,
        "control_characters",
        *[f"placeholder_{c}" for c in placeholders.warned_columns(mapping)],
        *([] if mapping.timezone == "UTC" else ["event_time_ambiguous"]),
        *[f"filled_{c}" for c in mapping.fill],
        *[f"clipped_{c}" for c in mapping.clip],
        *([BOT_WARNING] if mapping.bots else []),
        *currency.warnings_of(mapping),
    ]
    return rejects, warnings


def check_names(mapping: Mapping, where: str) -> None:
    """Check that the names of the rules are unique.

    Raises:
        BadSettings: a rule of the mapping has the name of another rule.
    """
    for kind in names(mapping):
        repeated = sorted({name for name in kind if kind.count(name) > 1})
        if repeated:
            raise BadSettings(
                f"rule names that are already in use: {repeated}", where=where, do="give the rules other names"
            )


def _id_checks(mapping: Mapping) -> list[Check]:
    if "event_id" not in mapping.columns:
        return []
    return [Check("event_id_missing", F.col("event_id").isNull(), F.lit("there is no event id, or a placeholder"))]


def _type_checks(mapping: Mapping) -> list[Check]:
    event_type = F.col("event_type")
    is_unknown = ~event_type.isin(*mapping.allowed_event_types)
    return [
        Check("event_type_missing", event_type.isNull() | (F.trim(event_type) == ""), F.lit("there is no event type")),
        Check("event_type_unknown", is_unknown, _reason("event type {} is not known", event_type)),
    ]


def _time_checks(columns: list[str], mapping: Mapping, capture: Capture) -> list[Check]:
    time = F.col("event_time")
    time_text = time.cast("string")
    raw_text = F.col("_text_event_time") if "_text_event_time" in columns else F.lit(None).cast("string")
    skew = F.expr(f"INTERVAL {round(capture.max_clock_skew_minutes * 60)} SECONDS")
    latest = F.col("_ingest_time") + skew
    earliest = F.lit(capture.min_event_date).cast("timestamp")
    local_checks = []
    if "_local_time" in columns:
        is_skipped = F.from_utc_timestamp(time, mapping.timezone) != F.col("_local_time")
        sentence = f"local time {{}} does not exist in {mapping.timezone}: the clocks were set forward"
        reason = _reason(sentence, F.col("_local_time").cast("string"))
        local_checks = [Check("event_time_nonexistent", is_skipped, reason)]
    too_early = _reason(f"{{}} is before {capture.min_event_date}", time_text)
    too_late = _reason("{} is later than the time of capture", time_text)
    return [
        Check("event_time_unreadable", time.isNull(), _reason("event time {} is missing or not a time", raw_text)),
        *local_checks,
        Check("event_time_before_min_date", time < earliest, too_early),
        Check("event_time_in_future", time > latest, too_late),
    ]


def _user_checks(mapping: Mapping) -> list[Check]:
    missing = F.lit("there is no user, and the mapping rejects anonymous events")
    checks = [Check("user_missing", F.col("user_id").isNull(), missing)] if mapping.anonymous == "reject" else []
    if "user_id" in mapping.columns and mapping.placeholders.user == "reject":
        text = F.col("_placeholder_user_id")
        reason = _reason("user id {} is a placeholder, not a user", text)
        checks.insert(0, Check("user_id_placeholder", text.isNotNull(), reason))
    return checks


def _number_checks(columns: list[str], capture: Capture) -> list[Check]:
    unreadable = [
        Check(
            f"{name}_unreadable",
            F.col(name).isNull() & (F.trim(text, F.lit(BLANKS)) != ""),
            _reason(f"{name} {{}} is not a number", text),
        )
        for name in NUMERIC_COLUMNS
        if f"_text_{name}" in columns
        for text in [F.col(f"_text_{name}")]
    ]
    numbers = [*[F.col(name) for name in NUMERIC_COLUMNS if name != "value"], F.col(STORED_VALUE)]
    not_finite = [F.isnan(c) | (F.abs(c) == float("inf")) for c in numbers]
    absurd = [(F.abs(c) > capture.max_number) | ((F.abs(c) < 1 / capture.max_number) & (c != 0)) for c in numbers]
    return [
        *unreadable,
        Check("number_not_finite", any_of(not_finite),
              F.lit("a number is NaN or infinite")),
        Check("number_absurd", any_of(absurd),
              F.lit(f"a number is above {capture.max_number:g} (capture.max_number) or below its inverse")),
        Check("price_negative", F.col("price") < 0, _reason("price {} is negative", F.col("price").cast("string"))),
        Check("quantity_negative", F.col("quantity") < 0,
              _reason("quantity {} is negative", F.col("quantity").cast("string"))),
    ]  # fmt: skip


def _reason(sentence: str, value: Column) -> Column:
    """The sentence with the value in place of {}, in quotes and cut to 200 characters; `(none)` for null."""
    before, after = sentence.split("{}")
    quoted = F.concat(F.lit("'"), F.left(value, F.lit(200)), F.lit("'"))
    return F.concat(F.lit(before), F.coalesce(quoted, F.lit("(none)")), F.lit(after))
