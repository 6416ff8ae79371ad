"""The section of the report with three different kinds of customers."""

import re

from profilestream.base.language import join_clauses, join_sentences, message, translate
from profilestream.serve.report.report_elements import Section, Sentences, TextTable, missing_data
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_shop import ExampleCustomer, ExampleKind

# An outcome such as value_180d, and the words for its score.
_OUTCOME = re.compile(r"(value|spend|purchase)_(\d+)d")
_SCORES = {
    "value": message("expected spend in {days} days"),
    "spend": message("expected spend in {days} days"),
    "purchase": message("probability of a purchase in {days} days"),
}
_KINDS: dict[ExampleKind, str] = {
    "at_risk": message("valuable and at risk"),
    "highest": message("valuable"),
    "new": message("new"),
    "typical": message("typical"),
}
_RULES: dict[ExampleKind, str] = {
    "at_risk": message("Valuable and at risk: spent most in the last 52 weeks, of the customers at risk."),
    "highest": message("Valuable: spent most in the last 52 weeks, of the customers who are not new."),
    "new": message(
        "New: first order in the last four weeks, with the highest score that is not the limit of the scores."
    ),
    "typical": message("Typical: the score is nearest to the median of all scores."),
}


def examples(view: ReportView, *, is_enabled: bool) -> Section:
    """Up to three customers of different kinds, with their scores and the reasons."""
    name, title = "examples", translate("Three customers")
    if view.shop is None or not view.shop.examples:
        hint = missing_data(
            message("There are no scores. {do}, and run jobs/run_pipeline.py."),
            enable=message("Set learn.outcomes.enabled and serve.outcomes.enabled = true"),
            capture=message("Capture more weeks"),
            is_enabled=is_enabled,
        )
        return Section(name, title, hint=hint)
    customers = view.shop.examples
    has_values = bool(view.events and view.events.value)
    spent = (translate("spent since {day}", day=view.shop.year_start),) if has_values else ()
    score = _score_name(customers[0].user.outcome)
    rows = tuple(_row(customer, has_values=has_values) for customer in customers)
    columns = (translate("example"), translate("customer"), *spent, score, translate("reasons"))
    rules = join_sentences(*(translate(_RULES[one.kind]) for one in customers))
    return Section(name, title, (Sentences((rules,)), TextTable("", columns, rows)))


def _row(customer: ExampleCustomer, *, has_values: bool) -> tuple[str, ...]:
    user, spent = customer.user, (f"{customer.spent:,.0f}",) if has_values else ()
    return (translate(_KINDS[customer.kind]), user.user_id, *spent, user.score_text, join_clauses(user.reasons))


def _score_name(outcome: str) -> str:
    match = _OUTCOME.fullmatch(outcome)
    return translate(_SCORES[match[1]], days=match[2]) if match else outcome
