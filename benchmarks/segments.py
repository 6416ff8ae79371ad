"""Quality of the segments, measured in memory (segments_batch.SegmentsState), without Spark.

The cost of a batch is prequential: the sum of squared distances of its points to the nearest center, before the batch
is learned. Each point is a user of its own, a batch is a day, and the half-life is two days; other settings have their
defaults. The baseline is a full retraining before every batch (kmeans_best20.py, stored). Two algorithms that also
update their centers with every batch are measured too: scikit-learn's MiniBatchKMeans.partial_fit, and the update rule
of Spark's StreamingKMeans with a half-life of two batches. They start from full k-means over the first batch.

A value is the mean over seeds and over the batches after the first ten, since after a poor first batch two moves per
batch need up to ten batches. The detail contains the first ten.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.segments.kernels import kmeans, kmeans_tasks
from profilestream.learn.segments.kernels.kmeans import KMeansParams
from profilestream.learn.segments.segments_batch import SegmentsState
from sklearn.cluster import KMeans as FullKMeans  # type: ignore[import-untyped]
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]

from benchmarks import kmeans_best20, point_streams
from benchmarks.point_streams import GROUPS, KINDS, Stream
from benchmarks.result import Result

# Batches at the start that a value does not include.
WARM_UP = 10
PARAMS = KMeansParams(k=GROUPS, half_life_days=2.0)
# The centers before each batch, from the second batch on.
Centers = Iterator[Floats]


def kmeans_cost_vs_best20() -> Result:
    """On mixtures that are stationary, drift slowly or fast, change groups, or start with a poor batch: the worst."""
    algorithms = (incremental, minibatch, streaming_kmeans)
    ratios = {kind: [_cost_ratios(kind, algorithm) for algorithm in algorithms] for kind in KINDS}
    value = max(float(ours[:, WARM_UP:].mean()) for ours, *_ in ratios.values())
    detail = "; ".join(
        f"{kind} {ours[:, WARM_UP:].mean():.3f} (first ten {ours[:, :WARM_UP].mean():.2f}, all {ours.mean():.3f}), "
        f"partial_fit {mini[:, WARM_UP:].mean():.2f}, StreamingKMeans {spark[:, WARM_UP:].mean():.2f}"
        for kind, (ours, mini, spark) in ratios.items()
    )
    seeds = f"{kmeans_best20.SEEDS} seeds, 60 batches of 1,000, k {GROUPS}"
    return _cost_result("kmeans_cost_vs_best20", value, f"{detail}; {seeds}")


def kmeans_cost_vs_best20_complete_journey() -> Result:
    """On the weekly spending of a grocer's households by department."""
    ours, mini, spark = (_real_cost_ratios(GROUPS, rule) for rule in (incremental, minibatch, streaming_kmeans))
    small_k = kmeans_best20.REAL_KS[1]
    with_small_k = _real_cost_ratios(small_k, incremental)
    detail = (
        f"k {GROUPS}: partial_fit {mini[WARM_UP:].mean():.3f}, StreamingKMeans {spark[WARM_UP:].mean():.3f}, "
        f"ours in the first ten {ours[:WARM_UP].mean():.3f}; with k {small_k} {with_small_k[WARM_UP:].mean():.3f}; "
        f"{len(ours) + 1} weeks of {point_streams.DEPARTMENTS} departments, log(1 + dollars), in standard deviations "
        f"of the first {point_streams.FIRST_WEEKS} weeks, about 265 households each"
    )
    return _cost_result("kmeans_cost_vs_best20_complete_journey", float(ours[WARM_UP:].mean()), detail)


def kmeans_ari_births() -> Result:
    """Agreement of segments with the true groups, when in every tenth batch one group ends and another begins."""
    by_seed = []
    for seed in range(kmeans_best20.SEEDS):
        stream = point_streams.mixture("births", seed)
        batches = zip(stream[1:], incremental(stream, GROUPS), strict=True)
        aris = [adjusted_rand_score(b.groups, kmeans.nearest_centers(b.points, centers)[0]) for b, centers in batches]
        by_seed.append(np.mean(aris))
    seeds = ", ".join(f"{ari:.3f}" for ari in by_seed)
    detail = f"by seed {seeds}; a full retraining {_baseline()['births, ari']:.3f}; each batch before it is learned"
    return Result(
        "kmeans_ari_births", float(np.mean(by_seed)), "adjusted Rand index", 0.97, "higher", "true groups", detail
    )


def kmeans_first_batch_spread() -> Result:
    """Relative difference of the cost after the first ten batches, for five first batches and two seeds."""
    stream = point_streams.mixture("stationary", 0)
    poor = point_streams.mixture("poor first batch", 0)[0]
    equal_points = replace(poor, points=np.repeat(poor.points[:1], len(poor.points), axis=0))
    first_batches = {
        "seed 0": stream[0],
        "seed 1": stream[0],
        "4 of 20 groups": poor,
        "5 points": replace(poor, points=poor.points[:5]),
        "all points equal": equal_points,
    }
    costs = {}
    for name, first in first_batches.items():
        params = replace(PARAMS, seed=int(name == "seed 1"))
        batches = list(zip(stream[1:], incremental([first, *stream[1:]], GROUPS, params), strict=True))
        costs[name] = sum(_cost(batch.points, centers) for batch, centers in batches[WARM_UP:])
    low, high = min(costs.values()), max(costs.values())
    detail = f"total cost from {', '.join(f'{name} {cost:,.0f}' for name, cost in costs.items())}"
    return Result("kmeans_first_batch_spread", high / low - 1, "spread", 0.01, "lower", "five first batches", detail)


def kmeans_core_time_vs_best20() -> Result:
    """Processor time of a batch on one thread, with the contributions of all users in memory."""
    stream = point_streams.mixture("births", 0)
    state, ours = SegmentsState.empty(stream[0].points.shape[1]), []
    for rows in _daily_batches(stream):
        start = time.process_time()
        state = state.learn(rows, PARAMS)
        ours.append(time.process_time() - start)
    theirs = []
    for number in range(WARM_UP, len(stream), 10):
        points = kmeans_best20.window(stream, number)
        start = time.process_time()
        kmeans_best20.best_of_20(points, GROUPS, number)
        theirs.append(time.process_time() - start)
    mine, full = np.mean(ours[WARM_UP:]), np.mean(theirs)
    detail = (
        f"{1e3 * mine:.1f} ms per batch of 1,000; {1e3 * full:.0f} ms for the best of "
        f"{kmeans_best20.INITIALIZATIONS} on {kmeans_best20.WINDOW} batches; births, up to "
        f"{len(stream) * point_streams.POINTS_PER_BATCH:,} stored users"
    )
    return Result(
        "kmeans_core_time_vs_best20", float(mine / full), "ratio of processor time", 0.1, "lower",
        "scikit-learn KMeans, best of 20 starts", detail,
    )  # fmt: skip


def incremental(stream: Stream, k: int, params: KMeansParams = PARAMS) -> Centers:
    """The incremental k-means of this project."""
    state = SegmentsState.empty(stream[0].points.shape[1])
    for rows in _daily_batches(stream[:-1]):
        state = state.learn(rows, replace(params, k=k))
        yield state.segments.centers


def minibatch(stream: Stream, k: int) -> Centers:
    """scikit-learn's MiniBatchKMeans.partial_fit, which has no decay."""
    model = MiniBatchKMeans(k, init=_full_kmeans(stream, k), n_init=1, random_state=0)
    for batch in stream[:-1]:
        model.partial_fit(batch.points)
        yield model.cluster_centers_.copy()


def streaming_kmeans(stream: Stream, k: int) -> Centers:
    """The update rule of Spark's StreamingKMeans: c = (c n a + sum x) / (n a + m), a = 2^(-1 / 2).

    A center with less than 1e-8 of the weight of the heaviest one is moved next to that one.
    """
    centers, weight = _full_kmeans(stream, k), np.zeros(k)
    for batch in stream[:-1]:
        nearest, _ = kmeans.nearest_centers(batch.points, centers)
        weight *= 2.0**-0.5
        for index in np.unique(nearest):
            members = batch.points[nearest == index]
            total = weight[index] + len(members)
            centers[index] = (centers[index] * weight[index] + members.sum(axis=0)) / total
            weight[index] += len(members)
        lightest, heaviest = weight.argmin(), weight.argmax()
        if weight[lightest] < 1e-8 * weight[heaviest]:
            weight[[lightest, heaviest]] = weight[[lightest, heaviest]].mean()
            shift = 1e-14 * np.maximum(np.abs(centers[heaviest]), 1.0)
            centers[lightest], centers[heaviest] = centers[heaviest] - shift, centers[heaviest] + shift
        yield centers.copy()


def _full_kmeans(stream: Stream, k: int) -> Floats:
    """Centers of full k-means over the first batch, initialized by k-means++."""
    return np.asarray(FullKMeans(k, n_init=1, random_state=0).fit(stream[0].points).cluster_centers_, np.float64)


def _daily_batches(stream: Stream) -> Iterator[pa.Table]:
    """One batch per day, with its points evenly distributed over the day."""
    users = 0
    for day, batch in enumerate(stream, start=1):
        n = len(batch.points)
        times = day * MICROS_PER_DAY + np.arange(n) * MICROS_PER_DAY // n
        yield kmeans_tasks.contributions([str(users + m) for m in range(n)], batch.points, times)
        users += n


def _cost_ratios(kind: str, algorithm: Callable[[Stream, int], Centers]) -> Floats:
    """Cost relative to the baseline, (seeds, batches)."""
    return np.array([
        _relative_to(costs, point_streams.mixture(kind, seed), algorithm, GROUPS)
        for seed, costs in enumerate(_baseline()[kind])
    ])  # fmt: skip


def _real_cost_ratios(k: int, algorithm: Callable[[Stream, int], Centers]) -> Floats:
    (costs,) = _baseline()[f"complete journey, {k}"]
    return _relative_to(costs, point_streams.complete_journey(), algorithm, k)


def _relative_to(costs: list[float], stream: Stream, algorithm: Callable[[Stream, int], Centers], k: int) -> Floats:
    batches = zip(stream[1:], algorithm(stream, k), strict=True)
    return np.asarray(np.array([_cost(batch.points, centers) for batch, centers in batches]) / np.array(costs))


def _cost(points: Floats, centers: Floats) -> float:
    return float(kmeans.nearest_centers(points, centers)[1].sum())


@cache
def _baseline() -> dict[str, Any]:
    baseline: dict[str, Any] = json.loads(kmeans_best20.BASELINE.read_text())
    return baseline


def _cost_result(bench: str, value: float, detail: str) -> Result:
    against = "scikit-learn KMeans of the last 5 batches at every batch, best of 20 starts"
    return Result(bench, value, "ratio of cost", 1.02, "lower", against, detail)
