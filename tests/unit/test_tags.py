"""What a declaration of tags may say; every misfit is told with file and key, before Spark is asked."""

import re
from pathlib import Path

import pytest
from profilestream.base.errors import BadSettings
from profilestream.serve.tags import tag_declaration, tag_docs
from profilestream.serve.tags.tag_declaration import FACETS, Tags

ROOT = Path(__file__).parent.parent.parent
SHIPPED = tag_declaration.load(str(ROOT / "conf" / "tags.toml"), {})
GOOD = """
[groups]
recency_days = "1D"
frequency = "1D"
money = "1D"
first_seen = "at"
[groups.rfm]
everybody = "true"
[groups.loyalty]
points = "1D"
[groups.loyalty.tiers]
silver = { enter = 10, leave = 8 }
gold = { enter = 20, leave = 15 }
[tags.lively]
question = "Who is here?"
facet = "behavior"
where = "behavior.events > 3"
stays = "behavior.events > 2"
evidence = "'here'"
cool_down = "7d"
expires = "12h"
"""


def _load(tmp_path: Path, text: str) -> Tags:
    file = tmp_path / "tags.toml"
    file.write_text(text)
    return tag_declaration.load(str(file), {})


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ('"behavior"\n', '"habits"\n', "tags.lively.facet: Input should be 'basic', 'behavior'"),
        ("[tags.lively]", "[tags.Lively]", "tags.Lively.[key]: String should match pattern"),
        ('"7d"', '"7 days"', "tags.lively.cool_down: String should match pattern"),
        ('"12h"', '"0h"', "tags.lively.expires: String should match pattern"),
        ("evidence =", "because =", "tags.lively.evidence: Field required"),
        ("evidence =", "because =", "tags.lively.because: no such key"),
        ("leave = 8", "leave = 10", "tiers that are left where they are entered, or above: ['silver']"),
        ("enter = 10", "enter = 20", "the borders of 'gold' do not rise"),
        ("leave = 15", "leave = 8", "the borders of 'gold' do not rise"),
        ('[groups.rfm]\neverybody = "true"', "[groups.rfm]", "groups.rfm: Dictionary should have at least 1 item"),
        ('first_seen = "at"\n', "", "groups.first_seen: Field required"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_file_and_key(tmp_path: Path, was: str, becomes: str, words: str) -> None:
    assert was in GOOD
    with pytest.raises(BadSettings) as told:
        _load(tmp_path, GOOD.replace(was, becomes))
    assert words in str(told.value) and str(tmp_path / "tags.toml") in told.value.where


def test_the_version_of_a_rule_changes_with_what_it_does_and_with_nothing_else(tmp_path: Path) -> None:
    version = _load(tmp_path, GOOD).tags["lively"].version
    words = GOOD.replace("Who is here?", "Who?").replace('"behavior"\n', '"risk"\n') + 'demo = "1 %"\n'
    for same in (GOOD, words):
        assert _load(tmp_path, same).tags["lively"].version == version
    for was in ("> 3", "> 2", "'here'", '"7d"', '"12h"'):
        other = GOOD.replace(was, {"> 3": "> 4", "> 2": "> 1", "'here'": "'there'"}.get(was, '"1d"'))
        assert _load(tmp_path, other).tags["lively"].version != version


def test_the_shipped_tags_cover_all_facets_and_hold_for_some_of_the_demos_users_or_say_why_not() -> None:
    assert {tag.facet for tag in SHIPPED.tags.values()} == set(FACETS)
    shares = {name: re.fullmatch(r"(\d+\.\d) %", tag.demo) for name, tag in SHIPPED.tags.items()}
    told = {name: float(share[1]) for name, share in shares.items() if share}
    assert len(told) >= 20 and {name: share for name, share in told.items() if not 0.5 <= share <= 60} == {}
    assert [n for n, share in shares.items() if not share and not SHIPPED.tags[n].demo.startswith("none: ")] == []


def test_the_list_in_the_docs_is_made_of_the_shipped_declaration() -> None:
    text = (ROOT / "docs" / "tags.md").read_text()
    assert tag_docs.page(text, SHIPPED) == text
