"""Validation of tag declarations, the shipped rules as text, and the length of the log; no Spark session."""

import re
from datetime import date, timedelta
from pathlib import Path

import pytest
from profilestream.base.errors import BadSettings
from profilestream.base.settings import EVENT_WEIGHTS, Derive
from profilestream.derive import feature_declaration, table_declaration
from profilestream.derive.statistics import Heaviest
from profilestream.serve.tags import tag_declaration, tag_docs
from profilestream.serve.tags.tag_declaration import FACETS, TagDeclaration
from profilestream.serve.users import log_span

ROOT = Path(__file__).parent.parent.parent
SHIPPED = tag_declaration.load(str(ROOT / "conf" / "tags.toml"), {})
VALID = """
[groups]
recency_days = "1D"
frequency = "1D"
monetary = "1D"
first_event_time = "at"
[groups.rfm_segments]
everybody = "true"
[groups.loyalty]
points = "1D"
[groups.loyalty.tiers]
silver = { enter_at = 10, leave_below = 8 }
gold = { enter_at = 20, leave_below = 15 }
[tags.active]
question = "Who is here?"
facet = "behavior"
enter_when = "behavior.events > 3"
hold_when = "behavior.events > 2"
evidence = "'here'"
cooldown = "7d"
expires_after = "12h"
"""


def _load(tmp_path: Path, text: str) -> TagDeclaration:
    file = tmp_path / "tags.toml"
    file.write_text(text)
    return tag_declaration.load(str(file), {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"behavior"\n', '"habits"\n', "tags.active.facet: Input should be 'basic', 'behavior'"),
        ("[tags.active]", "[tags.Active]", "tags.Active.[key]: String should match pattern"),
        ('"7d"', '"7 days"', "tags.active.cooldown: String should match pattern"),
        ('"12h"', '"0h"', "tags.active.expires_after: String should match pattern"),
        ("evidence =", "because =", "tags.active.evidence: Field required"),
        ("evidence =", "because =", "tags.active.because: no such key"),
        ("leave_below = 8", "leave_below = 10", "tiers whose leave_below is not less than enter_at: ['silver']"),
        ("enter_at = 10", "enter_at = 20", "the thresholds of 'gold' do not increase"),
        ("leave_below = 15", "leave_below = 8", "the thresholds of 'gold' do not increase"),
        (
            '[groups.rfm_segments]\neverybody = "true"', "[groups.rfm_segments]",
            "groups.rfm_segments: Dictionary should have at least 1 item",
        ),
        ('first_event_time = "at"\n', "", "groups.first_event_time: Field required"),
    ],
)  # fmt: skip
def test_an_invalid_declaration_is_an_error_with_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in VALID
    with pytest.raises(BadSettings) as error:
        _load(tmp_path, VALID.replace(old, new))
    assert message in str(error.value) and str(tmp_path / "tags.toml") in error.value.where


def test_the_rule_version_changes_exactly_when_the_effect_of_the_rule_can_change(tmp_path: Path) -> None:
    version = _load(tmp_path, VALID).tags["active"].version
    documentation = VALID.replace("Who is here?", "Who?").replace('"behavior"\n', '"risk"\n') + 'demo_share = "1 %"\n'
    for same in (VALID, documentation):
        assert _load(tmp_path, same).tags["active"].version == version
    for old in ("> 3", "> 2", "'here'", '"7d"', '"12h"'):
        changed = VALID.replace(old, {"> 3": "> 4", "> 2": "> 1", "'here'": "'there'"}.get(old, '"1d"'))
        assert _load(tmp_path, changed).tags["active"].version != version


def test_the_shipped_tags_cover_all_facets_and_each_has_demo_users_or_a_reason_why_not() -> None:
    assert {tag.facet for tag in SHIPPED.tags.values()} == set(FACETS)
    matches = {name: re.fullmatch(r"(\d+\.\d) %", tag.demo_share) for name, tag in SHIPPED.tags.items()}
    shares = {name: float(match[1]) for name, match in matches.items() if match}
    assert len(shares) >= 20 and {name: share for name, share in shares.items() if not 0.5 <= share <= 60} == {}
    without_users = [name for name, match in matches.items() if not match]
    assert [name for name in without_users if not SHIPPED.tags[name].demo_share.startswith("none: ")] == []


def test_the_tag_reference_in_the_docs_is_generated_from_the_shipped_declaration() -> None:
    text = (ROOT / "docs" / "tags.md").read_text()
    assert tag_docs.page(text, SHIPPED) == text


def _days(first: date, *events: int) -> dict[date, int]:
    return {first + timedelta(days=n): count for n, count in enumerate(events) if count}


MONDAY = date(2026, 3, 2)


@pytest.mark.parametrize(
    ("events_by_day", "first_day", "days", "weekend_days"),
    [
        (_days(date(2026, 3, 7), *[20] * 9), date(2026, 3, 7), 9, 4),
        # One stray event, 75 days before or after the others; in a large and in a small log.
        ({date(2025, 12, 22): 1, **_days(date(2026, 3, 7), *[20] * 9)}, date(2026, 3, 7), 9, 4),
        ({date(2025, 12, 22): 1, **_days(date(2026, 3, 7), *[2] * 9)}, date(2026, 3, 7), 9, 4),
        ({**_days(date(2026, 3, 7), *[20] * 9), date(2026, 5, 29): 1}, date(2026, 3, 7), 9, 4),
        ({**_days(date(2026, 3, 7), *[2] * 9), date(2026, 5, 29): 1}, date(2026, 3, 7), 9, 4),
        # A few strays at both ends, and on several days.
        (
            {date(2024, 1, 1): 2, **_days(MONDAY, 98, 100), date(2026, 5, 1): 3, date(2026, 9, 1): 1},
            MONDAY, 2, 0,
        ),
        # Three events two days before the others are no strays.
        ({date(2026, 2, 28): 3, **_days(MONDAY, 97, 100)}, date(2026, 2, 28), 4, 2),
        # A real gap: a tenth of the events, or a season of the same length, after a break.
        ({**_days(MONDAY, *[20] * 9), MONDAY + timedelta(83): 20}, MONDAY, 84, 24),
        ({**_days(MONDAY, *[5] * 9), **_days(MONDAY + timedelta(60), *[5] * 9)}, MONDAY, 69, 19),
        # A shop with a long history, and one event after a break of a month.
        ({**_days(MONDAY, *[1] * 200), MONDAY + timedelta(230): 1}, MONDAY, 231, 66),
        # Eleven years with an event every 20 days.
        ({date(2015, 1, 1) + timedelta(days=20 * n): 1 for n in range(201)}, date(2015, 1, 1), 4001, 1144),
        # A log of less than ten events has no strays; nor has one without events.
        ({MONDAY: 1, MONDAY + timedelta(75): 1}, MONDAY, 76, 21),
        (_days(MONDAY, 1), MONDAY, 1, 0),
        ({}, date(1970, 1, 1), 0, 0),
    ],
)  # fmt: skip
def test_the_log_has_the_days_from_the_first_to_the_last_without_stray_events(
    events_by_day: dict[date, int], first_day: date, days: int, weekend_days: int
) -> None:
    span = log_span.measure(events_by_day)
    assert (span.first_day, span.days) == (first_day, days)
    assert span.last_day == first_day + timedelta(days=max(0, days - 1))
    assert span.weekend_share == pytest.approx(weekend_days / days if days else 0.0)


def test_a_rule_with_a_window_of_30_or_90_days_waits_until_the_log_has_them() -> None:
    too_early = {}
    for name, tag in SHIPPED.tags.items():
        windows = map(int, re.findall(r"features\.\w+_(\d+)d\b", " ".join([tag.enter_when, tag.evidence])))
        needed = max([days for days in windows if days in (30, 90)], default=0)
        if (tag.needs_days or 0) < needed:
            too_early[name] = needed
    # The count of 90 days is compared with that of a week only; and a complaint needs no earlier days.
    assert too_early == {"rising_activity": 90, "complained": 90}


def test_carts_and_favorites_are_separate_in_all_declarations() -> None:
    for file in (ROOT / "conf").rglob("*.toml"):
        assert not re.search(r"'cart',\s*'favorite'|'favorite',\s*'cart'", file.read_text()), file
    declared = feature_declaration.load(str(ROOT / "conf" / "derive" / "windows.toml"), Derive().names)
    for entity in ("user", "item"):
        wheres = [declared.features[entity][name].statistic.where for name in ("carts", "favorites")]
        assert wheres == ["event_type = 'cart'", "event_type = 'favorite'"]
    assert "favorites" not in SHIPPED.tags["abandoned_cart"].enter_when
    assert EVENT_WEIGHTS["cart"] == EVENT_WEIGHTS["favorite"]


def test_an_order_is_defined_once() -> None:
    names = Derive().names
    profile = table_declaration.load(str(ROOT / "conf" / "derive" / "user_profiles.toml"), names)
    declared = feature_declaration.load(str(ROOT / "conf" / "derive" / "windows.toml"), names)
    orders = [profile.statistics["behavior.orders"], declared.features["user"]["orders"].statistic]
    assert [one.of for one in orders] == [names["order"]] * 2 and SHIPPED.groups.frequency == "behavior.orders"
    texts = [path.read_text() for path in (ROOT / "conf" / "tags.toml", ROOT / "conf" / "derive" / "windows.toml")]
    assert [text for text in texts if "order_id" in text] == []


def test_a_reading_uses_a_map_only_while_it_was_not_cut() -> None:
    profile = table_declaration.load(str(ROOT / "conf" / "derive" / "user_profiles.toml"), Derive().names)
    sizes = {path: one.n for path, one in profile.statistics.items() if isinstance(one, Heaviest)}
    limits = [re.findall(r"size\((\S+)\) < (\d+)", one.sql) for one in profile.readings.values()]
    tested = {path: int(limit) for pairs in limits for path, limit in pairs}
    assert tested == {path: sizes[path] for path in tested} and len(tested) == 4
    # A map of recent keys has no more keys than the map that the reading tests.
    assert sizes["interest.categories_3d"] >= sizes["preference.categories"]
    assert sizes["interest.queries_3d"] >= sizes["interest.queries_60d"]
    cut = [
        name
        for name, tag in SHIPPED.tags.items()
        if re.search(r"preference\.(items|brands|cat)|queries_60d", tag.enter_when)
    ]
    assert cut == []


def test_with_sessions_as_user_ids_rules_that_need_people_and_measures_of_purchases_are_left_out() -> None:
    sessions = SHIPPED.for_sessions()
    without = {"new_user", "reactivated", "regular_buyer", "one_time_buyer", "rfm_champion", "gold_or_platinum"}
    assert without.isdisjoint(sessions.tags) and without <= SHIPPED.tags.keys()
    assert {"abandoned_cart", "views_without_purchase", "searches_without_purchase"} <= sessions.tags.keys()
    groups = re.compile(r"\bgroups\.")
    assert [name for name, tag in sessions.tags.items() if groups.search(tag.enter_when)] == []
    values = [sessions.groups.recency_days, sessions.groups.frequency, sessions.groups.monetary]
    assert [*values, sessions.groups.loyalty.points] == ["NULL"] * 4
