"""What `learn_factors` is held to: the same formulas in plain loops, one user and one item at a time, in float64."""

from collections import defaultdict
from typing import Any

import numpy as np
from profilestream.learn import als
from profilestream.learn.als import Params

DAY = als.MICROS_A_DAY
Event = tuple[str, str, float, int]


class Plain:
    """Users and items as dictionaries; an event is (user, item, weight, microseconds)."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.users: dict[str, dict[str, Any]] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.now = 0

    def vector(self, item: str) -> Any:
        return self.items[item]["q"] if item in self.items else als.start_vector(item, self.params.k).astype(float)

    def remains(self, age: int, days: float) -> float:
        return float(2.0 ** (-age / DAY / days))

    def learn(self, batch: list[Event]) -> None:
        made, k = self.params, self.params.k
        q_of = {item: self.vector(item) for item in {e[1] for e in batch} | set(self.items)}
        gram_q = sum((np.outer(i["q"], i["q"]) for i in self.items.values()), np.zeros((k, k)))
        weights = {
            name: i["n"] * self.remains(self.now - i["t"], made.half_life_days) for name, i in self.items.items()
        }
        weight = sum(max(w, 0) for w in weights.values())
        mean = sum(
            (max(w, 0) * np.outer(self.items[i]["q"], self.items[i]["q"]) for i, w in weights.items()), np.zeros((k, k))
        )
        mean = mean / weight if weight else mean
        alpha = made.alpha / max(len(self.items), 1)
        told: dict[str, list[tuple[Any, float, float, int]]] = defaultdict(list)
        now = max([self.now, *[e[3] for e in batch]])
        for user in sorted({e[0] for e in batch}):
            row = self.users.get(user, {"p": np.zeros(k), "kept": [], "tail": 0.0})
            new = [(e[3], e[1], e[2]) for e in batch if e[0] == user]
            kept = sorted(row["kept"] + new)
            net: dict[str, float] = defaultdict(float)
            for _, item, w in kept:
                net[item] += w
            a = row["tail"] * mean + alpha * gram_q
            b = row["tail"] * mean @ row["p"]
            for item, w in net.items():
                a = a + max(w, 0) * np.outer(q_of[item], q_of[item])
                b = b + max(w, 0) * q_of[item]
            ridge = made.regularization * (sum(max(w, 0) for w in net.values()) + row["tail"] + made.alpha)
            p = np.linalg.solve(a + ridge * np.eye(k), b).astype(np.float32).astype(float)
            for t, item, w in new:
                told[item].append((p, w, 1.0, t))
            for t, item, w in sorted(row["kept"])[-made.refresh :]:
                told[item] += [(p, w, 0.0, t), (row["p"], -w, 0.0, t)]
            gone = kept[: -made.history]
            tail = max(row["tail"] + sum(w for _, _, w in gone), 0.0)
            self.users[user] = {"p": p, "kept": kept[-made.history :], "tail": tail, "t": now}
        self.now = now
        gram_p = sum(
            (self.remains(now - u["t"], made.half_life_days) * np.outer(u["p"], u["p"]) for u in self.users.values()),
            np.zeros((k, k)),
        )
        users = sum(self.remains(now - u["t"], made.half_life_days) for u in self.users.values())
        for item, rows in told.items():
            zero = {"q": np.zeros(k), "A": np.zeros((k, k)), "b": np.zeros(k), "n": 0.0, "c": 0.0, "t": now}
            old = self.items.get(item, zero)
            left = self.remains(now - old["t"], made.half_life_days)
            A, b, n = left * old["A"], left * old["b"], left * old["n"]
            c = old["c"] * self.remains(now - old["t"], made.popularity_half_life_days)
            for p, w, counts, t in rows:
                d = self.remains(now - t, made.half_life_days)
                A, b, n = A + w * d * np.outer(p, p), b + w * d * p, n + counts * w * d
                c += counts * w * self.remains(now - t, made.popularity_half_life_days)
            ridge = made.regularization * (max(n, 0) + alpha * users)
            q = np.linalg.solve(A + alpha * gram_p + ridge * np.eye(k), b).astype(np.float32).astype(float)
            A, b = A.astype(np.float32).astype(float), b.astype(np.float32).astype(float)
            self.items[item] = {"q": q, "A": A, "b": b, "n": n, "c": c, "t": now}
