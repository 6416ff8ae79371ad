"""The protocol of the quality benchmarks: what a batch asks, and what counts as found."""

import numpy as np
import pytest

from benchmarks import prequential
from benchmarks.logs import Log


def _log(events: list[tuple[int, int, float]]) -> Log:
    """Users 0 to 3, items 0 to 2, a microsecond apart."""
    user, item, weight = (np.array(part) for part in zip(*events, strict=True))
    users, items = (np.array([f"{n}" for n in range(count)], object) for count in (4, 3))
    none = np.full(len(events), None, object)
    return Log("made", users, items, user, item, weight.astype(float), np.arange(len(events)), none)


def test_a_batch_asks_for_what_enough_people_had_bought_and_its_users_had_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prequential, "BATCH", 4)
    monkeypatch.setattr(prequential, "BUYERS", 2)
    monkeypatch.setattr(prequential, "SHOWN", 1)
    # The first fifth: item 0 has three buyers, item 1 two, item 2 one; a return is no purchase.
    first = [(0, 0, 5), (1, 0, 5), (2, 0, 5), (0, 1, 5), (1, 1, 5), (1, 2, 5), (3, 0, -5)]
    batch = [(2, 1, 5), (0, 0, 5), (3, 2, 5), (1, 0, -5)]
    log = _log([*first, *batch, *batch * 6])
    assert prequential.first_fifth(log) == len(first)
    asked, again, *_ = prequential.batches(log)
    assert log.users[asked.users].tolist() == ["0", "2", "3"]
    assert asked.bought.tolist() == [[True, True, False], [True, False, False], [False, False, False]]
    assert asked.buys.tolist() == [[True, False, False], [False, True, False], [False, False, False]]
    assert again.bought[2].tolist() == [False, False, True]  # what was asked is then known
    assert again.buys[2].tolist() == [False, False, True]  # and item 2 has two buyers

    answer = asked.answered(np.array([[3.0, 2.0, 1.0]] * 3))
    np.testing.assert_array_equal(answer.first, [np.nan, 1.0, np.nan])  # 0 is not ranked for user 2, so 1 is first
    np.testing.assert_array_equal(answer.any, [1.0, 0.0, np.nan])  # here it is
    assert answer.asked().tolist() == [1.0]
