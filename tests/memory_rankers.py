"""Count rankers over a few events: the learner in memory, and plain Python that computes the same."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import exp, log2
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from profilestream.base import runner
from profilestream.learn.kernels.arrays import IS_DELETED
from profilestream.learn.rankers import rankers_batch
from profilestream.learn.rankers.kernels import basket_rows
from profilestream.learn.rankers.kernels.basket_evaluation import BasketSums
from profilestream.learn.rankers.kernels.basket_index import RULE_DECAY, BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import RECENT_EVENTS, RankerParams
from profilestream.learn.rankers.kernels.blend import BlendState

from tests.partitions import split_into

MINUTE = 60_000_000
DAY = 1440 * MINUTE
START = 20_000 * DAY
# User, item, and time in microseconds.
Event = tuple[str, str, int]


@dataclass(frozen=True)
class MemoryRankers:
    """The state, with rows by key, and the evaluation of the last batch."""

    params: RankerParams
    users: pa.Table = field(default_factory=basket_rows.USER.empty_table)
    items: pa.Table = field(default_factory=basket_rows.ITEM.empty_table)
    sums: BasketSums | None = None
    blend: BlendState = field(default_factory=BlendState.empty)

    def learn(self, batch: list[Event], parts: int = 1, order: Sequence[int] | None = None) -> "MemoryRankers":
        with split_into(parts, order):
            learned = rankers_batch.learn(self.users, self.items, _events(batch), self.blend, self.params, nullcontext)
        users = runner.with_updates(self.users, learned.users, "key")
        items = runner.with_updates(self.items, learned.items, "key")
        return replace(self, users=users, items=items, blend=learned.blend, sums=learned.sums)

    def remove(self, user: str, log: list[Event]) -> "MemoryRankers":
        """Without a user with these events."""
        is_user = pc.field("key") == user
        _, changed = rankers_batch.remove(self.users.filter(is_user), self.items, _events(log), self.params)
        items = runner.with_updates(self.items, changed.drop_columns([IS_DELETED]), "key")
        deleted: Any = changed.filter(pc.field(IS_DELETED))["key"]
        return replace(
            self, users=self.users.filter(~is_user), items=items.filter(~pc.field("key").isin(deleted.combine_chunks()))
        )

    def user(self, key: str) -> dict[str, Any]:
        return _rows(self.users)[key]

    def rows(self) -> dict[str, Any]:
        """All rows by key; lists of counts as dicts."""
        return _rows(self.users) | _rows(self.items)

    def ranking(self, user: str, ranker: str, top_k: int = 10) -> dict[str, float]:
        """Items and scores in order."""
        index = BasketIndex(self.items, self.params)
        keys = self.users["key"].to_pylist()
        row = self.users.take(pa.array([keys.index(user) if user in keys else None], pa.int64()))
        items, scores = index.rank(row, top_k)[ranker]
        return dict(zip(index.ids.take(items[0]).to_pylist(), scores[0].tolist(), strict=True))


def _events(log: list[Event]) -> pa.Table:
    names = ("user_id", "item_id", "time_micros")
    return pa.Table.from_pylist([dict(zip(names, event, strict=True)) for event in log], basket_rows.EVENT)


def _rows(rows: pa.Table) -> dict[str, dict[str, Any]]:
    times: Any = {"as_of": pa.int64(), "first_times": pa.list_(pa.int64()), "last_times": pa.list_(pa.int64())}
    for name in rows.schema.names:
        if name in times:
            rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(times[name]))
    values: list[dict[str, Any]] = rows.to_pylist()
    for row in values:
        history = (row.get(name) or [] for name in ("item_ids", "item_baskets", "first_times", "last_times"))
        row["history"] = {item: tuple(numbers) for item, *numbers in zip(*history, strict=False)}
        row["counts"] = dict(zip(row["item_ids"], row["counts"], strict=True))
        row["rules"] = dict(zip(row.get("rule_items", []), row.get("rule_counts", []), strict=True))
    return {row["key"]: row for row in values}


class NaiveRankers:
    """The same by loops over all events; followers are not truncated."""

    def __init__(self, params: RankerParams) -> None:
        self.params, self.log, self.in_baskets = params, list[Event](), defaultdict[str, list[Event]](list)
        # Source, follower, weight and time.
        self.rules: list[tuple[str, str, float, int]] = []

    def learn(self, batch: list[Event]) -> None:
        newest = {user: max(t for u, _, t in self.log if u == user) for user in {u for u, _, _ in self.log}}
        for user, item, time in sorted(batch, key=lambda event: (event[2], event[1])):
            if time >= newest.get(user, 0):
                self.in_baskets[user].append((user, item, time))
                session = self.sessions(user)[-1]
                for steps, (_, source, earlier) in enumerate(session[-2 : -2 - RECENT_EVENTS : -1], 1):
                    # The times of stored events are not stored, except the newest one.
                    if time > max(earlier, newest.get(user, 0)):
                        self.rules.append((source, item, 1 / steps, time))
        self.log += batch

    def sessions(self, user: str) -> list[list[Event]]:
        """The events of each basket."""
        sessions: list[list[Event]] = []
        for event in self.in_baskets[user]:
            if not sessions or event[2] - sessions[-1][-1][2] > self.params.basket_gap_minutes * MINUTE:
                sessions.append([])
            sessions[-1].append(event)
        return sessions

    def baskets(self, user: str) -> list[dict[str, int]]:
        """Time of the first event by item, for each basket."""
        baskets: list[dict[str, int]] = []
        end = -DAY * 10_000
        for _, item, time in self.in_baskets[user]:
            if time - end > self.params.basket_gap_minutes * MINUTE:
                baskets.append({})
            baskets[-1].setdefault(item, time)
            end = time
        return baskets

    def counts(self, user: str) -> dict[str, float]:
        return _decayed([(item, 1.0, time) for u, item, time in self.log if u == user], self.params.half_life_days)

    def history(self, user: str) -> dict[str, tuple[int, int, int]]:
        """Number of baskets, and time of the first and of the last event, by item."""
        times = defaultdict[str, list[int]](list)
        for _, item, time in (event for event in self.log if event[0] == user):
            times[item].append(time)
        baskets = self.baskets(user)
        return {item: (sum(item in one for one in baskets), min(of), max(of)) for item, of in times.items()}

    def followers(self, item: str, now: int) -> dict[str, float]:
        pairs = [
            (b, 1 / len(one), time)
            for user in list(self.in_baskets)
            for one, other in zip(self.baskets(user), self.baskets(user)[1:], strict=False)
            for b, time in other.items()
            if item in one
        ]
        return _decayed(pairs, self.params.half_life_days, now)

    def rule_counts(self, item: str, now: int) -> dict[str, float]:
        pairs = [(follower, weight, time) for source, follower, weight, time in self.rules if source == item]
        return _decayed(pairs, self.params.half_life_days, now)

    def popularity(self, now: int) -> dict[str, float]:
        events = [(item, 1.0, time) for _, item, time in self.log]
        return _decayed(events, self.params.popularity_half_life_days, now)

    def ranking(self, user: str, ranker: str, recent: list[str] | None = None) -> list[str]:
        """All items, best first; `recent`: the last items of a session, instead of the stored ones."""
        popularity = self.popularity(max(time for _, _, time in self.log))
        scores = self.scores(user, ranker, recent)
        return sorted(popularity, key=lambda item: (-round(scores.get(item, 0), 9), -round(popularity[item], 9), item))

    def scores(self, user: str, ranker: str, recent: list[str] | None = None) -> dict[str, float]:
        """The scores of the items that a ranker scores; no item for `popularity`."""
        now, scores = max(time for _, _, time in self.log), dict[str, float]()
        if ranker == "own_counts":
            scores = self.counts(user)
        elif ranker == "due_counts":
            scores = self.counts(user)
            for item, (baskets, first, latest_time) in self.history(user).items():
                if baskets > 1:
                    scores[item] *= 1 - 0.4 * exp(-10 * (now - latest_time) / ((latest_time - first) / (baskets - 1)))
        elif ranker == "transitions":
            latest = self.baskets(user)[-1] if self.in_baskets[user] else {}
            for counts in (self.followers(item, now) for item in latest):
                for item, count in counts.items():
                    scores[item] = scores.get(item, 0.0) + count / sum(counts.values()) / len(latest)
        elif ranker == "sequence_rules":
            latest_events = self.sessions(user)[-1] if self.in_baskets[user] else []
            last = [item for _, item, _ in latest_events[-RECENT_EVENTS:]] if recent is None else recent
            for steps, source in enumerate(reversed(last)):
                counts = self.rule_counts(source, now)
                for item, count in counts.items():
                    scores[item] = scores.get(item, 0.0) + RULE_DECAY**steps * count / sum(counts.values())
        return scores

    def first_baskets(self, batch: list[Event]) -> dict[str, dict[str, int]]:
        """By user, the first basket that starts after the state: time of the first event by item."""
        after, now = self.copy(), max((time for _, _, time in self.log), default=0)
        after.learn(batch)
        starts = {u: [one for one in after.baskets(u) if min(one.values()) > now] for u in {u for u, _, _ in batch}}
        return {user: baskets[0] for user, baskets in starts.items() if baskets}

    def copy(self) -> "NaiveRankers":
        """The same log; later batches do not change this one."""
        other = NaiveRankers(self.params)
        other.log, other.in_baskets = [*self.log], defaultdict(list, {u: [*e] for u, e in self.in_baskets.items()})
        return other

    def metrics(self, batch: list[Event], ranker: str) -> dict[str, list[float]]:
        """Values of each user with a value, by metric, for the first basket that starts after the state."""
        values = defaultdict[str, list[float]](list)
        now, after, baskets = max((time for _, _, time in self.log), default=0), self.copy(), self.first_baskets(batch)
        after.learn(batch)
        for user in {u for u, _, _ in batch}:
            own, targets = set(self.counts(user)), set(baskets.get(user, ()))
            kinds: dict[str, tuple[set[str], list[str] | None]] = {
                "basket": (targets, None), "repeat": (targets & own, None), "new": (targets - own, None)
            }  # fmt: skip
            events = next((events for events in after.sessions(user) if events[0][2] > now), [])
            if events and events[-1][2] > events[0][2]:
                kinds["next_item"] = {events[-1][1]}, [item for _, item, _ in events[-1 - RECENT_EVENTS : -1]]
            for kind, (items, recent) in kinds.items():
                if items:
                    ranked = self.ranking(user, ranker, recent)[:10]
                    values[f"{kind}_recall_10"].append(len(items & set(ranked)) / len(items))
                    values[f"{kind}_ndcg_10"].append(naive_ndcg(ranked, items))
        return dict(values)


def naive_ndcg(ranked: list[str], targets: set[str]) -> float:
    """nDCG of a list with at most ten items."""
    gain = sum(1 / log2(2 + rank) for rank, item in enumerate(ranked) if item in targets)
    return gain / sum(1 / log2(2 + rank) for rank in range(min(len(targets), 10)))


def _decayed(weights: list[tuple[str, float, int]], half_life_days: float, now: int | None = None) -> dict[str, float]:
    now = max((time for _, _, time in weights), default=0) if now is None else now
    sums: dict[str, float] = {}
    for item, weight, time in weights:
        sums[item] = sums.get(item, 0.0) + weight * 0.5 ** ((now - time) / DAY / half_life_days)
    return sums
