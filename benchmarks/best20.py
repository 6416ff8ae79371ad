"""Cost of a full retrain at every batch: scikit-learn's KMeans, the best of 20 starts on the five batches before it.

writes: benchmarks/baselines/kmeans_best20.json, which the benchmarks of segments.py compare with. Ten minutes:

    PYTHONPATH=lib:. OMP_NUM_THREADS=1 python benchmarks/best20.py
"""

import json
import sys
from pathlib import Path

import numpy as np
from profilestream.learn.als import Floats
from sklearn import __version__  # type: ignore[import-untyped]
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]

from benchmarks import streams
from benchmarks.streams import GROUPS, KINDS, Stream

BASELINE = Path(__file__).parent / "baselines" / "kmeans_best20.json"
STARTS, WINDOW, SEEDS = 20, 5, 5
# Of weeks of households: as many segments as of mixtures, and as many as a shop has if it says nothing.
REAL_KS = (GROUPS, 8)


def main() -> int:
    made: dict[str, object] = {
        "command": "python benchmarks/best20.py",
        "what": f"scikit-learn {__version__} KMeans, n_init {STARTS}, of the {WINDOW} batches before each batch",
    }
    for kind in KINDS:
        answers = [retrained(streams.mixture(kind, seed), GROUPS) for seed in range(SEEDS)]
        made[kind] = [[round(cost, 2) for cost, _ in seed] for seed in answers]
        made[f"{kind}, ari"] = round(float(np.mean([ari for seed in answers for _, ari in seed])), 4)
        print(kind, made[f"{kind}, ari"], flush=True)
    for k in REAL_KS:
        made[f"complete journey, {k}"] = [[round(cost, 2) for cost, _ in retrained(streams.complete_journey(), k)]]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in made.items())
    BASELINE.write_text(f"{{\n{lines}\n}}\n")
    return 0


def retrained(stream: Stream, k: int) -> list[tuple[float, float]]:
    """Of every batch but the first: its cost, and the adjusted Rand index of its groups if it has some."""
    found = []
    for number in range(1, len(stream)):
        model = best_of_20(window(stream, number), k, number)
        asked, groups = stream[number].points, stream[number].groups
        ari = adjusted_rand_score(groups, model.predict(asked)) if len(groups) else np.nan
        found.append((-float(model.score(asked)), float(ari)))
    return found


def window(stream: Stream, number: int) -> Floats:
    """The points of the batches before that one."""
    return np.vstack([batch.points for batch in stream[max(0, number - WINDOW) : number]])


def best_of_20(points: Floats, k: int, seed: int) -> KMeans:
    """A full retrain."""
    return KMeans(k, n_init=STARTS, random_state=seed).fit(points)


if __name__ == "__main__":
    sys.exit(main())
