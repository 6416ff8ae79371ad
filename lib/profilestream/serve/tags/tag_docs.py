"""Reference of the shipped tags in docs/tags.md, generated from their declaration.

python -m profilestream.serve.tags.tag_docs conf/tags.toml docs/tags.md
"""

import sys
from pathlib import Path

from profilestream.serve.tags import tag_declaration
from profilestream.serve.tags.tag_declaration import FACETS, TagDeclaration, TagRule

HEADING = "## The shipped tags\n"
_INTRODUCTION = """
Generated from [conf/tags.toml](../conf/tags.toml) by `python -m profilestream.serve.tags.tag_docs`; edit that file.
The last column is the share of the demo's users who have the tag.
"""


def page(text: str, declaration: TagDeclaration) -> str:
    """The page with a new reference; the text before the heading is unchanged."""
    facets = ["\n".join(_facet_table(declaration, facet)) for facet in FACETS]
    return "\n".join([text.partition(HEADING)[0] + HEADING, _INTRODUCTION.strip(), "", *facets])


def _facet_table(declaration: TagDeclaration, facet: str) -> list[str]:
    rows = [_table_row(name, tag) for name, tag in declaration.tags.items() if tag.facet == facet]
    head = ["| tag | question | `enter_when` | `hold_when` | limits | demo share |", "|---|---|---|---|---|---|"]
    return [f"### {facet}", "", *head, *rows, ""]


def _table_row(name: str, tag: TagRule) -> str:
    hold = "same condition" if tag.hold_when == "false" else f"`{_one_line(tag.hold_when)}`"
    limits = [
        f"expires after {tag.expires_after}" if tag.expires_after else "",
        f"cooldown {tag.cooldown}" if tag.cooldown else "",
        f"needs a log of {tag.needs_days} days" if tag.needs_days else "",
        "needs people" if tag.needs_people else "",
    ]
    enter = f"`{_one_line(tag.enter_when)}`"
    cells = [f"`{name}`", tag.question, enter, hold, ", ".join(filter(None, limits)), tag.demo_share]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _one_line(sql: str) -> str:
    return " ".join(sql.split())


def main(argv: list[str]) -> int:
    file, target = argv
    Path(target).write_text(page(Path(target).read_text(), tag_declaration.load(file, {})))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
