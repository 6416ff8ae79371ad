"""Generates docs/settings.md and docs/settings.schema.json from the models in base/settings/.

python -m profilestream.steward.settings_docs docs/settings.md
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from profilestream.base import settings as settings_module
from profilestream.base.settings import Effect, Frozen, LearnerSettings, Settings

Schema = dict[str, Any]

_INTRODUCTION = """# Settings

This page is generated from the models in `lib/profilestream/base/settings/`. Edit their docstrings, then run

```sh
.venv/bin/python -m profilestream.steward.settings_docs docs/settings.md
```

Settings are read from the TOML file that `--config` names. `--set section.key=value` replaces one value. A key that is
not listed here is an error. [conf/local.toml](../conf/local.toml) contains every key, with its default as a comment.

The command also writes [settings.schema.json](settings.schema.json), a JSON schema. With the comment
`#:schema PATH_OR_URL_OF_THE_SCHEMA` in the first line of a settings file, editors that use Taplo, such as VS Code with
the extension Even Better TOML, complete keys, show their meanings and mark invalid values.

*not set* as a default means that the key is left out. NAME in the name of a section is a name of your choice.
"""

_PARAMETER = re.compile(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}",
    "exclusiveMaximum": "less than {}", "minLength": "length at least {}", "minItems": "length at least {}",
    "minProperties": "number of entries at least {}", "pattern": "matches `{}`",
}  # fmt: skip
_MAX_DEFAULT = 130


def schema() -> Schema:
    """The JSON schema of a settings file: every key with its meaning; without nulls, which TOML does not have."""
    document = Settings.model_json_schema()
    for name, definition in document["$defs"].items():
        _describe(definition, getattr(settings_module, name))
    _describe(document, Settings)
    del document["properties"]["config_file"]
    document["required"].remove("config_file")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def page() -> str:
    """The page, in Markdown."""
    document = schema()
    sections = list(_sections(document, document["$defs"], ""))
    contents = [
        f"- [`{path}`](#{path.replace('.', '').lower()}): {_first_sentence(text)}" for path, text, _ in sections
    ]
    tables = [line for path, text, rows in sections for line in _section(path, text, rows)]
    return "\n".join([_INTRODUCTION, *contents, "", *tables])


def _describe(definition: Schema, model: type[Frozen]) -> None:
    """Replaces descriptions by those of the docstring, and removes titles, nulls and defaults of sections."""
    definition["description"] = _summary(model)
    definition.pop("title", None)
    meanings = _meanings(model)
    for name, value in definition.get("properties", {}).items():
        value.pop("title", None)
        variants = [variant for variant in value.pop("anyOf", []) if variant != {"type": "null"}]
        value |= variants[0] if len(variants) == 1 else {"anyOf": variants} if variants else {}
        is_nullable = value.get("default", 0) is None
        if name in meanings:
            value["description"] = re.sub(r"\bnull: ", "not set: ", meanings[name]) if is_nullable else meanings[name]
        if is_nullable or _reference(value):
            value.pop("default", None)


def _summary(model: type[Frozen]) -> str:
    text = inspect.cleandoc(model.__doc__ or "").partition("Args:\n")[0]
    return " ".join(text.split())


def _meanings(model: type[Frozen]) -> dict[str, str]:
    """Meaning by key, from `Args:` of the class and of its base classes; for learners with the effect of a change."""
    meanings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        for names, text in _PARAMETER.findall(inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2]):
            sentence = " ".join(text.split())
            capital = sentence if "_" in sentence.split()[0] else sentence[0].upper() + sentence[1:]
            meanings |= dict.fromkeys(names.split(", "), capital)
    if issubclass(model, LearnerSettings):
        for effect in Effect:
            for name in model.model_validate({}).with_effect(effect):
                meanings[name] += f" Another value changes {effect}."
    return meanings


def _reference(value: Schema) -> str:
    """Name of the model of a section; empty for a plain value."""
    name: str = value.get("$ref") or dict(value.get("additionalProperties") or {}).get("$ref", "")
    return name.rpartition("/")[2]


def _sections(model: Schema, models: Schema, path: str) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Path, description and rows of a section and of those in it."""
    properties: dict[str, Schema] = model["properties"]
    rows = [_row(name, each, model.get("required", [])) for name, each in properties.items() if not _reference(each)]
    if rows:
        yield path, model["description"], rows
    for name, value in properties.items():
        if reference := _reference(value):
            part = name if "$ref" in value else f"{name}.NAME"
            yield from _sections(models[reference], models, f"{path}.{part}".removeprefix("."))


def _row(name: str, value: Schema, required: list[str]) -> list[str]:
    default = "required" if name in required else _default(value)
    return [f"`{name}`", _type(value), default, _bounds(value), _linked(value["description"])]


def _section(path: str, text: str, rows: list[list[str]]) -> list[str]:
    lines = [
        f"## {path}",
        "",
        _linked(text),
        "",
        "| key | type | default | bounds | meaning |",
        "|---|---|---|---|---|",
    ]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def _type(value: Schema) -> str:
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    if "enum" in value:
        return "one of " + ", ".join(f"`{each}`" for each in value["enum"])
    if value["type"] == "array":
        return f"list: {_type(value['items'])}"
    if value["type"] == "object":
        return f"table: {_type(value['additionalProperties'])}"
    return str(value.get("format", value["type"]))


def _bounds(value: Schema) -> str:
    own = [text.format(value[name]) for name, text in _BOUNDS.items() if name in value]
    inner = [*value.get("anyOf", []), *(value[name] for name in ("items", "additionalProperties") if name in value)]
    return ", ".join([*own, *(f"each {text}" for text in map(_bounds, inner) if text)]).replace("each each", "each")


def _default(value: Schema) -> str:
    if "default" not in value:
        return "not set"
    text = str(value["default"]) if value.get("format") == "date" else _toml(value["default"])
    return f"`{text}`" if len(text) <= _MAX_DEFAULT else "see [conf/local.toml](../conf/local.toml)"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }" if value else "{}"
    return json.dumps(value, ensure_ascii=False)


def _linked(text: str) -> str:
    return re.sub(r"docs/(\w+\.md)(#[\w-]+)?", r"[\1](\1\2)", text)


def _first_sentence(text: str) -> str:
    return _linked(re.split(r"(?<=\.) ", text)[0])


def main(argv: list[str]) -> int:
    (target,) = map(Path, argv)
    target.write_text(page())
    target.with_suffix(".schema.json").write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
