"""What a chain of transitions says, by hand and by plain Python."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profilestream.derive.markov import Ahead, Chain

START, END = "(start)", "(end)"
FOUR = ["view view cart purchase", "view cart view cart purchase", "view cart view", "view view"]


def _chain(paths: list[list[str]]) -> Chain:
    moves = Counter(move for path in paths for move in pairwise([START, *path, END]))
    return Chain.of({move: float(count) for move, count in moves.items()})


def test_four_sessions_solved_by_hand() -> None:
    """Eight views: two go on to a view, four to a cart, two end. Four carts: two go to a view, two to a purchase.

    With b the probability of a purchase and t the steps until it or the end:

        b(view) = b(view)/4 + b(cart)/2        b(cart) = 1/2 + b(view)/2        so 1/2 and 3/4
        t(view) = 1 + t(view)/4 + t(cart)/2    t(cart) = 1 + t(view)/2          so 3 and 5/2; t(start) = 1 + 3

    u = the steps of paths that reach it, times b, each step counting with the b of the state that it leaves:

        u(view) = 1/2 + u(view)/4 + u(cart)/2  u(cart) = 3/4 + u(view)/2        so 7/4 and 13/8; u(start) = 1/2 + 7/4
        u / b: view 7/2, cart 13/6, start 9/2

    Bits: view 1/4 log 4 + 1/2 log 2 + 1/4 log 4 = 3/2, cart 1, all else 0. Visits a session: view 8/4, cart 4/4,
    purchase 2/4, start 1; so a step has (2 x 3/2 + 1 x 1) / 4.5 = 8/9 bits.
    """
    chain = _chain([path.split() for path in FOUR])
    by_hand = {START: [1 / 2, 4.0, 9 / 2], "cart": [3 / 4, 5 / 2, 13 / 6], "view": [1 / 2, 3.0, 7 / 2]}
    assert {state: pytest.approx(numbers) for state, numbers in by_hand.items()} == _told(chain.until())
    assert chain.entropies() == pytest.approx({START: 0.0, "view": 1.5, "cart": 1.0, "purchase": 0.0})
    assert chain.visits() == pytest.approx({START: 1.0, "view": 2.0, "cart": 1.0, "purchase": 0.5})
    assert chain.entropy() == pytest.approx(8 / 9)


def _told(ahead: dict[str, Ahead]) -> dict[str, list[float | None]]:
    return {state: [one.probability, one.steps, one.steps_to_goal] for state, one in ahead.items()}


def test_a_goal_that_nobody_reached_is_as_far_as_never() -> None:
    ahead = _chain([["view", "view"], ["view"]]).until()
    assert ahead["view"].probability == 0.0 and ahead["view"].steps_to_goal is None
    assert ahead["view"].steps == pytest.approx(1.5)


def test_a_state_that_nothing_leaves_is_left_for_the_end() -> None:
    assert Chain.of({(START, "view"): 1.0}).until()["view"] == Ahead(0.0, 1.0, None)


paths = st.lists(st.lists(st.sampled_from("abp"), min_size=1, max_size=6), min_size=1, max_size=8)


@given(paths)
def test_visits_are_those_of_the_sessions_and_what_is_ahead_is_what_walking_finds(found: list[list[str]]) -> None:
    chain = _chain(found)
    for state, visits in chain.visits().items():
        seen = sum(path.count(state) for path in found) / len(found)
        assert visits == pytest.approx(1.0 if state == START else seen)
    for state, ahead in chain.until("p").items():
        probability, steps, to_goal = _walked(chain, state, "p")
        assert (ahead.probability, ahead.steps) == pytest.approx((probability, steps))
        assert (ahead.steps_to_goal or 0.0) == pytest.approx(to_goal)


def _walked(chain: Chain, state: str, goal: str) -> tuple[float, float, float]:
    """Probability of the goal, mean steps, and mean steps of the paths to it: step by step, until all have ended."""
    names = [*chain.states, END]
    here, reached, steps, to_goal, n = {state: 1.0}, 0.0, 0.0, 0.0, 0
    while sum(here.values()) > 1e-12:
        n += 1
        steps += sum(here.values())
        there: Counter[str] = Counter()
        for since, share in here.items():
            for name, odds in zip(names, chain.odds[chain.states.index(since)], strict=True):
                there[name] += share * odds
        reached, to_goal = reached + there[goal], to_goal + n * there[goal]
        here = {name: share for name, share in there.items() if name not in (goal, END)}
    return reached, steps, to_goal / reached if reached else 0.0
