"""Generates docs/tables.md from the table registry.

python -m profilestream.steward.table_docs conf/demo.toml docs/tables.md
"""

import sys
from pathlib import Path

from profilestream import table_registry
from profilestream.base import settings as settings_module
from profilestream.base.columns import Column
from profilestream.base.delta_table import Table
from profilestream.base.settings import Settings

# Overrides of the demo's settings, so that every table is declared.
ALL_TABLES_OVERRIDES = (
    "learn.examples.file=derive/labels.toml",
    "derive.windows.file=derive/windows.toml",
)

_INTRODUCTION = """# Tables

This page is generated from the table registry. Edit the declarations (`lib/profilestream/base/tables.py`, the files in
`conf/derive/`), then run

```sh
.venv/bin/python -m profilestream.steward.table_docs conf/demo.toml docs/tables.md
```

It lists the tables of the demo's settings in flow order. Tables that `[derive]` declares have the columns of their
declaration. Every table is a Delta table `<warehouse>/<name>`. Meaning and unit are also stored as column comments.
Times are UTC.

The column *person* states whether a column identifies a person, and how: `user` (the user of the row), `other_user`
(another user), `free_text` (text typed by a person), `raw_payload` (the unparsed record). `steward_status` reads every
table.

## Relations

A line connects two tables with a column in common. The many side has one row per event, session, interval or rank.
"""


def page(settings: Settings) -> str:
    """The page, in Markdown."""
    registry, readers = table_registry.registry(settings), table_registry.readers(settings)
    sections = [_section(table, readers.get(table.name, [])) for table in registry]
    return "\n".join([_INTRODUCTION, _diagram(registry), "", _contents(registry), *sections])


def _contents(registry: list[Table]) -> str:
    rows = [f"| [`{table.name}`](#{table.name}) | {table.meaning} |" for table in registry]
    return "\n".join(["## All tables", "", "| table | content |", "|---|---|", *rows, ""])


def _section(table: Table, readers: list[str]) -> str:
    facts = {
        "key": ", ".join(f"`{name}`" for name in table.key),
        "partitions": ", ".join(f"`{name}`" for name in table.partitioned_by),
        "written by": table.writer,
        "read by": ", ".join(readers),
        "retention": table.retention,
    }
    lines = [f"## {table.name}", "", table.meaning, ""]
    lines += [f"- {name}: {text}" for name, text in facts.items() if text]
    lines += ["", "| column | type | unit | meaning | person |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(row for column in table.columns for row in _rows(column)), ""])


def _rows(column: Column, prefix: str = "") -> list[str]:
    person = "" if column.subject is None else str(column.subject)
    kind = "STRUCT" if column.fields else column.type
    cells = [f"`{prefix}{column.name}`", kind, column.unit, column.meaning, person]
    row = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    return [row, *(line for field in column.fields for line in _rows(field, f"{prefix}{column.name}."))]


def _diagram(registry: list[Table]) -> str:
    """An entity-relationship diagram in Mermaid: key columns, and the relations by user, segment and batch."""
    lines = ["```mermaid", "erDiagram"]
    for table in registry:
        types = {column.name: column.sql_type.split("<")[0].lower() for column in table.columns}
        lines += [f"  {table.name} {{", *(f"    {types[name]} {name} PK" for name in table.key), "  }"]
    names = {table.name: set(table.names) for table in registry}
    hubs = (("user_profiles", "user_id"), ("segments", "segment_id"), ("capture_batches", "batch_id"))
    for hub, column in hubs:
        if hub not in names:
            continue
        for name, columns in names.items():
            is_related = column in columns and name != hub
            if column == "batch_id":
                is_related = name in ("events", "rejected_events", "capture_alarms")
            if is_related:
                lines.append(f"  {hub} ||--o{{ {name} : {column}")
    return "\n".join([*lines, "```"])


def main(argv: list[str]) -> int:
    config, target = argv
    Path(target).write_text(page(settings_module.load(config, list(ALL_TABLES_OVERRIDES))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
