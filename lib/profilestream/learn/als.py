"""Incremental alternating least squares by mergeable sums, in numpy: the arithmetic of `learn_factors`, without Spark.

A user is solved anew from kept history, an item from decayed normal equations; what all users and all items mean to
each other is two Gram matrices. Implicit feedback after Hu, Koren and Volinsky, "Collaborative Filtering for Implicit
Feedback Datasets" (2008); the weighting of what was not seen after Rendle et al., "Revisiting the Performance of iALS
on Item Recommendation Benchmarks" (2022). All sums are float64; vectors are kept as float32.

Shapes: k is the length of a vector; rows of one user (or item) stand together, and `starts` says where each begins.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Longs = NDArray[np.int64]
MICROS_A_DAY = 86_400_000_000
_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class Params:
    """What a factorization learns by.

    Args:
        mode: `implicit` learns from what was done, `explicit` from ratings; then a vector ends in a bias.
        k: length of a vector, without the bias.
        unobserved_weight: implicit: weight of everything that was not seen, all items together; that of one item is at most 1, so
            that in a small shop what was done outweighs what was not.
        regularization: pull towards zero, times the weight behind a vector (explicit: times its root).
        bias_regularization: the same of a bias.
        half_life_days: of what an item has been told, in event time; null: for ever.
        popularity_half_life_days: of the decayed count in an item's row.
        max_events_per_user: newest events kept of a user; what is older counts as a prior.
        reweighted_events: of a user's newest kept events, how many have their share in the item replaced when the user moves.
        popularity_share, category_share, neighbor_share: of each ranking in the score of a user and an item.
        neighbors: kept with an item: the items that its users came from, the most frequent ones.
        neighbor_history: of a user's items, how many of the newest are neighbors of its next one.
        eval_users: users a task and batch whose ranking is judged before it is learned from.
    """

    mode: Literal["implicit", "explicit"] = "implicit"
    k: int = 32
    unobserved_weight: float = 800.0
    regularization: float = 0.015
    bias_regularization: float = 0.3
    half_life_days: float | None = 45.0
    popularity_half_life_days: float = 14.0
    max_events_per_user: int = 100
    reweighted_events: int = 10
    popularity_share: float = 0.15
    category_share: float = 0.0
    neighbor_share: float = 0.03
    neighbors: int = 50
    neighbor_history: int = 20
    eval_users: int = 500

    @property
    def is_explicit(self) -> bool:
        """Whether ratings are learned from."""
        return self.mode == "explicit"

    def share(self, items: float) -> float:
        """Implicit: weight of a pair that was not seen, when there are so many items."""
        return min(self.unobserved_weight / max(items, 1.0), 1.0)

    def unseen(self, items: float) -> float:
        """Implicit: weight of all pairs of a user that were not seen; `alpha` while no item is known."""
        return min(self.unobserved_weight, items) if items >= 1 else self.unobserved_weight

    @property
    def width(self) -> int:
        """Numbers in a stored vector."""
        return self.k + int(self.is_explicit)


@dataclass(frozen=True)
class Globals:
    """What all users and all items are to each other; the one row that every batch needs whole.

    Args:
        gram_items: sum of q qT over all items, (k, k).
        gram_users: sum of p pT over all users, each decayed since it was last seen, (k, k).
        tail: sum of n q qT over all items, (k, k); over `tail_weight` it is the mean item of an event.
        items: how many there are.
        users: how many there are, each decayed since it was last seen.
        now: newest event time, microseconds since 1970.
        mean: explicit: the mean rating of the first batch, from which all biases are counted; null before it.
        events: how many were learned from.
        swept: how many there were at the last sweep over the log.
    """

    gram_items: Floats
    gram_users: Floats
    tail: Floats
    tail_weight: float = 0.0
    items: float = 0.0
    users: float = 0.0
    now: int = 0
    mean: float | None = None
    events: float = 0.0
    swept: float = 0.0

    @classmethod
    def zero(cls, k: int) -> "Globals":
        """Before the first event."""
        return cls(np.zeros((k, k)), np.zeros((k, k)), np.zeros((k, k)))

    def __add__(self, other: "Globals") -> "Globals":
        """The sum of two partial sums; commutative and associative."""
        return Globals(
            self.gram_items + other.gram_items,
            self.gram_users + other.gram_users,
            self.tail + other.tail,
            self.tail_weight + other.tail_weight,
            self.items + other.items,
            self.users + other.users,
            max(self.now, other.now),
            other.mean if self.mean is None else self.mean,
            self.events + other.events,
            max(self.swept, other.swept),
        )

    def aged(self, now: int, half_life_days: float | None) -> "Globals":
        """The same at a later time: what decays has decayed. Time never goes back."""
        now = max(now, self.now)
        share = float(decayed(np.array([self.now]), now, half_life_days)[0]) if self.now else 1.0
        return replace(
            self,
            gram_users=self.gram_users * share,
            tail=self.tail * share,
            tail_weight=self.tail_weight * share,
            users=self.users * share,
            now=now,
        )

    def has_shrunk_from(self, before: "Globals") -> bool:
        """Whether both sides, taken together, shrank to less than half of their size.

        Together, since a factor that goes from the items to the users changes no product.
        """
        size, was = (float(np.trace(one.gram_items) * np.trace(one.gram_users)) for one in (self, before))
        return not size >= was / 4


@dataclass(frozen=True)
class Rows:
    """Events of users or items, those of one standing together.

    Args:
        starts: where each user's (item's) rows begin, (n,), ascending from 0.
        vectors: of the other side, (rows, k).
        weights: (rows,); negative ones take back.
        targets: what the product of both sides should be, (rows,).
    """

    starts: Longs
    vectors: Floats
    weights: Floats
    targets: Floats


def decayed(then: Longs, now: int | Longs, half_life_days: float | None) -> Floats:
    """2^(-(now - then) / half-life) for times in microseconds; 1 for times after `now`, which may be one for each."""
    if half_life_days is None:
        return np.ones(len(then))
    age = np.maximum(now - then, 0) / MICROS_A_DAY
    result: Floats = np.exp2(-age / half_life_days)
    return result


def start_vector(key: str, params: Params) -> Vectors:
    """The vector of an item that has none yet, by a hash of its id, so that every task agrees.

    N(0, 0.1^2 / k); explicit N(0, 0.1^2), and a bias of 0.
    """
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    spread = 0.1 if params.is_explicit else 0.1 / np.sqrt(params.k)
    drawn = np.random.Generator(np.random.PCG64(seed)).normal(0.0, spread, params.k)
    return np.append(drawn, np.zeros(params.width - params.k)).astype(np.float32)


def designs(vectors: Floats, params: Params) -> Floats:
    """Stored vectors as the other side multiplies them: explicit, with a 1 in the place of the bias."""
    if not params.is_explicit:
        return vectors
    return np.hstack([vectors[:, :-1], np.ones((len(vectors), 1))])


def targets(ratings: Floats, vectors: Floats, known: Globals, params: Params) -> Floats:
    """What is left for a user (item) to explain of ratings of the items (by the users) with these stored vectors.

    Implicit: 1.
    """
    if not params.is_explicit:
        return np.ones(len(vectors))
    rest: Floats = ratings - (known.mean or 0.0) - vectors[:, -1]
    return rest


def normal_equations(rows: Rows) -> tuple[Floats, Floats, Floats]:
    """Per group: sum of w x xT (n, k, k), sum of w y x (n, k), sum of w (n,).

    Groups of about the same size are padded to one and multiplied together.
    """
    n, k = len(rows.starts), rows.vectors.shape[1]
    a, b, weight = np.zeros((n, k, k)), np.zeros((n, k)), np.zeros(n)
    sizes = np.diff(np.append(rows.starts, len(rows.weights)))
    buckets = np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
    for bucket in np.unique(buckets[sizes > 0]):
        chosen = np.flatnonzero((buckets == bucket) & (sizes > 0))
        width = 1 << bucket
        for part in np.array_split(chosen, max(1, len(chosen) * width * k // _CHUNK_CELLS)):
            at = rows.starts[part][:, None] + np.arange(width)
            there = np.arange(width) < sizes[part][:, None]
            at = np.where(there, at, 0)
            w = np.where(there, rows.weights[at], 0.0)
            x = rows.vectors[at]
            weighted = x * w[:, :, None]
            a[part] = np.matmul(weighted.transpose(0, 2, 1), x)
            b[part] = (weighted * rows.targets[at][:, :, None]).sum(axis=1)
            weight[part] = w.sum(axis=1)
    return a, b, weight


def solve_users(rows: Rows, tail: Floats, old: Floats, known: Globals, params: Params) -> Floats:
    """Vectors of users from their kept events, (n, k).

    Implicit: p = (sum w q qT + tail C + a G + r (sum w + tail + a items) 1)^-1 (sum w q + tail C p_old), with C the
    mean item of an event, G the Gram of all items and a = alpha / items, at most 1.

    Explicit, with x = [q, 1], y what is left of the rating and D = r sqrt(sum w + tail) 1:
    [p, bias] = (sum w x xT + tail C + D)^-1 (sum w y x + tail C [p, bias]_old).

    Args:
        tail: weight of events that are no longer kept, (n,).
        old: vectors before, zero for new users, (n, width).
    """
    a, b, weight = normal_equations(rows)
    mean_item = known.tail / known.tail_weight if known.tail_weight > 0 else known.tail
    a += tail[:, None, None] * mean_item
    b += tail[:, None] * (old @ mean_item)
    weight = np.maximum(weight + tail, 0)
    if params.is_explicit:
        return _solved(a, b, _rooted(weight, params))
    a += known.gram_items * params.share(known.items)
    return _solved(a, b, (params.regularization * (weight + params.unseen(known.items)))[:, None])


def solve_items(a: Floats, b: Floats, weight: Floats, known: Globals, params: Params) -> Floats:
    """Vectors of items from their decayed sums, (n, width).

    Implicit: q = (A + a G + r (n + a max(users, items)) 1)^-1 b: an item is pulled to zero at least as much as a user,
    else a shop with many more items than users learns its rare items by heart (docs/learners.md).

    Explicit: [q, bias] = (A + D)^-1 b, D diagonal, r sqrt(n).
    """
    weight = np.maximum(weight, 0)
    if params.is_explicit:
        return _solved(a, b, _rooted(weight, params))
    share = params.share(known.items)
    unseen = share * max(known.users, known.items)
    return _solved(a + share * known.gram_users, b, (params.regularization * (weight + unseen))[:, None])


def _rooted(weight: Floats, params: Params) -> Floats:
    pull = np.append(np.full(params.k, params.regularization), params.bias_regularization)
    result: Floats = np.sqrt(weight)[:, None] * pull
    return result


def _solved(a: Floats, b: Floats, ridge: Floats) -> Floats:
    """With `ridge` on the diagonal, (n, 1) or (n, width)."""
    a = a + np.maximum(ridge, 1e-12)[:, :, None] * np.eye(b.shape[1])
    return np.asarray(np.linalg.solve(a, b[:, :, None])[:, :, 0], dtype=np.float64)


def packed(a: Floats) -> Vectors:
    """The upper triangles of symmetric matrices, (n, k (k+1) / 2)."""
    rows, columns = np.triu_indices(a.shape[1])
    result: Vectors = a[:, rows, columns].astype(np.float32)
    return result


def unpacked(triangles: NDArray[Any], k: int) -> Floats:
    """Symmetric matrices of their upper triangles, (n, k, k)."""
    rows, columns = np.triu_indices(k)
    a = np.zeros((len(triangles), k, k))
    a[:, rows, columns] = triangles
    a[:, columns, rows] = triangles
    return a


def outer_sum(vectors: Floats, weights: Floats) -> Floats:
    """Sum of w x xT over all rows, (k, k)."""
    result: Floats = (vectors * weights[:, None]).T @ vectors
    return result
