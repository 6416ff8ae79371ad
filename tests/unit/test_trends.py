"""Trends of series with a known slope, with wild points and gaps; which series move, and what they are made of."""

from datetime import date

import numpy as np
import pytest
from profilestream.serve.trends import trend_estimates, trend_view
from profilestream.serve.trends.trend_estimates import Floats, Periods, Series, Sums, Trend

WEEKS = 40
YEAR = 365.25 / 7


def noise(seed: int, size: float = 1.0) -> Floats:
    return np.random.default_rng(seed).normal(0, size, WEEKS)


def of(*values: Floats) -> list[Trend]:
    return trend_estimates.trends(iter([Series("price", f"g{n}", "c", one) for n, one in enumerate(values)]), 7)


def test_a_known_slope_is_found_past_wild_points_and_gaps() -> None:
    rising: Floats = 20 + 0.1 * np.arange(WEEKS, dtype=np.float64)
    wild = rising + noise(1, 0.1)
    wild[[3, 20, 37]] = [500.0, -300.0, np.nan]
    plain, found = of(rising, wild)
    assert [plain.low, plain.slope, plain.high] == pytest.approx([0.1 * YEAR / np.median(rising)] * 3)
    assert found.low < plain.slope < found.high and found.slope == pytest.approx(plain.slope, rel=0.05)
    assert found.moves
    told = np.isfinite(wild)
    by_squares = np.polyfit(np.flatnonzero(told), wild[told], 1)[0]
    assert abs(by_squares - 0.1) > 1, "the wild points carry away what is not robust"
    np.testing.assert_allclose(plain.line, (20, 0.1))


def test_of_many_series_that_do_not_move_few_are_told_to() -> None:
    still = [10 + noise(seed) for seed in range(100)]
    falling = 10 - 0.08 * np.arange(WEEKS) + noise(999)
    found = of(*still, falling)
    assert found[-1].moves and found[-1].high < 0
    assert sum(not one.low <= 0 <= one.high for one in found[:-1]) > 2, "single intervals are wrong now and then"
    assert sum(one.moves for one in found) <= 2
    assert trend_estimates.movers(found, "price", 1)[0] == found[-1]
    assert trend_estimates.movers(found, "share", 1) == []


def test_series_without_enough_values_have_no_trend() -> None:
    sparse = np.where(np.arange(WEEKS) % 2, np.nan, 5.0)
    mostly_nothing = np.where(np.arange(WEEKS) % 3, 0.0, 5.0)
    assert of(sparse, mostly_nothing) == []
    (flat,) = of(np.full(WEEKS, 5.0))
    assert (flat.slope, flat.moves) == (0, False)


def test_measures_are_what_is_bought_over_pieces_over_all_and_over_users() -> None:
    bread, milk, other = ("g", "bread"), ("g", "milk"), ("g", "(other)")
    money = {bread: np.array([6.0, 0.0]), milk: np.array([2.0, 4.0]), other: np.array([2.0, 0.0])}
    pieces = {bread: np.array([3.0, 0.0]), milk: np.array([1.0, 4.0]), other: np.array([1.0, 0.0])}
    usual = {bread: np.array([5.0, 0.0]), milk: np.array([4.0, 4.0]), other: np.array([2.0, 0.0])}
    found = trend_estimates.series(Sums({"g": 5, "nobody bought": 2}, money, pieces, usual))
    said = {(one.measure, one.category): one.values.tolist() for one in found}
    assert said == {
        ("spend", "(all)"): [2.0, 0.8],
        ("price", "bread"): [2.0, pytest.approx(np.nan, nan_ok=True)],
        ("level", "bread"): [1.2, pytest.approx(np.nan, nan_ok=True)],
        ("share", "bread"): [0.6, 0.0],
        ("price", "milk"): [2.0, 1.0],
        ("level", "milk"): [0.5, 1.0],
        ("share", "milk"): [0.2, 1.0],
    }


def test_text_and_picture_tell_the_movers() -> None:
    every = [
        Series("spend", "g", "(all)", 50 + noise(1)),
        Series("price", "g", "MILK", np.linspace(3, 4, WEEKS)),
        Series("level", "g", "MILK", np.full(WEEKS, 1.0)),
        Series("share", "g", "MILK", 0.2 + noise(2, 0.01)),
    ]
    found = trend_estimates.trends(iter(every), 7)
    span = Periods(date(2026, 1, 1), 7, WEEKS, "UTC")
    lines = trend_view.as_text(found, Sums({"g": 7}, {}, {}, {}), span, 5).splitlines()
    assert lines[0] == "40 periods of 7 days from 2026-01-01; users: g 7"
    assert lines[3].startswith("  g   ") and lines[3].endswith("  not sure")
    assert lines[5:] == [
        "mean price paid: 1 of 1 series move; those that move the most, a year",
        f"  {'g: MILK':44}   +38.2%  (+38.2% to +38.2%)  the same items +0.0% (+0.0% to +0.0%)",
        "",
        "price of the same items: 0 of 1 series move; those that move the most, a year",
        "",
        "share of the group's spend: 0 of 1 series move; those that move the most, a year",
    ]
    drawn = trend_view.picture(found, span, 5).data
    np.testing.assert_array_equal(drawn[0].y, every[0].values)
    assert [list(one.y) for one in drawn[2:]] == [["milk"], ["milk"], []]
