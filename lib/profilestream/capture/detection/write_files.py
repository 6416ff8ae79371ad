"""The mapping and the settings of a new source as TOML, with a comment on each line that was detected."""

import json
import os
import textwrap
from pathlib import Path

from profilestream.base.errors import BadSettings
from profilestream.capture.detection.proposal import Line, Proposal

MAPPING, SETTINGS = "mapping.toml", "settings.toml"
_FEATURES = ("user_hours", "item_hours", "category_hours", "brand_hours", "user_category_hours")
_WIDTH = 110


def check_absent(folder: Path) -> None:
    """Check that none of the files exists.

    Raises:
        BadSettings: one of them exists.
    """
    existing = [str(folder / name) for name in (MAPPING, SETTINGS) if (folder / name).exists()]
    if existing:
        raise BadSettings(
            f"{' and '.join(existing)} exist, and capture_init does not overwrite files",
            where="--out",
            do="choose another folder by --out, or move the files away",
        )


def write(proposal: Proposal, folder: Path, *, name: str, source_path: str) -> None:
    """Write both files into the folder, which is created if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MAPPING).write_text(mapping_text(proposal, source_path), encoding="utf-8")
    (folder / SETTINGS).write_text(settings_text(folder, name, source_path), encoding="utf-8")


def mapping_text(proposal: Proposal, source_path: str) -> str:
    """The mapping. A comment above a line states how sure it is, and why."""
    rows = proposal.sample.rows
    lines = [
        f"# Proposed by capture_init from {rows:,} sampled records of {source_path}.",
        "# sure, likely, unsure: how well the sample supports the line below. docs/mappings.md lists all keys.",
        "",
        *_section(proposal.general),
        "",
        "[input]",
        *_section(proposal.input),
        "",
        "[columns]",
        *_section(proposal.columns),
    ]
    if proposal.unused:
        names = ", ".join(proposal.unused)
        lines += ["", *_wrapped(f"{_unused_note(proposal)}: {names}")]
    return "\n".join(lines) + "\n"


def settings_text(folder: Path, name: str, source_path: str) -> str:
    """The settings of a warehouse with this source, and the shipped derived tables."""

    def relative(path: str) -> str:
        return os.path.relpath(path, folder).replace(os.sep, "/")

    features = ", ".join(_toml(relative(f"conf/derive/{table}.toml")) for table in _FEATURES)
    return f"""\
# Settings of the source {name}, written by capture_init. Paths in [paths] and `path` are relative to the folder in which
# the jobs are started; other file names are relative to the folder of this file. conf/local.toml lists every key.

[paths]
warehouse = {_toml(f"artifacts/{name}/warehouse")}
checkpoints = {_toml(f"artifacts/{name}/checkpoints")}

[spark]
properties = {_toml(relative("conf/spark-local.conf"))}

[capture.sources.{name}]
path = {_toml(source_path)}
mapping = "{MAPPING}"

[derive]
features = [{features}]
profiles = [{_toml(relative("conf/derive/user_profiles.toml"))}]
"""


def line_numbers(text: str) -> dict[str, int]:
    """Line number of each key of a mapping, such as `columns.event_time` -> 21; top-level keys have no prefix."""
    numbers: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("["):
            prefix = line.strip("[]") + "."
        elif " = " in line and not line.startswith(("#", " ")):
            numbers.setdefault(prefix + line.split(" = ")[0], number)
    return numbers


def _unused_note(proposal: Proposal) -> str:
    return (
        "Not used"
        if proposal.sample.raw_types and not proposal.sample.input.get("header", True)
        else ("Not used, and stored in extra")
    )


def _section(lines: dict[str, Line]) -> list[str]:
    result = []
    for key, line in lines.items():
        if line.evidence:
            result += _wrapped(f"{line.confidence}: {line.evidence}")
        result.append(f"{key} = {_toml(line.value)}")
    return result


def _wrapped(text: str) -> list[str]:
    """The text as comment lines."""
    lines, current = [], "#"
    for word in " ".join(text.split()).split(" "):
        if len(current) + len(word) > _WIDTH and current != "#":
            lines.append(current)
            current = "#"
        current += f" {word}"
    return [*lines, current]


def _toml(value: str | list[str] | bool | int) -> str:
    """A TOML value; texts with quotes or backslashes become literal strings, since these need no escapes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    is_printable = value.isprintable()
    if is_printable and len(value) > _WIDTH and '"' not in value and "\\" not in value:
        wrapped = textwrap.wrap(value, _WIDTH, break_long_words=False, break_on_hyphens=False)
        if " ".join(wrapped) == value:  # otherwise a text inside contains several blanks
            return '"""\n  ' + "\n  ".join(wrapped) + '\n"""'
    if is_printable and ("\\" in value or '"' in value):
        if "'" not in value:
            return f"'{value}'"
        if "'''" not in value and not value.endswith("'"):
            return f"'''{value}'''"
    return json.dumps(value, ensure_ascii=False)
