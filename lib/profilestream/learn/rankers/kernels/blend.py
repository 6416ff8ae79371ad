"""The learned blend of the count rankers: a conditional logit over the candidates of one user.

The candidates are the best CANDIDATES items of each ranker that has an input. The probability of one is softmax(x w)
(McFadden, 1974). With the share y / |y| of each item of a basket as target, its cross entropy is the loss of ListNet
(Cao et al., 2007). The weights w are learned by decayed Newton sums, as those of outcomes
(learn/kernels/newton_steps.py). A basket with weight m = min(|y|, 10) adds A = m (XT diag(p) X - XT p pT X) and
b = A w + m XT (y / |y| - p).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels import newton_steps
from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.lists import groups
from profilestream.learn.kernels.ranking_metrics import top_candidates
from profilestream.learn.kernels.sums import DECAYS, MICROS_PER_DAY, DecayedSums, decay_factors, total
from profilestream.learn.rankers.kernels.basket_index import BasketIndex, ItemScores
from profilestream.learn.rankers.kernels.basket_rows import BLEND, micros

NAME = "blend"
CANDIDATES = 60
# Inputs of a candidate, each with the ranker that its contribution counts for.
INPUTS = (
    ("own_share", "own_counts"), ("log_own_share", "own_counts"), ("log_own_count", "own_counts"),
    ("is_own", "own_counts"), ("is_own_by_events", "own_counts"), ("is_own_by_days", "own_counts"),
    ("is_own_by_popularity", "own_counts"), ("is_in_latest_basket", "own_counts"),
    ("is_in_previous_basket", "own_counts"), ("transitions", "transitions"), ("log_transitions", "transitions"),
    ("rules", "sequence_rules"), ("log_rules", "sequence_rules"), ("log_popularity", "popularity"),
    ("popularity", "popularity"),
)  # fmt: skip
# The rankers with an input, in the order of the numbers of placing_rankers.
PLACING_RANKERS = tuple(dict.fromkeys(ranker for _, ranker in INPUTS))
HALF_LIFE_DAYS, GATE_HALF_LIFE_DAYS = 182.0, 14.0
_RIDGE, _MAX_TARGETS = 30.0, 10
# In logarithms, smaller shares are replaced by this one.
_MIN_SHARE = 1e-4
# An input that varies less is not used: its weight would be too large as soon as the input varies.
_MIN_VARIANCE = 1e-7


class Candidates(NamedTuple):
    """The candidates of some users, in order of user and item.

    Args:
        user: number of the user.
        item: position of the item.
        x: (m, len(INPUTS)).
    """

    user: Longs
    item: Longs
    x: Floats

    def probabilities(self, weights: Floats) -> Floats:
        """Softmax of x w over the candidates of each user, (m,)."""
        eta = self.x @ weights
        first, _ = groups(self.user)
        starts = np.unique(first)
        number = np.searchsorted(starts, first)
        largest = np.maximum.reduceat(eta, starts) if len(starts) else eta
        odds = np.exp(eta - largest[number])
        return np.asarray(odds / np.bincount(number, odds)[number])

    def top(self, scores: Floats, users: int, top_k: int) -> tuple[Longs, Floats]:
        """The candidates with the highest scores, as numbers of rows, and their scores, (users, top_k).

        Scores that differ only by rounding are ties, whose order is that of the popularity.
        """
        return top_candidates(self.user, np.arange(len(self.user)), np.round(scores, 12), users, top_k)


@dataclass(frozen=True)
class BlendSums(DecayedSums):
    """Decayed sums over baskets with a target among the candidates.

    Args:
        baskets: their number.
        variances: sum of the variances of the inputs over the candidates of each basket, (c,).
        rule: [A | b], (c, c + 1).
    """

    baskets: float = field(metadata=DECAYS)
    variances: Floats = field(metadata=DECAYS)
    rule: Floats = field(metadata=DECAYS)

    @classmethod
    def empty(cls) -> "BlendSums":
        """Without a basket."""
        return cls(0.0, np.zeros(len(INPUTS)), np.zeros((len(INPUTS), len(INPUTS) + 1)))


@dataclass(frozen=True)
class GateSums(DecayedSums):
    """nDCG at 10 of the blend minus that of the own counts: decayed number of baskets, sum and sum of squares."""

    baskets: float = field(default=0.0, metadata=DECAYS)
    gain: float = field(default=0.0, metadata=DECAYS)
    squares: float = field(default=0.0, metadata=DECAYS)

    @classmethod
    def of(cls, gains: Floats, times: Longs) -> "GateSums":
        """From the difference and the time of each basket."""
        as_of = int(times.max(initial=0))
        decay = decay_factors(times, as_of, GATE_HALF_LIFE_DAYS)
        return cls(*(float(decay @ one) for one in (np.ones(len(gains)), gains, gains**2)), as_of=as_of)

    @property
    def is_passed(self) -> bool:
        """Whether the mean difference is at least its standard error above 0."""
        return self.gain > 0 and self.gain**2 >= self.squares


@dataclass(frozen=True)
class BlendState:
    """Weights of the inputs, (c,), and the sums that they and the gate are computed from."""

    weights: Floats
    sums: BlendSums
    gate: GateSums

    @classmethod
    def empty(cls) -> "BlendState":
        """Before the first basket."""
        return cls(np.zeros(len(INPUTS)), BlendSums.empty(), GateSums())

    @classmethod
    def from_rows(cls, rows: pa.Table) -> "BlendState":
        """From at most one row with BLEND; empty for other inputs than INPUTS."""
        c = len(INPUTS)
        if not len(rows) or len(rows["blend_weights"][0].as_py()) != c:
            return cls.empty()
        as_of, numbers = int(micros(rows)[0]), np.array(rows["blend_sums"][0].as_py())
        sums = BlendSums(float(numbers[0]), numbers[4 : c + 4], numbers[c + 4 :].reshape(c, c + 1), as_of=as_of)
        return cls(np.array(rows["blend_weights"][0].as_py()), sums, GateSums(*map(float, numbers[1:4]), as_of=as_of))

    @property
    def row(self) -> pa.Table:
        """The row with BLEND."""
        as_of = max(self.sums.as_of, self.gate.as_of)
        sums, gate = self.sums.decayed_to(as_of, HALF_LIFE_DAYS), self.gate.decayed_to(as_of, GATE_HALF_LIFE_DAYS)
        numbers = [sums.baskets, gate.baskets, gate.gain, gate.squares, *sums.variances, *sums.rule.ravel()]
        columns: list[Any] = [
            ["all"], [[]], [[]], pa.array([as_of]).cast(BLEND.field("as_of").type), [self.weights], [np.array(numbers)],
        ]  # fmt: skip
        return pa.table(columns, schema=BLEND)

    @property
    def has_learned(self) -> bool:
        """Whether there are weights."""
        return bool(self.weights.any())

    def learn(self, sums: list[BlendSums], gates: list[GateSums]) -> "BlendState":
        """Add the sums of a batch, and solve once. Sums whose equations have no solution are not added.

        Without a basket, the same object.
        """
        if not any(one.as_of for one in (*sums, *gates)):
            return self
        added = total([self.sums, *sums], HALF_LIFE_DAYS)
        state = replace(self, gate=total([self.gate, *gates], GATE_HALF_LIFE_DAYS))
        variances = added.variances / max(added.baskets, 1e-100)
        used = np.flatnonzero(variances > _MIN_VARIANCE)
        change = newton_steps.solve(added.rule, 0.25 * _RIDGE * variances, used) - self.weights
        if not np.isfinite(change).all():
            return state
        weights = self.weights + newton_steps.limit_step(change, change * np.sqrt(variances))
        return replace(state, weights=weights, sums=added)


def candidates(index: BasketIndex, users: pa.Table, per_ranker: int = CANDIDATES) -> Iterator[tuple[int, Candidates]]:
    """By chunk of the users: their number, and their candidates, which are the best items of each ranker."""
    for part, scores in index.scores(users):
        popular = np.arange(len(part))[:, None] * len(index.ids) + index.popular[:per_ranker]
        best = (_best(scores[ranker], len(index.ids), per_ranker) for ranker in PLACING_RANKERS)
        cells = np.unique(np.concatenate([popular.ravel(), *best]))
        user, item = np.divmod(cells, max(len(index.ids), 1))
        yield len(part), Candidates(user, item, _inputs(index, part, scores, cells))


def rank(index: BasketIndex, users: pa.Table, weights: Floats, top_k: int) -> tuple[Longs, Floats, Longs]:
    """Positions of the best items of each user, their probabilities, and from placing_rankers; each (users, top_k)."""
    chunks = []
    for count, rows in candidates(index, users, max(CANDIDATES, top_k)):
        best, probabilities = rows.top(rows.probabilities(weights), count, top_k)
        chunks.append((rows.item[best], probabilities, placing_rankers(rows, weights)[best]))
    items, scores, placed_by = (np.vstack(parts) for parts in zip(*chunks, strict=True))
    return items, scores, placed_by


def _best(scores: ItemScores, items: int, per_ranker: int) -> Longs:
    """The cells with the highest scores of each user; ties are in order of position."""
    user = scores.cells // max(items, 1)
    order = np.lexsort((scores.cells, -scores.shares, user))
    return scores.cells[order[np.arange(len(order)) - groups(user)[0] < per_ranker]]


def _inputs(index: BasketIndex, users: pa.Table, scores: dict[str, ItemScores], cells: Longs) -> Floats:
    """Values of INPUTS for each cell, (m, c)."""
    user, item = np.divmod(cells, max(len(index.ids), 1))
    counts = scores["own_counts"]
    own, own_share = counts.at(cells)
    transitions, rules = (scores[ranker].at(cells)[0] for ranker in ("transitions", "sequence_rules"))
    is_own, share = (own > 0).astype(float), index.shares[item]
    days = np.maximum(index.as_of - micros(users), 0) / MICROS_PER_DAY
    decay = np.exp2(-days / index.params.half_life_days)
    events = np.bincount(counts.cells // max(len(index.ids), 1), counts.totals, len(users))
    log_popularity = np.log(np.maximum(share, _MIN_SHARE / 100) * len(index.ids))
    values = {
        "own_share": own_share,
        "log_own_share": is_own * np.log(np.maximum(own_share, _MIN_SHARE)),
        "log_own_count": np.log1p(own * decay[user]),
        "is_own": is_own,
        "is_own_by_events": is_own * np.log1p(events * decay)[user],
        "is_own_by_days": is_own * np.log1p(days)[user],
        "is_own_by_popularity": is_own * log_popularity,
        "is_in_latest_basket": np.isin(cells, index.cells(users, "basket_items")).astype(float),
        "is_in_previous_basket": np.isin(cells, index.cells(users, "previous_items")).astype(float),
        "transitions": transitions,
        "log_transitions": np.log1p(transitions / _MIN_SHARE),
        "rules": rules,
        "log_rules": np.log1p(rules / _MIN_SHARE),
        "log_popularity": log_popularity,
        "popularity": share / index.shares.max(initial=_MIN_SHARE),
    }
    return np.column_stack([values[name] for name, _ in INPUTS])


def sum_baskets(rows: Candidates, probabilities: Floats, is_target: Bools, times: Longs, weights: Floats) -> BlendSums:
    """Sums over the users with a target among their candidates.

    Args:
        rows: their candidates, with `probabilities` by `weights`.
        is_target: whether the candidate is in the user's basket, (m,).
        times: of the basket of each user, microseconds.
    """
    targets = np.bincount(rows.user, is_target, len(times)).astype(float)
    has_target = targets[rows.user] > 0
    if not has_target.any():
        return BlendSums.empty()
    x, p, y = rows.x[has_target], probabilities[has_target], is_target[has_target]
    _, starts, number, size = np.unique(
        rows.user[has_target], return_index=True, return_inverse=True, return_counts=True
    )
    times, targets = times[targets > 0], targets[targets > 0]
    as_of = int(times.max())
    decay = decay_factors(times, as_of, HALF_LIFE_DAYS)
    m = decay * np.minimum(targets, _MAX_TARGETS)
    means = np.add.reduceat(p[:, None] * x, starts)
    matrix = x.T @ ((m[number] * p)[:, None] * x) - means.T @ (m[:, None] * means)
    right = matrix @ weights + x.T @ (m[number] * (y / targets[number] - p))
    centered = x - (np.add.reduceat(x, starts) / size[:, None])[number]
    variances = (decay / size)[number] @ centered**2
    return BlendSums(float(decay.sum()), variances, np.column_stack([matrix, right]), as_of=as_of)


def placing_rankers(rows: Candidates, weights: Floats) -> Longs:
    """For each candidate, the number in PLACING_RANKERS of the ranker with the largest contribution to its score.

    The contribution of a ranker is the part of x w by its inputs, minus the mean of this part over the user's
    candidates. A ranker that does not score the item has not placed it.
    """
    _, starts, number, size = np.unique(rows.user, return_index=True, return_inverse=True, return_counts=True)
    owners = np.array([ranker for _, ranker in INPUTS])
    scored_by = {"own_counts": "is_own", "transitions": "transitions", "sequence_rules": "rules"}
    names = [name for name, _ in INPUTS]
    contributions = []
    for ranker in PLACING_RANKERS:
        part = rows.x[:, owners == ranker] @ weights[owners == ranker]
        if len(starts):
            part = part - (np.add.reduceat(part, starts) / size)[number]
        has_score = rows.x[:, names.index(scored_by[ranker])] > 0 if ranker in scored_by else True
        contributions.append(np.where(has_score, part, -np.inf))
    return np.asarray(np.argmax(contributions, axis=0), np.int64)
