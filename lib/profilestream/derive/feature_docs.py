"""Generates the reference page of window features, docs/windows.md, from their declaration.

python -m profilestream.derive.feature_docs conf/derive/windows.toml docs/windows.md
"""

import sys
from pathlib import Path

from profilestream.derive import feature_declaration
from profilestream.derive.feature_declaration import DeclaredFeatures, DerivedFeature, WindowFeature

_INTRODUCTION = """# Window features

This page is generated. Edit [conf/derive/windows.toml](../conf/derive/windows.toml), then run

```sh
.venv/bin/python -m profilestream.derive.feature_docs conf/derive/windows.toml docs/windows.md
```

A window feature has one column per window, `<name>_<window>`, computed from the events in `[t - w, t)`. A derived
feature is one column, computed from other features of the same entity and time t.
[features.md](features.md#window-features) describes how to read features.
"""
_ZSCORE = "standard score of `{}` among all entities with an event before t"


def page(declared: DeclaredFeatures) -> str:
    """The page, in Markdown."""
    return "\n".join([_INTRODUCTION, *(_entity_section(declared, entity) for entity in declared.entities)])


def _entity_section(declared: DeclaredFeatures, entity: str) -> str:
    features, derived = declared.features.get(entity, {}), declared.derived.get(entity, {})
    lines = [
        f"## {entity}",
        "",
        f"{len(features)} window features from `{declared.entities[entity]}`, and {len(derived)} derived features.",
        "",
        "| feature | question | computation | windows | unit | type | missing values |",
        "|---|---|---|---|---|---|---|",
        *(_window_row(name, feature) for name, feature in features.items()),
        *(_derived_row(name, feature) for name, feature in derived.items()),
        "",
    ]
    return "\n".join(lines)


def _window_row(name: str, feature: WindowFeature) -> str:
    statistic = feature.statistic
    computation = statistic.kind if statistic.of == "1" else f"{statistic.kind} of `{statistic.of}`"
    computation += "" if statistic.where == "true" else f" where `{statistic.where}`"
    computation += f"; `{feature.output}`" if feature.output else ""
    windows = ", ".join(feature.windows)
    return _row(name, feature.question, computation, windows, feature.unit, feature.type, feature.empty_value)


def _derived_row(name: str, feature: DerivedFeature) -> str:
    computation = f"`{feature.sql}`" if feature.sql else _ZSCORE.format(feature.zscore_of)
    return _row(name, feature.question, computation, "", feature.unit, feature.type, feature.nulls)


def _row(name: str, *cells: str) -> str:
    return " | ".join([f"| `{name}`", *(cell.replace("|", "\\|") for cell in cells)]) + " |"


def main(argv: list[str]) -> int:
    declaration, target = argv
    Path(target).write_text(page(feature_declaration.load(declaration, {})))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
