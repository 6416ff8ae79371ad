"""Reference implementations of the statistics in plain Python: slow, short, without merges."""

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

MICROS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class WeightedEvent:
    """An event of one key, with the value that a statistic uses; `at` in microseconds."""

    at: int
    event_id: str
    value: Any
    weight: float = 1.0


def decayed_weight(event: WeightedEvent, at: int, half_life_days: float | None) -> float:
    """The event's weight at a time; it does not decay without a half-life."""
    if half_life_days is None:
        return event.weight
    factor: float = 2.0 ** (-(at - event.at) / half_life_days / MICROS_PER_DAY)
    return event.weight * factor


def weights(events: list[WeightedEvent], at: int, half_life_days: float | None) -> dict[str, float]:
    """Total weight of the events with each value."""
    result: dict[str, float] = defaultdict(float)
    for e in events:
        result[e.value] += decayed_weight(e, at, half_life_days)
    return dict(result)


def total(events: list[WeightedEvent], at: int, half_life_days: float | None) -> float:
    """Weighted sum of the values."""
    return math.fsum(e.value * decayed_weight(e, at, half_life_days) for e in events)


def moments(events: list[WeightedEvent], at: int, half_life_days: float | None) -> tuple[float | None, float | None]:
    """Weighted mean and variance of the values; None without weight."""
    ws = [decayed_weight(e, at, half_life_days) for e in events]
    if not sum(ws):
        return None, None
    mean = math.fsum(w * e.value for w, e in zip(ws, events, strict=True)) / math.fsum(ws)
    squared_deviations = math.fsum(w * (e.value - mean) ** 2 for w, e in zip(ws, events, strict=True))
    return mean, squared_deviations / math.fsum(ws)


def values_in_order(events: list[WeightedEvent]) -> list[Any]:
    """Values ordered by time and event id."""
    return [e.value for e in sorted(events, key=lambda e: (e.at, e.event_id))]


def quantile(events: list[WeightedEvent], q: float) -> float | None:
    """The smallest value v such that values <= v have at least the share q of the weight; None without events."""
    target, cumulative_weight = q * sum(e.weight for e in events), 0.0
    for e in sorted(events, key=lambda e: float(e.value)):
        cumulative_weight += e.weight
        if cumulative_weight >= target:
            return float(e.value)
    return None


def histogram(events: list[WeightedEvent], bins: int, at: int, half_life_days: float | None) -> list[float]:
    """Total weight of the events in each bin; the value of an event is its bin."""
    return [math.fsum(decayed_weight(e, at, half_life_days) for e in events if e.value == n) for n in range(bins)]


def latest_by_key(events: list[WeightedEvent]) -> dict[str, str]:
    """The last non-null text of each key; the value of an event is a dict of texts."""
    result: dict[str, str] = {}
    for texts in values_in_order(events):
        result |= {key: text for key, text in texts.items() if text is not None}
    return result


def mean_vector(
    events: list[WeightedEvent], vectors: list[list[float]], at: int, half_life_days: float | None
) -> list[float] | None:
    """Weighted mean of the vectors; None without events.

    Args:
        vectors: one per event.
    """
    ws = [decayed_weight(e, at, half_life_days) for e in events]
    if not events:
        return None
    return [
        math.fsum(w * v[n] for w, v in zip(ws, vectors, strict=True)) / math.fsum(ws) for n in range(len(vectors[0]))
    ]


@dataclass(frozen=True)
class Click:
    """The columns of an event that sessions use; `at` in microseconds."""

    user: str | None
    at: int
    source: str
    event_id: str
    event_type: str = "view"
    session_id: str | None = None
    category: str | None = None
    item: str | None = None
    value: float | None = None
    device: str | None = None


def sessions(
    log: list[Click], gap: int, max_length: int, use_source_session_ids: bool = False, max_categories: int = 20
) -> dict[tuple[str, int, str], Any]:
    """The sessions by user, start and session id of the source ("" for sessions that are split by the gap).

    Args:
        gap, max_length: in microseconds.
    """
    clicks: dict[tuple[str, str], list[Click]] = defaultdict(list)
    for e in sorted(log, key=lambda e: (e.at, e.source, e.event_id)):
        if e.user is not None:
            clicks[e.user, (e.session_id or "") if use_source_session_ids else ""].append(e)
    result = {}
    for (user, session_id), events in clicks.items():
        spans: list[list[Click]] = []
        for e in events:
            if not spans or (not session_id and e.at - spans[-1][-1].at > gap):
                spans.append([])
            spans[-1].append(e)
        for span in spans:
            parts: list[list[Click]] = []
            for e in span:
                if not parts or (not session_id and e.at >= parts[-1][0].at + max_length):
                    parts.append([])
                parts[-1].append(e)
            for part in parts:
                result[user, part[0].at, session_id] = _session(part) | {
                    "span": (span[0].at, span[-1].at),
                    "path": path(part, max_categories),
                }
    return result


def _session(events: list[Click]) -> dict[str, Any]:
    categories = [e.category for e in events if e.category is not None]
    devices = [e.device for e in events if e.device is not None]
    purchases = [e for e in events if e.event_type == "purchase"]
    return {
        "end": events[-1].at,
        "events": len(events),
        "types": {kind: sum(e.event_type == kind for e in events) for kind in {e.event_type for e in events}},
        "value": sum(e.value or 0.0 for e in purchases),
        "items": len({e.item for e in events if e.item is not None}),
        "entry": categories[0] if categories else None,
        "exit": categories[-1] if categories else None,
        "device": devices[0] if devices else None,
        "is_bounce": len(events) == 1,
        "is_converted": bool(purchases),
    }


def path(events: list[Click], max_categories: int) -> dict[tuple[str, str, str], int]:
    """Number of transitions of a session by level, first state and second state.

    Args:
        max_categories: categories after the first `max_categories` distinct ones become the state "(other)".
    """
    categories = [e.category.split(".")[0] for e in events if e.category is not None]
    named_states = list(dict.fromkeys(categories))[:max_categories]
    levels = {
        "type": [e.event_type for e in events],
        "category": [category if category in named_states else "(other)" for category in categories],
    }
    counts: Counter[tuple[str, str, str]] = Counter()
    for level, states in levels.items():
        chain = ["(start)", *states, "(end)"] if states else []
        counts.update((level, start, end) for start, end in itertools.pairwise(chain))
    return dict(counts)


def transitions(
    sessions: dict[tuple[str, int, str], Any], at: int, half_life_days: float
) -> dict[tuple[str, str, str, str], tuple[int, float]]:
    """Number and decayed weight of each transition of each user, from the result of `sessions`."""
    result: dict[tuple[str, str, str, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for (user, _, _), session in sessions.items():
        for transition, count in session["path"].items():
            number, weight = result[user, *transition]
            decayed = decayed_weight(WeightedEvent(session["end"], "", None), at, half_life_days)
            result[user, *transition] = number + count, weight + count * decayed
    return dict(result)
