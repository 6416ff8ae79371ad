"""Lists by purpose of a few users, from the counts of their baskets."""

from typing import Any

import pytest
from profilestream.learn.rankers.kernels.basket_rows import RankerParams
from profilestream.learn.rankers.kernels.blend import INPUTS
from profilestream.serve.scores import basket_lists
from profilestream.serve.scores.basket_lists import BasketListOptions

from tests.memory_rankers import DAY, START, Event, MemoryRankers

PARAMS = RankerParams()


def at(day: float, user: str, *items: str) -> list[Event]:
    return [(user, item, START + round(day * DAY)) for item in items]


LOG = [*at(0, "ann", "tea", "mug"), *at(1, "ann", "tea"), *at(1, "bob", "rug", "pot"), *at(2, "bob", "pot")]


def lists(
    purpose: str,
    top_k: int = 10,
    min_as_of: int | None = None,
    log: list[Event] = LOG,
    blend_weights: tuple[float, ...] = (),
) -> dict[str, list[dict[str, Any]]]:
    """The rows of each user."""
    model = MemoryRankers(PARAMS).learn(log)
    options = BasketListOptions(purposes=(purpose,), top_k=top_k, min_as_of=min_as_of, blend_weights=blend_weights)
    rows = basket_lists.rank_baskets(model.users, model.items, params=PARAMS, options=options)["lists"].to_pylist()
    return {user: [row for row in rows if row["user_id"] == user] for user in ("ann", "bob")}


def items(rows: list[dict[str, Any]]) -> list[str]:
    return [row["item_id"] for row in rows]


def test_buy_again_has_the_items_of_the_user_only_the_most_frequent_first() -> None:
    by_user = lists("buy_again")
    assert {user: items(rows) for user, rows in by_user.items()} == {"ann": ["tea", "mug"], "bob": ["pot", "rug"]}
    assert [row["rank"] for row in by_user["ann"]] == [1, 2]


def test_buy_again_has_reasons_with_the_interval_and_places_an_item_that_was_just_bought_lower() -> None:
    log = [*at(0, "ann", "tea", "pen", "ink"), *at(0, "bob", "tea"), *at(20, "ann", "tea"), *at(40, "bob", "mug")]
    log += [*at(0.1, "ann", "pen", "pen"), *at(40.2, "ann", "tea"), *at(41, "bob", "mug")]
    rows = lists("buy_again", log=log)["ann"]
    assert [(row["item_id"], row["reason"]) for row in rows] == [
        ("pen", "you bought it 2 times; the last time was 40 days ago"),
        ("tea", "you bought it 3 times, about every 20 days; the last time was less than a day ago"),
        ("ink", "you bought it 41 days ago"),
    ]
    assert {row["ranker"] for row in rows} == {row["reason_ranker"] for row in rows} == {"due_counts"}
    assert lists("buy_again", log=log)["bob"][0]["reason"] == (
        "you bought it 2 times, about every 1 day; the last time was less than a day ago"
    )


def test_next_basket_continues_with_popular_items_and_names_the_ranker_of_each_item() -> None:
    rows = lists("next_basket", top_k=3)["ann"]
    assert items(rows) == ["tea", "mug", "pot"]
    assert [row["ranker"] for row in rows] == ["own_counts", "own_counts", "popularity"]
    assert rows[2]["reason"] == "popular now" and rows[2]["score"] < 1 < rows[1]["score"] < rows[0]["score"]
    assert {row["as_of"].timestamp() * 1e6 for row in rows} == {START + 2 * DAY}


def test_next_in_session_has_the_followers_of_the_latest_items_of_users_with_an_open_session_only() -> None:
    log = [*at(0, "ann", "tea"), *at(0.01, "ann", "mug"), *at(1, "bob", "tea"), *at(1.02, "eve", "rug")]
    by_user = lists("next_in_session", log=log)
    assert {user: items(rows) for user, rows in by_user.items()} == {"ann": [], "bob": ["mug"]}
    assert [row["reason"] for row in by_user["bob"]] == ["often follows your latest items"]


def test_next_basket_by_the_blend_names_the_ranker_that_placed_each_item() -> None:
    log = [*LOG, *at(3, "eve", "tea"), *at(4, "eve", "rug"), *at(5, "bob", "tea")]
    # Own items are above followers of the latest basket, and those above popular items.
    weights = {"is_own": 2.0, "own_share": 1.0, "log_transitions": 0.01, "popularity": 0.001}
    rows = lists("next_basket", top_k=4, log=log, blend_weights=tuple(weights.get(name, 0.0) for name, _ in INPUTS))
    assert items(rows["bob"]) == ["pot", "tea", "rug", "mug"]
    assert {row["ranker"] for row in rows["bob"]} == {"blend"}
    assert [row["reason_ranker"] for row in rows["bob"]] == [*["own_counts"] * 3, "popularity"]
    assert items(rows["ann"]) == ["tea", "mug", "rug", "pot"]
    assert [row["reason"] for row in rows["ann"]] == [
        *["because you bought it before"] * 2, "often follows your latest basket", "popular now"
    ]  # fmt: skip
    assert sum(row["score"] for row in rows["ann"]) == pytest.approx(1)


def test_items_without_a_recent_event_are_in_no_list() -> None:
    for purpose in ("buy_again", "next_basket"):
        listed = {item for rows in lists(purpose, min_as_of=START + 2 * DAY).values() for item in items(rows)}
        # The row of the rug is as recent as the purchase that followed it.
        assert listed == {"pot", "rug"}, purpose


def test_without_items_there_are_no_lists() -> None:
    empty = MemoryRankers(PARAMS)
    options = BasketListOptions(purposes=("buy_again",), top_k=1, min_as_of=None)
    assert basket_lists.rank_baskets(empty.users, empty.items, params=PARAMS, options=options) == {}
