"""The formulas of `learn_factors` in plain loops over users and items, in float64: the expected values of the tests."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from profilestream.learn.factors.kernels import als
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.kernels.sums import MICROS_PER_DAY

DAY = MICROS_PER_DAY


@dataclass(frozen=True)
class Event:
    """One event; `time` is in microseconds since 1970."""

    user: str
    item: str
    weight: float
    time: int
    rating: float = 0.0
    category: str | None = None


class NaiveAls:
    """Users and items as dictionaries.

    A user has a vector `p`, `stored` events (time, item, weight, rating), a `tail` weight, and the `time` of its latest
    event. An item has a vector `q`, normal equations `A` and `b`, decayed weight `n`, popularity `c`, the `time` of its
    latest update, and the decayed counts of its `neighbors`.
    """

    def __init__(self, params: AlsParams, mean_rating: float = 0.0) -> None:
        self.params, self.mean_rating = params, mean_rating
        self.users: dict[str, dict[str, Any]] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.now = 0

    def item_vector(self, item: str) -> Any:
        return self.items[item]["q"] if item in self.items else als.initial_vector(item, self.params).astype(float)

    def decay(self, age: int, half_life_days: float | None) -> float:
        return 1.0 if half_life_days is None else float(2.0 ** (-age / DAY / half_life_days))

    def design(self, vector: Any) -> Any:
        """The design vector for the other side, and the offset that is subtracted from its target."""
        if self.params.is_explicit:
            return np.append(vector[:-1], 1.0), self.mean_rating + vector[-1]
        return vector, 0.0

    def ridge(self, weight: float) -> Any:
        params = self.params
        if params.is_explicit:
            penalty = np.append(np.full(params.k, params.regularization), params.bias_regularization)
            return np.diag(penalty * np.sqrt(max(weight, 0)))
        return params.regularization * max(weight, 0) * np.eye(params.k)

    def learn(self, batch: list[Event]) -> None:
        params, k = self.params, self.params.width
        q_of = {item: self.item_vector(item) for item in {e.item for e in batch} | set(self.items)}
        gram_q = sum((np.outer(i["q"], i["q"]) for i in self.items.values()), np.zeros((k, k)))
        weights = {
            name: i["n"] * self.decay(self.now - i["time"], params.half_life_days) for name, i in self.items.items()
        }
        total_weight = sum(max(w, 0) for w in weights.values())
        mean_gram = np.zeros((k, k))
        for name, w in weights.items():
            x, _ = self.design(self.items[name]["q"])
            mean_gram = mean_gram + max(w, 0) * np.outer(x, x)
        mean_gram = mean_gram / total_weight if total_weight else mean_gram
        pair_weight = 0.0 if params.is_explicit else min(params.unobserved_weight / max(len(self.items), 1), 1.0)
        # By item: user vector, weight, 1 for a new event (0 for a replaced one), time, rating.
        contributions: dict[str, list[tuple[Any, float, float, int, float]]] = defaultdict(list)
        neighbors: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        now = max([self.now, *[e.time for e in batch]])
        for user in sorted({e.user for e in batch}):
            row = self.users.get(user, {"p": np.zeros(k), "stored": [], "tail": 0.0, "time": 0})
            new = self.effective_events(row["stored"], [e for e in batch if e.user == user])
            events = sorted(row["stored"] + new)
            net: dict[Any, float] = defaultdict(float)
            for n, (_, item, w, rating) in enumerate(events):
                net[(item, 1.0, 0) if not params.is_explicit else (item, rating, n)] += w
            a = row["tail"] * mean_gram + pair_weight * gram_q
            b = row["tail"] * mean_gram @ row["p"]
            for (item, rating, _), w in net.items():
                x, offset = self.design(q_of[item])
                a = a + max(w, 0) * np.outer(x, x)
                b = b + max(w, 0) * (rating - offset) * x
            weight = sum(max(w, 0) for w in net.values()) + row["tail"]
            if not params.is_explicit:
                unobserved = params.unobserved_weight
                weight += min(unobserved, len(self.items)) if self.items else unobserved
            p = np.linalg.solve(a + self.ridge(weight), b).astype(np.float32).astype(float)
            for t, item, w, rating in new:
                contributions[item].append((p, w, 1.0, t, rating))
            for t, item, w, rating in sorted(row["stored"])[-params.reweighted_events :]:
                contributions[item] += [(p, w, 0.0, t, rating), (row["p"], -w, 0.0, t, rating)]
            self.count_neighbors(row["stored"], new, neighbors, now)
            truncated = events[: -params.max_events_per_user]
            tail = max(row["tail"] + sum(w for _, _, w, _ in truncated), 0.0)
            latest = max([row["time"], *[t for t, _, _, _ in events]])
            self.users[user] = {"p": p, "stored": events[-params.max_events_per_user :], "tail": tail, "time": latest}
        self.now = now
        gram_p = sum(
            (
                self.decay(now - u["time"], params.half_life_days) * np.outer(u["p"], u["p"])
                for u in self.users.values()
            ),
            np.zeros((k, k)),
        )
        users = sum([self.decay(now - u["time"], params.half_life_days) for u in self.users.values()])
        unobserved = pair_weight * max(users, len(self.items))
        for item, rows in contributions.items():
            self.update_item(item, rows, neighbors[item], pair_weight * gram_p, unobserved)

    def update_item(
        self, item: str, rows: list[Any], neighbors: dict[str, float], gram: Any, unobserved: float
    ) -> None:
        """Add contributions and neighbors to an item, and solve it."""
        params, k, now = self.params, self.params.width, self.now
        empty = {
            "q": np.zeros(k), "A": np.zeros((k, k)), "b": np.zeros(k), "n": 0.0, "c": 0.0, "time": now, "neighbors": {},
        }  # fmt: skip
        old = self.items.get(item, empty)
        factor = self.decay(now - old["time"], params.half_life_days)
        A, b, n = factor * old["A"], factor * old["b"], factor * old["n"]
        c = old["c"] * self.decay(now - old["time"], params.popularity_half_life_days)
        for p, w, is_new, t, rating in rows:
            d = self.decay(now - t, params.half_life_days)
            x, offset = self.design(p)
            y = rating - offset if params.is_explicit else 1.0
            A, b, n = A + w * d * np.outer(x, x), b + w * d * y * x, n + is_new * w * d
            c += is_new * w * self.decay(now - t, params.popularity_half_life_days)
        ridge = self.ridge(n if params.is_explicit else max(n, 0) + unobserved)
        q = np.linalg.solve(A + gram + ridge, b).astype(np.float32).astype(float)
        A, b = A.astype(np.float32).astype(float), b.astype(np.float32).astype(float)
        counts = {name: factor * count for name, count in old["neighbors"].items()}
        for name, count in neighbors.items():
            counts[name] = counts.get(name, 0.0) + count
        top = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: params.max_neighbors])
        self.items[item] = {"q": q, "A": A, "b": b, "n": n, "c": c, "time": now, "neighbors": top}

    def effective_events(self, stored: list[Any], new: list[Event]) -> list[Any]:
        """New events, with the weights of returns limited to the weight that the user has of the item."""
        effective = []
        for event in new:
            weight_before = sum(w for _, item, w, _ in stored if item == event.item)
            weights = [e.weight for e in new if e.item == event.item]
            change = max(weight_before + sum(weights), 0) - max(weight_before, 0)
            weight = abs(event.weight) * change / sum(map(abs, weights))
            effective.append((event.time, event.item, weight, event.rating))
        return effective

    def full_pass(self, log: list[Event]) -> None:
        """Solve all users, then all items, from all events; only the item vectors are used from before."""
        self.users = {}
        for item in self.items.values():
            item |= {"A": 0.0, "b": 0.0, "n": 0.0, "c": 0.0, "neighbors": {}}
        self.learn(log)

    def count_neighbors(self, stored: list[Any], new: list[Any], neighbors: Any, now: int) -> None:
        """Count the user's preceding items for each item that is new to the user.

        Stored items precede new ones; both are ordered by their latest event.
        """
        positive = [(t, item, True) for t, item, w, _ in stored if w > 0]
        positive += [(t, item, False) for t, item, w, _ in new if w > 0]
        stored_items = {item for _, item, is_stored in positive if is_stored}
        latest: dict[str, int] = {}
        for t, item, _ in positive:
            latest[item] = max(latest.get(item, t), t)
        order = sorted(latest, key=lambda item: (item not in stored_items, latest[item], item))
        for n, item in enumerate(order):
            if item not in stored_items:
                for other in order[max(0, n - self.params.neighbor_history) : n]:
                    age = now - max(latest[item], latest[other])
                    neighbors[item][other] += self.decay(age, self.params.half_life_days)
