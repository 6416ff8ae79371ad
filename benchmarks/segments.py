"""Quality of the segments, by the in-memory k-means (profilestream/learn/local_kmeans.py), without Spark.

Costs are prequential: the sum of squared distances of a batch's points to the nearest center, before the batch is
learned. Each point is a user of its own, a batch is a day, and the half-life two days; other settings are the defaults.
What is compared with is a full retrain at every batch (best20.py, cached), and two rules that learn as the points come:
scikit-learn's MiniBatchKMeans.partial_fit and that of Spark's StreamingKMeans, half-life two batches. All three start
from k-means++ and full k-means on the first batch. A value is the mean over seeds and batches after the first ten: from
a poor first batch it takes up to that long with two moves a batch. The detail says what the first ten did.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from profilestream.learn import kmeans
from profilestream.learn.als import MICROS_A_DAY, Floats
from profilestream.learn.kmeans import Params
from profilestream.learn.local_kmeans import KMeans, Rows
from sklearn.cluster import KMeans as FullKMeans  # type: ignore[import-untyped]
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]

from benchmarks import best20, streams
from benchmarks.result import Result
from benchmarks.streams import GROUPS, KINDS, Stream

SETTLED = 10
PARAMS = Params(k=GROUPS, half_life_days=2.0)
# Centers that are asked of a batch, before it is learned; batch by batch, from the second on.
Centers = Iterator[Floats]


def kmeans_cost_vs_best20() -> Result:
    """On mixtures that stand still, move, lose and gain groups, and begin poorly: the worst of five."""
    found = {kind: [_ratios(kind, rule) for rule in (learned, minibatch, spark_rule)] for kind in KINDS}
    value = max(float(ours[:, SETTLED:].mean()) for ours, *_ in found.values())
    detail = "; ".join(
        f"{kind} {ours[:, SETTLED:].mean():.3f} (first ten {ours[:, :SETTLED].mean():.2f}, all {ours.mean():.3f}), "
        f"partial_fit {mini[:, SETTLED:].mean():.2f}, Spark's rule {spark[:, SETTLED:].mean():.2f}"
        for kind, (ours, mini, spark) in found.items()
    )
    return _result("kmeans_cost_vs_best20", value, f"{detail}; {best20.SEEDS} seeds, 60 batches of 1,000, k {GROUPS}")


def kmeans_cost_vs_best20_complete_journey() -> Result:
    """On what households of a grocer spend in a week, by department."""
    ours, mini, spark = (_real(GROUPS, rule) for rule in (learned, minibatch, spark_rule))
    few = _real(best20.REAL_KS[1], learned)
    detail = (
        f"k {GROUPS}: partial_fit {mini[SETTLED:].mean():.3f}, Spark's rule {spark[SETTLED:].mean():.3f}, "
        f"ours in the first ten {ours[:SETTLED].mean():.3f}; with k {best20.REAL_KS[1]} {few[SETTLED:].mean():.3f}; "
        f"{len(ours) + 1} weeks of {streams.DEPARTMENTS} departments, log(1 + dollars), in standard deviations of the "
        f"first {streams.FIRST_WEEKS} weeks, about 265 households each"
    )
    return _result("kmeans_cost_vs_best20_complete_journey", float(ours[SETTLED:].mean()), detail)


def kmeans_ari_births() -> Result:
    """Whether points of one group are said to be in one segment, when every tenth batch a group ends and one begins."""
    by_seed = []
    for seed in range(best20.SEEDS):
        stream = streams.mixture("births", seed)
        said = [kmeans.nearest(b.points, c)[0] for b, c in zip(stream[1:], learned(stream, GROUPS), strict=True)]
        by_seed.append(np.mean([adjusted_rand_score(b.groups, s) for b, s in zip(stream[1:], said, strict=True)]))
    seeds = ", ".join(f"{ari:.3f}" for ari in by_seed)
    detail = f"by seed {seeds}; a full retrain {_baseline()['births, ari']:.3f}; each batch before it is learned"
    return Result(
        "kmeans_ari_births", float(np.mean(by_seed)), "adjusted Rand index", 0.97, "higher", "true groups", detail
    )


def kmeans_first_batch_spread() -> Result:
    """How much the cost after the first ten batches depends on the first one, and on the choice of first centers."""
    stream = streams.mixture("stationary", 0)
    poor = streams.mixture("poor first batch", 0)[0]
    same = replace(poor, points=np.repeat(poor.points[:1], len(poor.points), axis=0))
    few = replace(poor, points=poor.points[:5])
    starts = {
        "seed 0": stream[0],
        "seed 1": stream[0],
        "4 of 20 groups": poor,
        "5 points": few,
        "all points equal": same,
    }
    costs = {}
    for name, first in starts.items():
        params = replace(PARAMS, seed=int(name == "seed 1"))
        asked = learned([first, *stream[1:]], GROUPS, params)
        costs[name] = sum(_cost(b.points, c) for b, c in list(zip(stream[1:], asked, strict=True))[SETTLED:])
    low, high = min(costs.values()), max(costs.values())
    detail = f"total cost from {', '.join(f'{name} {cost:,.0f}' for name, cost in costs.items())}"
    return Result("kmeans_first_batch_spread", high / low - 1, "spread", 0.01, "lower", "five first batches", detail)


def kmeans_core_time_vs_best20() -> Result:
    """Processor time of a batch: deltas, moves and the contributions of all users, in memory, on one thread."""
    stream = streams.mixture("births", 0)
    learner = KMeans(PARAMS)
    state, ours = learner.empty(), []
    for rows in _days(stream):
        begin = time.process_time()
        state = learner.learn(state, rows)
        ours.append(time.process_time() - begin)
    theirs = []
    for number in range(SETTLED, len(stream), 10):
        points = best20.window(stream, number)
        begin = time.process_time()
        best20.best_of_20(points, GROUPS, number)
        theirs.append(time.process_time() - begin)
    mine, full = np.mean(ours[SETTLED:]), np.mean(theirs)
    detail = (
        f"{1e3 * mine:.1f} ms a batch of 1,000 against {1e3 * full:.0f} ms for the best of {best20.STARTS} on "
        f"{best20.WINDOW} batches; births, up to {len(stream) * streams.POINTS:,} users kept"
    )
    return Result(
        "kmeans_core_time_vs_best20", float(mine / full), "ratio of processor time", 0.1, "lower",
        "scikit-learn KMeans, best of 20 starts", detail,
    )  # fmt: skip


def learned(stream: Stream, k: int, params: Params = PARAMS) -> Centers:
    """Ours."""
    learner = KMeans(replace(params, k=k))
    state = learner.empty()
    for rows in _days(stream[:-1]):
        state = learner.learn(state, rows)
        assert state.segments is not None
        yield state.segments.centers


def minibatch(stream: Stream, k: int) -> Centers:
    """scikit-learn's; it forgets nothing."""
    model = MiniBatchKMeans(k, init=_first(stream, k), n_init=1, random_state=0)
    for batch in stream[:-1]:
        model.partial_fit(batch.points)
        yield model.cluster_centers_.copy()


def spark_rule(stream: Stream, k: int) -> Centers:
    """c = (c n a + sum x) / (n a + m), a = 2^(-1 / 2); a center that has died out is put beside the heaviest."""
    centers, weight = _first(stream, k), np.zeros(k)
    for batch in stream[:-1]:
        place, _ = kmeans.nearest(batch.points, centers)
        weight *= 2.0**-0.5
        for one in np.unique(place):
            mine = batch.points[place == one]
            centers[one] = (centers[one] * weight[one] + mine.sum(axis=0)) / (weight[one] + len(mine))
            weight[one] += len(mine)
        least, most = weight.argmin(), weight.argmax()
        if weight[least] < 1e-8 * weight[most]:
            weight[[least, most]] = weight[[least, most]].mean()
            aside = 1e-14 * np.maximum(np.abs(centers[most]), 1.0)
            centers[least], centers[most] = centers[most] - aside, centers[most] + aside
        yield centers.copy()


def _first(stream: Stream, k: int) -> Floats:
    """k-means++, and full k-means of the first batch."""
    return np.asarray(FullKMeans(k, n_init=1, random_state=0).fit(stream[0].points).cluster_centers_, np.float64)


def _days(stream: Stream) -> Iterator[Rows]:
    """A batch a day, its points evenly over the day."""
    users = 0
    for day, batch in enumerate(stream, start=1):
        n = len(batch.points)
        times = day * MICROS_A_DAY + np.arange(n) * MICROS_A_DAY // n
        yield Rows(np.arange(users, users + n), batch.points, times)
        users += n


def _ratios(kind: str, rule: Callable[[Stream, int], Centers]) -> Floats:
    """Of costs, by seed and batch."""
    return np.array([
        _against(streams.mixture(kind, seed), costs, rule, GROUPS) for seed, costs in enumerate(_baseline()[kind])
    ])  # fmt: skip


def _real(k: int, rule: Callable[[Stream, int], Centers]) -> Floats:
    (costs,) = _baseline()[f"complete journey, {k}"]
    return _against(streams.complete_journey(), costs, rule, k)


def _against(stream: Stream, costs: list[float], rule: Callable[[Stream, int], Centers], k: int) -> Floats:
    asked = zip(stream[1:], rule(stream, k), strict=True)
    return np.asarray(np.array([_cost(batch.points, centers) for batch, centers in asked]) / np.array(costs))


def _cost(points: Floats, centers: Floats) -> float:
    return float(kmeans.nearest(points, centers)[1].sum())


@cache
def _baseline() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(best20.BASELINE.read_text())
    return found


def _result(bench: str, value: float, detail: str) -> Result:
    against = "scikit-learn KMeans of the last 5 batches at every batch, best of 20 starts"
    return Result(bench, value, "ratio of cost", 1.02, "lower", against, detail)
