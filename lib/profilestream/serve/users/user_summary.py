"""Who a user is, in at most five sentences for a merchant; a sentence without data is left out."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from profilestream.base.finite import finite_items, finite_or_null
from profilestream.base.settings import Settings
from profilestream.serve.users import user_predictions
from profilestream.serve.users.value_text import money, plural

_MAX_FAVORITES = 3


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
    return [f"{text[0].upper()}{text[1:]}{'' if text[-1] in '?.' else '.'}" for text in texts if text]


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
    since = f"first seen on {first.astimezone(timezone).date()}, " if first else ""
    return f"{since}last seen on {last_day}{_days_before(last_day, day)}"


def _days_before(last: date, day: date) -> str:
    days = (day - last).days
    return "" if days <= 0 else f", {plural(days, 'day')} before {day}"


def _orders(behavior: Mapping[str, Any], currency: str | None) -> str:
    orders = behavior.get("orders")
    if orders is None:
        return ""
    if not orders:
        return "no orders yet"
    count = plural(orders, "order")
    spent, returned = (behavior.get(name) for name in ("spent", "returned"))
    if currency is None or spent is None or behavior.get("priced_events") == 0:
        return count
    average = f", {money(spent / orders, currency)} each on average" if orders > 1 else ""
    back = f"; {money(returned, currency)} were returned" if returned else ""
    return f"{count} for {money(spent, currency)}{average}{back}"


def _favorites(preference: Mapping[str, Any]) -> str:
    """The heaviest categories and brands; the heaviest items of a log that has neither."""
    texts = {name: _heaviest(preference.get(name)) for name in ("categories", "brands", "items")}
    names = [name for name in ("categories", "brands") if texts[name]] or [name for name in ("items",) if texts[name]]
    return "; ".join(f"favorite {name}: {', '.join(texts[name])}" for name in names)


def _heaviest(weights: Any) -> list[str]:
    positive = {key: weight for key, weight in finite_items(weights).items() if weight > 0}
    return sorted(positive, key=lambda key: (-positive[key], key))[:_MAX_FAVORITES]


def _groups(sections: Mapping[str, Any]) -> str:
    groups, segment = sections.get("groups") or {}, sections.get("segment") or {}
    size = f" ({segment['size']})" if segment.get("size") else ""
    fields = {
        "RFM segment": (groups.get("rfm_segment") or "").replace("_", " "),
        "loyalty tier": groups.get("loyalty_tier"),
        "segment": segment.get("name") and f"{segment['name']}{size}",
    }
    return "; ".join(f"{name}: {text}" for name, text in fields.items() if text)


def _score(scores: Mapping[str, Any], currency: str | None) -> str:
    score = user_predictions.main_score(scores)
    return "" if score is None else f"{score['question']} {user_predictions.score_text(score, currency)}"
