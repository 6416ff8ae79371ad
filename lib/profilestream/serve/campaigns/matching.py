"""Treated users against untreated ones who are like them: matching in pairs, balance, effect on the treated, interval.

A treated user gets the nearest untreated one that is still free within a caliper of the propensity score (Rosenbaum and
Rubin 1985, The American Statistician 39), those who are hardest to match first. A caliper of 0.2 standard deviations of
the logit is Austin's (2011, Pharmaceutical Statistics 10). Who has no such match is left out, so the effect is that on
the treated who have one. What the pairs still differ in is taken out by a regression. As no one is matched twice, an
interval comes of drawing pairs anew, and the regression with them (Abadie and Spiess 2022, JASA 117); with replacement
that would not be valid (Abadie and Imbens 2008, Econometrica 76).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.int64]

_DRAWS_AT_ONCE = 100


@dataclass(frozen=True)
class Matching:
    """How pairs are made and how an interval is.

    Args:
        caliper: standard deviations of the logit of the propensity score by which a match may differ at most.
        draws, confidence, seed: of the bootstrap.
    """

    caliper: float = 0.2
    draws: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Effect:
    """An effect on the treated, and the interval it lies in."""

    value: float
    low: float
    high: float


def pairs(treated: Bools, covariates: Floats, caliper: float) -> Places:
    """Places of a treated user and of its match, a row a pair.

    Args:
        covariates: a row a user, in units in which a distance is meant.
    """
    logit = _logit(treated, covariates)
    reach = caliper * np.sqrt((logit[treated].var() + logit[~treated].var()) / 2)
    is_free = ~treated
    hardest_first = np.flatnonzero(treated)[np.argsort(-logit[treated], kind="stable")]
    found = []
    for user in hardest_first:
        near = np.flatnonzero(is_free & (np.abs(logit - logit[user]) <= reach))
        if len(near):
            match = near[((covariates[near] - covariates[user]) ** 2).sum(axis=1).argmin()]
            is_free[match] = False
            found.append((user, match))
    return np.array(found, np.int64).reshape(-1, 2)


def _logit(treated: Bools, covariates: Floats) -> Floats:
    """Of the propensity score: how likely a user like this one is to be treated."""
    model = LogisticRegression(max_iter=1000).fit(covariates, treated)
    return np.asarray(model.decision_function(covariates), np.float64)


def balance(treated: Bools, covariates: Floats, matched: Places | None = None) -> Floats:
    """Standardized mean difference of each covariate, treated less untreated; below 0.1 is taken for balanced.

    In units of the two groups' standard deviation before matching (Austin 2009, Statistics in Medicine 28); 0 where a
    covariate does not vary.

    Args:
        matched: only these pairs; everybody when null.
    """
    sides = covariates[treated], covariates[~treated]
    spread = np.sqrt((sides[0].var(axis=0) + sides[1].var(axis=0)) / 2)
    if matched is not None:
        sides = covariates[matched[:, 0]], covariates[matched[:, 1]]
    apart = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    return np.asarray(np.divide(apart, spread, out=np.zeros_like(spread), where=spread > 0))


def effect(change: Floats, covariates: Floats, matched: Places, how: Matching) -> Effect:
    """How much more the treated changed than their matches, a user; by a regression on side and covariates."""
    rows = np.concatenate([np.ones((*matched.shape, 2)), covariates[matched]], axis=2)
    rows[:, 1, 1] = 0
    squares = np.einsum("pua,pub->pab", rows, rows).reshape(len(matched), -1)
    products = np.einsum("pua,pu->pa", rows, change[matched])

    def difference(times: Floats) -> Floats:
        """Of each sample, a row that says how many times each pair is in it."""
        width = rows.shape[2]
        inverse = np.linalg.pinv((times @ squares).reshape(-1, width, width), hermitian=True)
        return np.asarray(np.einsum("sab,sb->sa", inverse, times @ products)[:, 1])

    rng = np.random.default_rng(how.seed)
    even = np.full(len(matched), 1 / len(matched))
    sizes = [min(_DRAWS_AT_ONCE, how.draws - begun) for begun in range(0, how.draws, _DRAWS_AT_ONCE)]
    drawn = np.concatenate([difference(rng.multinomial(len(matched), even, size).astype(np.float64)) for size in sizes])
    low, high = np.quantile(drawn, [(1 - how.confidence) / 2, (1 + how.confidence) / 2])
    return Effect(float(difference(np.ones((1, len(matched))))[0]), float(low), float(high))
