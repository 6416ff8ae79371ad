"""A user view as tables of texts, which the text for a terminal and the HTML page share; and as JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from profilestream.base.finite import finite_or_null
from profilestream.base.language import join_clauses, message, translate
from profilestream.serve.plain_tables.item_names import label_items
from profilestream.serve.text_width import pad, width
from profilestream.serve.users.user_predictions import score_text
from profilestream.serve.users.user_timeline import day_text
from profilestream.serve.users.user_view import UserView
from profilestream.serve.users.value_text import format_value

COMPARED, RECOMMENDED = "compared", "recommended"
_HEADINGS = {
    COMPARED: message("compared with all users"),
    "timeline": message("timeline"),
    "unusual": message("unusual"),
    "drift": message("drift"),
    "scores": message("scores"),
    "tags": message("tags"),
    "groups": message("groups"),
    "segment": message("segment"),
    "preference_events": message("preference_events"),
}
# Names of the values of the sections above; those of the profile are declared, so they stay as they are.
_FIELDS = {
    "name": message("name"),
    "member_since": message("member_since"),
    "distance_to_center": message("distance_to_center"),
    "typical_distance": message("typical_distance"),
    "rule": message("rule"),
    "size": message("size"),
    "rfm_segment": message("rfm_segment"),
    "rfm_quintiles": message("rfm_quintiles"),
    "loyalty_tier": message("loyalty_tier"),
    "cohort": message("cohort"),
    "vector": message("vector"),
    "price_level": message("price_level"),
}
_PURPOSES = {
    "for_you": message("recommended: for you"),
    "buy_again": message("recommended: buy again"),
    "next_basket": message("recommended: next basket"),
    "next_in_session": message("recommended: next in session"),
}


@dataclass(frozen=True)
class Block:
    """A section of a view as a table of texts; the first column identifies the row.

    Args:
        name: of the section.
        heading: in the language of the context; facets of the profile have their name.
        columns: their headings.
    """

    name: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def as_json(view: UserView) -> str:
    """One JSON object; times in ISO 8601, UTC; null for infinite numbers and NaN, which JSON does not have."""
    head = {"user_id": view.user_id, "as_of": view.as_of, "timezone": view.timezone, "currency": view.currency}
    document = finite_or_null({**head, **view.sections, "item_names": view.item_names})
    return json.dumps(document, default=_iso, ensure_ascii=False, indent=1, allow_nan=False)


def as_text(view: UserView) -> str:
    """A heading, the summary, then one paragraph per block and one line per row."""
    head = translate("{user}, as of {time} UTC", user=view.user_id, time=format_value(view.as_of))
    lines = [head, *(f"  {text}" for text in summary(view))]
    for block in blocks(view):
        first_width = max(width(row[0]) for row in block.rows)
        lines.append(f"  {block.heading}")
        lines += [f"    {pad(first, first_width)}  {join_clauses(others)}" for first, *others in block.rows]
    return "\n".join(lines)


def summary(view: UserView) -> list[str]:
    """The sentences of the summary, with names of items."""
    return [label_items(text, view.item_names) for text in view.sections.get("summary", ())]


def blocks(view: UserView) -> list[Block]:
    """All sections but the summary, in display order, with names of items; values that are null, empty or not finite
    are left out."""
    sections = finite_or_null({name: value for name, value in view.sections.items() if name != "summary"})
    shown = [block for name, value in sections.items() for block in _blocks(name, value, view)]
    others = {name: value for name, value in sections.items() if not _is_table(name, value)}
    shown += _blocks(COMPARED, {name: value for name, value in others.items() if name != "newest_event_time"}, view)
    return [
        Block(
            block.name,
            block.heading,
            block.columns,
            tuple(tuple(label_items(text, view.item_names) for text in r) for r in block.rows),
        )
        for block in shown
        if block.rows
    ]


def _is_table(name: str, value: Any) -> bool:
    return (isinstance(value, dict) and name != "vector") or name == "timeline"


def _blocks(name: str, value: Any, view: UserView) -> Iterator[Block]:
    """The blocks of a section: one, or one per list; none if the value is not a table."""
    heading = translate(_HEADINGS[name]) if name in _HEADINGS else name
    match name:
        case "timeline":
            days = ((str(day["day"]), day_text(day, view.currency)) for day in value)
            yield Block(name, heading, (translate("date"), translate("events")), tuple(days))
        case "scores":
            scores = (
                (one["question"], score_text(one, view.currency), join_clauses(one["reasons"]))
                for one in value.values()
            )
            yield Block(name, heading, (translate("outcome"), translate("score"), translate("reasons")), tuple(scores))
        case "lists":
            for purpose, items in value.items():
                rows = tuple((str(one["rank"]), one["item_id"], one["reason"], one["ranker"]) for one in items)
                columns = (translate("rank"), translate("item"), translate("reason"), translate("ranker"))
                yield Block(RECOMMENDED, translate(_PURPOSES[purpose]), columns, rows)
        case _ if _is_table(name, value):
            names = _FIELDS if name in ("segment", "groups", COMPARED) else {}
            fields = ((translate(names[field]) if field in names else field, text) for field, text in _rows(value))
            yield Block(name, heading, (translate("name"), translate("content")), tuple(fields))


def _rows(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((name, text) for name, value in values.items() if (text := format_value(value)))


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
