"""A campaign study as text and as one plotly figure."""

from datetime import timedelta

import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from profilestream.serve.campaigns.campaign_effect import CampaignOutcome, CampaignStudy
from profilestream.serve.campaigns.matching import Floats, MatchingConfig

_TREATED, _MATCHED, _UNTREATED, _SHADE, _ZERO_LINE = "#c2410c", "#1d4ed8", "#94a3b8", "#fef3c7", "#475569"
_BALANCED = 0.1


def as_text(study: CampaignStudy, placebo: CampaignStudy | None, config: MatchingConfig) -> str:
    """Numbers of users and pairs, balance, effects, and the placebo."""
    campaign = study.campaign
    treated = int(study.users.is_treated.sum())
    lines = [
        f"campaign of {campaign.length.days} days, {_days(study)}",
        f"users with earlier events: {treated:,} treated, {len(study.users.ids) - treated:,} untreated",
        f"matched pairs: {len(study.pairs):,}, caliper {config.caliper:g} standard deviations of the propensity logit",
        "",
        "standardized mean difference, treated minus untreated",
        f"  {'':16}  {'before':>7}  {'matched':>7}",
        *[f"  {name:16}  {before:7.2f}  {after:7.2f}" for name, (before, after) in study.balance.items()],
        "",
        f"effect per matched treated user, with {config.confidence:.0%} interval",
        *map(_outcome_line, study.outcomes),
        "",
    ]
    if placebo is None:
        return "\n".join([*lines, "placebo: none, the events do not cover two campaign lengths before the start"])
    placebo_lines = map(_outcome_line, placebo.outcomes)
    return "\n".join([*lines, f"placebo: the same for {_days(placebo)}, before the campaign", *placebo_lines])


def _days(study: CampaignStudy) -> str:
    return f"{study.campaign.start} to {study.campaign.end - timedelta(days=1)}"


def _outcome_line(outcome: CampaignOutcome) -> str:
    effect = outcome.effect
    name = f"{outcome.measure} {outcome.window}"
    relative = "" if outcome.relative_effect is None else f"relative {outcome.relative_effect:+.1%}  "
    return (
        f"  {name:13}  {effect.value:+8.2f}  ({effect.low:+.2f} to {effect.high:+.2f})"
        f"  {relative}unmatched {outcome.unmatched_difference:+.2f}"
    )


def study_figure(study: CampaignStudy, placebo: CampaignStudy | None) -> go.Figure:
    """Spend per week of treated users, their matches and all untreated users; effects with intervals; balance."""
    titles = (
        "spend per user and week; shaded: the campaign",
        "effect on spend per treated user<br><sup>ring: difference without matching</sup>",
        "standardized mean difference<br><sup>ring: before matching; shaded: balanced</sup>",
    )
    specs = [[{"colspan": 2}, None], [{}, {}]]
    figure = make_subplots(rows=2, cols=2, specs=specs, subplot_titles=titles, vertical_spacing=0.16)
    _draw_spend(figure, study)
    _draw_effects(figure, study, placebo)
    _draw_balance(figure, study)
    figure.layout.annotations[0].update(x=0, xanchor="left")
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"}
    figure.update_layout(
        template="plotly_white", height=760, font_size=14, legend=legend, margin={"l": 60, "r": 30, "t": 60, "b": 40}
    )
    return figure


def _draw_spend(figure: go.Figure, study: CampaignStudy) -> None:
    users, campaign = study.users, study.campaign
    days = campaign.length.days / campaign.intervals
    middles = [campaign.placebo.start + timedelta(days=(n + 0.5) * days) for n in range(users.spend.shape[1])]
    has_after = any(outcome.window == "after" for outcome in study.outcomes)
    intervals = len(middles) if has_after else 2 * campaign.intervals
    groups: tuple[tuple[str, str, Floats], ...] = (
        ("treated, matched", _TREATED, users.spend[study.pairs[:, 0]]),
        ("their matches", _MATCHED, users.spend[study.pairs[:, 1]]),
        ("all untreated", _UNTREATED, users.spend[~users.is_treated]),
    )
    for name, color, spend in groups:
        per_week = spend.mean(axis=0)[:intervals] * 7 / days
        is_reference = color == _UNTREATED
        line = {"color": color, "width": 2 if is_reference else 3, "dash": "dot" if is_reference else "solid"}
        figure.add_scatter(x=middles[:intervals], y=per_week, name=name, mode="lines", line=line, row=1, col=1)
    figure.add_vrect(x0=campaign.start, x1=campaign.end, fillcolor=_SHADE, layer="below", line_width=0, row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)


def _draw_effects(figure: go.Figure, study: CampaignStudy, placebo: CampaignStudy | None) -> None:
    outcomes: dict[str, CampaignOutcome] = {
        outcome.window: outcome for outcome in study.outcomes if outcome.measure == "spend"
    }
    if placebo is not None:
        outcomes["placebo"] = next(outcome for outcome in placebo.outcomes if outcome.measure == "spend")
    names, effects = list(outcomes), [outcome.effect for outcome in outcomes.values()]
    intervals = {
        "type": "data", "symmetric": False, "thickness": 3, "width": 8, "color": _TREATED,
        "array": [effect.high - effect.value for effect in effects],
        "arrayminus": [effect.value - effect.low for effect in effects],
    }  # fmt: skip
    figure.add_scatter(
        x=[effect.value for effect in effects], y=names, error_x=intervals, mode="markers",
        marker={"size": 12, "color": _TREATED}, name="effect, interval", showlegend=False, row=2, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=[outcome.unmatched_difference for outcome in outcomes.values()], y=names, mode="markers",
        marker={"size": 12, "color": _UNTREATED, "symbol": "circle-open", "line_width": 3},
        name="difference without matching", showlegend=False, row=2, col=1,
    )  # fmt: skip
    figure.add_vline(x=0, line_color=_ZERO_LINE, line_width=1, row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)


def _draw_balance(figure: go.Figure, study: CampaignStudy) -> None:
    names = [name.replace("_", " ") for name in study.balance]
    before, after = zip(*study.balance.values(), strict=True)
    rings = {"size": 11, "color": _UNTREATED, "symbol": "circle-open", "line_width": 3}
    dots = {"size": 11, "color": _MATCHED, "symbol": "circle", "line_width": 0}
    for name, values, marker in (("before matching", before, rings), ("after matching", after, dots)):
        figure.add_scatter(x=values, y=names, mode="markers", marker=marker, name=name, showlegend=False, row=2, col=2)
    figure.add_vrect(x0=-_BALANCED, x1=_BALANCED, fillcolor=_SHADE, layer="below", line_width=0, row=2, col=2)
    figure.update_yaxes(autorange="reversed", row=2, col=2)
