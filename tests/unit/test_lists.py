"""Recommendations of a small shop by hand: order, fallbacks, filters, reasons."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from profilestream.learn import als_tasks
from profilestream.learn.als import Globals, Params
from profilestream.serve.scores import ranked_lists as listing
from profilestream.serve.scores.ranked_lists import Wanted

MADE = Params(k=2, popularity_share=0.1)
WANTED = Wanted(top_n=3, exclude_bought=True, newest_since=None, most_per_category=None, bought=5.0)
# Two tastes: mugs and plates go together, and so do lamps and bulbs; the vase is popular with all.
ITEMS: dict[str, dict[str, Any]] = {
    "bulb": {"vector": [0.0, 0.9], "category": "light", "popular": 2.0, "others": {"lamp": 3.0}},
    "lamp": {"vector": [0.0, 1.0], "category": "light", "popular": 3.0, "others": {}},
    "mug": {"vector": [1.0, 0.0], "category": "table", "popular": 4.0, "others": {}},
    "plate": {"vector": [0.9, 0.0], "category": "table", "popular": 1.0, "others": {"mug": 2.0}},
    "vase": {"vector": [0.1, 0.1], "category": None, "popular": 9.0, "others": {}},
}


def floats(values: list[float]) -> bytes:
    return np.array(values, np.float32).tobytes()


def lists(people: list[dict[str, Any]], wanted: Wanted = WANTED) -> dict[str, list[dict[str, Any]]]:
    rows = [
        {
            "kind": als_tasks.STATE, "key": name, "vector": floats(item["vector"]), "counted": 4.0, "at": 0,
            "popular": item["popular"], "category": item["category"], "others": list(item["others"]),
            "weights": floats(list(item["others"].values())), "times": np.array([n], np.int64).tobytes(),
        }
        for n, (name, item) in enumerate(ITEMS.items())
    ]  # fmt: skip
    packed = als_tasks.pack_items(iter([pa.RecordBatch.from_pylist(rows, als_tasks.SCHEMA)]), Globals.zero(2), MADE)
    given = pa.RecordBatch.from_pylist(people, als_tasks.SCHEMA)
    found: dict[str, list[dict[str, Any]]] = {}
    for batch in listing.ranked(iter([*packed, given]), MADE, wanted):
        for row in batch.to_pylist():
            found.setdefault(row["user_id"], []).append(row)
    return {user: sorted(rows, key=lambda row: row["rank"]) for user, rows in found.items()}


def own(name: str, vector: list[float], has: dict[str, float]) -> dict[str, Any]:
    return {
        "kind": als_tasks.STATE, "key": name, "vector": floats(vector), "others": list(has),
        "weights": floats(list(has.values())),
    }  # fmt: skip


def test_the_highest_scores_come_first_and_what_was_bought_does_not_come() -> None:
    found = lists([own("ann", [1.0, 0.0], {"mug": 5.0}), own("bob", [0.0, 1.0], {"lamp": 1.0})])
    assert [row["item_id"] for row in found["ann"]] == ["plate", "vase", "lamp"]
    assert [row["rank"] for row in found["ann"]] == [1, 2, 3]
    top = found["ann"][0]
    assert top["reason"] == "because you bought mug" and top["because"] == "mug" and top["ranker"] == "blend"
    near = 2 / np.sqrt(4)  # of the two who had plates after mugs, by what mugs weigh
    assert abs(top["score"] - (0.9 + 0.1 * np.log1p(1) / np.log1p(9) + 0.03 * near)) < 1e-6
    assert found["bob"][0]["item_id"] == "bulb" and found["bob"][0]["reason"] == "because you looked at lamp"
    again = lists([own("ann", [1.0, 0.0], {"mug": 5.0})], replace(WANTED, exclude_bought=False))
    assert again["ann"][0]["item_id"] == "mug"


def test_without_a_vector_neighbors_then_the_category_then_popularity_speak() -> None:
    found = lists(
        [
            {"kind": als_tasks.NEW, "key": "new", "other": "mug", "weight": 5.0},
            {"kind": als_tasks.NEW, "key": "unknown", "other": None},
            {"kind": als_tasks.NEW, "key": "elsewhere", "other": "not in the catalogue", "weight": 1.0},
            {"kind": als_tasks.NEW, "key": "lit", "other": "bulb", "weight": 1.0},
            own("returned", [0.0, 0.0], {}),
        ],
        replace(WANTED, top_n=2),
    )
    assert [(row["item_id"], row["ranker"], row["reason"]) for row in found["new"]] == [
        ("plate", "neighbors", "because you bought mug"), ("vase", "popularity", "popular"),
    ]  # fmt: skip
    for user in ("unknown", "elsewhere", "returned"):
        assert [(row["item_id"], row["reason"]) for row in found[user]] == [("vase", "popular"), ("mug", "popular")]
    ITEMS["bulb"]["others"] = {}
    lit = lists([{"kind": als_tasks.NEW, "key": "lit", "other": "bulb", "weight": 1.0}])["lit"]
    ITEMS["bulb"]["others"] = {"lamp": 3.0}
    assert [(row["item_id"], row["ranker"]) for row in lit[:2]] == [("lamp", "category"), ("vase", "popularity")]
    assert lit[0]["reason"] == "popular in light"
    assert all(0 <= row["score"] <= 1 for user in found.values() for row in user)


def test_items_that_are_gone_are_left_out_and_a_category_is_capped() -> None:
    found = lists([own("ann", [1.0, 0.0], {})], replace(WANTED, newest_since=2))
    assert [row["item_id"] for row in found["ann"]] == ["mug", "plate", "vase"]  # the fourth and fifth came later
    found = lists([own("ann", [1.0, 0.0], {})], replace(WANTED, most_per_category=1))
    assert [row["item_id"] for row in found["ann"]] == ["mug", "vase", "lamp"]


def test_what_was_taken_back_is_not_had() -> None:
    back = own("ann", [1.0, 0.0], {})
    back |= {"others": ["mug", "mug"], "weights": floats([5.0, -5.0])}
    assert lists([back])["ann"][0]["item_id"] == "mug"


def test_the_number_of_users_at_once_changes_nothing(monkeypatch: Any) -> None:
    dice = np.random.default_rng(4)
    people = [own(f"u{n}", dice.normal(size=2).tolist(), {"mug": 5.0} if n % 2 else {}) for n in range(20)]
    whole = lists(people)
    monkeypatch.setattr(listing, "_CELLS", 15)
    assert lists(people) == whole and len(whole) == 20
