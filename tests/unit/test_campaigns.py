"""Matching estimates a planted effect on treated users who differ from the untreated, and none where there is none."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from profilestream.base.errors import BadSettings
from profilestream.serve.campaigns import campaign_effect, campaign_view, matching
from profilestream.serve.campaigns.campaign_effect import Campaign, StudyUsers
from profilestream.serve.campaigns.matching import Floats, MatchingConfig

SPRING = Campaign(date(2026, 3, 2), date(2026, 3, 30), "Europe/Berlin")
CONFIG = MatchingConfig(resamples=200)


def simulate_users(effect: float, seed: int, count: int = 600) -> StudyUsers:
    """Users whose vector determines their spend, its growth, and their probability of treatment."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 4))
    is_treated = rng.random(count) < 1 / (1 + np.exp(-vectors @ [0.9, 0.5, 0, 0]))
    mean_spend = 100 + 30 * vectors[:, :1] + 10 * vectors[:, 1:2] ** 2
    spend = mean_spend / SPRING.intervals + rng.normal(0, 6, (count, 3 * SPRING.intervals))
    spend[:, SPRING.intervals :] += 3 * vectors[:, :1]
    spend[is_treated, SPRING.intervals : 2 * SPRING.intervals] += effect / SPRING.intervals
    orders = np.full((count, 3), 2.0)
    return StudyUsers([f"u{n}" for n in range(count)], is_treated, list("abcd"), vectors, spend, orders)


@pytest.mark.parametrize("effect", [15.0, 0.0])
@pytest.mark.parametrize("seed", [1, 3])
def test_the_interval_contains_the_planted_effect_and_the_unmatched_difference_is_wrong(
    effect: float, seed: int
) -> None:
    study = campaign_effect.run_study(simulate_users(effect, seed), SPRING, CONFIG, ("during", "after"))
    during, orders, after, _ = study.outcomes
    assert during.effect.low < effect < during.effect.high < effect + 12
    assert after.effect.low < 0 < after.effect.high
    assert during.unmatched_difference > effect + 20 and after.unmatched_difference > 20
    assert (orders.effect.value, orders.effect.low, orders.effect.high) == (0, 0, 0)
    without_campaign = during.treated_mean - during.effect.value
    assert during.relative_effect == pytest.approx(during.effect.value / without_campaign)


def test_pairs_are_within_the_caliper_and_every_user_is_in_at_most_one() -> None:
    users = simulate_users(0, 4)
    pairs = matching.match_pairs(users.is_treated, users.covariates, CONFIG.caliper)
    assert len(np.unique(pairs)) == pairs.size
    assert users.is_treated[pairs[:, 0]].all() and not users.is_treated[pairs[:, 1]].any()
    logit = matching._propensity_logit(users.is_treated, users.covariates)
    variances = logit[users.is_treated].var(), logit[~users.is_treated].var()
    caliper = CONFIG.caliper * np.sqrt(sum(variances) / 2)
    assert 0.9 * caliper < np.abs(logit[pairs[:, 0]] - logit[pairs[:, 1]]).max() <= caliper
    assert 0.5 < len(pairs) / users.is_treated.sum() < 1
    before, after = (matching.mean_differences(users.is_treated, users.covariates, p) for p in (None, pairs))
    assert before[0] > 0.6 and np.abs(after).max() < 0.15


def test_the_match_is_the_nearest_user_among_those_with_the_same_propensity() -> None:
    """Treated and untreated users have equal covariates, hence equal propensity; the second covariate decides."""
    covariates: Floats = np.array([[0, 5], [0, 1], [0, 3], [0, 1], [0, 5], [0, 3]], float)
    is_treated = np.array([True, True, True, False, False, False])
    pairs = matching.match_pairs(is_treated, covariates, 0.2)
    assert sorted(map(tuple, pairs.tolist())) == [(0, 4), (1, 3), (2, 5)]


def test_pairs_do_not_depend_on_outcomes() -> None:
    users, changed = simulate_users(0, 5), simulate_users(0, 5)
    random_spend = np.random.default_rng(9).normal(0, 1e4, (600, 2 * SPRING.intervals))
    changed.spend[:, SPRING.intervals :] = random_spend
    first, second, other = (
        campaign_effect.run_study(each, SPRING, CONFIG, ("during",)) for each in (users, users, changed)
    )
    np.testing.assert_array_equal(first.pairs, other.pairs)
    assert first.outcomes == second.outcomes != other.outcomes


def test_the_relative_effect_is_null_without_any_purchase() -> None:
    users = simulate_users(0, 5)
    users.spend[:, SPRING.intervals : 2 * SPRING.intervals] = 0
    users.orders[:] = 0
    study = campaign_effect.run_study(users, SPRING, CONFIG, ("during",))
    assert study.outcomes[1].relative_effect is None
    assert "orders during     +0.00  (+0.00 to +0.00)  unmatched +0.00" in campaign_view.as_text(study, None, CONFIG)


def test_users_with_equal_covariates_are_refused() -> None:
    equal = replace(simulate_users(0, 5), covariate_names=[], covariates=np.empty((600, 0)))
    with pytest.raises(BadSettings, match="all users are equal in all covariates"):
        campaign_effect.run_study(equal, SPRING, CONFIG, ("during",))


def test_too_few_users_too_few_matches_and_an_empty_campaign_are_refused() -> None:
    users = simulate_users(0, 6, count=30)
    with pytest.raises(BadSettings, match=r"events before 2026-03-02: \{'treated': \d+, 'untreated': \d+\}"):
        campaign_effect.run_study(users, SPRING, CONFIG, ("during",))
    different = simulate_users(0, 6)
    different.covariates[:, 0] = np.where(different.is_treated, 50, -50)
    with pytest.raises(BadSettings, match="0 of .* treated users have a match"):
        campaign_effect.run_study(different, SPRING, CONFIG, ("during",))
    with pytest.raises(BadSettings, match="2026-03-02 is after the last day"):
        Campaign(date(2026, 3, 2), date(2026, 3, 2), "UTC")


def test_days_start_at_midnight_in_the_shop_time_zone() -> None:
    assert [f"{SPRING.boundary(n):%m-%d %H}" for n in (-1, 0, 1)] == ["02-01 23", "03-01 23", "03-29 22"]
    assert SPRING.placebo == Campaign(date(2026, 2, 2), date(2026, 3, 2), "Europe/Berlin")


def test_text_and_figure_contain_the_study_and_its_placebo() -> None:
    study = campaign_effect.run_study(simulate_users(15.0, 1), SPRING, CONFIG, ("during", "after"))
    placebo = campaign_effect.run_study(simulate_users(0.0, 1), SPRING.placebo, CONFIG, ("during",))
    text = campaign_view.as_text(study, placebo, CONFIG)
    assert text.startswith("campaign of 28 days, 2026-03-02 to 2026-03-29\nusers with earlier events: ")
    assert f"matched pairs: {len(study.pairs)}, caliper 0.2" in text
    assert f"spend during   {study.outcomes[0].effect.value:+8.2f}  (" in text
    assert "placebo: the same for 2026-02-02 to 2026-03-01" in text
    assert "placebo: none, the events do not cover" in campaign_view.as_text(study, None, CONFIG)
    traces = {trace.name: trace for trace in campaign_view.study_figure(study, placebo).data}
    np.testing.assert_allclose(traces["all untreated"].y, study.users.spend[~study.users.is_treated].mean(axis=0))
    assert list(traces["effect, interval"].y) == ["during", "after", "placebo"]
    spend_outcomes = (*study.outcomes[::2], placebo.outcomes[0])
    assert list(traces["effect, interval"].x) == [outcome.effect.value for outcome in spend_outcomes]
