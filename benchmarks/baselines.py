"""Recall of a full retrain at every batch: `implicit` ALS on all past events, tuned on the first third of the log.

reads: data/   writes: benchmarks/baselines/<log>_<kind>.json, which the benchmarks of quality.py compare with

By hand, in an environment of its own, since nothing else needs implicit (conf/constraints.txt has the other versions):

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
from profilestream.learn.als import Floats, decayed

from benchmarks import logs
from benchmarks.logs import Log
from benchmarks.prequential import Answer, Asked, batches, first_third

HERE = Path(__file__).parent / "baselines"
LOGS: dict[str, Callable[[], Log]] = {"online_retail": logs.online_retail, "complete_journey": logs.complete_journey}
# Half-life of what an event counts, in days of event time.
KINDS = {"retrain": None, "decayed_retrain": 45.0}
FACTORS, ITERATIONS, SEED = 32, 10, 20_260_101
POPULARITY_HALF_LIFE_DAYS = 14.0
# Alpha and regularization; alpha is of one purchase.
GRID = [(1.0, 3.0), (1.0, 10.0), *product((4.0, 16.0, 64.0), (10.0, 50.0)), (16.0, 200.0), (64.0, 200.0)]
# Settings are chosen on every third batch of the first third.
TUNED_EVERY = 3
Setting = dict[str, float]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=LOGS)
    parser.add_argument("kind", choices=KINDS)
    said = parser.parse_args(argv)
    log, half_life = LOGS[said.log](), KINDS[said.kind]
    settings: list[Setting] = [{"alpha": alpha, "regularization": pull} for alpha, pull in GRID]
    tuning = list(batches(log, first_third(log)))[::TUNED_EVERY]
    tried = []
    for setting in settings:
        answers = retrained(log, tuning, setting, half_life)
        tried.append({**setting, "recall_20": round(float(np.nanmean(np.concatenate([a.first for a in answers]))), 4)})
        print(tried[-1], flush=True)
    best = max(range(len(tried)), key=lambda n: tried[n]["recall_20"])
    answers = retrained(log, batches(log), settings[best], half_life)
    made = {
        "command": f"python benchmarks/baselines.py {said.log} {said.kind}",
        "what": f"implicit 0.7.3 ALS, k {FACTORS}, {ITERATIONS} iterations, half-life in days {half_life}, seed {SEED}",
        "tried_on_first_third": tried,
        "chosen": settings[best],
        "recall_20_first_pairs": _listed([answer.first for answer in answers]),
        "recall_20_any_pairs": _listed([answer.any for answer in answers]),
    }
    HERE.mkdir(exist_ok=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in made.items())
    (HERE / f"{said.log}_{said.kind}.json").write_text(f"{{\n{lines}\n}}\n")
    return 0


def retrained(log: Log, asked: Iterable[Asked], setting: Setting, half_life: float | None) -> list[Answer]:
    """What a model that learned all events before a batch anew says of it."""
    return [batch.answered(_scores(log, batch, setting, half_life)) for batch in asked]


def _scores(log: Log, batch: Asked, setting: Setting, half_life: float | None) -> Floats:
    """Users without any purchase are shown what sells: the same popularity as in the blend."""
    given = _given(log, batch.begin, half_life)
    model = import_module("implicit.cpu.als").AlternatingLeastSquares(
        factors=FACTORS, iterations=ITERATIONS, num_threads=1, random_state=SEED,
        regularization=setting["regularization"], dtype=np.float32,
    )  # fmt: skip
    confidence = given.copy()
    confidence.data = (1.0 + setting["alpha"] * given.data).astype(np.float32)
    model.fit(confidence, show_progress=False)
    scores: Floats = model.user_factors[batch.users].astype(float) @ model.item_factors.T.astype(float)
    is_new = given[batch.users].getnnz(axis=1) == 0
    scores[is_new] = _given(log, batch.begin, POPULARITY_HALF_LIFE_DAYS).sum(axis=0)
    return scores


def _given(log: Log, end: int, half_life: float | None) -> Any:
    """What was bought less what was given back, counted in purchases, decayed to the newest event, (users, items)."""
    part = slice(0, end)
    count = log.weight[part] / logs.PURCHASE * decayed(log.at[part], int(log.at[end - 1]), half_life)
    shape = (len(log.users), len(log.items))
    given = import_module("scipy.sparse").csr_matrix((count, (log.user[part], log.item[part])), shape=shape)
    given.sum_duplicates()
    given.data = np.maximum(given.data, 0.0)
    given.eliminate_zeros()
    return given


def _listed(recalls: list[Floats]) -> list[list[float]]:
    """Of each batch, the users that were asked, in order of id."""
    return [[round(float(recall), 4) for recall in batch[~np.isnan(batch)]] for batch in recalls]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
