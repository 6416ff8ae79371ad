"""A person as text for a terminal, or as JSON."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

from profilestream.serve.users.user_view import Person

_BARS = "▁▂▃▄▅▆▇█"
_MOST = 5


def as_json(person: Person) -> str:
    """One JSON object; times in ISO 8601, UTC."""
    document = {"user_id": person.user_id, "at": person.at, **person.said}
    return json.dumps(document, default=_iso, ensure_ascii=False, indent=1)


def as_text(person: Person) -> str:
    """A heading, then a block a facet and a line a statistic; what says nothing is left out."""
    lines = [f"{person.user_id}, as of {_shown(person.at)} UTC"]
    plain = {name: value for name, value in person.said.items() if not _is_facet(name, value)}
    for name, value in person.said.items():
        if _is_facet(name, value):
            lines += _block(name, value)
    lines += _block("against all users", {name: value for name, value in plain.items() if name != "as_of"})
    return "\n".join(lines)


def _is_facet(name: str, value: Any) -> bool:
    return isinstance(value, dict) and name != "vector"


def _block(name: str, values: dict[str, Any]) -> Iterator[str]:
    told = {field: text for field, value in values.items() if (text := _shown(value))}
    if told:
        yield f"  {name}"
        width = max(map(len, told))
        yield from (f"    {field.ljust(width)}  {text}" for field, text in told.items())


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case dict() | list() if not value:
            return ""
        case bool():
            return "yes" if value else "no"
        case float() if abs(value) < 1e-9:  # a sine of noon is no 1e-16
            return "0"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
        case dict() if all(isinstance(one, int | float) for one in value.values() if one is not None):
            return _heaviest(value)
        case dict():
            return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
        case list() if all(isinstance(one, int | float) for one in value):
            return bars(value, max(value))
        case list():
            return ", ".join(map(_shown, value[:_MOST]))
        case _:
            return str(value)


def _heaviest(weights: dict[str, Any]) -> str:
    by_weight = sorted(((abs(w), key) for key, w in weights.items() if w is not None), reverse=True)
    told = ", ".join(f"{key} {_shown(float(weights[key]))}" for _, key in by_weight[:_MOST])
    more = len(by_weight) - _MOST
    return f"{told} and {more} more" if more > 0 else told


def bars(values: list[float], most: float) -> str:
    """A block a value, as high as its share of the most; nothing when no value is above 0."""
    if most <= 0:
        return ""
    return "".join(_BARS[min(7, round(7 * max(value, 0.0) / most))] for value in values)


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
