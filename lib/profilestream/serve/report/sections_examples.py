"""The section of the report with three different kinds of customers."""

import re

from profilestream.serve.report.report_elements import Section, Sentences, TextTable
from profilestream.serve.report.view_model import ReportView
from profilestream.serve.report.view_shop import ExampleCustomer, ExampleKind

# An outcome such as value_180d, and the words for its score.
_OUTCOME = re.compile(r"(value|spend|purchase)_(\d+)d")
_SCORES = {"value": "expected spend", "spend": "expected spend", "purchase": "probability of a purchase"}
_KINDS: dict[ExampleKind, str] = {
    "at_risk": "valuable and at risk", "highest": "valuable", "new": "new", "typical": "typical",
}  # fmt: skip
_RULES: dict[ExampleKind, str] = {
    "at_risk": "Valuable and at risk: spent most in the last 52 weeks, of the customers at risk.",
    "highest": "Valuable: spent most in the last 52 weeks, of the customers who are not new.",
    "new": "New: first order in the last four weeks, with the highest score that is not the limit of the scores.",
    "typical": "Typical: the score is nearest to the median of all scores.",
}


def examples(view: ReportView, *, is_enabled: bool) -> Section:
    """Up to three customers of different kinds, with their scores and the reasons."""
    name, title = "examples", "Three customers"
    if view.shop is None or not view.shop.examples:
        do = "Capture more weeks" if is_enabled else "Set learn.outcomes.enabled and serve.outcomes.enabled = true"
        return Section(name, title, hint=f"There are no scores. {do}, and run jobs/run_pipeline.py.")
    customers = view.shop.examples
    has_values = bool(view.events and view.events.value)
    spent = (f"spent since {view.shop.year_start:%Y-%m-%d}",) if has_values else ()
    score = _score_name(customers[0].user.outcome)
    rows = tuple(_row(customer, has_values=has_values) for customer in customers)
    table = TextTable("", ("example", "customer", *spent, score, "reasons"), rows)
    return Section(name, title, (Sentences((" ".join(_RULES[one.kind] for one in customers),)), table))


def _row(customer: ExampleCustomer, *, has_values: bool) -> tuple[str, ...]:
    user, spent = customer.user, (f"{customer.spent:,.0f}",) if has_values else ()
    return (_KINDS[customer.kind], user.user_id, *spent, user.score_text, "; ".join(user.reasons))


def _score_name(outcome: str) -> str:
    match = _OUTCOME.fullmatch(outcome)
    return f"{_SCORES[match[1]]} in {match[2]} days" if match else outcome
