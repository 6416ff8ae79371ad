"""The cost model: needs and limits computed from measured costs, and the page."""

import re

import pytest

from benchmarks import capacity, costs, performance_page
from benchmarks.capacity import Shop
from benchmarks.costs import Costs, StageCost, TableSize

COSTS = Costs(
    machine="a machine", date="2026-01-01", events=1_000_000, users=100_000, items=1_000, rows_per_batch=250_000,
    id_search=0.5,
    stages={
        "capture_events": StageCost(core_seconds=50.0, written=60.0, shuffled=40.0, read=250.0),
        "derive_features": StageCost(core_seconds=90.0, written=80.0, shuffled=100.0, read=60.0),
        "derive_profiles": StageCost(core_seconds=120.0, written=400.0, shuffled=90.0, read=300.0),
    },
    tables={
        "events": TableSize(1_000_000, 60_000_000), "user_hours": TableSize(900_000, 45_000_000),
        "factors": TableSize(101_000, 10_100_000),
    },
)  # fmt: skip


def test_cores_are_events_per_second_times_cost_plus_the_search_of_stored_ids() -> None:
    needed = capacity.needs(Shop(users=1e6, rate=10_000, interval=100), COSTS)
    assert needed["capture_events"].cores == pytest.approx(0.5)
    assert needed["capture_events"].written == pytest.approx(6e5)
    stored_millions = 1.5 * 86_400 * 10_000 / 1e6
    assert needed["capture_events, search of ids"].cores == pytest.approx(0.5 * stored_millions / 100)
    assert needed["derive_profiles, scan"].cores == pytest.approx(2.9 / 100)


def test_the_driver_needs_no_search_and_no_scan_for_small_batches() -> None:
    needed = capacity.needs(Shop(users=1e6, rate=20, interval=10), COSTS)
    assert needed["capture_events, search of ids"].cores == needed["derive_profiles, scan"].cores == 0


def test_profiles_that_a_batch_updates_are_written_as_a_whole() -> None:
    needed = capacity.needs(Shop(users=1e6, rate=1_000, interval=10_000), COSTS)
    assert needed["derive_profiles"].written == pytest.approx(1e6 * 5_649 / 10_000, rel=1e-3)


def test_shards_change_the_limits_and_not_the_sums() -> None:
    one, ten = Shop(), Shop(shards=10)
    for name, need in capacity.needs(one, COSTS).items():
        assert need.cores == pytest.approx(capacity.needs(ten, COSTS)[name].cores)
    uses = [{limit.name: limit.use for limit in capacity.limits(shop, COSTS)} for shop in (one, ten)]
    assert uses[0]["hottest item in one task"] == pytest.approx(10 * uses[1]["hottest item in one task"])
    assert uses[0]["search of repeated ids"] == pytest.approx(uses[1]["search of repeated ids"])


def test_tables_of_keys_grow_with_users_and_items_and_others_with_events() -> None:
    sizes = capacity.sizes(Shop(users=1e6, items=1e5, rate=10, days=10), COSTS)
    assert sizes["user_profiles"] == pytest.approx(1e6 * 5_649)
    assert sizes["factors"] == pytest.approx(1.1e6 * 100)
    assert sizes["events"] == pytest.approx(60 * 10 * 86_400 * 10)


def test_the_most_exceeded_limit_is_the_first() -> None:
    limits = capacity.limits(Shop(), COSTS)
    assert [limit.use for limit in limits] == sorted((limit.use for limit in limits), reverse=True)
    (hottest,) = [limit for limit in limits if limit.name == "hottest item in one task"]
    assert hottest.use == pytest.approx(0.05 * 90)  # one tile table
    assert all(limit.use < 1 for limit in capacity.limits(Shop(users=1e5, rate=5, hottest_share=0.01), COSTS))


def test_the_page_has_no_open_place_of_the_template() -> None:
    text = capacity.page(COSTS)
    assert re.findall(r"{{\w+}}", text) == []
    assert "| `capture_events` | 50.0 | 20,000 | 40 | 60 | 250 |" in text


@pytest.mark.skipif(not costs.RESULTS.exists(), reason="no costs are stored: make bench ONLY=cost_per_million")
def test_the_page_of_scaling_is_that_of_the_stored_costs() -> None:
    assert capacity.PAGE.read_text() == capacity.page(costs.read()), 'run make capacity ARGS="--page"'


@pytest.mark.skipif(not performance_page.RESULTS.exists(), reason='no results are stored: make load ARGS="--report"')
def test_the_page_of_performance_is_that_of_the_stored_results() -> None:
    report = performance_page.read()
    assert performance_page.PAGE.read_text() == performance_page.page(report)
    assert performance_page.PICTURE.read_text() == performance_page.picture(report)
