"""Rules that reject rows, and rules that add warnings. A row is rejected by the first reject rule that is true."""

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Capture
from profilestream.capture.execute_mapping import NOTES, note_where, trim_characters
from profilestream.capture.mapping import NUMERIC_COLUMNS, Mapping

PLACEHOLDER_IDS = ("null", "undefined", "none", "nan", "nil", "n/a", "anonymous", "unknown", "0", "-1")
FAULTS = ("line_too_long", "not_utf8", "unparseable", "wrong_type", "nothing_to_explode")
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
        rule: the first reject rule that is true; null on good rows.
        warnings: names of fills, clips and warn rules.
        reason: why the row was rejected; reads the column `rule`.
    """

    rule: Column
    warnings: Column
    reason: Column


def build_rules(columns: list[str], mapping: Mapping, capture: Capture) -> RuleColumns:
    """The rules for rows with these columns: those of `apply_expressions`, and `_ingest_time`."""
    checks = _reject_checks(columns, mapping, capture)
    fault = F.col("fault")
    rule = reduce(lambda chain, c: chain.when(c.condition, c.name), checks, F.when(fault.isNotNull(), fault))
    fault_reason = F.when(fault.isNotNull(), F.col("fault_reason"))
    reason = reduce(lambda chain, c: chain.when(F.col("rule") == c.name, c.reason), checks, fault_reason)
    return RuleColumns(
        rule=rule,
        warnings=F.concat(NOTES, *[note_where(c.condition, c.name) for c in _warn_checks(columns, mapping)]),
        reason=F.when(F.col("rule").isNotNull(), F.coalesce(reason, F.col("rule"))),
    )


def evaluate(events: DataFrame, rules: RuleColumns) -> DataFrame:
    """Events with `rule` and `reason` (null on good rows) and `warnings`."""
    return events.withColumns({"rule": rules.rule, "warnings": rules.warnings}).withColumn("reason", rules.reason)


def _reject_checks(columns: list[str], mapping: Mapping, capture: Capture) -> list[Check]:
    """Reject rules in order: first the rules of the mapping, then the built-in rules of every source."""
    own = [Check(n, F.expr(r.when), F.lit(r.reason or f"{n}: {r.when}")) for n, r in mapping.reject.items()]
    return [*own, *_id_checks(mapping), *_type_checks(mapping),
            *_time_checks(columns, mapping, capture), *_user_checks(mapping),
            *_number_checks(columns)]  # fmt: skip


def _warn_checks(columns: list[str], mapping: Mapping) -> list[Check]:
    """Warn rules: those of the mapping, and an ambiguous local time."""
    own = [Check(n, F.expr(r.when), F.lit(r.reason or n)) for n, r in mapping.warn.items()]
    if "_local_time" not in columns:
        return own
    hour_later = F.from_utc_timestamp(F.col("event_time") + F.expr("INTERVAL 1 HOUR"), mapping.timezone)
    is_ambiguous = hour_later == F.col("_local_time")
    reason = F.lit("the clocks were set back, so the local time occurred twice; the first one is used")
    return [*own, Check("event_time_ambiguous", is_ambiguous, reason)]


def names(mapping: Mapping) -> tuple[list[str], list[str]]:
    """Names of all reject rules and all warnings that a row of this source can have."""
    numbers = [c for c in NUMERIC_COLUMNS if c in mapping.columns]
    rejects = [
        *FAULTS, *mapping.reject, *(["event_id_missing"] if "event_id" in mapping.columns else []),
        "event_type_missing", "event_type_unknown", "event_time_unreadable",
        "event_time_nonexistent", "event_time_before_min_date", "event_time_in_future", "user_id_placeholder",
        *(["user_missing"] if mapping.anonymous == "reject" else []), *[f"{c}_unreadable" for c in numbers],
        "number_not_finite", "price_negative", "quantity_negative", *BATCH_RULES,
    ]  # fmt: skip
    warnings = [
        *mapping.warn,
        *([] if mapping.timezone == "UTC" else ["event_time_ambiguous"]),
        *[f"filled_{c}" for c in mapping.fill],
        *[f"clipped_{c}" for c in mapping.clip],
        *([BOT_WARNING] if mapping.bots else []),
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
    missing = F.col("event_id").isNull() | (F.trim("event_id") == "")
    return [Check("event_id_missing", missing, F.lit("there is no event id"))] if "event_id" in mapping.columns else []


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
    user = F.col("user_id")
    normalized = F.lower(trim_characters(user, " \t\r\n\u00a0"))
    reason = _reason("user id {} is a placeholder, not a user", user)
    placeholder = Check("user_id_placeholder", normalized.isin(*PLACEHOLDER_IDS, ""), reason)
    missing = Check("user_missing", user.isNull(), F.lit("there is no user, and the mapping rejects anonymous events"))
    return [placeholder, missing] if mapping.anonymous == "reject" else [placeholder]


def _number_checks(columns: list[str]) -> list[Check]:
    unreadable = [
        Check(
            f"{name}_unreadable",
            (F.trim(text) != "") & F.col(name).isNull(),
            _reason(f"{name} {{}} is not a number", text),
        )
        for name in NUMERIC_COLUMNS
        if f"_text_{name}" in columns
        for text in [F.col(f"_text_{name}")]
    ]
    value = F.coalesce(F.col("value"), F.col("price") * F.col("quantity"))
    numbers = [*[F.col(name) for name in NUMERIC_COLUMNS if name != "value"], value]
    not_finite = [F.isnan(c) | (F.abs(c) == float("inf")) for c in numbers]
    return [
        *unreadable,
        Check("number_not_finite", reduce(Column.__or__, [F.coalesce(c, F.lit(False)) for c in not_finite]),
              F.lit("a number is NaN or infinite")),
        Check("price_negative", F.col("price") < 0, _reason("price {} is negative", F.col("price").cast("string"))),
        Check("quantity_negative", F.col("quantity") < 0,
              _reason("quantity {} is negative", F.col("quantity").cast("string"))),
    ]  # fmt: skip


def _reason(sentence: str, value: Column) -> Column:
    """The sentence with the value in place of {}, in quotes and cut to 200 characters; `(none)` for null."""
    before, after = sentence.split("{}")
    quoted = F.concat(F.lit("'"), F.left(value, F.lit(200)), F.lit("'"))
    return F.concat(F.lit(before), F.coalesce(quoted, F.lit("(none)")), F.lit(after))
