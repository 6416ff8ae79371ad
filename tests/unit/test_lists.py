"""Recommendation lists of a small shop: order, fallback rankers, filters, reasons."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn.factors.kernels import als_rows, als_tasks
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums
from profilestream.serve.scores import ranked_lists, recommend
from profilestream.serve.scores.ranked_lists import ListOptions

PARAMS = AlsParams(k=2, popularity_weight=0.1)
OPTIONS = ListOptions(top_k=3, exclude_bought=True, exclude_seen=True, min_event_time=None, max_per_category=None)
# Users of mugs like plates, users of lamps like bulbs; the vase is popular with all users.
ITEMS: dict[str, dict[str, Any]] = {
    "bulb": {"vector": [0.0, 0.9], "category": "light", "popularity": 2.0, "neighbors": {"lamp": 3.0}},
    "lamp": {"vector": [0.0, 1.0], "category": "light", "popularity": 3.0, "neighbors": {}},
    "mug": {"vector": [1.0, 0.0], "category": "table", "popularity": 4.0, "neighbors": {}},
    "plate": {"vector": [0.9, 0.0], "category": "table", "popularity": 1.0, "neighbors": {"mug": 2.0}},
    "vase": {"vector": [0.1, 0.1], "category": None, "popularity": 9.0, "neighbors": {}},
}


def to_bytes(values: list[float]) -> bytes:
    return np.array(values, np.float32).tobytes()


Row = tuple[str, dict[str, Any]]


def lists(rows: list[Row], options: ListOptions = OPTIONS) -> dict[str, list[dict[str, Any]]]:
    """The list of each user; the latest event of the n-th item is at time n.

    Args:
        rows: name of an input of rank_items, and a row of it.
    """
    stored = [
        {
            "key": item_id, "vector": to_bytes(item["vector"]), "decayed_weight": 4.0, "as_of": 0,
            "popularity": item["popularity"], "category": item["category"],
            "item_ids": list(item["neighbors"]), "item_weights": to_bytes(list(item["neighbors"].values())),
            "event_times": np.array([n], np.int64).tobytes(),
        }
        for n, (item_id, item) in enumerate(ITEMS.items())
    ]  # fmt: skip
    items = pa.Table.from_pylist(stored, als_rows.SCORED_ITEM)
    packed = als_tasks.pack_items(items, global_sums=GlobalSums.zero(2), params=PARAMS)
    inputs = {
        name: pa.Table.from_pylist([row for other, row in rows if other == name], recommend.RANK_ITEMS.inputs[name])
        for name in recommend.RANK_ITEMS.keys
    }
    ranked = ranked_lists.rank_items(**inputs, **packed, params=PARAMS, options=options)["lists"]
    by_user: dict[str, list[dict[str, Any]]] = {}
    for row in ranked.to_pylist():
        by_user.setdefault(row["user_id"], []).append(row)
    return {user_id: sorted(rows, key=lambda row: row["rank"]) for user_id, rows in by_user.items()}


def user_row(user_id: str, vector: list[float], items: dict[str, float]) -> Row:
    return "users", {
        "key": user_id, "vector": to_bytes(vector), "item_ids": list(items),
        "item_weights": to_bytes(list(items.values())),
    }  # fmt: skip


def preference(user_id: str, item_id: str | None, weight: float | None = None) -> Row:
    return "preferences", {"user_id": user_id, "item_id": item_id, "weight": weight}


def reserved(user_id: str, item_id: str) -> Row:
    return "reserved", {"user_id": user_id, "item_id": item_id}


def bought(user_id: str, item_id: str) -> Row:
    return "bought", {"user_id": user_id, "item_id": item_id}


def test_items_are_ordered_by_score_and_items_of_the_user_are_left_out() -> None:
    ann, bob = user_row("ann", [1.0, 0.0], {"mug": 5.0}), user_row("bob", [0.0, 1.0], {"lamp": 5.0})
    by_user = lists([ann, bob, bought("ann", "mug")])
    assert [row["item_id"] for row in by_user["ann"]] == ["plate", "vase", "lamp"]
    assert [row["rank"] for row in by_user["ann"]] == [1, 2, 3]
    top = by_user["ann"][0]
    assert top["reason"] == "because you bought mug" and top["reason_item_id"] == "mug" and top["ranker"] == "blend"
    similarity = 2 / np.sqrt(4)  # two users had plates after mugs; the weight of mugs is 4
    assert abs(top["score"] - (0.9 + 0.1 * np.log1p(1) / np.log1p(9) + 0.03 * similarity)) < 1e-6
    assert by_user["bob"][0]["item_id"] == "bulb" and by_user["bob"][0]["reason"] == "because you looked at lamp"
    assert by_user["bob"][0]["reason_ranker"] == top["reason_ranker"] == "factors"
    with_own = lists([ann], replace(OPTIONS, exclude_seen=False))
    assert (with_own["ann"][0]["item_id"], with_own["ann"][0]["reason_item_id"]) == ("mug", None)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_bought_items_are_left_out_although_they_are_not_among_the_stored_events(exclude_seen: bool) -> None:
    users = [user_row("ann", [1.0, 0.0], {}), user_row("bob", [1.0, 0.0], {}), preference("new", None)]
    rows = [bought("ann", "mug"), bought("ann", "vase"), bought("new", "vase"), bought("absent", "lamp"),
            bought("ann", "not in the index")]  # fmt: skip
    options = replace(OPTIONS, top_k=9, exclude_seen=exclude_seen)
    items = {user: [row["item_id"] for row in rows] for user, rows in lists([*users, *rows], options).items()}
    assert items["ann"] == ["plate", "lamp", "bulb"]
    assert items["bob"] == ["mug", "plate", "vase", "lamp", "bulb"]
    assert items["new"] == ["mug", "lamp", "bulb", "plate"]
    every = lists([*users, *rows], replace(options, exclude_bought=False))
    assert {len(rows) for rows in every.values()} == {5}
    assert [row["item_id"] for row in lists([users[0], *(bought("ann", item) for item in ITEMS)]).get("ann", [])] == []


def test_the_reason_names_the_ranker_that_placed_the_item() -> None:
    """The vase is popular with all users: it is in a list because of that, and not because of the user's items."""
    ann = user_row("ann", [0.3, 0.0], {"mug": 5.0, "bulb": 1.0})
    rows = {row["item_id"]: row for row in lists([ann, bought("ann", "mug")])["ann"]}
    assert {name: (row["reason_ranker"], row["reason"], row["reason_item_id"]) for name, row in rows.items()} == {
        "plate": ("factors", "because you bought mug", "mug"),
        "vase": ("popularity", "popular now", None),
        "lamp": ("neighbors", "because you looked at bulb", "bulb"),
    }
    assert {row["ranker"] for row in rows.values()} == {"blend"}
    without_items = lists([user_row("bob", [0.3, 0.0], {})])["bob"]
    assert [(row["item_id"], row["reason"]) for row in without_items[:2]] == [
        ("mug", "liked by similar users"), ("plate", "liked by similar users"),
    ]  # fmt: skip


def test_the_score_of_the_average_user_is_popularity_and_an_item_without_category_is_not_placed_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ann = user_row("ann", [0.3, 0.0], {"mug": 5.0})
    same = lists([ann, bought("ann", "mug")], replace(OPTIONS, average_user=(0.3, 0.0)))["ann"]
    assert (same[0]["item_id"], same[0]["reason"]) == ("plate", "popular now")
    less = lists([ann, bought("ann", "mug")], replace(OPTIONS, average_user=(0.1, 0.0)))["ann"]
    assert (less[0]["item_id"], less[0]["reason"]) == ("plate", "because you bought mug")
    params = replace(PARAMS, popularity_weight=0.0, neighbor_weight=0.0, category_weight=3.0)
    monkeypatch.setitem(globals(), "PARAMS", params)
    by_category = {row["item_id"]: row["reason"] for row in lists([ann])["ann"]}
    assert (by_category["plate"], by_category["vase"]) == ("popular in table", "popular now")


def test_a_closed_item_is_only_in_the_lists_of_users_for_whom_it_is_reserved() -> None:
    users = [user_row(name, [1.0, 0.0], {}) for name in ("ann", "bob", "eve")]
    by_user = lists(
        [*users, reserved("ann", "mug"), reserved("eve", "mug"), bought("eve", "mug")],
        replace(OPTIONS, closed_items=("mug", "unknown")),
    )
    assert [[row["item_id"] for row in by_user[name]] for name in ("ann", "bob", "eve")] == [
        ["mug", "plate", "vase"], ["plate", "vase", "lamp"], ["plate", "vase", "lamp"],
    ]  # fmt: skip


def test_users_without_a_vector_are_ranked_by_neighbors_then_category_then_popularity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lamp_user = preference("lit", "bulb", 1.0)
    by_user = lists(
        [
            preference("new", "mug", 5.0),
            preference("unknown", None),
            preference("elsewhere", "not in the index", 1.0),
            lamp_user,
            user_row("returned", [0.0, 0.0], {}),
            bought("new", "mug"),
        ],
        replace(OPTIONS, top_k=2),
    )
    assert [(row["item_id"], row["ranker"], row["reason"]) for row in by_user["new"]] == [
        ("plate", "neighbors", "because you bought mug"), ("vase", "popularity", "popular now"),
    ]  # fmt: skip
    for user_id in ("unknown", "elsewhere", "returned"):
        assert [(row["item_id"], row["reason"]) for row in by_user[user_id]] == [
            ("vase", "popular now"),
            ("mug", "popular now"),
        ]
    monkeypatch.setitem(ITEMS, "bulb", ITEMS["bulb"] | {"neighbors": {}})
    by_category = lists([lamp_user])["lit"]
    assert [(row["item_id"], row["ranker"]) for row in by_category[:2]] == [
        ("lamp", "category"),
        ("vase", "popularity"),
    ]
    assert by_category[0]["reason"] == "popular in light"
    assert all(0 <= row["score"] <= 1 for rows in by_user.values() for row in rows)


def test_old_items_are_left_out_and_items_per_category_are_limited() -> None:
    ann = user_row("ann", [1.0, 0.0], {})
    recent = lists([ann], replace(OPTIONS, min_event_time=2))  # the third item and later ones
    assert [row["item_id"] for row in recent["ann"]] == ["mug", "plate", "vase"]
    limited = lists([ann], replace(OPTIONS, max_per_category=1))
    assert [row["item_id"] for row in limited["ann"]] == ["mug", "vase", "lamp"]


def test_a_returned_item_can_be_recommended_again() -> None:
    name, ann = user_row("ann", [1.0, 0.0], {})
    ann |= {"item_ids": ["mug", "mug"], "item_weights": to_bytes([5.0, -5.0])}
    assert lists([(name, ann)])["ann"][0]["item_id"] == "mug"


def test_users_in_chunks_get_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    users = [user_row(f"u{n}", rng.normal(size=2).tolist(), {"mug": 5.0} if n % 2 else {}) for n in range(20)]
    at_once = lists(users)
    monkeypatch.setattr(ranked_lists, "_MAX_CELLS", 15)
    assert lists(users) == at_once and len(at_once) == 20
