"""A user view as text: how numbers are formatted, and which values are left out."""

import html
import json
import math
import re
from datetime import UTC, date, datetime
from typing import Any

import pytest
from profilestream.derive.table_declaration import DerivedTable
from profilestream.serve.users import profile_renderer, user_changes, user_page, user_summary
from profilestream.serve.users.user_changes import VectorWords
from profilestream.serve.users.user_view import UserView
from profilestream.serve.users.value_text import Approximate

from tests.unit.test_report import EVIL, PageParser

DERIVED = DerivedTable.model_validate({
    "name": "user_profiles",
    "write": "merge",
    "keys": {"user_id": {"of": "user_id"}},
    "statistics": {
        "vector": {
            "kind": "mean_vector",
            "dimensions": {
                "weekend": "int(weekday(event_time) >= 5)", "log_price": "ln(1 + price)", "hour_sin": "sin(hour)",
            },
        }
    },
    "population": {
        "name": "population_stats",
        "of": "vector",
        "weights": {"weekend": 2.0},
        "words": {
            "weekend": ["on weekdays", "at weekends"],
            "log_price": ["cheap items", "expensive items"],
            "hour_sin": ["after noon", "before noon"],
        },
    },
})  # fmt: skip
WORDS = VectorWords(
    DERIVED, {"weekend": 0.16, "log_price": 1.0, "hour_sin": 0.1}, {"weekend": 0.04, "log_price": 0.25, "hour_sin": 1.0}
)
NOW = datetime(2026, 1, 20, 12, tzinfo=UTC)


def test_numbers_are_short_and_empty_values_are_left_out() -> None:
    behavior = {
        "value": 1234.56,
        "share": 0.123456,
        "hours": [0, 2, 4],
        "vector": {"hour_sin": 1.2e-16, "weekend": -0.5},
        "refunds": None,
        "brands": {},
    }
    sections = {"behavior": behavior, "social": {"shares": None}, "vector": {"weekend": -2.0}}
    text = profile_renderer.as_text(UserView("shop:a", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), sections))
    assert text.splitlines() == [
        "shop:a, as of 2026-01-02 03:04 UTC",
        "  behavior",
        "    value   1,235",
        "    share   0.1235",
        "    hours   ▁▅█",
        "    vector  weekend -0.5, hour_sin 0",
        "  compared with all users",
        "    vector  weekend -2",
    ]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_null_in_json_and_left_out_of_the_text(value: float) -> None:
    facets = {"spent": value, "hours": [1.0, value], "items": {"a": value, "b": 2.0}, "rows": [{"x": (value,)}]}
    view = UserView("shop:a", datetime(2026, 1, 2, tzinfo=UTC), {"behavior": facets, "vector": {"log_value": value}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document: dict[str, Any] = json.loads(profile_renderer.as_json(view), parse_constant=refuse)
    nulls = {"spent": None, "hours": [1.0, None], "items": {"a": None, "b": 2.0}, "rows": [{"x": [None]}]}
    assert (document["behavior"], document["vector"]) == (nulls, {"log_value": None})
    lines = profile_renderer.as_text(view).splitlines()
    assert [line.split() for line in lines[1:4]] == [["behavior"], ["hours", "█▁"], ["items", "b", "2"]]


def test_deviations_are_shown_in_words_and_natural_units_and_those_that_are_not_finite_are_left_out() -> None:
    vector = {"weekend": 4.8, "log_price": math.inf, "hour_sin": -3.0}
    segment = {"typical_distance": 1.0, "distance_to_center": 2.5}
    texts = user_changes.unusual({"vector": vector, "segment": segment}, WORDS)
    # 0.16 + 4.8 standard deviations of 0.2, divided by the weight 2.
    assert texts == {
        "unusual": {
            "at weekends": "weekend 64%, all users 16%; 4.8 standard deviations above all users",
            "after noon": "3.0 standard deviations below all users",
            "segment": "distance to the center is 2.5 times the typical distance",
        }
    }
    infinite = {"vector": {"log_price": math.nan}, "segment": segment | {"distance_to_center": math.inf}}
    assert user_changes.unusual(infinite, WORDS) == {}


def test_a_change_of_the_vector_is_shown_in_words_and_natural_units() -> None:
    before = {"weekend": 4.8, "log_price": 0.0, "hour_sin": 0.2}
    after = {"weekend": 0.0, "log_price": 1.0, "hour_sin": 0.8}
    assert user_changes.changes_text(after, before, WORDS) == (
        "more than before: on weekdays (weekend 16%, before 64%), expensive items (price 3.48, before 1.72), before "
        "noon"
    )
    assert user_changes.changes_text(before, before, WORDS) == "unchanged"


def test_numbers_that_a_sketch_estimates_are_marked_in_the_text_only() -> None:
    sections = {"behavior": {"items": Approximate(1436), "orders": 419}}
    view = UserView("shop:a", datetime(2026, 1, 2, tzinfo=UTC), sections)
    assert profile_renderer.as_text(view).splitlines()[2:] == ["    items   about 1,436", "    orders  419"]
    assert json.loads(profile_renderer.as_json(view))["behavior"] == {"items": 1436, "orders": 419}


SECTIONS: dict[str, Any] = {
    "scores": {
        "spend_28d": {
            "question": "How much does the customer spend in the next 28 days?", "days": 28, "unit": "currency",
            "probability": None, "score": 1_234.5, "reasons": [],
        },
        "purchase_7d": {
            "question": "Does the customer buy in the next 7 days?", "days": 7, "unit": "true or false",
            "probability": 0.5, "score": 0.0, "reasons": [],
        },
        "purchase_28d": {
            "question": "Does the customer buy in the next 28 days?", "days": 28, "unit": "true or false",
            "probability": 0.823, "score": 1.5, "reasons": ["orders 4; raises the score", f"query {EVIL}"],
        },
    },
    "lists": {
        "for_you": [
            {"rank": 1, "item_id": "shop:1", "reason": "because you bought shop:11", "ranker": "blend"},
            {"rank": 2, "item_id": "shop:1-a", "reason": "popular", "ranker": "popularity"},
        ]
    },
    "timeline": [
        {"day": date(2026, 1, 18), "events": {}, "tags_lost": ["new_user"], "tags_gained": [EVIL]},
        {
            "day": date(2026, 1, 17),
            "events": {"purchase": 7, "view": 1_200},
            "orders": [{"order_id": "a1", "value": 1_000.0}, {"order_id": None, "value": 0.5}],
            "order_count": 3,
            "items": [{"item_id": "shop:11", "events": 1_190}, {"item_id": "shop:2", "events": 1}],
            "item_count": 2,
            "unusual": ["events: 1207 instead of 3"],
        },
    ],
    "groups": {"rfm_segment": "at_risk", "loyalty_tier": "gold since 2026-01-02"},
    "segment": {"name": f"3: at weekends {EVIL}", "size": "12 users, 10% of all"},
    "basic": {
        "first_seen": datetime(2025, 1, 1, 23, 30, tzinfo=UTC), "last_seen": datetime(2026, 1, 16, 20, tzinfo=UTC),
    },
    "behavior": {"orders": Approximate(1_436), "spent": 28_720.0, "returned": 20.0, "priced_events": 5},
    "preference": {"items": {"shop:11": 3.0, "shop:2": 2.0, "shop:1": -1.0}},
    "newest_event_time": datetime(2026, 1, 17, 10, tzinfo=UTC),
}  # fmt: skip
NAMES = {"shop:1": "mug", "shop:11": f"cup {EVIL}"}


def _view(sections: dict[str, Any], currency: str | None = "EUR") -> UserView:
    texts = user_summary.sentences(sections, NOW, "Asia/Kolkata", currency)
    return UserView("shop:a", NOW, {"summary": texts, **sections}, NAMES, "Asia/Kolkata", currency)


def test_the_summary_has_five_sentences_with_the_numbers_of_the_sections() -> None:
    assert user_summary.sentences(SECTIONS, NOW, "Asia/Kolkata", "EUR") == [
        "First seen on 2025-01-02, last seen on 2026-01-17, 3 days before 2026-01-20.",
        "About 1,436 orders for 28,720.00 EUR, 20.00 EUR each on average; 20.00 EUR were returned.",
        "Favorite items: shop:11, shop:2.",
        f"RFM segment: at risk; loyalty tier: gold since 2026-01-02; segment: 3: at weekends {EVIL} (12 users, 10% of "
        "all).",
        "Does the customer buy in the next 28 days? 82.3% likely.",
    ]


@pytest.mark.parametrize(
    ("sections", "currency", "expected"),
    [
        ({}, "EUR", []),
        ({"behavior": None, "scores": {}, "preference": {"items": {"a": -1.0}}}, "", []),
        ({"newest_event_time": NOW}, "", ["Last seen on 2026-01-20."]),
        ({"behavior": {"orders": 0, "spent": 0.0}}, "EUR", ["No orders yet."]),
        ({"behavior": {"orders": 1, "spent": 9.5}}, "", ["1 order for 9.50."]),
        ({"behavior": {"orders": 2, "spent": 9.5}}, None, ["2 orders."]),
        ({"behavior": {"orders": 2, "spent": 0.0, "priced_events": 0}}, "EUR", ["2 orders."]),
        ({"behavior": {"orders": 2, "spent": math.inf}}, "EUR", ["2 orders."]),
        (
            {"preference": {"brands": {"x": 1.0}, "categories": {"b": 2.0, "a": 2.0}, "items": {"i": 9.0}}},
            "EUR",
            ["Favorite categories: a, b; favorite brands: x."],
        ),
        (
            {"scores": {"spend": SECTIONS["scores"]["spend_28d"]}},
            "EUR",
            ["How much does the customer spend in the next 28 days? 1,234.50 EUR."],
        ),
    ],
)
def test_a_sentence_without_data_is_left_out(
    sections: dict[str, Any], currency: str | None, expected: list[str]
) -> None:
    assert user_summary.sentences(sections, NOW, "UTC", currency) == expected


def test_text_shows_names_of_items_and_json_their_ids() -> None:
    view = _view(SECTIONS)
    lines = [line.strip() for line in profile_renderer.as_text(view).splitlines()]
    cup = "cup </script><script>alert(1)</script><img src=x onerror=al… (shop:11)"
    assert f"Favorite items: {cup}, shop:2." in lines
    for line in (
        f"1  mug (shop:1); because you bought {cup}; blend",
        "2  shop:1-a; popular; popularity",
        f"2026-01-18  gained the tag {EVIL}; lost the tag new_user",
        "2026-01-17  7 purchase, 1,200 view; orders a1 for 1,000.00 EUR, for 0.50 EUR and 1 more; "
        f"items {cup}, shop:2; unusual: events: 1207 instead of 3",
    ):
        assert line in lines
    document = json.loads(profile_renderer.as_json(view))
    assert document["lists"] == SECTIONS["lists"] and document["item_names"] == NAMES
    assert document["timeline"][1] == SECTIONS["timeline"][1] | {"day": "2026-01-17"}
    assert (document["timezone"], document["currency"]) == ("Asia/Kolkata", "EUR")


def test_the_page_has_all_blocks_no_script_and_no_element_from_a_text_of_the_log() -> None:
    view = _view(SECTIONS)
    page = user_page.as_html(view)
    elements = PageParser(page).elements
    assert not {"script", "img", "iframe", "object", "form"} & {name for name, _ in elements}
    assert not [attributes for _, attributes in elements if any(name.startswith("on") for name in attributes)]
    figures = {one["data-name"]: one["data-value"] for _, one in elements if "data-name" in one}
    assert figures == {"orders": "1436", "spent": "28720.0", "score": "0.823"}
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len({*ids})
    targets = {(one["href"] or "").removeprefix("#") for name, one in elements if name == "a"}
    assert targets <= {*ids} and "who" in targets
    plain = html.unescape(re.sub(r"<[^>]+>", "", page))
    for text in (
        *profile_renderer.summary(view),
        *(cell for b in profile_renderer.blocks(view) for row in b.rows for cell in row),
    ):
        assert text in plain
    empty = user_page.as_html(_view({"behavior": {"events": 1}}))
    assert "Does the customer" not in empty and "What is next" not in empty
