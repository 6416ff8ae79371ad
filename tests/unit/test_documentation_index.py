"""The indexes of the documentation: docs/README.md lists every page, and llms.txt has the format of llmstxt.org."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
LLMS = (ROOT / "llms.txt").read_text()
PAGES = {file.resolve() for file in DOCS.glob("*.md") if file.name != "README.md"}


def _targets(text: str, folder: Path) -> set[Path]:
    """The files of all links; anchors are left out."""
    return {(folder / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)]+)\)", text)}


def test_every_page_is_in_both_indexes() -> None:
    in_docs, in_llms = _targets((DOCS / "README.md").read_text(), DOCS), _targets(LLMS, ROOT)
    assert sorted(page.name for page in PAGES - in_docs) == []
    assert sorted(page.name for page in PAGES - in_llms) == []
    assert DOCS / "decisions" in in_docs and DOCS / "README.md" in _targets((ROOT / "README.md").read_text(), ROOT)


def test_llms_txt_has_a_title_a_summary_and_sections_of_links_that_exist() -> None:
    head, *sections = re.split(r"^## .+\n", LLMS, flags=re.MULTILINE)
    assert re.match(r"# profilestream\n\n> .+\n\n", head) and "](" not in head
    lines = [line for section in sections for line in section.splitlines() if line]
    assert len(sections) >= 5 and [line for line in lines if not re.fullmatch(r"- \[.+\]\([^)]+\): .+", line)] == []
    assert sorted(str(target) for target in _targets(LLMS, ROOT) if not target.exists()) == []
