"""Quality of the learners, by the in-memory factorization with its default settings, without Spark.

Recall at 20 is prequential (prequential.py) and compared user by user: a value is the ratio of the sums over all users
and batches after the first third of a log, since settings of both sides were chosen on what comes before. Its interval
is that of 2,000 draws of the users. The baselines' answers are cached (baselines.py).
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from profilestream.learn import als_tasks
from profilestream.learn.als import Floats, Longs, Params
from profilestream.learn.item_index import Liked
from profilestream.learn.local_als import Factors, Model

from benchmarks import baselines, logs
from benchmarks.logs import Log
from benchmarks.prequential import BATCH, Answer, Asked, batches, first_fifth, first_third
from benchmarks.result import Result

SEED = 20_260_101
DRAWS = 2_000
# As settings.Factors: learn.factors.first_full_passes.
FIRST_FULL_PASSES = 10
DOWNLOADS = Path(__file__).parent / "results" / "work"
# As settings.Factors has them for this mode.
_EXPLICIT = Params(mode="explicit", regularization=1.0, half_life_days=None, neighbors=0, eval_users=0)
Recalls = dict[str, list[Answer]]


def recall20_vs_retrain_online_retail() -> Result:
    """Against a full retrain at every batch."""
    return _against("online_retail", "retrain", 1.00)


def recall20_vs_retrain_complete_journey() -> Result:
    """Against a full retrain at every batch."""
    return _against("complete_journey", "retrain", 1.00)


def recall20_vs_decayed_retrain_online_retail() -> Result:
    """Against a full retrain at every batch, of events that count less the older they are."""
    return _against("online_retail", "decayed_retrain", 0.96)


def recall20_vs_decayed_retrain_complete_journey() -> Result:
    """Against a full retrain at every batch, of events that count less the older they are."""
    return _against("complete_journey", "decayed_retrain", 0.96)


def recall20_vs_popularity_online_retail() -> Result:
    """Against the items that sell, decayed: the same list for all users."""
    return _against("online_retail", "popularity", 1.0)


def recall20_vs_popularity_complete_journey() -> Result:
    """Against the items that sell, decayed: the same list for all users."""
    return _against("complete_journey", "popularity", 1.0)


def rmse_ml100k_5fold_onepass() -> Result:
    """Root mean squared error of ratings that were held out, after each of the others was seen once."""
    return _rmse(
        "rmse_ml100k_5fold_onepass",
        0.920,
        replace(_EXPLICIT, max_events_per_user=100, reweighted_events=100),
        "100 kept a user",
    )


def rmse_ml100k_5fold_whole() -> Result:
    """The same with all ratings of a user kept."""
    made = replace(_EXPLICIT, max_events_per_user=100_000, reweighted_events=100_000)
    return _rmse("rmse_ml100k_5fold_whole", 0.916, made, "all kept")


def recalls(log: Log, params: Params) -> Recalls:
    """Of each ranker, what it answers to each batch before the batch is learned."""
    learner = Factors(replace(params, eval_users=0))
    model = learner.swept(learner.empty(), log.rows(0, first_fifth(log)), FIRST_FULL_PASSES)
    found: Recalls = {}
    for batch in batches(log):
        for name, scores in _scores(model, log, batch).items():
            found.setdefault(name, []).append(batch.answered(scores))
        model, _ = learner.learn(model, log.rows(batch.begin, batch.end))
    return found


def _scores(model: Model, log: Log, batch: Asked) -> dict[str, Floats]:
    """By each ranker, of the batch's users, (users, items of the log); new users have a zero vector."""
    names = log.users[batch.users]
    rows = model.users.sort_by("key")
    keys = np.asarray(rows["key"].to_pylist(), object)
    at = np.searchsorted(keys, names).clip(max=len(keys) - 1)
    known = np.flatnonzero(keys[at] == names)
    state = rows.take(at[known])
    vectors = np.zeros((len(names), model.params.width))
    vectors[known] = als_tasks.vectors_of(state, model.params)
    at, kept, weight = als_tasks.kept_by(state)
    user, item = known[at], model.catalogue.places(kept)
    liked = Liked(user[weight > 0], item[weight > 0], weight[weight > 0])
    found = {}
    for name, scores in model.catalogue.scores(vectors, liked, model.params).items():
        found[name] = np.full((len(names), len(log.items)), -np.inf)
        found[name][:, np.searchsorted(log.items, model.catalogue.names)] = scores
    return found


@cache
def _log(name: str) -> Log:
    return baselines.LOGS[name]()


@cache
def _ours(name: str) -> Recalls:
    return recalls(_log(name), Params())


def _against(name: str, other: str, bound: float) -> Result:
    log, ours = _log(name), _ours(name)
    base, base_said = _baseline(name, other)
    asked = [(batch.begin, batch.users) for batch in batches(log)]
    counted = slice(next(n for n, (begin, _) in enumerate(asked) if begin >= first_third(log)), None)
    mine, theirs = _flat(ours["blend"][counted]), _flat(base[counted])
    users = np.concatenate([batch_users for _, batch_users in asked[counted]])[~np.isnan(mine.first)]
    first, their_first = mine.asked(), theirs.asked()
    ratio, low, high = _ratio(users, first, their_first)
    from_fifth = _flat(ours["blend"]).asked().mean() / _flat(base).asked().mean()
    alone = ", ".join(
        f"{ranker} alone {_flat(ours[ranker][counted]).asked().mean():.4f}" for ranker in ("factors", "neighbors")
    )
    detail = (
        f"{first.mean():.4f} against {their_first.mean():.4f}{base_said}; 95 % of {DRAWS:,} draws of users: "
        f"{low:.3f} to {high:.3f}; {name}, {len(first):,} users in the {len(asked[counted])} batches of {BATCH:,} "
        f"events after the first third; after the first fifth {from_fifth:.3f}; with items bought before "
        f"{np.nanmean(mine.any):.4f} against {np.nanmean(theirs.any):.4f}; {alone}; seed {SEED}"
    )
    against = "decayed popularity alone" if other == "popularity" else f"implicit ALS, {other.replace('_', ' ')}"
    return Result(f"recall20_vs_{other}_{name}", ratio, "ratio of recall at 20", bound, "higher", against, detail)


def _baseline(name: str, other: str) -> tuple[list[Answer], str]:
    """Its answers to each batch, and how it was set."""
    if other == "popularity":
        return _ours(name)["popularity"], ""
    made = json.loads((baselines.HERE / f"{name}_{other}.json").read_text())
    answers = []
    for ours, first, repeated in zip(
        _ours(name)["blend"], made["recall_20_first_pairs"], made["recall_20_any_pairs"], strict=True
    ):
        answers.append(Answer(_filled(ours.first, first), _filled(ours.any, repeated)))
    return answers, f" (alpha {made['chosen']['alpha']:g}, regularization {made['chosen']['regularization']:g})"


def _filled(like: Floats, recalls: list[float]) -> Floats:
    """Recalls of the users that were asked, in their places."""
    found = np.full(len(like), np.nan)
    found[~np.isnan(like)] = recalls
    return found


def _flat(answers: list[Answer]) -> Answer:
    return Answer(*(np.concatenate([getattr(one, name) for one in answers]) for name in ("first", "any")))


def _ratio(users: Longs, ours: Floats, theirs: Floats) -> tuple[float, float, float]:
    """Of the sums over users and batches; and between what it lies in 95 % of draws of as many users."""
    people, user = np.unique(users, return_inverse=True)
    sums = np.stack([np.bincount(user, part, len(people)) for part in (ours, theirs)])
    dice = np.random.default_rng(SEED)
    drawn = np.array([sums[:, dice.integers(0, len(people), len(people))].sum(axis=1) for _ in range(DRAWS)])
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(ours.sum() / theirs.sum()), float(low), float(high)


def _rmse(bench: str, bound: float, params: Params, what: str) -> Result:
    """Five folds in a seeded order; of each the other ratings come once, in a seeded order, 10,000 at a time."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    ratings = logs.ml_100k(DOWNLOADS)
    dice = np.random.default_rng(SEED)
    order = dice.permutation(len(ratings.stars))
    errors = []
    for fold in range(5):
        test = order[fold::5]
        train = dice.permutation(np.setdiff1d(order, test))
        learner = Factors(params)
        model = learner.empty()
        for part in np.array_split(train, 8):
            model, _ = learner.learn(model, ratings.rows(part))
        told = learner.score(model, ratings.rows(test)).clip(1, 5)
        errors.append(float(np.sqrt(((told - ratings.stars[test]) ** 2).mean())))
    folds = ", ".join(f"{error:.4f}" for error in errors)
    detail = f"ML-100K, folds {folds}; {what}, all refreshed, one pass in random order in 8 batches; seed {SEED}"
    return Result(bench, float(np.mean(errors)), "stars", bound, "lower", "five folds", detail)
