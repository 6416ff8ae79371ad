"""The protocol of the quality benchmarks: targets of a batch, exclusions, and recall."""

import numpy as np
import pytest

from benchmarks import prequential
from benchmarks.real_datasets import Log


def _log(events: list[tuple[int, int, float]]) -> Log:
    """Events of users 0 to 3 and items 0 to 2, one microsecond apart."""
    user, item, weight = (np.array(column) for column in zip(*events, strict=True))
    users, items = (np.array([f"{n}" for n in range(count)], object) for count in (4, 3))
    categories = np.full(len(events), None, object)
    return Log(
        "example",
        users,
        items,
        user,
        item,
        weight.astype(float),
        np.arange(len(events)),
        categories,
        np.ones(len(events)),
    )


def test_targets_are_items_with_enough_buyers_and_recall_excludes_items_bought_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prequential, "BATCH_SIZE", 4)
    monkeypatch.setattr(prequential, "MIN_BUYERS", 2)
    monkeypatch.setattr(prequential, "LIST_LENGTH", 1)
    # In the first fifth item 0 has three buyers, item 1 two and item 2 one; a return is no purchase.
    history = [(0, 0, 5), (1, 0, 5), (2, 0, 5), (0, 1, 5), (1, 1, 5), (1, 2, 5), (3, 0, -5)]
    batch = [(2, 1, 5), (0, 0, 5), (3, 2, 5), (1, 0, -5)]
    log = _log([*history, *batch, *batch * 6])
    assert prequential.first_fifth(log) == len(history)
    first, second, *_ = prequential.batches(log)
    assert log.users[first.users].tolist() == ["0", "2", "3"]
    assert first.bought_before.tolist() == [[True, True, False], [True, False, False], [False, False, False]]
    assert first.targets.tolist() == [[True, False, False], [False, True, False], [False, False, False]]
    assert second.bought_before[2].tolist() == [False, False, True]  # the purchases of the first batch are included
    assert second.targets[2].tolist() == [False, False, True]  # and item 2 has two buyers now

    recalls = first.evaluate(np.array([[3.0, 2.0, 1.0]] * 3))
    # User 2 bought item 0 before: without it item 1 is ranked first, with it item 0.
    np.testing.assert_array_equal(recalls.first, [np.nan, 1.0, np.nan])
    np.testing.assert_array_equal(recalls.any, [1.0, 0.0, np.nan])
    assert recalls.of_first_pairs().tolist() == [1.0]
