"""The sections about expected outcomes of users: quality of the scores, and the users with the highest scores."""

from collections.abc import Sequence

from profilestream.serve.report import chart_elements
from profilestream.serve.report.chart_elements import Figure
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.view_model import format_utc
from profilestream.serve.report.view_outcomes import OutcomesView, ScoredOutcome

_SCORED_BEFORE = "Each example was scored with the model that was valid at its time, before its label was known."


def highest_scores(view: OutcomesView | None, *, is_enabled: bool) -> Section:
    """The users with the highest scores of each outcome."""
    name, title = "outcomes", "What customers do next"
    if view is None or not view.users:
        return Section(name, title, hint=_hint(is_enabled))
    return Section(name, title, (_highest(view),))


def score_quality(view: OutcomesView | None, *, is_enabled: bool) -> Section:
    """Quality of the scores of all outcomes, calibration and gains."""
    name, title = "scores", "Quality of the scores"
    if view is None or not view.outcomes:
        return Section(name, title, hint=_hint(is_enabled))
    parts: list[Chart | TextTable] = [_quality(view)]
    if binary := [one for one in view.outcomes if not one.is_amount]:
        caption = (
            "Examples in 20 groups of equal size by probability: the mean probability of each group and the share that "
            f"happened. On the dotted line both are equal. {_SCORED_BEFORE}"
        )
        parts.append(Chart("Calibration", caption, _calibration(binary), _group_table(binary)))
    best = max(view.outcomes, key=lambda one: _gain(one, 0.1))
    caption = (
        "Share of all purchases, lost customers or amounts that belongs to the customers with the highest scores. "
        f"The tenth with the highest scores of {best.name} has {_gain(best, 0.1):.0%}; a random tenth has 10%."
    )
    parts.append(Chart("Gains", caption, _gains(view.outcomes)))
    return Section(name, title, tuple(parts))


def _hint(is_enabled: bool) -> str:
    do = (
        "Scores appear when the labels of a first week are known: run jobs/run_pipeline.py with more events"
        if is_enabled
        else "Set learn.outcomes.enabled and serve.outcomes.enabled = true, and run jobs/run_pipeline.py"
    )
    return f"There are no scores. {do}."


def _quality(view: OutcomesView) -> TextTable:
    rows = tuple(
        (
            one.name,
            f"{one.question} ({one.horizon_days} days)",
            f"{one.rows:,}",
            f"{one.mean:,.2f}" if one.is_amount else f"{one.mean:.1%}",
            *(_number(one.metrics.get(metric)) for metric in ("auc", "ece", "lift_10", "bias", "relative_mae")),
        )
        for one in view.outcomes
    )
    columns = ("outcome", "question", "examples", "mean", "AUC", "ECE", "lift of a tenth", "bias", "MAE / mean")
    return TextTable(f"Scores of {view.weeks} weeks compared with what happened", columns, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _calibration(outcomes: Sequence[ScoredOutcome]) -> Figure:
    highest = max(max(group.predicted, group.observed) for one in outcomes for group in one.groups)
    diagonal = {
        "type": "scatter", "mode": "lines", "name": "equal", "x": [0, highest], "y": [0, highest],
        "line": {"color": "@muted", "width": 1, "dash": "dot"}, "hoverinfo": "skip",
    }  # fmt: skip
    lines = [
        chart_elements.line(
            one.name, number, [group.predicted for group in one.groups], [group.observed for group in one.groups],
            "probability %{x:.1%}, happened %{y:.1%}",
        )
        for number, one in enumerate(outcomes)
    ]  # fmt: skip
    percent = {"tickformat": ".0%", "rangemode": "tozero"}
    return chart_elements.figure(
        [*lines, diagonal],
        height=380,
        xaxis=chart_elements.axis("mean probability of the group") | percent,
        yaxis=chart_elements.axis("share that happened") | percent,
    )


def _group_table(outcomes: Sequence[ScoredOutcome]) -> TextTable:
    rows = tuple(
        (one.name, str(number), f"{group.predicted:.1%}", f"{group.observed:.1%}")
        for one in outcomes
        for number, group in enumerate(one.groups, 1)
    )
    return TextTable("Groups by probability", ("outcome", "group", "mean probability", "happened"), rows)


def _gains(outcomes: Sequence[ScoredOutcome]) -> Figure:
    lines = [
        chart_elements.line(
            one.name, number, [share for share, _ in one.gains], [gain for _, gain in one.gains],
            "highest %{x:.0%} of scores: %{y:.1%}",
        )
        for number, one in enumerate(outcomes)
    ]  # fmt: skip
    percent = {"tickformat": ".0%", "range": [0, 1]}
    return chart_elements.figure(
        lines,
        height=380,
        xaxis=chart_elements.axis("share of customers, highest scores first") | percent,
        yaxis=chart_elements.axis("share of all that happened") | percent,
    )


def _gain(outcome: ScoredOutcome, share: float) -> float:
    """The gain at a share of the customers."""
    return min(outcome.gains, key=lambda point: abs(point[0] - share))[1]


def _highest(view: OutcomesView) -> TextTable:
    rows = tuple((user.outcome, user.user_id, user.score_text, "; ".join(user.reasons)) for user in view.users)
    as_of = "" if view.as_of is None else f", as of {format_utc(view.as_of)}"
    return TextTable(f"Users with the highest scores{as_of}", ("outcome", "user", "score", "reasons"), rows)
