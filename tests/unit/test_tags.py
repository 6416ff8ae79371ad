"""Validation of tag declarations: every error names file and key, and needs no Spark session."""

import re
from pathlib import Path

import pytest
from profilestream.base.errors import BadSettings
from profilestream.serve.tags import tag_declaration, tag_docs
from profilestream.serve.tags.tag_declaration import FACETS, TagDeclaration

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
