"""The list of the shipped tags in docs/tags.md, made of their declaration.

python -m profilestream.serve.tags.tag_docs conf/tags.toml docs/tags.md
"""

import sys
from pathlib import Path

from profilestream.serve.tags import tag_declaration
from profilestream.serve.tags.tag_declaration import FACETS, Tag, Tags

HEADING = "## The shipped tags\n"
_SAYS = """
Made of [conf/tags.toml](../conf/tags.toml) by `python -m profilestream.serve.tags.tag_docs`; edit that file. The last
column is the share of the demo's users who have the tag.
"""


def page(text: str, declared: Tags) -> str:
    """The page with the list made anew; what stands before it stays."""
    facets = ["\n".join(_facet(declared, facet)) for facet in FACETS]
    return "\n".join([text.partition(HEADING)[0] + HEADING, _SAYS.strip(), "", *facets])


def _facet(declared: Tags, facet: str) -> list[str]:
    rows = [_row(name, tag) for name, tag in declared.tags.items() if tag.facet == facet]
    head = ["| tag | question | gained when | kept while | ends | demo |", "|---|---|---|---|---|---|"]
    return [f"### {facet}", "", *head, *rows, ""]


def _row(name: str, tag: Tag) -> str:
    kept = "the same" if tag.stays == "false" else f"`{_line(tag.stays)}`"
    ends = [f"after {tag.expires}" if tag.expires else "", f"{tag.cool_down} of rest" if tag.cool_down else ""]
    cells = [f"`{name}`", tag.question, f"`{_line(tag.where)}`", kept, ", ".join(filter(None, ends)), tag.demo]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _line(sql: str) -> str:
    return " ".join(sql.split())


def main(argv: list[str]) -> int:
    file, target = argv
    Path(target).write_text(page(Path(target).read_text(), tag_declaration.load(file, {})))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
