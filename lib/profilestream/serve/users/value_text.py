"""Values of a user view as text: numbers, times, weights by key, amounts with currency."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from profilestream.base.language import join_list, message, translate, translate_count

_BARS = "▁▂▃▄▅▆▇█"
_MAX_ITEMS = 5
# Types of events of the project; a shop can declare more.
_EVENT_TYPES = {
    "view": message("view"),
    "click": message("click"),
    "cart": message("cart"),
    "uncart": message("uncart"),
    "favorite": message("favorite"),
    "unfavorite": message("unfavorite"),
    "purchase": message("purchase"),
    "return": message("return"),
    "search": message("search"),
    "rate": message("rate"),
    "review": message("review"),
    "complaint": message("complaint"),
    "share": message("shares"),
    "follow": message("follow"),
    "identify": message("identify"),
    "exposure": message("exposure"),
}


class Approximate(int):
    """A number that a sketch estimates; a text shows it as `about 436`."""


def money(amount: float, currency: str | None) -> str:
    """An amount with its currency, if it is known."""
    return f"{amount:,.2f} {currency or ''}".rstrip()


def days_text(count: int) -> str:
    """The number with its unit, such as `1 day`."""
    return translate_count("{number} day", "{number} days", count)


def orders_text(count: int) -> str:
    """The number with its unit, such as `1 order` and `about 1,436 orders`."""
    return translate_count("{number} order", "{number} orders", count, number=format_value(count))


def events_text(by_type: Iterable[tuple[str, int]]) -> str:
    """Numbers of events by type, such as `7 purchase, 1,200 view`."""
    return join_list(
        translate(
            "{number:,} {event_type}",
            number=number,
            event_type=translate(_EVENT_TYPES[name]) if name in _EVENT_TYPES else name,
        )
        for name, number in by_type
    )


def format_value(value: Any) -> str:
    """A value as short text; empty for null and for empty collections."""
    match value:
        case None:
            return ""
        case dict() | list() if not value:
            return ""
        case bool():
            return translate("yes") if value else translate("no")
        case float() if abs(value) < 1e-9:  # rounding error, such as 1e-16 for the sine of noon
            return "0"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case Approximate():
            return translate("about {number:,}", number=int(value))
        case int():
            return f"{value:,}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
        case dict() if all(isinstance(item, int | float) for item in value.values() if item is not None):
            return _largest(value)
        case dict():
            return join_list(f"{key} {format_value(item)}" for key, item in value.items())
        case list() if all(isinstance(item, int | float) for item in value if item is not None):
            numbers = [item or 0.0 for item in value]
            return bars(numbers, max(numbers))
        case list():
            return join_list(map(format_value, value[:_MAX_ITEMS]))
        case _:
            return str(value)


def _largest(weights: dict[str, Any]) -> str:
    """The keys with the largest absolute weights, and the number of the other keys."""
    by_weight = sorted(((abs(w), key) for key, w in weights.items() if w is not None), reverse=True)
    text = join_list(f"{key} {format_value(float(weights[key]))}" for _, key in by_weight[:_MAX_ITEMS])
    return with_others(text, len(by_weight) - _MAX_ITEMS)


def with_others(texts: str, others: int) -> str:
    """An enumeration with the number of entries that it leaves out."""
    return translate("{texts} and {others:,} more", texts=texts, others=others) if others > 0 else texts


def bars(values: list[float], maximum: float) -> str:
    """One bar character per value, with a height proportional to value / maximum; empty when maximum <= 0."""
    if maximum <= 0:
        return ""
    return "".join(_BARS[min(7, round(7 * max(value, 0.0) / maximum))] for value in values)
