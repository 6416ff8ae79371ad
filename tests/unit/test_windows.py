"""Declarations of window features: an invalid one is rejected with file and key, without Spark."""

from pathlib import Path

import pytest
from profilestream.base.errors import BadSettings
from profilestream.derive import feature_declaration, table_declaration
from profilestream.derive.feature_declaration import DeclaredFeatures, window_micros
from profilestream.derive.table_declaration import DerivedTable

ROOT = Path(__file__).parent.parent.parent
DERIVE = ROOT / "conf" / "derive"
WINDOWS_ERROR = "features.user.events.windows: windows must be distinct and like 6h, 30d or lifetime"
SQL = 'sql = "try_divide(events_7d, events_30d)"'
FEATURES = """
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


def _load(tmp_path: Path, text: str) -> DeclaredFeatures:
    file = tmp_path / "windows.toml"
    file.write_text(text)
    return feature_declaration.load(str(file), {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"count"', '"counts"', "features.user.events.statistic: Input tag 'counts'"),
        ('"30d"', '"30 days"', f"{WINDOWS_ERROR}: ['30 da"),
        ('"30d"', '"7d"', WINDOWS_ERROR),
        ("unit =", "units =", "features.user.events.unit: Field required"),
        ("features.user.", "features.users.", "features of entities that are not declared: ['users']"),
        ("user.events", "user.Events", "names of user may contain lowercase letters, digits and _ only: ['Events']"),
        ("user.trend", "user.events_7d", "duplicate or reserved names of user: ['events_7d']"),
        ("user.trend", "user.as_of", "duplicate or reserved names of user: ['as_of']"),
        (SQL, 'zscore_of = "events_9d"', "is not a feature declared before it: 'events_9d'"),
        ("events_7d, ", "events_7d * trend, ", "trend uses features that are not declared before it: ['trend']"),
        ("sql =", "zscore_of = 'events_7d'\nsql =", "derived.user.trend: exactly one of sql and zscore_of is required"),
        ('kind = "count"', 'kind = "count"\noutput = "1"', "output must contain ${value}"),
        ('kind = "count"', 'kind = "count"\nhalf_life_days = 3', "half_life_days: no such key"),
    ],
)  # fmt: skip
def test_an_invalid_declaration_is_rejected_with_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = FEATURES + DERIVED
    assert old in text
    with pytest.raises(BadSettings) as raised:
        _load(tmp_path, text.replace(old, new, 1))
    assert message in raised.value.what and raised.value.where == f"{tmp_path}/windows.toml"
    assert raised.value.do == "correct the keys listed above"


def test_a_feature_shares_a_statistic_of_the_tiles_or_adds_one(tmp_path: Path) -> None:
    hours = table_declaration.load(str(DERIVE / "user_hours.toml"), {})
    same_statistic = FEATURES.split("\n\n")[0].replace('[entities]\nuser = "user_hours"', "").replace(
        "user.events", "user.all"
    )  # fmt: skip
    shared = feature_declaration.with_feature_statistics(
        hours, _load(tmp_path, FEATURES + same_statistic), "windows.toml"
    )
    assert shared.statistics == hours.statistics and shared.fingerprint == hours.fingerprint
    expensive = FEATURES.replace("user.events", "user.expensive").replace('"count"', '"count"\nwhere = "price > 3"')
    extended = feature_declaration.with_feature_statistics(hours, _load(tmp_path, expensive), "windows.toml")
    assert extended.statistics.keys() - hours.statistics.keys() == {"expensive"}
    assert extended.fingerprint != hours.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("user.events", "user.purchases", "features.user.purchases", "already has a different column purchases"),
        ("user_hours", "user_profiles", "entities.user", "user_profiles is not a table of hour tiles"),
    ],
)
def test_a_feature_that_its_tile_table_cannot_store_is_rejected(
    tmp_path: Path, old: str, new: str, where: str, message: str
) -> None:
    text = FEATURES.replace(old, new).replace('"count"', '"count"\nwhere = "price > 3"')
    features = _load(tmp_path, text)
    tiles: DerivedTable = table_declaration.load(str(DERIVE / f"{features.entities['user']}.toml"), {})
    with pytest.raises(BadSettings, match=message) as raised:
        feature_declaration.with_feature_statistics(tiles, features, "windows.toml")
    assert raised.value.where == f"windows.toml, {where}"


def test_shipped_features_have_a_question_and_a_unit() -> None:
    shipped = feature_declaration.load(str(DERIVE / "windows.toml"), {})
    count = {entity: len(shipped.features[entity]) + len(shipped.derived[entity]) for entity in shipped.entities}
    assert count["user"] >= 20 and count["item"] >= 8
    features = [
        feature for section in (shipped.features, shipped.derived) for by_name in section.values()
        for feature in by_name.values()
    ]  # fmt: skip
    assert [feature for feature in features if not feature.question.endswith("?") or not feature.unit] == []


def test_window_micros() -> None:
    assert [window_micros(window) for window in ("1h", "6h", "1d", "lifetime")] == [
        3_600_000_000,
        21_600_000_000,
        86_400_000_000,
        None,
    ]
