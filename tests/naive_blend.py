"""The blend of the count rankers by loops over users and candidates."""

from math import exp, log, log1p

import numpy as np
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.rankers.kernels.blend import GATE_HALF_LIFE_DAYS, HALF_LIFE_DAYS, INPUTS

from tests.memory_rankers import DAY, Event, NaiveRankers, naive_ndcg


class NaiveBlend:
    """Weights, [A | b], variances and baskets, and baskets, gain and squares of the gate; all items are candidates."""

    def __init__(self) -> None:
        c = len(INPUTS)
        self.weights, self.rule, self.variances, self.baskets = np.zeros(c), np.zeros((c, c + 1)), np.zeros(c), 0.0
        self.gate, self.time, self.gate_time = np.zeros(3), 0, 0

    def learn(self, naive: NaiveRankers, batch: list[Event]) -> None:
        """Before the counts learn the batch."""
        baskets = naive.first_baskets(batch) if naive.log else {}
        for user, basket in baskets.items():
            time, gain = min(basket.values()), self._gain(naive, user, set(basket))
            self._decay(time)
            if self.weights.any():
                self.gate += 0.5 ** ((self.gate_time - time) / DAY / GATE_HALF_LIFE_DAYS) * np.array([1, gain, gain**2])
        for user, basket in baskets.items():
            self._add(naive, user, basket)
        if baskets:
            self._solve()

    def ranking(self, naive: NaiveRankers, user: str) -> list[str]:
        """All items, best first."""
        items, x = self.inputs(naive, user)
        p = self._softmax(x)
        return [items[n] for n in sorted(range(len(items)), key=lambda n: (-round(float(p[n]), 12), n))]

    def _gain(self, naive: NaiveRankers, user: str, targets: set[str]) -> float:
        own, blended = naive.ranking(user, "own_counts"), self.ranking(naive, user)
        return naive_ndcg(blended[:10], targets) - naive_ndcg(own[:10], targets)

    def _decay(self, time: int) -> None:
        """All sums to a later time."""
        if self.weights.any() and time > self.gate_time:
            self.gate *= 0.5 ** ((time - self.gate_time) / DAY / GATE_HALF_LIFE_DAYS)
            self.gate_time = time

    def _add(self, naive: NaiveRankers, user: str, basket: dict[str, int]) -> None:
        items, x = self.inputs(naive, user)
        y = np.array([float(item in basket) for item in items])
        if not y.any():
            return
        time = min(basket.values())
        if time > self.time:
            factor = 0.5 ** ((time - self.time) / DAY / HALF_LIFE_DAYS)
            self.rule, self.variances, self.baskets = self.rule * factor, self.variances * factor, self.baskets * factor
            self.time = time
        weight = 0.5 ** ((self.time - time) / DAY / HALF_LIFE_DAYS)
        m, p = weight * min(y.sum(), 10), self._softmax(x)
        a = m * (x.T @ np.diag(p) @ x - np.outer(x.T @ p, x.T @ p))
        self.rule += np.column_stack([a, a @ self.weights + m * x.T @ (y / y.sum() - p)])
        self.variances += weight * x.var(axis=0)
        self.baskets += weight

    def _solve(self) -> None:
        if not self.baskets:
            return
        variances = self.variances / self.baskets
        used = np.flatnonzero(variances > 1e-7)
        a = self.rule[:, :-1] + np.diag(30 / 4 * variances)
        a *= 1 + 1e-9 * np.eye(len(a))
        solution = np.zeros(len(a))
        solution[used] = np.linalg.solve(a[np.ix_(used, used)], self.rule[used, -1])
        change = solution - self.weights
        self.weights = self.weights + change * min(1.0, 1.5 / max(np.abs(change * np.sqrt(variances)).max(), 1e-9))

    def _softmax(self, x: Floats) -> Floats:
        odds = np.array([exp(one - max(x @ self.weights)) for one in x @ self.weights])
        return np.asarray(odds / odds.sum())

    def inputs(self, naive: NaiveRankers, user: str) -> tuple[list[str], Floats]:
        """All items, the most popular first, and their inputs."""
        now = max(time for _, _, time in naive.log)
        popularity = naive.popularity(now)
        items = sorted(popularity, key=lambda item: (-round(popularity[item], 9), item))
        own, transitions, rules = (naive.scores(user, name) for name in ("own_counts", "transitions", "sequence_rules"))
        days = (now - max((time for u, _, time in naive.log if u == user), default=now)) / DAY
        decay = 0.5 ** (days / naive.params.half_life_days)
        previous, latest = [{}, {}, *(naive.baskets(user) if naive.in_baskets[user] else [])][-2:]
        rows = []
        for item in items:
            share = popularity[item] / sum(popularity.values())
            log_popularity, is_own = log(max(share, 1e-6) * len(items)), float(item in own)
            own_share = own.get(item, 0.0) / max(own.values(), default=1.0)
            values = {
                "own_share": own_share,
                "log_own_share": is_own * log(max(own_share, 1e-4)),
                "log_own_count": log1p(own.get(item, 0.0) * decay),
                "is_own": is_own,
                "is_own_by_events": is_own * log1p(sum(own.values()) * decay),
                "is_own_by_days": is_own * log1p(days),
                "is_own_by_popularity": is_own * log_popularity,
                "is_in_latest_basket": float(item in latest),
                "is_in_previous_basket": float(item in previous),
                "transitions": transitions.get(item, 0.0),
                "log_transitions": log1p(transitions.get(item, 0.0) / 1e-4),
                "rules": rules.get(item, 0.0),
                "log_rules": log1p(rules.get(item, 0.0) / 1e-4),
                "log_popularity": log_popularity,
                "popularity": popularity[item] / max(popularity.values()),
            }
            rows.append([values[name] for name, _ in INPUTS])
        return items, np.array(rows)
