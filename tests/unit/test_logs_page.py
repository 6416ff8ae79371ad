"""docs/logs.md: its settings are valid, and enable exactly the parts that its table does not switch off."""

import re
from functools import reduce
from pathlib import Path
from typing import cast

import pytest
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings
from profilestream.learn.outcomes import batch_models, matured_examples
from profilestream.serve.scores import user_scores
from pyspark.sql import SparkSession

from jobs import serve_campaign, serve_trends

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "logs.md").read_text()
HEAD = """
[paths]
warehouse = "w"
checkpoints = "c"
[capture.sources.shop]
path = "in"
mapping = "shop.toml"
"""
SNIPPETS = dict(re.findall(r"^### Settings for ([\w ]+)\n\n```toml\n(.*?)^```$", PAGE, re.M | re.S))


def _table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without the line of dashes."""
    lines = re.findall(r"^\|(.*)\|$", PAGE[PAGE.index(f"\n## {heading}\n") :].split("\n## ")[1], re.M)
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [row for row in rows if not set(row[0]) <= {"-"}]


PARTS = {part: re.findall(r"`([\w.]+)`", setting) for part, setting, _ in _table("Parts")[1:]}
(_, *KINDS), *ROWS = _table("Which part for which log")


def test_the_table_has_every_part_and_every_kind_has_a_section_about_its_limits() -> None:
    assert [row[0] for row in ROWS] == list(PARTS) and {cell for _, *cells in ROWS for cell in cells} == {
        "on", "limited", "off",
    }  # fmt: skip
    for number, kind in enumerate(KINDS, start=1):
        (section,) = re.findall(rf"^### {kind}\n(.*?)^##", PAGE, re.M | re.S | re.I)
        named = {part for line in re.findall(r"^- (.*?):", section, re.M) for part in re.findall(r"\*([\w ]+)\*", line)}
        assert {row[0] for row in ROWS if row[number] == "limited"} - named == set(), kind


def test_parts_about_later_events_of_a_person_are_refused_for_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(HEAD + '[serve]\nuser_ids = "sessions"\n')
    settings, no_spark = settings_module.load(str(config), []), cast(SparkSession, None)
    for check in (matured_examples.check, batch_models.check, user_scores.check):
        with pytest.raises(BadSettings, match="outcomes need later events of the same user"):
            check(no_spark, settings)
    days = ["--users", "u.csv", "--start", "2026-01-01", "--end", "2026-01-02"]
    for main, flags in ((serve_campaign.main, days), (serve_trends.main, [])):
        assert main(["--config", str(config), "--check", *flags]) == 2
        assert "need later events of the same user, but the user ids are sessions" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SNIPPETS)
def test_the_settings_of_a_kind_enable_its_parts(kind: str, tmp_path: Path) -> None:
    assert len(SNIPPETS) == 3
    for name in ("derive", "tags.toml", "outcomes.toml"):
        (tmp_path / name).symlink_to(ROOT / "conf" / name)
    config = tmp_path / "shop.toml"
    config.write_text(HEAD + SNIPPETS[kind])
    settings = settings_module.load(str(config), [])
    files = [*settings.derive.features, *settings.derive.profiles, settings.derive.windows.file]
    assert [file for file in files if not Path(file).exists()] == []
    column = KINDS.index(kind) + 1
    keys = {key: row[column] != "off" for row in ROWS for key in PARTS[row[0]] if not key.startswith("jobs")}
    assert {key: bool(reduce(getattr, key.split("."), settings)) for key in keys} == keys
