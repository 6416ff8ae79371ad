"""Who a user is, in at most five sentences for a merchant; a sentence without data is left out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from profilestream.base.finite import finite_items, finite_or_null
from profilestream.base.language import join_clauses, join_list, join_sentences, message, translate
from profilestream.base.settings import Settings
from profilestream.serve.users import user_predictions
from profilestream.serve.users.value_text import days_text, money, orders_text

_MAX_FAVORITES = 3
_FAVORITES = {
    "categories": message("favorite categories: {values}"),
    "brands": message("favorite brands: {values}"),
    "items": message("favorite items: {values}"),
}
_END_MARKS = "?.？。"


def sentences(sections: dict[str, Any], as_of: datetime, timezone: str, currency: str | None) -> list[str]:
    """When the user was seen, orders and money, favorites, groups, and the most important score.

    Args:
        sections: of a UserView.
        timezone: of the days.
        currency: of all amounts; empty: unknown; null: the amounts have several, so they are left out.
    """
    sections = finite_or_null(sections)
    texts = [
        _visits(sections, as_of, ZoneInfo(timezone)),
        _orders(sections.get("behavior") or {}, currency),
        _favorites(sections.get("preference") or {}),
        _groups(sections),
        _score(sections.get("scores") or {}, currency),
    ]
    capitalized = [text[0].upper() + text[1:] for text in texts if text]
    return [text if text[-1] in _END_MARKS else translate("{sentence}.", sentence=text) for text in capitalized]


def currency_of(settings: Settings, currencies: list[str]) -> str | None:
    """The currency of all amounts of a user; empty: unknown; null: several.

    Args:
        currencies: those of the user's events.
    """
    if settings.capture.currency is not None:
        return settings.capture.currency.reporting
    return currencies[0] if len(currencies) == 1 else None if currencies else ""


def _visits(sections: Mapping[str, Any], as_of: datetime, timezone: ZoneInfo) -> str:
    basic = sections.get("basic") or {}
    last: datetime | None = basic.get("last_seen") or sections.get("newest_event_time")
    if last is None:
        return ""
    last_day, day = (time.astimezone(timezone).date() for time in (last, as_of))
    first = basic.get("first_seen")
    text = translate("last seen on {last}", last=last_day)
    if first:
        first_day = first.astimezone(timezone).date()
        text = translate("first seen on {first}, last seen on {last}", first=first_day, last=last_day)
    days = (day - last_day).days
    return text if days <= 0 else translate("{visits}, {days} before {day}", visits=text, days=days_text(days), day=day)


def _orders(behavior: Mapping[str, Any], currency: str | None) -> str:
    orders = behavior.get("orders")
    if orders is None:
        return ""
    if not orders:
        return translate("no orders yet")
    count = orders_text(orders)
    spent, returned = (behavior.get(name) for name in ("spent", "returned"))
    if currency is None or spent is None or behavior.get("priced_events") == 0:
        return count
    values = {"orders": count, "spent": money(spent, currency), "average": money(spent / orders, currency)}
    text = translate("{orders} for {spent}", **values)
    if orders > 1:
        text = translate("{orders} for {spent}, {average} each on average", **values)
    back = translate("{returned} were returned", returned=money(returned, currency)) if returned else ""
    return join_clauses([text, back])


def _favorites(preference: Mapping[str, Any]) -> str:
    """The heaviest categories and brands; the heaviest items of a log that has neither."""
    texts = {name: _heaviest(preference.get(name)) for name in ("categories", "brands", "items")}
    names = [name for name in ("categories", "brands") if texts[name]] or [name for name in ("items",) if texts[name]]
    return join_clauses(translate(_FAVORITES[name], values=join_list(texts[name])) for name in names)


def _heaviest(weights: Any) -> list[str]:
    positive = {key: weight for key, weight in finite_items(weights).items() if weight > 0}
    return sorted(positive, key=lambda key: (-positive[key], key))[:_MAX_FAVORITES]


def _groups(sections: Mapping[str, Any]) -> str:
    groups, segment = sections.get("groups") or {}, sections.get("segment") or {}
    rfm, name = (groups.get("rfm_segment") or "").replace("_", " "), segment.get("name") or ""
    if name and segment.get("size"):
        name = translate("{text} ({label})", text=name, label=segment["size"])
    fields = {
        message("RFM segment: {name}"): rfm,
        message("loyalty tier: {name}"): groups.get("loyalty_tier"),
        message("segment: {name}"): name,
    }
    return join_clauses(translate(text, name=value) for text, value in fields.items() if value)


def _score(scores: Mapping[str, Any], currency: str | None) -> str:
    score = user_predictions.main_score(scores)
    return "" if score is None else join_sentences(score["question"], user_predictions.score_text(score, currency))
