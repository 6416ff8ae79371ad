"""What a declaration of window features may say; every misfit is told with file and key, before Spark is asked."""

from pathlib import Path
from typing import Any

import pytest
from profilestream.base.errors import BadSettings
from profilestream.derive import feature_declaration, table_declaration
from profilestream.derive.feature_declaration import Windows, micros
from profilestream.derive.table_declaration import Derived

ROOT = Path(__file__).parent.parent.parent
DERIVE = ROOT / "conf" / "derive"
ODD = "features.user.events.windows: not different windows such as 6h, 30d or lifetime"
SQL = 'sql = "try_divide(events_7d, events_30d)"'
GOOD = """
[entities]
user = "user_hours"
[features.user.events]
question = "How much?"
unit = "events"
kind = "count"
windows = ["7d", "30d"]
"""
DERIVED = """
[derived.user.trend]
question = "More?"
unit = "ratio"
nulls = "null without events"
sql = "try_divide(events_7d, events_30d)"
"""


def _load(tmp_path: Path, text: str) -> Windows:
    file = tmp_path / "windows.toml"
    file.write_text(text)
    return feature_declaration.load(str(file), {})


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ('"count"', '"counts"', "features.user.events.statistic: Input tag 'counts'"),
        ('"30d"', '"30 days"', f"{ODD}: ['30 da"),
        ('"30d"', '"7d"', ODD),
        ("unit =", "units =", "features.user.events.unit: Field required"),
        ("features.user.", "features.users.", "features of entities that are not declared: ['users']"),
        ("user.events", "user.Events", "names of user may hold small letters, digits and _ only: ['Events']"),
        ("user.trend", "user.events_7d", "names of user that stand twice or are taken: ['events_7d']"),
        ("user.trend", "user.as_of", "names of user that stand twice or are taken: ['as_of']"),
        (SQL, 'zscore_of = "events_9d"', "names no feature before it: 'events_9d'"),
        ("events_7d, ", "events_7d * trend, ", "trend names features that do not stand before it: ['trend']"),
        ("sql =", "zscore_of = 'events_7d'\nsql =", "derived.user.trend: one of sql and zscore_of, not both"),
        ('kind = "count"', 'kind = "count"\nreading = "1"', "a reading names ${value}"),
        ('kind = "count"', 'kind = "count"\nhalf_life_days = 3', "half_life_days: no such key"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_file_and_key(tmp_path: Path, was: str, becomes: str, words: str) -> None:
    text = GOOD + DERIVED
    assert was in text
    with pytest.raises(BadSettings) as raised:
        _load(tmp_path, text.replace(was, becomes, 1))
    assert words in raised.value.what and raised.value.where == f"{tmp_path}/windows.toml"
    assert raised.value.do == "mend the keys named above"


def test_a_statistic_that_the_tiles_have_is_shared_and_any_other_is_added(tmp_path: Path) -> None:
    hours = table_declaration.load(str(DERIVE / "user_hours.toml"), {})
    other = GOOD + GOOD.split("\n\n")[0].replace('[entities]\nuser = "user_hours"', "").replace(
        "user.events", "user.all"
    )
    made = feature_declaration.extended(hours, _load(tmp_path, other), "windows.toml")
    assert made.statistics == hours.statistics and made.fingerprint == hours.fingerprint
    more = _load(tmp_path, GOOD.replace("user.events", "user.dear").replace('"count"', '"count"\nwhere = "price > 3"'))
    made = feature_declaration.extended(hours, more, "windows.toml")
    assert made.statistics.keys() - hours.statistics.keys() == {"dear"} and made.fingerprint != hours.fingerprint


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"was": "user.events", "becomes": "user.purchases"}, "features.user.purchases", "a column purchases that is"),
        ({"was": "user_hours", "becomes": "user_profiles"}, "entities.user", "user_profiles is no table of hour tiles"),
    ],
)
def test_tiles_that_cannot_carry_a_feature_are_refused(
    tmp_path: Path, changes: dict[str, Any], where: str, words: str
) -> None:
    text = GOOD.replace(changes["was"], changes["becomes"]).replace('"count"', '"count"\nwhere = "price > 3"')
    found = _load(tmp_path, text)
    tiles: Derived = table_declaration.load(str(DERIVE / f"{found.entities['user']}.toml"), {})
    with pytest.raises(BadSettings, match=words) as raised:
        feature_declaration.extended(tiles, found, "windows.toml")
    assert raised.value.where == f"windows.toml, {where}"


def test_the_shipped_definitions_are_many_and_each_says_what_it_answers() -> None:
    shipped = feature_declaration.load(str(DERIVE / "windows.toml"), {})
    count = {entity: len(shipped.features[entity]) + len(shipped.derived[entity]) for entity in shipped.entities}
    assert count["user"] >= 20 and count["item"] >= 8
    every = [one for part in (shipped.features, shipped.derived) for found in part.values() for one in found.values()]
    assert [one for one in every if not one.question.endswith("?") or not one.unit] == []


def test_lengths_of_windows() -> None:
    assert [micros(window) for window in ("1h", "6h", "1d", "lifetime")] == [
        3_600_000_000,
        21_600_000_000,
        86_400_000_000,
        None,
    ]
