"""A user view as text for a terminal, or as JSON."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

from profilestream.base.finite import finite_or_null
from profilestream.serve.users.user_view import Approximate, UserView

_BARS = "▁▂▃▄▅▆▇█"
_MAX_ITEMS = 5


def as_json(view: UserView) -> str:
    """One JSON object; times in ISO 8601, UTC; null for infinite numbers and NaN, which JSON does not have."""
    document = finite_or_null({"user_id": view.user_id, "as_of": view.as_of, **view.sections})
    return json.dumps(document, default=_iso, ensure_ascii=False, indent=1, allow_nan=False)


def as_text(view: UserView) -> str:
    """A heading, then one block per section and one line per field; values that are null, empty or not finite are
    left out."""
    lines = [f"{view.user_id}, as of {_format(view.as_of)} UTC"]
    sections = finite_or_null(view.sections)
    comparisons = {name: value for name, value in sections.items() if not _is_block(name, value)}
    for name, value in sections.items():
        if _is_block(name, value):
            lines += _block(name, value)
    lines += _block(
        "compared with all users", {name: value for name, value in comparisons.items() if name != "newest_event_time"}
    )
    return "\n".join(lines)


def _is_block(name: str, value: Any) -> bool:
    return isinstance(value, dict) and name != "vector"


def _block(name: str, values: dict[str, Any]) -> Iterator[str]:
    texts = {field: text for field, value in values.items() if (text := _format(value))}
    if texts:
        yield f"  {name}"
        width = max(map(len, texts))
        yield from (f"    {field.ljust(width)}  {text}" for field, text in texts.items())


def _format(value: Any) -> str:
    match value:
        case None:
            return ""
        case dict() | list() if not value:
            return ""
        case bool():
            return "yes" if value else "no"
        case float() if abs(value) < 1e-9:  # rounding error, such as 1e-16 for the sine of noon
            return "0"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case Approximate():
            return f"about {int(value):,}"
        case int():
            return f"{value:,}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
        case dict() if all(isinstance(item, int | float) for item in value.values() if item is not None):
            return _largest(value)
        case dict():
            return ", ".join(f"{key} {_format(item)}" for key, item in value.items())
        case list() if all(isinstance(item, int | float) for item in value if item is not None):
            numbers = [item or 0.0 for item in value]
            return bars(numbers, max(numbers))
        case list():
            return ", ".join(map(_format, value[:_MAX_ITEMS]))
        case _:
            return str(value)


def _largest(weights: dict[str, Any]) -> str:
    """The keys with the largest absolute weights, and the number of the other keys."""
    by_weight = sorted(((abs(w), key) for key, w in weights.items() if w is not None), reverse=True)
    text = ", ".join(f"{key} {_format(float(weights[key]))}" for _, key in by_weight[:_MAX_ITEMS])
    others = len(by_weight) - _MAX_ITEMS
    return f"{text} and {others} more" if others > 0 else text


def bars(values: list[float], maximum: float) -> str:
    """One bar character per value, with a height proportional to value / maximum; empty when maximum <= 0."""
    if maximum <= 0:
        return ""
    return "".join(_BARS[min(7, round(7 * max(value, 0.0) / maximum))] for value in values)


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
