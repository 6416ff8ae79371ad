"""The study of a campaign as text, and as one picture."""

from datetime import timedelta

import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from profilestream.serve.campaigns.campaign_effect import Outcome, Study
from profilestream.serve.campaigns.matching import Floats, Matching

TREATED, MATCHED, OTHERS, SHADE = "#c2410c", "#1d4ed8", "#94a3b8", "#fef3c7"
_BALANCED = 0.1


def as_text(study: Study, placebo: Study | None, how: Matching) -> str:
    """Who was compared, how alike they are, and the effects."""
    campaign = study.campaign
    treated = int(study.users.treated.sum())
    lines = [
        f"campaign of {campaign.length.days} days, {_days(study)}",
        f"users known before it: {treated:,} treated, {len(study.users.ids) - treated:,} untreated",
        f"matched: {len(study.pairs):,} pairs, within {how.caliper:g} standard deviations of the propensity's logit",
        "",
        "standardized mean difference, treated less untreated",
        f"  {'':16}  {'before':>7}  {'matched':>7}",
        *[f"  {name:16}  {was:7.2f}  {now:7.2f}" for name, (was, now) in study.balance.items()],
        "",
        f"effect on a treated user who has a match, with its {how.confidence:.0%} interval",
        *[f"  {line}" for outcome in study.outcomes for line in _told(outcome)],
        "",
    ]
    if placebo is None:
        return "\n".join([*lines, "placebo: none, the log does not reach back that far"])
    shown = [f"  {line}" for outcome in placebo.outcomes for line in _told(outcome)]
    return "\n".join([*lines, f"placebo: the same on {_days(placebo)}, before the campaign", *shown])


def _days(study: Study) -> str:
    return f"{study.campaign.start} to {study.campaign.end - timedelta(days=1)}"


def _told(outcome: Outcome) -> list[str]:
    effect = outcome.effect
    name = f"{outcome.measure} {outcome.window}"
    share = "" if outcome.share is None else f"{outcome.share:+.1%} of what it would have been; "
    return [
        f"{name:13}  {effect.value:+8.2f}  ({effect.low:+.2f} to {effect.high:+.2f})"
        f"  {share}unmatched {outcome.naive:+.2f}"
    ]


def picture(study: Study, placebo: Study | None) -> go.Figure:
    """Spend by week of treated users and those they are compared with; effects with intervals; balance."""
    specs = [[{"colspan": 2}, None], [{}, {}]]
    titles = (
        "spend a user and week; shaded: the campaign",
        "effect on spend, a treated user<br><sup>ring: the difference without matching</sup>",
        "standardized mean difference<br><sup>ring: before matching; shaded: balanced</sup>",
    )
    made = make_subplots(rows=2, cols=2, specs=specs, subplot_titles=titles, vertical_spacing=0.16)
    _draw_weeks(made, study)
    _draw_effects(made, study, placebo)
    _draw_balance(made, study)
    made.layout.annotations[0].update(x=0, xanchor="left")
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"}
    made.update_layout(
        template="plotly_white", height=760, font_size=14, legend=legend, margin={"l": 60, "r": 30, "t": 60, "b": 40}
    )
    return made


def _draw_weeks(made: go.Figure, study: Study) -> None:
    users, campaign = study.users, study.campaign
    days = campaign.length.days / campaign.steps
    at = [campaign.placebo.start + timedelta(days=(n + 0.5) * days) for n in range(users.spend.shape[1])]
    sides: tuple[tuple[str, str, Floats], ...] = (
        ("treated, matched", TREATED, users.spend[study.pairs[:, 0]]),
        ("their matches", MATCHED, users.spend[study.pairs[:, 1]]),
        ("all untreated", OTHERS, users.spend[~users.treated]),
    )
    shown = len(at) if any(one.window == "after" for one in study.outcomes) else 2 * campaign.steps
    for name, color, spend in sides:
        line = spend.mean(axis=0)[:shown] * 7 / days
        style = {"color": color, "width": 3 if color != OTHERS else 2, "dash": "dot" if color == OTHERS else "solid"}
        made.add_scatter(x=at[:shown], y=line, name=name, mode="lines", line=style, row=1, col=1)
    made.add_vrect(x0=campaign.start, x1=campaign.end, fillcolor=SHADE, layer="below", line_width=0, row=1, col=1)
    made.update_yaxes(rangemode="tozero", row=1, col=1)


def _draw_effects(made: go.Figure, study: Study, placebo: Study | None) -> None:
    named: dict[str, Outcome] = {one.window: one for one in study.outcomes if one.measure == "spend"}
    if placebo is not None:
        named["placebo"] = next(one for one in placebo.outcomes if one.measure == "spend")
    names, effects = list(named), [one.effect for one in named.values()]
    values = [one.value for one in effects]
    bars = {
        "type": "data", "symmetric": False, "thickness": 3, "width": 8, "color": TREATED,
        "array": [one.high - one.value for one in effects], "arrayminus": [one.value - one.low for one in effects],
    }  # fmt: skip
    dot, ring = {"size": 12, "color": TREATED}, {"size": 12, "color": OTHERS, "symbol": "circle-open", "line_width": 3}
    made.add_scatter(
        x=values,
        y=names,
        error_x=bars,
        mode="markers",
        marker=dot,
        name="effect, interval",
        showlegend=False,
        row=2,
        col=1,
    )
    naive = [one.naive for one in named.values()]
    made.add_scatter(
        x=naive, y=names, mode="markers", marker=ring, name="unmatched difference", showlegend=False, row=2, col=1
    )
    made.add_vline(x=0, line_color="#475569", line_width=1, row=2, col=1)
    made.update_yaxes(autorange="reversed", row=2, col=1)


def _draw_balance(made: go.Figure, study: Study) -> None:
    names = [name.replace("_", " ") for name in study.balance]
    for place, (name, color, symbol) in enumerate(
        (("before matching", OTHERS, "circle-open"), ("after matching", MATCHED, "circle"))
    ):
        values = [both[place] for both in study.balance.values()]
        marker = {"size": 11, "color": color, "symbol": symbol, "line_width": 3 if place == 0 else 0}
        made.add_scatter(x=values, y=names, mode="markers", marker=marker, name=name, showlegend=False, row=2, col=2)
    made.add_vrect(x0=-_BALANCED, x1=_BALANCED, fillcolor=SHADE, layer="below", line_width=0, row=2, col=2)
    made.update_yaxes(autorange="reversed", row=2, col=2)
