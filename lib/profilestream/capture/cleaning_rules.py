"""Why a row is rejected, and what is odd about one that is kept. Rules are data; the first that holds wins."""

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Capture
from profilestream.capture.canonical_columns import NOTES, noted, trimmed
from profilestream.capture.mapping import NUMBERS, Mapping

JUNK_IDS = ("null", "undefined", "none", "nan", "nil", "n/a", "anonymous", "unknown", "0", "-1")
FAULTS = ("line_too_long", "not_utf8", "unparseable", "wrong_type", "nothing_to_explode")
FOUND_LATER = ("file_unreadable", "id_reused")
BOT_WARNING = "bot_suspected"


@dataclass(frozen=True)
class Check:
    """A named rule: a condition that is true on the rows it speaks of, and its reason in words for that row."""

    name: str
    condition: Column
    reason: Column


@dataclass(frozen=True)
class Verdict:
    """What the rules say of a row, as columns. They hold for every batch, and building them takes longer than judging
    a small one, so a run builds them once.

    Args:
        rule: the first reject rule that holds; null on good rows.
        warnings: names of fills, clips and warn rules.
        reason: why it was rejected; reads `rule`.
    """

    rule: Column
    warnings: Column
    reason: Column


def verdict(columns: list[str], mapping: Mapping, capture: Capture) -> Verdict:
    """The verdict on rows with these columns, those of `canonical.expressed`, and `_ingest_time`."""
    rejects = _reject_checks(columns, mapping, capture)
    fault = F.col("fault")
    rule = reduce(lambda chain, c: chain.when(c.condition, c.name), rejects, F.when(fault.isNotNull(), fault))
    by_rule = F.when(fault.isNotNull(), F.col("fault_reason"))
    reason = reduce(lambda chain, c: chain.when(F.col("rule") == c.name, c.reason), rejects, by_rule)
    return Verdict(
        rule=rule,
        warnings=F.concat(NOTES, *[noted(c.condition, c.name) for c in _warn_checks(columns, mapping)]),
        reason=F.when(F.col("rule").isNotNull(), F.coalesce(reason, F.col("rule"))),
    )


def judged(events: DataFrame, said: Verdict) -> DataFrame:
    """Events with `rule` and `reason` (null on good rows) and `warnings`."""
    return events.withColumns({"rule": said.rule, "warnings": said.warnings}).withColumn("reason", said.reason)


def _reject_checks(columns: list[str], mapping: Mapping, capture: Capture) -> list[Check]:
    """Reject rules in order: what the mapping names first, then what holds for every source."""
    own = [Check(n, F.expr(r.when), F.lit(r.reason or f"{n}: {r.when}")) for n, r in mapping.reject.items()]
    return [*own, *_id_checks(mapping), *_type_checks(mapping),
            *_time_checks(columns, mapping, capture), *_user_checks(mapping),
            *_number_checks(columns)]  # fmt: skip


def _warn_checks(columns: list[str], mapping: Mapping) -> list[Check]:
    """Warn rules: the mapping's, and an ambiguous local time."""
    own = [Check(n, F.expr(r.when), F.lit(r.reason or n)) for n, r in mapping.warn.items()]
    if "_local_time" not in columns:
        return own
    hour_later = F.from_utc_timestamp(F.col("event_time") + F.expr("INTERVAL 1 HOUR"), mapping.timezone)
    twice = hour_later == F.col("_local_time")
    return [*own, Check("time_twice_on_clock", twice, F.lit("the clocks were set back; the first of the two is taken"))]


def names(mapping: Mapping) -> tuple[list[str], list[str]]:
    """Names of all reject rules and all warnings that a row of this source can carry."""
    numbers = [c for c in NUMBERS if c in mapping.columns]
    rejects = [
        *FAULTS, *mapping.reject, *(["event_id_missing"] if "event_id" in mapping.columns else []),
        "event_type_missing", "event_type_unknown", "event_time_unreadable",
        "event_time_not_on_clock", "event_time_before_floor", "event_time_in_future", "user_id_junk",
        *(["user_missing"] if mapping.anonymous == "reject" else []), *[f"{c}_unreadable" for c in numbers],
        "number_not_finite", "price_negative", "quantity_negative", *FOUND_LATER,
    ]  # fmt: skip
    warns = [
        *mapping.warn,
        *([] if mapping.timezone == "UTC" else ["time_twice_on_clock"]),
        *[f"filled_{c}" for c in mapping.fill],
        *[f"clipped_{c}" for c in mapping.clip],
        *([BOT_WARNING] if mapping.bots else []),
    ]
    return rejects, warns


def check_names(mapping: Mapping, where: str) -> None:
    """Refuse a mapping whose own rules take a name that is already a rule's."""
    for kind in names(mapping):
        twice = sorted({name for name in kind if kind.count(name) > 1})
        if twice:
            raise BadSettings(
                f"rule names that are already taken: {twice}", where=where, do="give the rules other names"
            )


def _id_checks(mapping: Mapping) -> list[Check]:
    missing = F.col("event_id").isNull() | (F.trim("event_id") == "")
    return [Check("event_id_missing", missing, F.lit("there is no event id"))] if "event_id" in mapping.columns else []


def _type_checks(mapping: Mapping) -> list[Check]:
    kind = F.col("event_type")
    return [
        Check("event_type_missing", kind.isNull() | (F.trim(kind) == ""), F.lit("there is no event type")),
        Check("event_type_unknown", ~kind.isin(*mapping.known_types), _says("event type {} is not known", kind)),
    ]


def _time_checks(columns: list[str], mapping: Mapping, capture: Capture) -> list[Check]:
    time = F.col("event_time")
    read = time.cast("string")
    written = F.col("_text_event_time") if "_text_event_time" in columns else F.lit(None).cast("string")
    skew = F.expr(f"INTERVAL {round(capture.max_clock_skew_minutes * 60)} SECONDS")
    latest = F.col("_ingest_time") + skew
    floor = F.lit(capture.min_event_date).cast("timestamp")
    on_clock = []
    if "_local_time" in columns:
        skipped = F.from_utc_timestamp(time, mapping.timezone) != F.col("_local_time")
        says = _says(f"{{}} was skipped by the clocks of {mapping.timezone}", F.col("_local_time").cast("string"))
        on_clock = [Check("event_time_not_on_clock", skipped, says)]
    return [
        Check("event_time_unreadable", time.isNull(), _says("event time {} is missing or not a time", written)),
        *on_clock,
        Check("event_time_before_floor", time < floor, _says(f"{{}} is before {capture.min_event_date}", read)),
        Check("event_time_in_future", time > latest, _says("{} is later than the clock when the row came in", read)),
    ]  # fmt: skip


def _user_checks(mapping: Mapping) -> list[Check]:
    user = F.col("user_id")
    plain = F.lower(trimmed(user, " \t\r\n\u00a0"))
    junk = Check("user_id_junk", plain.isin(*JUNK_IDS, ""), _says("user id {} stands for no one", user))
    missing = Check("user_missing", user.isNull(), F.lit("there is no user, and the mapping rejects anonymous events"))
    return [junk, missing] if mapping.anonymous == "reject" else [junk]


def _number_checks(columns: list[str]) -> list[Check]:
    unreadable = [
        Check(
            f"{name}_unreadable",
            (F.trim(text) != "") & F.col(name).isNull(),
            _says(f"{name} {{}} is not a number", text),
        )
        for name in NUMBERS
        if f"_text_{name}" in columns
        for text in [F.col(f"_text_{name}")]
    ]
    value = F.coalesce(F.col("value"), F.col("price") * F.col("quantity"))
    numbers = [*[F.col(name) for name in NUMBERS if name != "value"], value]
    odd = [F.isnan(c) | (F.abs(c) == float("inf")) for c in numbers]
    return [
        *unreadable,
        Check("number_not_finite", reduce(Column.__or__, [F.coalesce(o, F.lit(False)) for o in odd]),
              F.lit("a number is NaN or infinite")),
        Check("price_negative", F.col("price") < 0, _says("price {} is negative", F.col("price").cast("string"))),
        Check("quantity_negative", F.col("quantity") < 0,
              _says("quantity {} is negative", F.col("quantity").cast("string"))),
    ]  # fmt: skip


def _says(sentence: str, value: Column) -> Column:
    before, after = sentence.split("{}")
    shown = F.concat(F.lit("'"), F.left(value, F.lit(200)), F.lit("'"))
    return F.concat(F.lit(before), F.coalesce(shown, F.lit("(none)")), F.lit(after))
