"""The newest day of events."""

import pytest
from profilestream.learn.event_days import newest_day


@pytest.mark.parametrize(
    ("counts", "day"),
    [
        ([], None),
        ([(7, 1)], 7),
        ([(7, 999), (5000, 1)], 7),
        ([(7, 500), (8, 499), (5000, 1)], 8),
        ([(7, 5), (9, 5)], 9),
    ],
)
def test_one_of_a_thousand_events_does_not_move_the_newest_day(counts: list[tuple[int, int]], day: int | None) -> None:
    assert newest_day(counts) == day
