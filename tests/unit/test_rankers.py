"""The count rankers equal plain loops, do not depend on partitions, and rank a batch by the state before it."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profilestream.base.settings import Rankers
from profilestream.learn.rankers.basket_recommender import BasketRecommender
from profilestream.learn.rankers.kernels.basket_index import RANKERS
from profilestream.learn.rankers.kernels.basket_rows import RECENT_EVENTS, RankerParams
from profilestream.learn.rankers.kernels.count_rankers import MAX_BASKET_ITEMS

from tests.laws import law_settings
from tests.memory_rankers import DAY, MINUTE, START, Event, MemoryRankers, NaiveRankers

PARAMS = RankerParams(basket_gap_minutes=40.0, half_life_days=3.0, popularity_half_life_days=1.0)
USERS, ITEMS = [f"u{n}" for n in range(4)], [f"i{n:02}" for n in range(14)]
EVENTS: st.SearchStrategy[Event] = st.tuples(
    st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 400).map(lambda n: START + n * 20 * MINUTE)
)
BATCHES = st.lists(st.lists(EVENTS, min_size=1, max_size=20), min_size=1, max_size=4)


def after(batches: list[list[Event]], parts: int = 1) -> tuple[MemoryRankers, NaiveRankers]:
    model, naive = MemoryRankers(PARAMS), NaiveRankers(PARAMS)
    for batch in batches:
        model = model.learn(batch, parts)
        naive.learn(batch)
    return model, naive


@law_settings
@given(BATCHES, st.sampled_from([1, 3]))
def test_counts_and_popularity_are_decayed_sums_over_all_events(batches: list[list[Event]], parts: int) -> None:
    model, naive = after(batches, parts)
    rows = model.rows()
    for user in {user for user, _, _ in naive.log}:
        assert rows[user]["counts"] == pytest.approx(naive.counts(user), rel=1e-9)
        assert rows[user]["as_of"] == max(time for one, _, time in naive.log if one == user)
        assert rows[user]["history"] == naive.history(user)
    for item in {item for _, item, _ in naive.log}:
        assert rows[item]["popularity"] == pytest.approx(naive.popularity(rows[item]["as_of"])[item], rel=1e-9)


@law_settings
@given(BATCHES, st.sampled_from([1, 3]))
def test_baskets_and_followers_equal_loops_over_consecutive_baskets(batches: list[list[Event]], parts: int) -> None:
    model, naive = after(batches, parts)
    rows = model.rows()
    for user in {user for user, _, _ in naive.log}:
        previous, latest = ([{}, *naive.baskets(user)])[-2:]
        # Times of stored items are not stored, so items of the same time in two batches are in order of batch.
        assert set(rows[user]["basket_items"]) == set(latest)
        assert set(rows[user]["previous_items"]) == set(previous)
    for item in {item for _, item, _ in naive.log}:
        assert rows[item]["counts"] == pytest.approx(naive.followers(item, rows[item]["as_of"]), rel=1e-9)
        assert rows[item]["rules"] == pytest.approx(naive.rule_counts(item, rows[item]["as_of"]), rel=1e-9)


@law_settings
@given(BATCHES, st.lists(EVENTS, min_size=1, max_size=30), st.integers(0, 10))
def test_a_batch_is_ranked_by_the_state_before_it(batches: list[list[Event]], batch: list[Event], days: int) -> None:
    model, naive = after(batches)
    batch = [(user, item, time + days * DAY) for user, item, time in batch]
    sums = model.learn(batch).sums
    assert sums is not None
    is_late = [time <= max(time for _, _, time in naive.log) for _, _, time in batch]
    assert sums.times.late_rows == sum(is_late) and sums.state_as_of == max(time for _, _, time in naive.log)
    by_ranker = sums.metrics()
    for ranker in RANKERS:
        metrics = by_ranker[ranker]
        for user in USERS:
            assert list(model.ranking(user, ranker)) == naive.ranking(user, ranker)[:10], (ranker, user)
        expected = {name: (np.mean(of), len(of)) for name, of in naive.metrics(batch, ranker).items()}
        assert metrics.keys() == expected.keys()
        for name, value in metrics.items():
            assert value == pytest.approx(expected[name]), (ranker, name)


@law_settings
@given(st.lists(EVENTS, min_size=1, max_size=40, unique_by=lambda event: event[2]), st.integers(1, 7))
def test_a_log_in_order_of_time_gives_the_same_rows_for_any_split_into_batches(log: list[Event], size: int) -> None:
    log = sorted(log, key=lambda event: event[2])
    whole, _ = after([log])
    split, _ = after([log[n : n + size] for n in range(0, len(log), size)])
    expected = whole.rows()
    assert split.rows().keys() == expected.keys()
    for key, row in split.rows().items():
        for name in ("counts", "rules"):
            assert row[name] == pytest.approx(expected[key][name], rel=1e-9)
        for name in ("as_of", "basket_items", "previous_items", "recent_items", "history"):
            assert row.get(name) == expected[key].get(name), (key, name)


@law_settings
@given(BATCHES, st.lists(EVENTS, min_size=1, max_size=10))
def test_later_baskets_of_a_batch_do_not_change_its_metrics(batches: list[list[Event]], batch: list[Event]) -> None:
    model, _ = after(batches)
    first = [(user, item, START + 20 * DAY) for user, item, _ in batch]
    later = [(user, ITEMS[n % 14], START + (21 + n) * DAY) for n, (user, _, _) in enumerate(batch * 3)]
    one, both = model.learn(first).sums, model.learn(first + later).sums
    assert one is not None and both is not None
    assert one.metrics() == both.metrics() and one.times == both.times


def at(days: float, *items: str, user: str = "u") -> list[Event]:
    return [(user, item, START + round(days * DAY)) for item in items]


def test_known_counts_followers_and_scores() -> None:
    model = MemoryRankers(PARAMS).learn([*at(0, "a", "b", "a"), *at(3, "b", "c")]).learn(at(3.01, "a"))
    rows = model.rows()
    decay = 0.5 ** (0.01 / 3)
    assert rows["u"]["counts"] == pytest.approx({"a": decay + 1, "b": 1.5 * decay, "c": decay})
    assert (rows["u"]["basket_items"], rows["u"]["previous_items"]) == (["b", "c", "a"], ["a", "b"])
    assert rows["b"]["counts"] == pytest.approx({"a": 0.5, "b": 0.5 * decay, "c": 0.5 * decay})
    assert rows["c"]["counts"] == {}
    assert rows["b"]["popularity"] == pytest.approx((1 + 1 / 8) * 0.5**0.01)  # as of the new follower
    own = model.ranking("u", "own_counts")
    assert own == pytest.approx({"a": 2, "b": 1 + 1.5 * decay / (1 + decay), "c": 1 + decay / (1 + decay)})
    popular = model.ranking("unknown", "own_counts")
    assert list(popular) == ["a", "b", "c"] and sum(popular.values()) == pytest.approx(1)


def test_rules_count_later_events_of_a_session_by_their_distance_also_of_the_same_item() -> None:
    model = MemoryRankers(PARAMS).learn([*at(0, "a"), *at(0.01, "a")]).learn(at(0.02, "b", "c"))
    rows, decay = model.rows(), 0.5 ** (0.01 / 3)
    assert rows["a"]["rules"] == pytest.approx({"a": decay, "b": 1.5, "c": 1 / 2 + 1 / 3}, rel=1e-3)
    assert rows["b"]["rules"] == rows["c"]["rules"] == {}  # b and c have the same time
    assert model.user("u")["recent_items"] == ["a", "a", "b", "c"]
    later = model.learn(at(5, "d"))
    assert later.user("u")["recent_items"] == ["d"] and "d" not in later.rows()["a"]["rules"]
    assert MemoryRankers(PARAMS).learn(at(0, "x", "y")).user("u")["recent_items"] == ["x", "y"]


def test_sequence_rules_rank_by_the_followers_of_the_recent_items_the_last_one_first() -> None:
    model = MemoryRankers(PARAMS).learn([*at(0, "a"), *at(0.01, "x"), *at(1, "b"), *at(1.01, "y")])
    model = model.learn([*at(2, "a", user="v"), *at(2.01, "b", user="v")])
    ranked = model.ranking("v", "sequence_rules", 3)
    # Rules of a: x .5^(2/3) from the first user, and b 1 from this one; rules of b: y.
    share = 0.5 ** (2 / 3) / (0.5 ** (2 / 3) + 1)
    assert ranked == pytest.approx({"y": 2, "b": 1 + 0.6 * (1 - share), "x": 1 + 0.6 * share}, abs=1e-2)


def test_rules_use_ten_events_before_the_next_one_also_those_of_earlier_batches() -> None:
    log = [event for n in range(12) for event in at(n / 100, f"i{n:02}")]
    whole, split = MemoryRankers(PARAMS).learn(log), MemoryRankers(PARAMS).learn(log[:11]).learn(log[11:])
    for model in (whole, split):
        rows = model.rows()
        assert "i11" not in rows["i00"]["rules"]
        assert rows["i01"]["rules"]["i11"] == pytest.approx(1 / RECENT_EVENTS)
        assert rows["u"]["recent_items"] == [item for _, item, _ in log[2:]]


def test_an_event_at_the_time_of_the_stored_ones_has_no_rule_with_them() -> None:
    model = MemoryRankers(PARAMS).learn([*at(0, "a"), *at(0.01, "b")]).learn(at(0.01, "c"))
    assert model.user("u")["recent_items"] == ["a", "b", "c"]
    assert set(model.rows()["a"]["rules"]) == {"b"}
    assert set(model.learn(at(0.02, "d")).rows()["a"]["rules"]) == {"b", "d"}


def test_the_next_item_of_a_session_is_ranked_by_the_earlier_events_of_the_session() -> None:
    model = MemoryRankers(PARAMS)
    for day in range(3):
        model = model.learn([*at(day, "a", user=f"v{day}"), *at(day + 0.01, "x", user=f"v{day}")])
    popular = [f"p{n:02}" for n in range(12)]
    model = model.learn(at(3, *popular, *popular, user="w"))
    sums = model.learn([*at(4, "a"), *at(4.01, "unknown"), *at(4.02, "x")]).sums
    assert sums is not None
    hits = {ranker: sums.metrics()[ranker]["next_item_recall_10"] for ranker in RANKERS}
    assert hits == {ranker: (float(ranker == "sequence_rules"), 1) for ranker in RANKERS}


@law_settings
@given(st.lists(EVENTS, min_size=1, max_size=40, unique_by=lambda event: event[2]))
def test_followers_and_rules_without_a_removed_user_are_those_of_a_state_that_never_had_the_user(
    log: list[Event],
) -> None:
    log = sorted(log, key=lambda event: event[2])
    own, others = ([event for event in log if (event[0] == "u0") == is_own] for is_own in (True, False))
    model, _ = after([log[:15], log[15:]] if len(log) > 15 else [log])
    rows, never = model.remove("u0", own).rows(), MemoryRankers(PARAMS).learn(others).rows() if others else {}
    assert rows.keys() == never.keys()
    for key, row in never.items():
        for name in ("counts", "rules"):
            # The rows can have different times.
            actual, expected = ({i: n / sum(of[name].values()) for i, n in of[name].items()} for of in (rows[key], row))
            assert actual == pytest.approx(expected, rel=1e-6)


def test_a_removed_user_can_leave_followers_without_a_row_that_are_not_ranked() -> None:
    late_and_equal_times = [[*at(0, "a"), *at(0.01, "b"), *at(6, "c")], at(0.01, "d"), at(6.01, "e")]
    model = MemoryRankers(PARAMS).learn(at(6, "a", user="v"))
    for batch in late_and_equal_times:
        model = model.learn(batch)
    model = model.remove("u", sum(late_and_equal_times, []))
    assert set(model.rows()) == {"a", "v"} and model.rows()["a"]["counts"]
    for ranker in RANKERS:
        assert list(model.ranking("v", ranker)) == ["a"]
    assert set(model.learn(at(7, "a", user="v")).rows()) == {"a", "v"}


def test_an_old_item_of_a_user_can_lose_its_row_by_the_removal_of_another_user() -> None:
    removed = at(0, "x", user="w")
    model = MemoryRankers(PARAMS).learn([*at(0, "x"), *removed, *at(40, "b")]).remove("w", removed)
    assert set(model.rows()) == {"b", "u"} and "x" in model.user("u")["counts"]
    assert list(model.ranking("u", "own_counts")) == ["b"]
    assert "x" in model.learn(at(41, "b")).user("u")["counts"]


def test_a_late_event_is_counted_but_is_in_no_basket_no_transition_and_no_rule() -> None:
    model = MemoryRankers(PARAMS).learn([*at(5.98, "a"), *at(6, "b")]).learn(at(5.99, "c"))
    assert model.user("u")["recent_items"] == ["a", "b"]
    assert model.rows()["c"]["rules"] == {} and set(model.rows()["a"]["rules"]) == {"b"}
    model = MemoryRankers(PARAMS).learn([*at(0, "a"), *at(6, "b")]).learn(at(3, "c"))
    assert model.user("u")["counts"] == pytest.approx({"b": 1, "c": 0.5, "a": 0.25})
    assert (model.user("u")["basket_items"], model.user("u")["previous_items"]) == (["b"], ["a"])
    assert model.rows()["c"]["counts"] == {} and model.rows()["a"]["counts"] == {"b": 1}


def test_a_basket_that_continues_a_stored_one_is_not_ranked() -> None:
    model = MemoryRankers(PARAMS).learn(at(0, "a"))
    sums = model.learn(at(0.01, "b")).sums
    assert sums is not None and not sums.users.any() and sums.times.rows_from is None


def test_an_item_counts_once_per_basket_and_a_late_event_changes_only_its_first_and_last_time() -> None:
    model = MemoryRankers(PARAMS).learn([*at(2, "a", "a"), *at(2.01, "b")]).learn([*at(2.02, "a"), *at(5, "a")])
    assert model.user("u")["history"]["a"] == (2, START + 2 * DAY, START + 5 * DAY)
    model = model.learn([*at(1, "a"), *at(4, "b", "c")])
    assert model.user("u")["history"] == {
        "a": (2, START + DAY, START + 5 * DAY),
        "b": (1, START + round(2.01 * DAY), START + 4 * DAY),
        "c": (0, START + 4 * DAY, START + 4 * DAY),
    }


def test_the_items_of_a_row_without_a_history_have_one_basket_at_the_time_of_the_row() -> None:
    model = MemoryRankers(PARAMS).learn([*at(0, "a"), *at(1, "a", "b"), *at(1, "a", user="v")])
    columns: dict[str, Any] = {name: model.users[name] for name in model.users.schema.names}
    for name in ("item_baskets", "first_times", "last_times"):
        lists = columns[name].to_pylist()
        columns[name] = pa.array([None, *lists[1:]], model.users.schema.field(name).type)
    assert model.users["key"].to_pylist() == ["u", "v"]
    older = replace(model, users=pa.table(columns, schema=model.users.schema))
    assert list(older.ranking("u", "due_counts")) == ["a", "b"]
    later = older.learn([*at(3, "a"), *at(3, "a", user="v")])
    assert later.user("u")["history"] == {
        "a": (2, START + DAY, START + 3 * DAY), "b": (1, START + DAY, START + DAY)
    }  # fmt: skip
    assert later.user("v")["history"] == {"a": (2, START + DAY, START + 3 * DAY)}


def test_due_counts_are_lower_for_an_item_that_was_just_bought_until_its_interval_has_passed() -> None:
    model = MemoryRankers(RankerParams()).learn([*at(0, "a"), *at(20, "a", "b", "b"), *at(40, "a", "new")])
    assert list(model.ranking("u", "own_counts")) == ["a", "b", "new"]
    assert list(model.ranking("u", "due_counts")) == ["b", "a", "new"]
    later = model.learn(at(44, "other", user="v"))
    assert list(later.ranking("u", "due_counts", 3)) == ["a", "b", "new"]


def test_of_followers_with_equal_counts_the_first_ids_are_stored() -> None:
    model = MemoryRankers(RankerParams(max_followers=2))
    model = model.learn([*at(0, "a"), *at(1, "z", "y", "x"), *at(2, "z", user="v"), *at(1, "a", user="v")])
    assert model.rows()["a"]["item_ids"] == ["z", "x"]


def test_of_the_items_of_a_user_those_with_the_highest_decayed_counts_are_stored() -> None:
    model = MemoryRankers(RankerParams(max_items=2)).learn([*at(0, "a", "a"), *at(1, "b"), *at(2, "c")])
    assert model.user("u")["item_ids"] == ["a", "c"]
    assert model.learn(at(3, "b", "b")).user("u")["item_ids"] == ["b", "a"]


def test_the_first_items_of_a_large_basket_are_used() -> None:
    items = [f"i{n:03}" for n in range(MAX_BASKET_ITEMS + 5)]
    model = MemoryRankers(PARAMS).learn([*at(0, *items), *at(1, "a")]).learn(at(2, *items))
    assert model.user("u")["basket_items"] == items[:MAX_BASKET_ITEMS]
    rows = model.rows()
    assert rows[items[MAX_BASKET_ITEMS]]["counts"] == {}
    assert rows[items[0]]["counts"] == pytest.approx({"a": 0.5 ** (1 / 3) / MAX_BASKET_ITEMS})
    assert set(rows["a"]["counts"]) == set(items[:MAX_BASKET_ITEMS])


def test_the_predictor_ranks_by_the_published_rows() -> None:
    model = MemoryRankers(PARAMS).learn([*at(0, "a", "b", "b"), *at(1, "a", user="v")])

    class Rows:
        def read(self, columns: list[str], where: Any) -> pa.Table:
            users, items = (
                rows.append_column("side", pa.array([side] * len(rows), pa.string()))
                for rows, side in ((model.users, "user"), (model.items, "item"))
            )
            return pa.concat_tables([users, items], promote_options="default").filter(where).select(columns)

    options = {"ranker": "own_counts", "top_k": 1}
    rows: Any = Rows()
    predictor = BasketRecommender(rows, asdict(PARAMS), options)
    ranked = predictor.predict(pa.table({"user_id": ["v", "nobody", "u", "v"]}), options)
    assert ranked["item_ids"].to_pylist() == [["a"], ["a"], ["b"], ["a"]]
    scores: Any = ranked["scores"].to_pylist()
    assert scores[0] == [2.0] and scores[1][0] < 1
    two = predictor.predict(pa.table({"user_id": ["u"]}), options | {"top_k": 2, "ranker": "transitions"})
    assert two["item_ids"].to_pylist() == [["a", "b"]]


def test_the_rankers_have_the_same_defaults_in_settings_and_in_the_kernels() -> None:
    values, defaults = Rankers().parameters, asdict(RankerParams())
    assert {name: values[name] for name in defaults} == defaults
    assert set(MemoryRankers(PARAMS).learn(at(0, "a")).learn(at(1, "a")).sums.metrics()) == set(RANKERS)  # type: ignore[union-attr]
