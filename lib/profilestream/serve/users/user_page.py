"""A user view as one self-contained HTML page, with the styles of the report; without scripts."""

from collections.abc import Mapping
from typing import Any

from profilestream.base.finite import finite_items, finite_or_null
from profilestream.base.language import join_sentences, message, translate
from profilestream.serve.report import html_page
from profilestream.serve.report.report_elements import Group, KeyFigure, Section, Sentences, TextTable
from profilestream.serve.report.view_model import format_utc
from profilestream.serve.users import profile_renderer, user_predictions
from profilestream.serve.users.profile_renderer import Block
from profilestream.serve.users.user_view import UserView
from profilestream.serve.users.value_text import format_value

# Titles of blocks; others have their name.
_TITLES = {
    "timeline": message("Last days, newest first"),
    "unusual": message("What is unusual"),
    "drift": message("What changed"),
    "scores": message("What the customer is expected to do"),
    "groups": message("Groups"),
    "preference_events": message("Events behind the preferences"),
}
_GROUPS = {
    "history": (message("What happened"), ("timeline", "unusual", "drift")),
    "next": (message("What is next"), ("scores", "recommended")),
    "labels": (message("Tags and segments"), ("tags", "groups", "segment")),
}
_PROFILE = ("profile", message("All values of the profile"))


def as_html(view: UserView) -> str:
    """The page; all texts of the log are escaped."""
    lead = join_sentences(
        translate("As of {time}.", time=format_utc(view.as_of)),
        translate("Days are in the shop time zone ({zone}); all other times are in UTC.", zone=view.timezone),
    )
    summary = profile_renderer.summary(view)
    who = (Section("summary", translate("In short"), (Sentences(tuple(summary)),)),) if summary else ()
    blocks = profile_renderer.blocks(view)
    groups = [Group("who", translate("Who this is"), key_figures(view), who)]
    for name, (title, names) in _GROUPS.items():
        groups.append(_group(name, title, [block for block in blocks if block.name in names]))
    placed = {name for _, names in _GROUPS.values() for name in names}
    groups.append(_group(*_PROFILE, [block for block in blocks if block.name not in placed]))
    return html_page.page(
        translate("Customer {user}", user=view.user_id),
        lead,
        [group for group in groups if group.key_figures or group.sections],
    )


def _group(name: str, title: str, blocks: list[Block]) -> Group:
    return Group(
        name, translate(title), (), tuple(_section(f"{name}-{number}", block) for number, block in enumerate(blocks))
    )


def _section(anchor: str, block: Block) -> Section:
    title = translate(_TITLES[block.name]) if block.name in _TITLES else block.heading[0].upper() + block.heading[1:]
    return Section(anchor, title, (TextTable("", block.columns, block.rows),))


def key_figures(view: UserView) -> tuple[KeyFigure, ...]:
    """Orders, money spent, and the most important score; those without data are left out."""
    behavior = finite_items(_numbers(view.sections.get("behavior")))
    figures = []
    if "orders" in behavior:
        figures.append(
            KeyFigure(
                "orders", translate("orders"), behavior["orders"], format_value(view.sections["behavior"]["orders"])
            )
        )
    if view.currency is not None and "spent" in behavior and behavior.get("priced_events") != 0:
        label = translate("spent, {currency}", currency=view.currency or translate("currency unknown"))
        figures.append(KeyFigure("spent", label, behavior["spent"]))
    score = user_predictions.main_score(finite_or_null(view.sections.get("scores") or {}))
    if score is not None:
        value = score["score"] if score["probability"] is None else score["probability"]
        text = user_predictions.score_text(score, view.currency)
        figures += [KeyFigure("score", score["question"], value, text)] if value is not None else []
    return tuple(figures)


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: value for name, value in (values or {}).items() if isinstance(value, int | float)}
