"""Measures of days of users, and their deviations from earlier days, by loops over all events."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from profilestream.serve.scores.kernels.user_days import HABITS, HabitShares

Event = dict[str, Any]


@dataclass
class NaiveDays:
    """All events of one user."""

    events: list[Event]
    half_life_days: float
    habit_shares: HabitShares

    def days(self) -> list[int]:
        return sorted({event["day"] for event in self.events})

    def measures(self, day: int) -> list[float]:
        """The measures of a day, in the order of MEASURES."""
        events = self._of(day)
        purchases = [event for event in events if event["event_type"] == "purchase"]
        values = [max(e["value"], 0.0) for e in purchases if e["value"] is not None and math.isfinite(e["value"])]
        return [
            math.log(1 + len(events)),
            math.log(1 + len({event["time_micros"] for event in events})),
            math.log(1 + sum(value / len(values) for value in values)) if values else math.nan,
            self._returns(day, len(purchases)),
            *(self._surprise(day, habit) for habit in HABITS),
        ]

    def _of(self, day: int) -> list[Event]:
        return [event for event in self.events if event["day"] == day]

    def _weight(self, earlier: int, day: int) -> float:
        return float(0.5 ** ((day - earlier) / self.half_life_days))

    def _returns(self, day: int, purchases: float) -> float:
        returns = sum(event["event_type"] == "return" for event in self._of(day))
        for event in self.events:
            if event["day"] < day and event["event_type"] == "purchase":
                purchases += self._weight(event["day"], day)
        return returns / (purchases + 10) if returns else math.nan

    def _surprise(self, day: int, habit: str) -> float:
        parts = self._parts(day, habit)
        same, days = defaultdict[Any, float](float), 0.0
        for earlier in self.days():
            if earlier < day and (earlier_parts := self._parts(earlier, habit)):
                days += self._weight(earlier, day)
                for value, part in earlier_parts.items():
                    same[value] += self._weight(earlier, day) * part
        shares = {value: max(self.habit_shares[habit].get(value, 0), 0.001) for value in parts}
        terms = [-part * math.log((same[value] + 2 * shares[value]) / (days + 2)) for value, part in parts.items()]
        return sum(terms) if parts else math.nan

    def _parts(self, day: int, habit: str) -> dict[Any, float]:
        counts = Counter(event[habit] for event in self._of(day) if event[habit] is not None)
        return {value: count / counts.total() for value, count in counts.items()}


def z_scores(days: list[tuple[int, float]], half_life_days: float, center: float, spread: float) -> list[float]:
    """z of one measure of the days of one user: (day, value)."""
    zs, history = list[float](), list[tuple[int, float, float]]()
    for day, value in days:
        weights = [0.5 ** ((day - earlier) / half_life_days) for earlier, *_ in history]
        mean = 5 * center + sum(w * one for w, (_, one, _) in zip(weights, history, strict=True))
        scale = 5 * spread + sum(w * 1.2533 * one for w, (*_, one) in zip(weights, history, strict=True))
        mean, scale = mean / (5 + sum(weights)), scale / (5 + sum(weights))
        zs.append((value - mean) / scale)
        if not math.isnan(value):
            limited = min(max(value - mean, -3 * scale), 3 * scale)
            history.append((day, mean + limited, abs(limited)))
    return zs
