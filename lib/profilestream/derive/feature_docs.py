"""The reference page of window features, made of their declaration: docs/windows.md.

python -m profilestream.derive.feature_docs conf/derive/windows.toml docs/windows.md
"""

import sys
from pathlib import Path

from profilestream.derive import feature_declaration
from profilestream.derive.feature_declaration import Combined, Feature, Windows

_BEGIN = """# Window features

Made of [conf/derive/windows.toml](../conf/derive/windows.toml) by `python -m profilestream.derive.feature_docs`; edit that
file. A feature over windows has a column a window, `<name>_<window>`, of the events in `[t - w, t)`; one over others is
a column. How to ask for them: [features.md](features.md#features-over-windows).
"""
_SCORE = "standard score of `{}` among all entities known at t"


def page(declared: Windows) -> str:
    """The page, in Markdown."""
    return "\n".join([_BEGIN, *(_entity(declared, entity) for entity in declared.entities)])


def _entity(declared: Windows, entity: str) -> str:
    features, derived = declared.features.get(entity, {}), declared.derived.get(entity, {})
    lines = [
        f"## {entity}",
        "",
        f"{len(features)} features over windows, from `{declared.entities[entity]}`; {len(derived)} over others.",
        "",
        "| feature | question | of | windows | unit | type | without such events |",
        "|---|---|---|---|---|---|---|",
        *(_feature(name, one) for name, one in features.items()),
        *(_combined(name, one) for name, one in derived.items()),
        "",
    ]
    return "\n".join(lines)


def _feature(name: str, one: Feature) -> str:
    told = one.statistic
    of = told.kind if told.of == "1" else f"{told.kind} of `{told.of}`"
    of += "" if told.where == "true" else f" where `{told.where}`"
    of += f"; `{one.reading}`" if one.reading else ""
    return _row(name, one.question, of, ", ".join(one.windows), one.unit, one.type, one.of_nothing)


def _combined(name: str, one: Combined) -> str:
    of = f"`{one.sql}`" if one.sql else _SCORE.format(one.zscore_of)
    return _row(name, one.question, of, "", one.unit, one.type, one.nulls)


def _row(name: str, *cells: str) -> str:
    return " | ".join([f"| `{name}`", *(cell.replace("|", "\\|") for cell in cells)]) + " |"


def main(argv: list[str]) -> int:
    declaration, target = argv
    Path(target).write_text(page(feature_declaration.load(declaration, {})))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
