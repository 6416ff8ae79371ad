"""Matching of treated and untreated users: pairs, balance, and the effect on the treated with its interval.

Each treated user is matched to the nearest untreated user that has no match yet, within a caliper of the propensity
score (Rosenbaum and Rubin 1985, The American Statistician 39). The treated users that are hardest to match are first.
The caliper of 0.2 standard deviations of the logit is from Austin (2011, Pharmaceutical Statistics 10). Treated users
without a match are left out, so the estimate is the effect on the treated users with a match. A regression removes the
remaining differences within the pairs. Matching is without replacement, so the bootstrap can sample pairs and repeat
the regression (Abadie and Spiess 2022, JASA 117). It would not be valid for matching with replacement (Abadie and
Imbens 2008, Econometrica 76).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pairs = NDArray[np.int64]

_RESAMPLES_PER_CHUNK = 100


@dataclass(frozen=True)
class MatchingConfig:
    """Parameters of the matching and of the bootstrap.

    Args:
        caliper: maximum difference within a pair, in standard deviations of the propensity score's logit.
        resamples: number of bootstrap samples.
        confidence: level of the interval.
        seed: of the bootstrap and of the sampling of users.
    """

    caliper: float = 0.2
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class EffectEstimate:
    """An effect on the treated users, and its confidence interval."""

    value: float
    low: float
    high: float


def match_pairs(is_treated: Bools, covariates: Floats, caliper: float) -> Pairs:
    """Row numbers of a treated user and its match; shape (pairs, 2).

    Args:
        is_treated: shape (users,).
        covariates: shape (users, covariates), in comparable units because Euclidean distances are compared.
        caliper: see `MatchingConfig`.
    """
    logit = _propensity_logit(is_treated, covariates)
    max_difference = caliper * np.sqrt((logit[is_treated].var() + logit[~is_treated].var()) / 2)
    is_free = ~is_treated
    hardest_first = np.flatnonzero(is_treated)[np.argsort(-logit[is_treated], kind="stable")]
    pairs = []
    for user in hardest_first:
        candidates = np.flatnonzero(is_free & (np.abs(logit - logit[user]) <= max_difference))
        if len(candidates):
            match = candidates[((covariates[candidates] - covariates[user]) ** 2).sum(axis=1).argmin()]
            is_free[match] = False
            pairs.append((user, match))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _propensity_logit(is_treated: Bools, covariates: Floats) -> Floats:
    """Logit of the propensity score, the probability that a user with these covariates is treated."""
    model = LogisticRegression(max_iter=1000).fit(covariates, is_treated)
    return np.asarray(model.decision_function(covariates), np.float64)


def mean_differences(is_treated: Bools, covariates: Floats, pairs: Pairs | None = None) -> Floats:
    """Standardized mean difference of each covariate, treated minus untreated; below 0.1 is considered balanced.

    The unit is the pooled standard deviation before matching (Austin 2009, Statistics in Medicine 28). The difference
    is 0 for a covariate without variance.

    Args:
        pairs: only the users of these pairs; null: all users.
    """
    treated, untreated = covariates[is_treated], covariates[~is_treated]
    deviation = np.sqrt((treated.var(axis=0) + untreated.var(axis=0)) / 2)
    if pairs is not None:
        treated, untreated = covariates[pairs[:, 0]], covariates[pairs[:, 1]]
    difference = treated.mean(axis=0) - untreated.mean(axis=0)
    return np.asarray(np.divide(difference, deviation, out=np.zeros_like(deviation), where=deviation > 0))


def estimate_effect(change: Floats, covariates: Floats, pairs: Pairs, config: MatchingConfig) -> EffectEstimate:
    """Mean additional change of the treated users over their matches, per user.

    The estimate is the coefficient of the treatment in a regression of the change on treatment and covariates.

    Args:
        change: change of the measure, shape (users,).
    """
    rows = np.concatenate([np.ones((*pairs.shape, 2)), covariates[pairs]], axis=2)
    rows[:, 1, 1] = 0  # columns: intercept, treatment, covariates
    gram = np.einsum("pua,pub->pab", rows, rows).reshape(len(pairs), -1)
    products = np.einsum("pua,pu->pa", rows, change[pairs])

    def coefficients(counts: Floats) -> Floats:
        """Treatment coefficient of each sample; `counts` has one row per sample: how often it contains each pair."""
        width = rows.shape[2]
        inverse = np.linalg.pinv((counts @ gram).reshape(-1, width, width), hermitian=True)
        return np.asarray(np.einsum("sab,sb->sa", inverse, counts @ products)[:, 1])

    rng = np.random.default_rng(config.seed)
    uniform = np.full(len(pairs), 1 / len(pairs))
    starts = range(0, config.resamples, _RESAMPLES_PER_CHUNK)
    sizes = [min(_RESAMPLES_PER_CHUNK, config.resamples - start) for start in starts]
    samples = [rng.multinomial(len(pairs), uniform, size).astype(np.float64) for size in sizes]
    estimates = np.concatenate([coefficients(sample) for sample in samples])
    low, high = np.quantile(estimates, [(1 - config.confidence) / 2, (1 + config.confidence) / 2])
    return EffectEstimate(float(coefficients(np.ones((1, len(pairs))))[0]), float(low), float(high))
