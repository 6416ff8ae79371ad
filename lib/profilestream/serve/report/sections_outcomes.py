"""The sections about expected outcomes of users: quality of the scores, and the users with the highest scores."""

from collections.abc import Sequence

from profilestream.base.language import join_clauses, join_sentences, message, translate
from profilestream.serve.report import chart_elements
from profilestream.serve.report.chart_elements import Figure
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.view_model import format_utc
from profilestream.serve.report.view_outcomes import OutcomesView, ScoredOutcome

_SCORED_BEFORE = message(
    "Each example was scored with the model that was valid at its time, before its label was known."
)


def highest_scores(view: OutcomesView | None, *, is_enabled: bool) -> Section:
    """The users with the highest scores of each outcome."""
    name, title = "outcomes", translate("What customers do next")
    if view is None or not view.users:
        return Section(name, title, hint=_hint(is_enabled))
    return Section(name, title, (_highest(view),))


def score_quality(view: OutcomesView | None, *, is_enabled: bool) -> Section:
    """Quality of the scores of all outcomes, calibration and gains."""
    name, title = "scores", translate("Quality of the scores")
    if view is None or not view.outcomes:
        return Section(name, title, hint=_hint(is_enabled))
    parts: list[Chart | TextTable] = [_quality(view)]
    if binary := [one for one in view.outcomes if not one.is_amount]:
        caption = translate(
            "Examples in 20 groups of equal size by probability: the mean probability of each group and the share that "
            "happened. On the dotted line both are equal."
        )
        caption = join_sentences(caption, translate(_SCORED_BEFORE))
        parts.append(Chart(translate("Calibration"), caption, _calibration(binary), _group_table(binary)))
    best = max(view.outcomes, key=lambda one: _gain(one, 0.1))
    caption = translate(
        "Share of all purchases, lost customers or amounts that belongs to the customers with the highest scores. "
        "The tenth with the highest scores of {outcome} has {gain:.0%}; a random tenth has 10%.",
        outcome=best.name,
        gain=_gain(best, 0.1),
    )
    parts.append(Chart(translate("Gains"), caption, _gains(view.outcomes)))
    return Section(name, title, tuple(parts))


def _hint(is_enabled: bool) -> str:
    if is_enabled:
        return translate(
            "There are no scores. They appear when the labels of a first week are known: run jobs/run_pipeline.py with "
            "more events."
        )
    return translate(
        "There are no scores. Set learn.outcomes.enabled and serve.outcomes.enabled = true, and run "
        "jobs/run_pipeline.py."
    )


def _quality(view: OutcomesView) -> TextTable:
    rows = tuple(
        (
            one.name,
            translate("{question} ({days} days)", question=one.question, days=one.horizon_days),
            f"{one.rows:,}",
            f"{one.mean:,.2f}" if one.is_amount else f"{one.mean:.1%}",
            *(_number(one.metrics.get(metric)) for metric in ("auc", "ece", "lift_10", "bias", "relative_mae")),
        )
        for one in view.outcomes
    )
    columns = (
        translate("outcome"), translate("question"), translate("examples"), translate("mean"), "AUC", "ECE",
        translate("lift of a tenth"), translate("bias"), translate("MAE / mean"),
    )  # fmt: skip
    title = translate("Scores of {weeks} weeks compared with what happened", weeks=view.weeks)
    return TextTable(title, columns, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _calibration(outcomes: Sequence[ScoredOutcome]) -> Figure:
    highest = max(max(group.predicted, group.observed) for one in outcomes for group in one.groups)
    diagonal = {
        "type": "scatter", "mode": "lines", "name": translate("equal"), "x": [0, highest], "y": [0, highest],
        "line": {"color": "@muted", "width": 1, "dash": "dot"}, "hoverinfo": "skip",
    }  # fmt: skip
    lines = [
        chart_elements.line(
            one.name, number, [group.predicted for group in one.groups], [group.observed for group in one.groups],
            translate("probability {x}, happened {y}", x="%{x:.1%}", y="%{y:.1%}"),
        )
        for number, one in enumerate(outcomes)
    ]  # fmt: skip
    percent = {"tickformat": ".0%", "rangemode": "tozero"}
    return chart_elements.figure(
        [*lines, diagonal],
        height=380,
        xaxis=chart_elements.axis(translate("mean probability of the group")) | percent,
        yaxis=chart_elements.axis(translate("share that happened")) | percent,
    )


def _group_table(outcomes: Sequence[ScoredOutcome]) -> TextTable:
    rows = tuple(
        (one.name, str(number), f"{group.predicted:.1%}", f"{group.observed:.1%}")
        for one in outcomes
        for number, group in enumerate(one.groups, 1)
    )
    columns = (translate("outcome"), translate("group"), translate("mean probability"), translate("happened"))
    return TextTable(translate("Groups by probability"), columns, rows)


def _gains(outcomes: Sequence[ScoredOutcome]) -> Figure:
    lines = [
        chart_elements.line(
            one.name, number, [share for share, _ in one.gains], [gain for _, gain in one.gains],
            translate("highest {x} of scores: {y}", x="%{x:.0%}", y="%{y:.1%}"),
        )
        for number, one in enumerate(outcomes)
    ]  # fmt: skip
    percent = {"tickformat": ".0%", "range": [0, 1]}
    return chart_elements.figure(
        lines,
        height=380,
        xaxis=chart_elements.axis(translate("share of customers, highest scores first")) | percent,
        yaxis=chart_elements.axis(translate("share of all that happened")) | percent,
    )


def _gain(outcome: ScoredOutcome, share: float) -> float:
    """The gain at a share of the customers."""
    return min(outcome.gains, key=lambda point: abs(point[0] - share))[1]


def _highest(view: OutcomesView) -> TextTable:
    rows = tuple((user.outcome, user.user_id, user.score_text, join_clauses(user.reasons)) for user in view.users)
    title = translate("Users with the highest scores")
    if view.as_of is not None:
        title = translate("Users with the highest scores, as of {time}", time=format_utc(view.as_of))
    columns = (translate("outcome"), translate("user"), translate("score"), translate("reasons"))
    return TextTable(title, columns, rows)
