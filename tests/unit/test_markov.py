"""Markov chains of transitions, compared with a solution on paper and with plain Python."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profilestream.derive.markov import GoalForecast, MarkovChain

START, END = "(start)", "(end)"
SESSIONS = ["view view cart purchase", "view cart view cart purchase", "view cart view", "view view"]


def _chain(paths: list[list[str]]) -> MarkovChain:
    transitions = Counter(pair for path in paths for pair in pairwise([START, *path, END]))
    return MarkovChain.of({pair: float(count) for pair, count in transitions.items()})


def test_four_sessions_equal_the_solution_on_paper() -> None:
    """Eight views are followed by two views, four carts and two ends; four carts by two views and two purchases.

    Let b be the probability of a purchase and t the number of steps to a purchase or the end:

        b(view) = b(view)/4 + b(cart)/2        b(cart) = 1/2 + b(view)/2        so 1/2 and 3/4
        t(view) = 1 + t(view)/4 + t(cart)/2    t(cart) = 1 + t(view)/2          so 3 and 5/2; t(start) = 1 + 3

    Let u be b times the steps of the paths that reach a purchase; each step counts with the b of the state it leaves:

        u(view) = 1/2 + u(view)/4 + u(cart)/2  u(cart) = 3/4 + u(view)/2        so 7/4 and 13/8; u(start) = 1/2 + 7/4
        u / b: view 7/2, cart 13/6, start 9/2

    Entropies in bits: view 1/4 log 4 + 1/2 log 2 + 1/4 log 4 = 3/2, cart 1, all others 0. Visits per session: view 8/4,
    cart 4/4, purchase 2/4, start 1. So a step has (2 x 3/2 + 1 x 1) / 4.5 = 8/9 bits.
    """
    chain = _chain([path.split() for path in SESSIONS])
    expected = {START: [1 / 2, 4.0, 9 / 2], "cart": [3 / 4, 5 / 2, 13 / 6], "view": [1 / 2, 3.0, 7 / 2]}
    forecasts = {
        state: [forecast.probability, forecast.steps, forecast.steps_to_goal]
        for state, forecast in chain.goal_forecasts().items()
    }
    assert forecasts == {state: pytest.approx(numbers) for state, numbers in expected.items()}
    assert chain.entropies() == pytest.approx({START: 0.0, "view": 1.5, "cart": 1.0, "purchase": 0.0})
    assert chain.visits() == pytest.approx({START: 1.0, "view": 2.0, "cart": 1.0, "purchase": 0.5})
    assert chain.entropy_rate() == pytest.approx(8 / 9)


def test_steps_to_a_goal_without_paths_are_null() -> None:
    forecasts = _chain([["view", "view"], ["view"]]).goal_forecasts()
    assert forecasts["view"].probability == 0.0 and forecasts["view"].steps_to_goal is None
    assert forecasts["view"].steps == pytest.approx(1.5)


def test_a_state_without_outgoing_transitions_is_followed_by_the_end() -> None:
    assert MarkovChain.of({(START, "view"): 1.0}).goal_forecasts()["view"] == GoalForecast(0.0, 1.0, None)


paths = st.lists(st.lists(st.sampled_from("abp"), min_size=1, max_size=6), min_size=1, max_size=8)


@given(paths)
def test_visits_and_goal_forecasts_equal_a_simulation_in_plain_python(paths: list[list[str]]) -> None:
    chain = _chain(paths)
    for state, visits in chain.visits().items():
        mean_visits = sum(path.count(state) for path in paths) / len(paths)
        assert visits == pytest.approx(1.0 if state == START else mean_visits)
    for state, forecast in chain.goal_forecasts("p").items():
        probability, steps, steps_to_goal = _simulate(chain, state, "p")
        assert (forecast.probability, forecast.steps) == pytest.approx((probability, steps))
        assert (forecast.steps_to_goal or 0.0) == pytest.approx(steps_to_goal)


def _simulate(chain: MarkovChain, state: str, goal: str) -> tuple[float, float, float]:
    """Probability of the goal, mean steps, and mean steps of the paths to it, from the state distribution per step."""
    names = [*chain.states, END]
    current, reached, steps, goal_steps, n = {state: 1.0}, 0.0, 0.0, 0.0, 0
    while sum(current.values()) > 1e-12:
        n += 1
        steps += sum(current.values())
        following: Counter[str] = Counter()
        for source, share in current.items():
            for name, probability in zip(names, chain.matrix[chain.states.index(source)], strict=True):
                following[name] += share * probability
        reached, goal_steps = reached + following[goal], goal_steps + n * following[goal]
        current = {name: share for name, share in following.items() if name not in (goal, END)}
    return reached, steps, goal_steps / reached if reached else 0.0
