"""Removes infinite numbers and NaN, which JSON does not have and which are no result for a reader."""

import math
from collections.abc import Mapping
from typing import Any


def finite_or_null(value: Any) -> Any:
    """The value with null in place of infinite numbers and NaN, also inside of dicts, lists and tuples."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: finite_or_null(item) for key, item in value.items()}
        case list() | tuple():
            return [finite_or_null(item) for item in value]
        case _:
            return value


def finite_items(numbers: Mapping[str, float | None] | None) -> dict[str, float]:
    """The entries with a finite number."""
    return {key: value for key, value in (numbers or {}).items() if value is not None and math.isfinite(value)}
