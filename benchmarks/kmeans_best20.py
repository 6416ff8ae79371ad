"""Baseline of the segments benchmarks: scikit-learn's KMeans, trained before every batch on the five batches before it.

Each training takes the best of 20 initializations. The costs are written to benchmarks/baselines/kmeans_best20.json,
which segments.py reads. It takes ten minutes:

    PYTHONPATH=lib:. OMP_NUM_THREADS=1 python benchmarks/kmeans_best20.py
"""

import json
import sys
from pathlib import Path

import numpy as np
from profilestream.learn.kernels.arrays import Floats
from sklearn import __version__  # type: ignore[import-untyped]
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]

from benchmarks import point_streams
from benchmarks.point_streams import GROUPS, KINDS, Stream

BASELINE = Path(__file__).parent / "baselines" / "kmeans_best20.json"
INITIALIZATIONS, WINDOW, SEEDS = 20, 5, 5
# Values of k for the real households: that of the mixtures, and the default of learn.segments.
REAL_KS = (GROUPS, 8)


def main() -> int:
    model = f"scikit-learn {__version__} KMeans, n_init {INITIALIZATIONS}"
    baseline: dict[str, object] = {
        "command": "python benchmarks/kmeans_best20.py",
        "what": f"{model}, of the {WINDOW} batches before each batch",
    }
    for kind in KINDS:
        by_seed = [retrain_before_every_batch(point_streams.mixture(kind, seed), GROUPS) for seed in range(SEEDS)]
        baseline[kind] = [[round(cost, 2) for cost, _ in batches] for batches in by_seed]
        baseline[f"{kind}, ari"] = round(float(np.mean([ari for batches in by_seed for _, ari in batches])), 4)
        print(kind, baseline[f"{kind}, ari"], flush=True)
    for k in REAL_KS:
        batches = retrain_before_every_batch(point_streams.complete_journey(), k)
        baseline[f"complete journey, {k}"] = [[round(cost, 2) for cost, _ in batches]]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in baseline.items())
    BASELINE.write_text(f"{{\n{lines}\n}}\n")
    return 0


def retrain_before_every_batch(stream: Stream, k: int) -> list[tuple[float, float]]:
    """For each batch but the first: its cost, and the adjusted Rand index with its true groups (NaN without groups)."""
    results = []
    for number in range(1, len(stream)):
        model = best_of_20(window(stream, number), k, number)
        points, groups = stream[number].points, stream[number].groups
        ari = adjusted_rand_score(groups, model.predict(points)) if len(groups) else np.nan
        results.append((-float(model.score(points)), float(ari)))
    return results


def window(stream: Stream, number: int) -> Floats:
    """The points of the five batches before a batch."""
    return np.vstack([batch.points for batch in stream[max(0, number - WINDOW) : number]])


def best_of_20(points: Floats, k: int, seed: int) -> KMeans:
    """A model trained from scratch, the best of 20 initializations."""
    return KMeans(k, n_init=INITIALIZATIONS, random_state=seed).fit(points)


if __name__ == "__main__":
    sys.exit(main())
