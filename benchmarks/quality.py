"""Quality of the factorization with its default settings, in local memory, without Spark.

Recall at 20 is prequential (prequential.py) and paired by user. A value is the ratio of the sums over all users and
batches after the first third of a log, because the settings of both sides were chosen on the first third. Its interval
is computed from 2,000 bootstrap samples of the users. The recalls of the baselines are stored in files (baselines.py).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.factors_batch import FactorsState
from profilestream.learn.factors.kernels import als_rows
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.factors.kernels.item_index import UserItems
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.ranking_metrics import top_items
from profilestream.learn.rankers.kernels.basket_rows import RankerParams

from benchmarks import baselines, next_baskets, real_datasets
from benchmarks.prequential import BATCH_SIZE, Recalls, batches, first_fifth, first_third
from benchmarks.real_datasets import Log
from benchmarks.result import Result

SEED = 20_260_101
BOOTSTRAP_SAMPLES = 2_000
# The default of learn.factors.first_full_passes.
FIRST_FULL_PASSES = 10
DOWNLOADS = Path(__file__).parent / "results" / "work"
# The defaults of mode explicit in settings.Factors, without neighbors and evaluation.
_EXPLICIT = AlsParams(mode="explicit", regularization=1.0, half_life_days=None, max_neighbors=0, eval_users=0)


def recall20_vs_retrain_online_retail() -> Result:
    """Against a full retrain before every batch."""
    return _compare("online_retail", "retrain", 1.00)


def recall20_vs_retrain_complete_journey() -> Result:
    """Against a full retrain before every batch."""
    return _compare("complete_journey", "retrain", 1.00)


def recall20_vs_decayed_retrain_online_retail() -> Result:
    """Against a full retrain before every batch, with decayed weights of the events."""
    return _compare("online_retail", "decayed_retrain", 0.96)


def recall20_vs_decayed_retrain_complete_journey() -> Result:
    """Against a full retrain before every batch, with decayed weights of the events."""
    return _compare("complete_journey", "decayed_retrain", 0.96)


def recall20_vs_popularity_online_retail() -> Result:
    """Against decayed popularity: the same list for all users."""
    return _compare("online_retail", "popularity", 1.0)


def recall20_vs_popularity_complete_journey() -> Result:
    """Against decayed popularity: the same list for all users."""
    return _compare("complete_journey", "popularity", 1.0)


def rmse_ml100k_5fold_onepass() -> Result:
    """Root mean squared error of held-out ratings, after one pass over the other ratings."""
    params = replace(_EXPLICIT, max_events_per_user=100, reweighted_events=100)
    return _rmse("rmse_ml100k_5fold_onepass", 0.920, params, "100 ratings stored per user")


def rmse_ml100k_5fold_whole() -> Result:
    """The same with all ratings of a user stored."""
    params = replace(_EXPLICIT, max_events_per_user=100_000, reweighted_events=100_000)
    return _rmse("rmse_ml100k_5fold_whole", 0.916, params, "all ratings stored")


def next_basket_recall10() -> Result:
    """Recall of the list `next_basket`, by the blend if it has passed its gate, else by own_counts; the worse log."""
    recalls = {}
    for name in baselines.LOGS:
        recalls[name] = next_baskets.recalls_by_ranker(_log(name), RankerParams())
        recalls[name]["blend of the factors"] = _next_basket_recalls(_log(name), AlsParams(eval_users=0))
    return _next_basket_result("next_basket_recall10", 0.18, recalls)


def next_category_recall10() -> Result:
    """The same with categories as items; Online Retail has none."""
    log = real_datasets.by_category(_log("complete_journey"))
    return _next_basket_result(
        "next_category_recall10", 0.37, {log.name: next_baskets.recalls_by_ranker(log, RankerParams())}
    )


def _next_basket_result(bench: str, bound: float, recalls: Mapping[str, dict[str, Floats]]) -> Result:
    details = [
        f"{name}, {by_ranker['own_counts'].shape[1]:,} baskets: {next_baskets.summary(by_ranker)}"
        for name, by_ranker in recalls.items()
    ]
    value = min(float(np.nanmean(by_ranker[next_baskets.SERVED][0])) for by_ranker in recalls.values())
    detail = (
        f"last {next_baskets.WEEKS} weeks, each ranked by the state before it; first basket of the week of users with "
        f"an earlier one; all items ranked; no random numbers; in brackets: repeated, and new items only. "
        f"{'. '.join(details)}"
    )
    return Result(bench, value, "recall at 10", bound, "higher", "absolute; baseline popularity", detail)


def _next_basket_recalls(log: Log, params: AlsParams) -> Floats:
    """Recalls of the blend, also of items that the user bought before, (3, users of all weeks)."""
    state, recalls = factors_batch.empty_state(params), list[Floats]()
    for week in next_baskets.weeks(log):
        if not recalls:
            first = log.rows(0, week.begin)
            state = _fitted(first, params)
        blend = _scores(state, params, log, week.users)["blend"]
        recalls.append(week.recalls(top_items(blend, next_baskets.TOP)))
        state = _after(state, log.rows(week.begin, week.end), params)
    return np.hstack(recalls)


def _fitted(events: pa.Table, params: AlsParams) -> FactorsState[pa.Table]:
    """The state after full passes over the first events."""
    empty = factors_batch.empty_state(params)
    state = factors_batch.fit_full_passes(empty, empty.global_sums, events, FIRST_FULL_PASSES, params)
    assert state is not None
    return state


def recalls_by_ranker(log: Log, params: AlsParams) -> dict[str, list[Recalls]]:
    """Recalls of each ranker on each batch, before the batch is learned."""
    params = replace(params, eval_users=0)
    first = log.rows(0, first_fifth(log))
    state = _fitted(first, params)
    by_ranker: dict[str, list[Recalls]] = {}
    for batch in batches(log):
        for ranker, scores in _scores(state, params, log, batch.users).items():
            by_ranker.setdefault(ranker, []).append(batch.evaluate(scores))
        state = _after(state, log.rows(batch.begin, batch.end), params)
    return by_ranker


def _after(state: FactorsState[pa.Table], events: pa.Table, params: AlsParams) -> FactorsState[pa.Table]:
    """The state after the events."""
    change, _ = factors_batch.learn(state, state.global_sums, events, params)
    return state.updated(change)


def _scores(state: FactorsState[pa.Table], params: AlsParams, log: Log, users: Longs) -> dict[str, Floats]:
    """Scores of users by ranker, (users, items of the log); new users have a zero vector."""
    user_ids, index = log.users[users], factors_batch.index_of(state, params)
    vectors, position = als_rows.vectors_of(user_ids, state.users, params), als_rows.positions(user_ids, state.users)
    row, item_ids, weight = als_rows.stored_events(state.users.take(position[position >= 0]))
    user, item = np.flatnonzero(position >= 0)[row], index.positions(item_ids)
    user_items = UserItems(user[weight > 0], item[weight > 0], weight[weight > 0])
    columns = np.searchsorted(log.items, index.item_ids)
    by_ranker = {}
    for ranker, scores in index.scores(vectors, user_items, params).items():
        by_ranker[ranker] = np.full((len(user_ids), len(log.items)), -np.inf)
        by_ranker[ranker][:, columns] = scores
    return by_ranker


@cache
def _log(name: str) -> Log:
    return baselines.LOGS[name]()


@cache
def _model_recalls(name: str) -> dict[str, list[Recalls]]:
    return recalls_by_ranker(_log(name), AlsParams())


def _compare(name: str, baseline: str, bound: float) -> Result:
    """Recall of the blend on a log, divided by that of a baseline."""
    log, by_ranker = _log(name), _model_recalls(name)
    baseline_recalls, hyperparameters = _baseline_recalls(name, baseline)
    begins_and_users = [(batch.begin, batch.users) for batch in batches(log)]
    first_counted = next(n for n, (begin, _) in enumerate(begins_and_users) if begin >= first_third(log))
    counted = slice(first_counted, None)
    ours, theirs = _concatenate(by_ranker["blend"][counted]), _concatenate(baseline_recalls[counted])
    users = np.concatenate([batch_users for _, batch_users in begins_and_users[counted]])[~np.isnan(ours.first)]
    our_first, their_first = ours.of_first_pairs(), theirs.of_first_pairs()
    ratio, low, high = _bootstrap_ratio(users, our_first, their_first)
    all_batches = [_concatenate(recalls).of_first_pairs() for recalls in (by_ranker["blend"], baseline_recalls)]
    single_rankers = ", ".join(
        f"{ranker} alone {_concatenate(by_ranker[ranker][counted]).of_first_pairs().mean():.4f}"
        for ranker in ("factors", "neighbors")
    )
    detail = (
        f"{our_first.mean():.4f}, baseline {their_first.mean():.4f}{hyperparameters}; 95 % interval of "
        f"{BOOTSTRAP_SAMPLES:,} bootstrap samples of users: {low:.3f} to {high:.3f}; {name}, {len(our_first):,} users "
        f"in the {len(begins_and_users[counted])} batches of {BATCH_SIZE:,} events after the first third; all batches "
        f"after the first fifth: {all_batches[0].mean() / all_batches[1].mean():.3f}; with items bought before: "
        f"{np.nanmean(ours.any):.4f}, baseline {np.nanmean(theirs.any):.4f}; {single_rankers}; seed {SEED}"
    )
    against = "decayed popularity" if baseline == "popularity" else f"implicit ALS, {baseline.replace('_', ' ')}"
    return Result(f"recall20_vs_{baseline}_{name}", ratio, "ratio of recall at 20", bound, "higher", against, detail)


def _baseline_recalls(name: str, baseline: str) -> tuple[list[Recalls], str]:
    """Recalls of a baseline on each batch, and its hyperparameters as text."""
    if baseline == "popularity":
        return _model_recalls(name)["popularity"], ""
    stored = json.loads((baselines.FOLDER / f"{name}_{baseline}.json").read_text())
    by_batch = zip(
        _model_recalls(name)["blend"], stored["recall_20_first_pairs"], stored["recall_20_any_pairs"], strict=True
    )
    recalls = [Recalls(_fill(ours.first, first), _fill(ours.any, any_)) for ours, first, any_ in by_batch]
    chosen = stored["chosen"]
    return recalls, f" (alpha {chosen['alpha']:g}, regularization {chosen['regularization']:g})"


def _fill(like: Floats, values: list[float]) -> Floats:
    """An array with the values where `like` is not NaN, and NaN elsewhere."""
    filled = np.full(len(like), np.nan)
    filled[~np.isnan(like)] = values
    return filled


def _concatenate(recalls: list[Recalls]) -> Recalls:
    return Recalls(*(np.concatenate([getattr(batch, name) for batch in recalls]) for name in ("first", "any")))


def _bootstrap_ratio(users: Longs, ours: Floats, theirs: Floats) -> tuple[float, float, float]:
    """Ratio of the sums over users and batches, and its 95 % interval over bootstrap samples of the users."""
    unique_users, user = np.unique(users, return_inverse=True)
    n = len(unique_users)
    sums = np.stack([np.bincount(user, recalls, n) for recalls in (ours, theirs)])
    rng = np.random.default_rng(SEED)
    samples = np.array([sums[:, rng.integers(0, n, n)].sum(axis=1) for _ in range(BOOTSTRAP_SAMPLES)])
    low, high = np.quantile(samples[:, 0] / samples[:, 1], [0.025, 0.975])
    return float(ours.sum() / theirs.sum()), float(low), float(high)


def _rmse(bench: str, bound: float, params: AlsParams, stored: str) -> Result:
    """Mean error of five random folds; the other ratings are learned once, in random order, in eight batches."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    ratings = real_datasets.ml_100k(DOWNLOADS)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(ratings.stars))
    errors = []
    for fold in range(5):
        test = order[fold::5]
        train = rng.permutation(np.setdiff1d(order, test))
        state = factors_batch.empty_state(params)
        for batch in np.array_split(train, 8):
            state = _after(state, ratings.rows(batch), params)
        predicted = factors_batch.predictions(state, ratings.rows(test), params).clip(1, 5)
        errors.append(float(np.sqrt(((predicted - ratings.stars[test]) ** 2).mean())))
    folds = ", ".join(f"{error:.4f}" for error in errors)
    detail = (
        f"ML-100K, folds {folds}; {stored}, all of them reweighted, one pass in random order in 8 batches; seed {SEED}"
    )
    return Result(bench, float(np.mean(errors)), "stars", bound, "lower", "five folds", detail)
