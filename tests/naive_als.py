"""What `learn_factors` is held to: the same formulas in plain loops, one user and one item at a time, in float64."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from profilestream.learn import als
from profilestream.learn.als import Params

DAY = als.MICROS_A_DAY


@dataclass(frozen=True)
class Event:
    """One event, at a time in microseconds."""

    user: str
    item: str
    weight: float
    at: int
    rating: float = 0.0
    category: str | None = None


class Plain:
    """Users and items as dictionaries."""

    def __init__(self, params: Params, mean: float = 0.0) -> None:
        self.params, self.mean = params, mean
        self.users: dict[str, dict[str, Any]] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.now = 0

    def vector(self, item: str) -> Any:
        return self.items[item]["q"] if item in self.items else als.start_vector(item, self.params).astype(float)

    def remains(self, age: int, days: float | None) -> float:
        return 1.0 if days is None else float(2.0 ** (-age / DAY / days))

    def design(self, vector: Any) -> Any:
        """A vector as the other side multiplies it, and what it takes from the other side's target."""
        if self.params.is_explicit:
            return np.append(vector[:-1], 1.0), self.mean + vector[-1]
        return vector, 0.0

    def pull(self, weight: float) -> Any:
        made = self.params
        if made.is_explicit:
            pulls = np.append(np.full(made.k, made.regularization), made.bias_regularization)
            return np.diag(pulls * np.sqrt(max(weight, 0)))
        return made.regularization * max(weight, 0) * np.eye(made.k)

    def learn(self, batch: list[Event]) -> None:
        made, k = self.params, self.params.width
        q_of = {item: self.vector(item) for item in {e.item for e in batch} | set(self.items)}
        gram_q = sum((np.outer(i["q"], i["q"]) for i in self.items.values()), np.zeros((k, k)))
        weights = {
            name: i["n"] * self.remains(self.now - i["t"], made.half_life_days) for name, i in self.items.items()
        }
        weight = sum(max(w, 0) for w in weights.values())
        mean = np.zeros((k, k))
        for name, w in weights.items():
            x, _ = self.design(self.items[name]["q"])
            mean = mean + max(w, 0) * np.outer(x, x)
        mean = mean / weight if weight else mean
        alpha = 0.0 if made.is_explicit else min(made.unobserved_weight / max(len(self.items), 1), 1.0)
        told: dict[str, list[tuple[Any, float, float, int, float]]] = defaultdict(list)
        near: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        now = max([self.now, *[e.at for e in batch]])
        for user in sorted({e.user for e in batch}):
            row = self.users.get(user, {"p": np.zeros(k), "kept": [], "tail": 0.0, "t": 0})
            new = self.counted(row["kept"], [e for e in batch if e.user == user])
            kept = sorted(row["kept"] + new)
            net: dict[Any, float] = defaultdict(float)
            for n, (_, item, w, rating) in enumerate(kept):
                net[(item, 1.0, 0) if not made.is_explicit else (item, rating, n)] += w
            a = row["tail"] * mean + alpha * gram_q
            b = row["tail"] * mean @ row["p"]
            for (item, rating, _), w in net.items():
                x, known = self.design(q_of[item])
                a = a + max(w, 0) * np.outer(x, x)
                b = b + max(w, 0) * (rating - known) * x
            total = sum(max(w, 0) for w in net.values()) + row["tail"]
            a = a + self.pull(
                total
                if made.is_explicit
                else total + (min(made.unobserved_weight, len(self.items)) if self.items else made.unobserved_weight)
            )
            p = np.linalg.solve(a, b).astype(np.float32).astype(float)
            for t, item, w, rating in new:
                told[item].append((p, w, 1.0, t, rating))
            for t, item, w, rating in sorted(row["kept"])[-made.reweighted_events :]:
                told[item] += [(p, w, 0.0, t, rating), (row["p"], -w, 0.0, t, rating)]
            self.meet(row["kept"], new, near, now)
            gone = kept[: -made.max_events_per_user]
            tail = max(row["tail"] + sum(w for _, _, w, _ in gone), 0.0)
            newest = max([row["t"], *[t for t, _, _, _ in kept]])
            self.users[user] = {"p": p, "kept": kept[-made.max_events_per_user :], "tail": tail, "t": newest}
        self.now = now
        gram_p = sum(
            (self.remains(now - u["t"], made.half_life_days) * np.outer(u["p"], u["p"]) for u in self.users.values()),
            np.zeros((k, k)),
        )
        users = sum([self.remains(now - u["t"], made.half_life_days) for u in self.users.values()])
        unseen = alpha * max(users, len(self.items))
        for item, rows in told.items():
            zero = {"q": np.zeros(k), "A": np.zeros((k, k)), "b": np.zeros(k), "n": 0.0, "c": 0.0, "t": now, "near": {}}
            old = self.items.get(item, zero)
            left = self.remains(now - old["t"], made.half_life_days)
            A, b, n = left * old["A"], left * old["b"], left * old["n"]
            c = old["c"] * self.remains(now - old["t"], made.popularity_half_life_days)
            for p, w, counts, t, rating in rows:
                d = self.remains(now - t, made.half_life_days)
                x, known = self.design(p)
                y = rating - known if made.is_explicit else 1.0
                A, b, n = A + w * d * np.outer(x, x), b + w * d * y * x, n + counts * w * d
                c += counts * w * self.remains(now - t, made.popularity_half_life_days)
            solved = A + alpha * gram_p + self.pull(n if made.is_explicit else max(n, 0) + unseen)
            q = np.linalg.solve(solved, b).astype(np.float32).astype(float)
            A, b = A.astype(np.float32).astype(float), b.astype(np.float32).astype(float)
            met = {name: left * count for name, count in old["near"].items()}
            for name, count in near[item].items():
                met[name] = met.get(name, 0.0) + count
            kept_near = dict(sorted(met.items(), key=lambda one: (-one[1], one[0]))[: made.neighbors])
            self.items[item] = {"q": q, "A": A, "b": b, "n": n, "c": c, "t": now, "near": kept_near}

    def counted(self, kept: list[Any], came: list[Event]) -> list[Any]:
        """What new events count: of an item no more is taken back than the user has."""
        new = []
        for event in came:
            had = sum(w for _, item, w, _ in kept if item == event.item)
            weights = [e.weight for e in came if e.item == event.item]
            allowed = max(had + sum(weights), 0) - max(had, 0)
            weight = abs(event.weight) * allowed / sum(map(abs, weights))
            new.append((event.at, event.item, weight, event.rating))
        return new

    def sweep(self, log: list[Event]) -> None:
        """All users, then all items, from nothing but the items' vectors."""
        self.users = {}
        for item in self.items.values():
            item |= {"A": 0.0, "b": 0.0, "n": 0.0, "c": 0.0, "near": {}}
        self.learn(log)

    def meet(self, kept: list[Any], new: list[Any], near: Any, now: int) -> None:
        """Each item that is new to a user meets those before it: kept ones, then new ones, each by its newest time."""
        liked = [(t, item, True) for t, item, w, _ in kept if w > 0] + [
            (t, item, False) for t, item, w, _ in new if w > 0
        ]
        had = {item for _, item, is_kept in liked if is_kept}
        newest: dict[str, int] = {}
        for t, item, _ in liked:
            newest[item] = max(newest.get(item, t), t)
        order = sorted(newest, key=lambda item: (item not in had, newest[item], item))
        for n, item in enumerate(order):
            if item not in had:
                for other in order[max(0, n - self.params.neighbor_history) : n]:
                    age = now - max(newest[item], newest[other])
                    near[item][other] += self.remains(age, self.params.half_life_days)
