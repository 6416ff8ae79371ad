"""What one user is expected to do, with reasons, and the lists of items by purpose, as of the latest runs."""

import re
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.language import message, translate
from profilestream.base.settings import Settings
from profilestream.learn.outcomes import outcome_declaration
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.serve.reason_texts import translate_reason
from profilestream.serve.users.all_users import read_or_empty
from profilestream.serve.users.value_text import days_text, money

# The summary has the outcome with a probability whose period is nearest to this.
_MAIN_DAYS = 28
_MARGIN = message("margin")


def scores(spark: SparkSession, settings: Settings, user_id: str) -> dict[str, Any]:
    """By outcome, in declared order: `question` with its period, `days`, `probability`, `score`, `unit`, `reasons`.

    An outcome that is no longer declared has its name as question, and neither days nor unit.
    """
    rows = read_or_empty(spark, tables.USER_SCORES, settings).where(F.col("user_id") == user_id).collect()
    declared = outcome_declaration.load(settings) if rows and settings.learn.outcomes.file else None
    by_outcome = {
        row["outcome"]: {
            **_question(row["outcome"], declared),
            "probability": row["probability"],
            "score": row["score"],
            "reasons": [translate_reason(reason["text"]) for reason in row["reasons"]],
        }
        for row in rows
    }
    names = [*(declared.outcomes if declared else ()), *sorted(by_outcome)]
    in_order = {name: by_outcome[name] for name in names if name in by_outcome}
    return {"scores": in_order} if in_order else {}


def _question(name: str, declared: DeclaredOutcomes | None) -> dict[str, Any]:
    if declared is None or name not in declared.outcomes:
        return {"question": name, "days": None, "unit": ""}
    outcome = declared.outcomes[name]
    label, days = declared.labels[outcome.label], outcome.value_days or outcome.horizon_days
    question = translate("{question} in the next {days}?", question=_stem(label.question), days=days_text(days))
    return {"question": question, "days": days, "unit": _MARGIN if outcome.loss == "hinge" else label.unit}


def _stem(question: str) -> str:
    """The question without its mark, and without the sentences after it."""
    return re.split("[?？]", question, maxsplit=1)[0]


def score_text(score: Mapping[str, Any], currency: str | None) -> str:
    """A score with its unit, such as `82.0% likely` or `123.40 GBP`; `unknown` if it is null.

    Args:
        currency: shown in place of the unit `currency`.
    """
    if score["probability"] is not None:
        return translate("{probability:.1%} likely", probability=score["probability"])
    if score["score"] is None:
        return translate("unknown")
    unit = (currency or "") if score["unit"] == "currency" else translate(score["unit"])
    return money(score["score"], unit)


def main_score(by_outcome: Mapping[str, Any]) -> dict[str, Any] | None:
    """The probability with the period nearest to four weeks, in declared order; the first score if there is none."""
    probable = [one for one in by_outcome.values() if one["probability"] is not None and one["days"]]
    nearest = sorted(probable, key=lambda one: abs(one["days"] - _MAIN_DAYS))
    return next(iter([*nearest, *by_outcome.values()]), None)


def lists(spark: SparkSession, settings: Settings, user_id: str) -> dict[str, Any]:
    """By purpose, `for_you` first: the recommended items by rank, with the reason and the ranker that placed it."""
    rows = read_or_empty(spark, tables.RECOMMENDATIONS, settings).where(F.col("user_id") == user_id).collect()
    by_purpose: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: (row["purpose"] != "for_you", row["purpose"], row["rank"])):
        fields = {"rank": row["rank"], "item_id": row["item_id"], "reason": translate_reason(row["reason"])}
        by_purpose.setdefault(row["purpose"], []).append(fields | {"ranker": row["reason_ranker"] or row["ranker"]})
    return {"lists": by_purpose} if by_purpose else {}
