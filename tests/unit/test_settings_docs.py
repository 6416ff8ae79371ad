"""docs/settings.md and docs/settings.schema.json: up to date and complete; the schema accepts the shipped settings."""

import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from profilestream.steward import settings_docs

jsonschema: Any = importlib.import_module("jsonschema")  # without type stubs; a dependency of kubernetes-validate

ROOT = Path(__file__).parent.parent.parent
COMMAND = ".venv/bin/python -m profilestream.steward.settings_docs docs/settings.md"
SCHEMA = settings_docs.schema()
SHIPPED = [
    *(file for file in sorted((ROOT / "conf").glob("*.toml")) if "paths" in tomllib.loads(file.read_text())),
    *sorted((ROOT / "docs" / "examples").glob("*/settings.toml")),
]


def _messages(document: dict[str, Any]) -> list[str]:
    """Errors of a settings file by the schema; dates are texts in JSON."""
    in_json = json.loads(json.dumps(document, default=str))
    errors = jsonschema.Draft202012Validator(SCHEMA).iter_errors(in_json)
    return sorted(f"{error.json_path}: {error.message}" for error in errors)


def test_page_and_schema_are_generated_from_the_models() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_docs.page(), f"run {COMMAND}"
    assert json.loads((ROOT / "docs" / "settings.schema.json").read_text()) == SCHEMA, f"run {COMMAND}"


def test_every_section_and_every_key_has_a_meaning() -> None:
    models = {"Settings": SCHEMA, **SCHEMA["$defs"]}
    keys = {f"{name}.{key}": value for name, model in models.items() for key, value in model["properties"].items()}
    assert len(keys) > 150 and [name for name, model in models.items() if not model["description"].endswith(".")] == []
    texts = {key: value.get("description", "") for key, value in keys.items() if not settings_docs._reference(value)}
    assert [key for key, text in texts.items() if not text.endswith(".") or "null:" in text.lower()] == [
        "Sessions.category"
    ]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.parent.name + "_" + file.stem)
def test_the_schema_accepts_the_shipped_settings(file: Path) -> None:
    assert _messages(tomllib.loads(file.read_text())) == []


def test_the_schema_refuses_unknown_keys_invalid_values_and_missing_keys() -> None:
    text = """
        [paths]
        warehouse = "w"
        [capture]
        partition_by = "hour"
        [capture.sources.shop]
        mapping = "m.toml"
        pth = "in"
        [stream]
        max_bytes_per_trigger = 0
    """
    assert _messages(tomllib.loads(text)) == [
        "$.capture.partition_by: 'hour' is not one of ['day', 'month', 'year']",
        "$.capture.sources.shop: Additional properties are not allowed ('pth' was unexpected)",
        "$.paths: 'checkpoints' is a required property",
        "$.stream.max_bytes_per_trigger: 0 is less than the minimum of 1",
    ]
