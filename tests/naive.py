"""Reference implementations of the statistics in plain Python: slow, short, without merges."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MICROS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class WeightedEvent:
    """An event: its time in microseconds, its id, the value that a statistic uses, and its weight."""

    at: int
    event_id: str
    value: Any
    weight: float = 1.0


def decayed_weight(event: WeightedEvent, at: int, half_life_days: float | None) -> float:
    """The event's weight at a time."""
    return event.weight * (
        1.0 if half_life_days is None else 2.0 ** (-(at - event.at) / half_life_days / MICROS_PER_DAY)
    )


def weights(events: list[WeightedEvent], at: int, half_life_days: float | None) -> dict[str, float]:
    """Weight by value."""
    result: dict[str, float] = defaultdict(float)
    for e in events:
        result[e.value] += decayed_weight(e, at, half_life_days)
    return dict(result)


def total(events: list[WeightedEvent], at: int, half_life_days: float | None) -> float:
    """Weighted sum."""
    return math.fsum(e.value * decayed_weight(e, at, half_life_days) for e in events)


def moments(events: list[WeightedEvent], at: int, half_life_days: float | None) -> tuple[float | None, float | None]:
    """Weighted mean and variance."""
    ws = [decayed_weight(e, at, half_life_days) for e in events]
    if not sum(ws):
        return None, None
    mean = math.fsum(w * e.value for w, e in zip(ws, events, strict=True)) / math.fsum(ws)
    spread = math.fsum(w * (e.value - mean) ** 2 for w, e in zip(ws, events, strict=True))
    return mean, spread / math.fsum(ws)


def in_order(events: list[WeightedEvent]) -> list[Any]:
    """Values from the oldest event to the newest, ties by id."""
    return [e.value for e in sorted(events, key=lambda e: (e.at, e.event_id))]


def quantile(events: list[WeightedEvent], q: float) -> float | None:
    """The smallest value with at least a share q of the weight at or below it."""
    target, total_weight = q * sum(e.weight for e in events), 0.0
    for e in sorted(events, key=lambda e: float(e.value)):
        total_weight += e.weight
        if total_weight >= target:
            return float(e.value)
    return None


def histogram(events: list[WeightedEvent], bins: int, at: int, half_life_days: float | None) -> list[float]:
    """Weight by bin."""
    by_bin: Callable[[int], list[WeightedEvent]] = lambda n: [e for e in events if e.value == n]  # noqa: E731
    return [math.fsum(decayed_weight(e, at, half_life_days) for e in by_bin(n)) for n in range(bins)]


def latest_by_key(events: list[WeightedEvent]) -> dict[str, str]:
    """The value of each key in the latest event that has one; an event's value is a dict."""
    result: dict[str, str] = {}
    for value in in_order(events):
        result |= {key: text for key, text in value.items() if text is not None}
    return result


def mean_vector(
    events: list[WeightedEvent], vectors: list[list[float]], at: int, half_life_days: float | None
) -> list[float] | None:
    """Weighted mean of the events' vectors."""
    ws = [decayed_weight(e, at, half_life_days) for e in events]
    if not events:
        return None
    return [
        math.fsum(w * v[n] for w, v in zip(ws, vectors, strict=True)) / math.fsum(ws) for n in range(len(vectors[0]))
    ]


@dataclass(frozen=True)
class Click:
    """The fields of an event that sessions use; `at` in microseconds."""

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
    log: list[Click], gap: int, max_length: int, use_source_session_ids: bool = False, categories: int = 20
) -> dict[tuple[str, int, str], Any]:
    """The expected sessions by user, start and session id of the log (empty for sessions made by the gap)."""
    streams: dict[tuple[str, str], list[Click]] = defaultdict(list)
    for e in sorted(log, key=lambda e: (e.at, e.source, e.event_id)):
        if e.user is not None:
            streams[e.user, (e.session_id or "") if use_source_session_ids else ""].append(e)
    result = {}
    for (user, own), events in streams.items():
        spans: list[list[Click]] = []
        for e in events:
            if not spans or (not own and e.at - spans[-1][-1].at > gap):
                spans.append([])
            spans[-1].append(e)
        for span in spans:
            parts: list[list[Click]] = []
            for e in span:
                if not parts or (not own and e.at >= parts[-1][0].at + max_length):
                    parts.append([])
                parts[-1].append(e)
            for part in parts:
                result[user, part[0].at, own] = _session(part) | {
                    "span": (span[0].at, span[-1].at),
                    "path": path(part, categories),
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


def path(events: list[Click], categories: int) -> dict[tuple[str, str, str], int]:
    """Number of times that a state follows another in a session, by level and both states."""
    tops = [e.category.split(".")[0] for e in events if e.category is not None]
    first = list(dict.fromkeys(tops))[:categories]
    levels = {
        "type": [e.event_type for e in events],
        "category": [top if top in first else "(other)" for top in tops],
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
        for move, count in session["path"].items():
            number, weight = result[user, *move]
            decayed = decayed_weight(WeightedEvent(session["end"], "", None), at, half_life_days)
            result[user, *move] = number + count, weight + count * decayed
    return dict(result)
