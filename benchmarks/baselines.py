"""Recall of a full retrain before every batch: `implicit` ALS on all past events, tuned on the first third of the log.

reads: data/   writes: benchmarks/baselines/<log>_<kind>.json, which the benchmarks of quality.py compare with

Run it in a separate environment, because nothing else needs `implicit` (conf/constraints.txt has the other versions):

    pip install -c conf/constraints.txt implicit==0.7.3 numpy pandas pyarrow
    PYTHONPATH=lib:. OPENBLAS_NUM_THREADS=1 python benchmarks/baselines.py online_retail retrain
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import decay_factors

from benchmarks import real_datasets
from benchmarks.prequential import EvalBatch, Recalls, batches, first_third
from benchmarks.real_datasets import Log

FOLDER = Path(__file__).parent / "baselines"
LOGS: dict[str, Callable[[], Log]] = {
    "online_retail": real_datasets.online_retail,
    "complete_journey": real_datasets.complete_journey,
}
# Half-life of the events' weights by kind, in days of event time.
KINDS = {"retrain": None, "decayed_retrain": 45.0}
FACTORS, ITERATIONS, SEED = 32, 10, 20_260_101
POPULARITY_HALF_LIFE_DAYS = 14.0
# Alpha (per purchase) and regularization.
GRID = [(1.0, 3.0), (1.0, 10.0), *product((4.0, 16.0, 64.0), (10.0, 50.0)), (16.0, 200.0), (64.0, 200.0)]
# Hyperparameters are chosen on every third batch of the first third.
TUNING_STEP = 3
Hyperparameters = dict[str, float]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=LOGS)
    parser.add_argument("kind", choices=KINDS)
    args = parser.parse_args(argv)
    log, half_life = LOGS[args.log](), KINDS[args.kind]
    grid: list[Hyperparameters] = [{"alpha": alpha, "regularization": ridge} for alpha, ridge in GRID]
    tuning_batches = list(batches(log, first_third(log)))[::TUNING_STEP]
    trials = []
    for hyperparameters in grid:
        recalls = retrain(log, tuning_batches, hyperparameters, half_life)
        mean = float(np.nanmean(np.concatenate([batch.first for batch in recalls])))
        trials.append({**hyperparameters, "recall_20": round(mean, 4)})
        print(trials[-1], flush=True)
    best = max(range(len(trials)), key=lambda n: trials[n]["recall_20"])
    recalls = retrain(log, batches(log), grid[best], half_life)
    result = {
        "command": f"python benchmarks/baselines.py {args.log} {args.kind}",
        "what": f"implicit 0.7.3 ALS, k {FACTORS}, {ITERATIONS} iterations, half-life in days {half_life}, seed {SEED}",
        "tried_on_first_third": trials,
        "chosen": grid[best],
        "recall_20_first_pairs": _to_lists([batch.first for batch in recalls]),
        "recall_20_any_pairs": _to_lists([batch.any for batch in recalls]),
    }
    FOLDER.mkdir(exist_ok=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
    (FOLDER / f"{args.log}_{args.kind}.json").write_text(f"{{\n{lines}\n}}\n")
    return 0


def retrain(
    log: Log, eval_batches: Iterable[EvalBatch], hyperparameters: Hyperparameters, half_life: float | None
) -> list[Recalls]:
    """Recalls on each batch of a model that is trained from scratch on all events before the batch."""
    return [batch.evaluate(_scores(log, batch, hyperparameters, half_life)) for batch in eval_batches]


def _scores(log: Log, batch: EvalBatch, hyperparameters: Hyperparameters, half_life: float | None) -> Floats:
    """Scores of the batch's users, (users, items); users without a purchase get the popularity of the blend."""
    purchases = _purchases(log, batch.begin, half_life)
    model = import_module("implicit.cpu.als").AlternatingLeastSquares(
        factors=FACTORS, iterations=ITERATIONS, num_threads=1, random_state=SEED,
        regularization=hyperparameters["regularization"], dtype=np.float32,
    )  # fmt: skip
    confidence = purchases.copy()
    confidence.data = (1.0 + hyperparameters["alpha"] * purchases.data).astype(np.float32)
    model.fit(confidence, show_progress=False)
    scores: Floats = model.user_factors[batch.users].astype(float) @ model.item_factors.T.astype(float)
    is_new = purchases[batch.users].getnnz(axis=1) == 0
    scores[is_new] = _purchases(log, batch.begin, POPULARITY_HALF_LIFE_DAYS).sum(axis=0)
    return scores


def _purchases(log: Log, end: int, half_life: float | None) -> Any:
    """Purchases minus returns before event number `end`, decayed to the latest of these events, (users, items)."""
    part = slice(0, end)
    factors = decay_factors(log.time_micros[part], int(log.time_micros[end - 1]), half_life)
    count = log.weight[part] / real_datasets.PURCHASE * factors
    shape = (len(log.users), len(log.items))
    purchases = import_module("scipy.sparse").csr_matrix((count, (log.user[part], log.item[part])), shape=shape)
    purchases.sum_duplicates()
    purchases.data = np.maximum(purchases.data, 0.0)
    purchases.eliminate_zeros()
    return purchases


def _to_lists(recalls: list[Floats]) -> list[list[float]]:
    """For each batch, the recalls of the users with a target, in order of user id."""
    return [[round(float(recall), 4) for recall in batch[~np.isnan(batch)]] for batch in recalls]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
