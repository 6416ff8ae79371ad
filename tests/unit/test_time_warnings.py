"""Warnings about the event times of a batch."""

import logging
from datetime import date, timedelta

import pytest
from profilestream.capture import time_warnings

START = date(2026, 3, 1)


def by_day(days: dict[int, int]) -> dict[date, int]:
    """Rows by date, from rows by day after START."""
    return {START + timedelta(days=day): count for day, count in sorted(days.items())}


@pytest.mark.parametrize(
    ("days", "far"),
    [
        ({-75: 1, **dict.fromkeys(range(9), 50)}, [-75]),
        ({**dict.fromkeys(range(9), 50), 400: 2}, [400]),
        ({-25: 1, **dict.fromkeys(range(9), 50)}, []),  # late by less than a month
        (dict.fromkeys(range(0, 4000, 10), 1), []),  # a backfill of eleven years
        ({-4000: 3, **dict.fromkeys(range(300), 5)}, [-4000]),
        ({0: 100, 200: 100}, []),  # two halves, of which none is unusual
        ({0: 500}, []),
    ],
)
def test_a_few_dates_far_from_the_others_are_named(days: dict[int, int], far: list[int]) -> None:
    assert list(time_warnings.distant_dates(by_day(days))) == [START + timedelta(days=day) for day in far]


def test_a_batch_logs_its_warnings_and_a_small_one_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        time_warnings.check(by_day({-75: 1, 0: 150}), 1, 2, "shop, batch 3")
        time_warnings.check(by_day({0: 150}), 5, 5, "shop, batch 4")
        time_warnings.check(by_day({-75: 1, 0: 50}), 1, 2, "shop, batch 5")
        time_warnings.check({}, None, None, "shop, batch 6")
    far, same = [record.getMessage() for record in caplog.records]
    assert far.startswith("1 of 151 events of shop, batch 3 are far from the usual dates (median 2026-03-01): 2025-")
    assert same.startswith("all 150 events of shop, batch 4 have one event time")
