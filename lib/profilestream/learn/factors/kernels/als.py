"""Incremental alternating least squares with mergeable sums, in numpy: the math of `learn_factors`, without Spark.

A user vector is solved from the stored events of the user, an item vector from decayed normal equations. Two Gram
matrices summarize all users and all items. Implicit feedback follows Hu, Koren and Volinsky, "Collaborative Filtering
for Implicit Feedback Datasets" (2008). The weight of unobserved pairs follows Rendle et al., "Revisiting the
Performance of iALS on Item Recommendation Benchmarks" (2022). All sums are float64; vectors are stored as float32.

Shapes: k is the length of a vector. Rows of one user (or item) are contiguous; `starts` contains the position of the
first row of each user (or item).
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.sums import DECAYS, FIRST, LATEST, DecayedSums

Vectors = NDArray[np.float32]
Strings = NDArray[np.object_]
_MAX_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class AlsParams:
    """The settings of the factorization, with the defaults of the mode; see settings.Factors. Null: no decay."""

    mode: Literal["implicit", "explicit"] = "implicit"
    k: int = 32
    unobserved_weight: float = 800.0
    regularization: float = 0.015
    bias_regularization: float = 0.3
    half_life_days: float | None = 45.0
    popularity_half_life_days: float = 14.0
    max_events_per_user: int = 100
    reweighted_events: int = 10
    popularity_weight: float = 0.15
    category_weight: float = 0.0
    neighbor_weight: float = 0.03
    max_neighbors: int = 50
    neighbor_history: int = 20
    eval_users: int = 2000

    @property
    def is_explicit(self) -> bool:
        """Whether the model learns from ratings."""
        return self.mode == "explicit"

    @property
    def width(self) -> int:
        """Number of values in a stored vector: k, plus 1 for the bias in explicit mode."""
        return self.k + int(self.is_explicit)

    def eval_share(self, users: int) -> float:
        """Share of the users of a batch whose ranking is evaluated."""
        return min(1.0, self.eval_users / max(users, 1))

    def unobserved_pair_weight(self, item_count: float) -> float:
        """Implicit: weight of one user-item pair without an event."""
        return min(self.unobserved_weight / max(item_count, 1.0), 1.0)

    def unobserved_user_weight(self, item_count: float) -> float:
        """Implicit: total weight of a user's pairs without an event; `unobserved_weight` while there is no item."""
        return min(self.unobserved_weight, item_count) if item_count >= 1 else self.unobserved_weight


@dataclass(frozen=True)
class GlobalSums(DecayedSums):
    """Sums over all users and all items: the one row of the state that every task of a batch needs.

    Args:
        item_gram: sum of q qT over all items, (k, k).
        user_gram: sum of p pT over all users, each decayed since the user's latest event, (k, k).
        weighted_item_gram: sum of n q qT over all items, (k, k). Divided by `item_weight` it is the mean of q qT over
            all events.
        item_weight: sum of n over all items, the decayed weight of all events.
        item_count: number of items.
        user_count: number of users, each decayed since the user's latest event.
        mean_rating: explicit: mean rating of the first batch, the origin of all biases; null before that batch.
        event_count: number of learned events.
        full_pass_events: `event_count` at the latest full pass.
    """

    item_gram: Floats
    user_gram: Floats = field(metadata=DECAYS)
    weighted_item_gram: Floats = field(metadata=DECAYS)
    item_weight: float = field(default=0.0, metadata=DECAYS)
    item_count: float = 0.0
    user_count: float = field(default=0.0, metadata=DECAYS)
    mean_rating: float | None = field(default=None, metadata=FIRST)
    event_count: float = 0.0
    full_pass_events: float = field(default=0.0, metadata=LATEST)

    @classmethod
    def zero(cls, k: int) -> "GlobalSums":
        """The sums before the first event."""
        return cls(np.zeros((k, k)), np.zeros((k, k)), np.zeros((k, k)))

    def has_shrunk_from(self, before: "GlobalSums") -> bool:
        """Whether the product of the Frobenius norms of item and user vectors fell below half, or is not a number.

        The product is compared because a scale factor that moves from the items to the users changes no score.
        """
        size, size_before = (float(np.trace(sums.item_gram) * np.trace(sums.user_gram)) for sums in (self, before))
        return not size >= size_before / 4  # traces are squared norms


@dataclass(frozen=True)
class GroupedRows:
    """Least squares rows, grouped by user (or item); rows of one group are contiguous.

    Args:
        starts: position of the first row of each group, (n,), ascending from 0.
        vectors: design vectors of the other side, (rows, k).
        weights: (rows,); a negative weight removes an earlier row.
        targets: target values of the products of both sides, (rows,).
    """

    starts: Longs
    vectors: Floats
    weights: Floats
    targets: Floats


def initial_vector(item_id: str, params: AlsParams) -> Vectors:
    """The vector of an item without events; it is seeded by a hash of the id, so it is the same in every task.

    Values are drawn from N(0, 0.1^2 / k); explicit: from N(0, 0.1^2), with a bias of 0.
    """
    seed = int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "big")
    scale = 0.1 if params.is_explicit else 0.1 / np.sqrt(params.k)
    values = np.random.Generator(np.random.PCG64(seed)).normal(0.0, scale, params.k)
    return np.append(values, np.zeros(params.width - params.k)).astype(np.float32)


def design_vectors(vectors: Floats, params: AlsParams) -> Floats:
    """The vectors that the other side is multiplied with; explicit: the bias is replaced by 1."""
    if not params.is_explicit:
        return vectors
    return np.hstack([vectors[:, :-1], np.ones((len(vectors), 1))])


def target_values(ratings: Floats, vectors: Floats, global_sums: GlobalSums, params: AlsParams) -> Floats:
    """Target values of users (items), (rows,). Implicit: 1. Explicit: rating - mean rating - bias of the other side.

    Args:
        vectors: stored vectors of the rated items (of the rating users), (rows, width).
    """
    if not params.is_explicit:
        return np.ones(len(vectors))
    residuals: Floats = ratings - (global_sums.mean_rating or 0.0) - vectors[:, -1]
    return residuals


def predictions(p: Floats, q: Floats, global_sums: GlobalSums, params: AlsParams) -> Floats:
    """Product of the vectors of each pair of user and item, (pairs,); explicit: the predicted rating.

    Args:
        p, q: vectors of users and items, (pairs, width).
    """
    k = params.k
    biases = p[:, k:].sum(axis=1) + q[:, k:].sum(axis=1) + (global_sums.mean_rating or 0.0)
    values: Floats = (p[:, :k] * q[:, :k]).sum(axis=1) + biases
    return values


def normal_equations(rows: GroupedRows) -> tuple[Floats, Floats, Floats]:
    """Per group: sum of w x xT, (n, k, k); sum of w y x, (n, k); sum of w, (n,).

    Groups of similar size are padded to the same size and multiplied in one call.
    """
    n, k = len(rows.starts), rows.vectors.shape[1]
    a, b, weight = np.zeros((n, k, k)), np.zeros((n, k)), np.zeros(n)
    sizes = np.diff(np.append(rows.starts, len(rows.weights)))
    buckets = np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
    for bucket in np.unique(buckets[sizes > 0]):
        groups = np.flatnonzero((buckets == bucket) & (sizes > 0))
        width = 1 << bucket
        for chunk in np.array_split(groups, max(1, len(groups) * width * k // _MAX_CHUNK_CELLS)):
            positions = rows.starts[chunk][:, None] + np.arange(width)
            is_row = np.arange(width) < sizes[chunk][:, None]
            positions = np.where(is_row, positions, 0)
            w = np.where(is_row, rows.weights[positions], 0.0)
            x = rows.vectors[positions]
            weighted = x * w[:, :, None]
            a[chunk] = np.matmul(weighted.transpose(0, 2, 1), x)
            b[chunk] = (weighted * rows.targets[positions][:, :, None]).sum(axis=1)
            weight[chunk] = w.sum(axis=1)
    return a, b, weight


def solve_users(
    rows: GroupedRows, tail_weights: Floats, old_vectors: Floats, global_sums: GlobalSums, params: AlsParams
) -> Floats:
    """User vectors from the users' events, (n, width).

    Implicit: p = (sum w q qT + t C + a G + r (sum w + t + a items) I)^-1 (sum w q + t C p_old), where t is the tail
    weight, C the mean of q qT over all events, G the Gram matrix of all items, r the regularization and
    a = min(unobserved_weight / items, 1).

    Explicit, with x = [q, 1] and y the target value:
    [p, bias] = (sum w x xT + t C + D)^-1 (sum w y x + t C [p, bias]_old). D is diagonal: sqrt(sum w + t) times r, and
    times bias_regularization for the bias.

    Args:
        tail_weights: weight of the events that are no longer stored, (n,).
        old_vectors: vectors before the batch, zero for new users, (n, width).
    """
    a, b, weight = normal_equations(rows)
    weighted_gram, total = global_sums.weighted_item_gram, global_sums.item_weight
    mean_gram = weighted_gram / total if total > 0 else weighted_gram
    a += tail_weights[:, None, None] * mean_gram
    b += tail_weights[:, None] * (old_vectors @ mean_gram)
    weight = np.maximum(weight + tail_weights, 0)
    if params.is_explicit:
        return _solve(a, b, _explicit_ridge(weight, params))
    items = global_sums.item_count
    a += global_sums.item_gram * params.unobserved_pair_weight(items)
    return _solve(a, b, (params.regularization * (weight + params.unobserved_user_weight(items)))[:, None])


def solve_items(a: Floats, b: Floats, weight: Floats, global_sums: GlobalSums, params: AlsParams) -> Floats:
    """Item vectors from their decayed normal equations, (n, width).

    Implicit: q = (A + a H + r (n + a max(users, items)) I)^-1 b, where H is the Gram matrix of all users. The maximum
    regularizes an item at least as strongly as a user. Without it a shop with many more items than users overfits its
    rare items (docs/learners.md).

    Explicit: [q, bias] = (A + D)^-1 b. D is diagonal: sqrt(n) times r, and times bias_regularization for the bias.
    """
    weight = np.maximum(weight, 0)
    if params.is_explicit:
        return _solve(a, b, _explicit_ridge(weight, params))
    pair_weight = params.unobserved_pair_weight(global_sums.item_count)
    unobserved = pair_weight * max(global_sums.user_count, global_sums.item_count)
    ridge = params.regularization * (weight + unobserved)
    return _solve(a + pair_weight * global_sums.user_gram, b, ridge[:, None])


def _explicit_ridge(weight: Floats, params: AlsParams) -> Floats:
    penalty = np.append(np.full(params.k, params.regularization), params.bias_regularization)
    ridge: Floats = np.sqrt(weight)[:, None] * penalty
    return ridge


def _solve(a: Floats, b: Floats, ridge: Floats) -> Floats:
    """Solutions of (a + ridge) x = b, with `ridge` on the diagonal, (n, 1) or (n, width)."""
    a = a + np.maximum(ridge, 1e-12)[:, :, None] * np.eye(b.shape[1])
    return np.asarray(np.linalg.solve(a, b[:, :, None])[:, :, 0], dtype=np.float64)


def nearest_semidefinite(a: Floats) -> Floats:
    """Symmetric matrices with negative eigenvalues replaced by 0, (n, k, k)."""
    values, vectors = np.linalg.eigh(a)
    nearest: Floats = (vectors * np.maximum(values, 0.0)[:, None, :]) @ vectors.transpose(0, 2, 1)
    return nearest


def pack_symmetric(a: Floats) -> Vectors:
    """The upper triangles of symmetric matrices, (n, k (k+1) / 2), as float32."""
    rows, columns = np.triu_indices(a.shape[1])
    triangles: Vectors = a[:, rows, columns].astype(np.float32)
    return triangles


def unpack_symmetric(triangles: NDArray[Any], k: int) -> Floats:
    """The symmetric matrices with these upper triangles, (n, k, k)."""
    rows, columns = np.triu_indices(k)
    a = np.zeros((len(triangles), k, k))
    a[:, rows, columns] = triangles
    a[:, columns, rows] = triangles
    return a


def gram_matrix(vectors: Floats, weights: Floats) -> Floats:
    """Sum of w x xT over all rows, (k, k)."""
    gram: Floats = (vectors * weights[:, None]).T @ vectors
    return gram
