"""Matching finds a planted effect among treated users who were different before, and none where there is none."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from profilestream.base.errors import BadSettings
from profilestream.serve.campaigns import campaign_effect, campaign_view, matching
from profilestream.serve.campaigns.campaign_effect import Campaign, Users
from profilestream.serve.campaigns.matching import Floats, Matching

SPRING = Campaign(date(2026, 3, 2), date(2026, 3, 30), "Europe/Berlin")
HOW = Matching(draws=200)


def shop(effect: float, seed: int, users: int = 600) -> Users:
    """Users whose vector decides how much they spend, how that grows, and how likely they are to be treated."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(users, 4))
    treated = rng.random(users) < 1 / (1 + np.exp(-vectors @ [0.9, 0.5, 0, 0]))
    usual = 100 + 30 * vectors[:, :1] + 10 * vectors[:, 1:2] ** 2
    spend = usual / SPRING.steps + rng.normal(0, 6, (users, 3 * SPRING.steps))
    spend[:, SPRING.steps :] += 3 * vectors[:, :1]
    spend[treated, SPRING.steps : 2 * SPRING.steps] += effect / SPRING.steps
    visits = np.full((users, 3), 2.0)
    return Users([f"u{n}" for n in range(users)], treated, list("abcd"), vectors, spend, visits)


@pytest.mark.parametrize("effect", [15.0, 0.0])
@pytest.mark.parametrize("seed", [1, 3])
def test_a_planted_effect_is_in_the_interval_and_the_plain_difference_is_not(effect: float, seed: int) -> None:
    users = shop(effect, seed)
    study = campaign_effect.compared(users, SPRING, HOW, ("during", "after"))
    during, visits, after, _ = study.outcomes
    assert during.effect.low < effect < during.effect.high < effect + 12
    assert after.effect.low < 0 < after.effect.high
    assert during.naive > effect + 20 and after.naive > 20
    assert (visits.effect.value, visits.effect.low, visits.effect.high) == (0, 0, 0)
    assert during.share == pytest.approx(during.effect.value / (during.level - during.effect.value))


def test_pairs_are_near_and_nobody_is_in_two() -> None:
    users = shop(0, 4)
    pairs = matching.pairs(users.treated, users.covariates, HOW.caliper)
    assert len(np.unique(pairs)) == pairs.size
    assert users.treated[pairs[:, 0]].all() and not users.treated[pairs[:, 1]].any()
    logit = matching._logit(users.treated, users.covariates)
    reach = HOW.caliper * np.sqrt((logit[users.treated].var() + logit[~users.treated].var()) / 2)
    assert 0.9 * reach < np.abs(logit[pairs[:, 0]] - logit[pairs[:, 1]]).max() <= reach
    assert 0.5 < len(pairs) / users.treated.sum() < 1
    before, after = (matching.balance(users.treated, users.covariates, one) for one in (None, pairs))
    assert before[0] > 0.6 and np.abs(after).max() < 0.15


def test_a_match_is_the_nearest_of_those_as_likely_to_be_treated() -> None:
    """Two sides alike, so that everybody is as likely; the second covariate tells who is whose."""
    covariates: Floats = np.array([[0, 5], [0, 1], [0, 3], [0, 1], [0, 5], [0, 3]], float)
    treated = np.array([True, True, True, False, False, False])
    found = matching.pairs(treated, covariates, 0.2)
    assert sorted(map(tuple, found.tolist())) == [(0, 4), (1, 3), (2, 5)]


def test_what_came_is_never_asked_when_pairs_are_made() -> None:
    one, other = shop(0, 5), shop(0, 5)
    other.spend[:, SPRING.steps :] = np.random.default_rng(9).normal(0, 1e4, (600, 2 * SPRING.steps))
    first, again, changed = (campaign_effect.compared(users, SPRING, HOW, ("during",)) for users in (one, one, other))
    np.testing.assert_array_equal(first.pairs, changed.pairs)
    assert first.outcomes == again.outcomes != changed.outcomes


def test_of_a_time_in_which_nobody_bought_there_is_no_share() -> None:
    users = shop(0, 5)
    users.spend[:, SPRING.steps : 2 * SPRING.steps] = 0
    users.visits[:] = 0
    study = campaign_effect.compared(users, SPRING, HOW, ("during",))
    assert study.outcomes[1].share is None
    assert "visits during     +0.00  (+0.00 to +0.00)  unmatched +0.00" in campaign_view.as_text(study, None, HOW)


def test_users_who_are_all_alike_are_not_compared() -> None:
    alike = replace(shop(0, 5), names=[], covariates=np.empty((600, 0)))
    with pytest.raises(BadSettings, match="alike in what is known"):
        campaign_effect.compared(alike, SPRING, HOW, ("during",))


def test_too_few_to_compare_is_told() -> None:
    users = shop(0, 6, users=30)
    with pytest.raises(BadSettings, match=r"there are \{'treated': \d+, 'untreated': \d+\}"):
        campaign_effect.compared(users, SPRING, HOW, ("during",))
    apart = shop(0, 6)
    apart.covariates[:, 0] = np.where(apart.treated, 50, -50)
    with pytest.raises(BadSettings, match="0 of .* treated users have a match"):
        campaign_effect.compared(apart, SPRING, HOW, ("during",))
    with pytest.raises(BadSettings, match="2026-03-02 is after the last day"):
        Campaign(date(2026, 3, 2), date(2026, 3, 2), "UTC")


def test_times_are_those_of_the_shop() -> None:
    assert [f"{SPRING.moment(n):%m-%d %H}" for n in (-1, 0, 1)] == ["02-01 23", "03-01 23", "03-29 22"]
    assert SPRING.placebo == Campaign(date(2026, 2, 2), date(2026, 3, 2), "Europe/Berlin")


def test_text_and_picture_tell_the_study() -> None:
    study = campaign_effect.compared(shop(15.0, 1), SPRING, HOW, ("during", "after"))
    placebo = campaign_effect.compared(shop(0.0, 1), SPRING.placebo, HOW, ("during",))
    text = campaign_view.as_text(study, placebo, HOW)
    assert text.startswith("campaign of 28 days, 2026-03-02 to 2026-03-29\nusers known before it: ")
    assert f"matched: {len(study.pairs)} pairs" in text
    assert f"spend during   {study.outcomes[0].effect.value:+8.2f}  (" in text
    assert "placebo: the same on 2026-02-02 to 2026-03-01" in text
    assert campaign_view.as_text(study, None, HOW).endswith("placebo: none, the log does not reach back that far")
    drawn = {line.name: line for line in campaign_view.picture(study, placebo).data}
    np.testing.assert_allclose(drawn["all untreated"].y, study.users.spend[~study.users.treated].mean(axis=0))
    assert list(drawn["effect, interval"].y) == ["during", "after", "placebo"]
    assert list(drawn["effect, interval"].x) == [
        one.effect.value for one in (*study.outcomes[::2], placebo.outcomes[0])
    ]
