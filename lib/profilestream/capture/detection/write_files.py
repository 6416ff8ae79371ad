"""The mapping and the settings of a new source as TOML, with a comment on each line that was detected."""

import json
import os
import re
from pathlib import Path

from profilestream.base.errors import BadSettings
from profilestream.capture.detection.mapping_lines import Line
from profilestream.capture.detection.proposal import Proposal

MAPPING, SETTINGS = "mapping.toml", "settings.toml"
_FEATURES = ("user_hours", "item_hours", "category_hours", "brand_hours", "user_category_hours")
_NO_EVENT_ID = (
    "event_id: no column is a unique id in the sample. The id is a hash of the raw record, so records "
    "that are equal in all of them are one event."
)
_WIDTH = 110
# A part of SQL without blanks outside of quotes: a line must not be broken inside a text.
_SQL_TOKEN = re.compile(r"(?:'(?:[^'\\]|\\.)*'|`[^`]*`|[^\s'`])+")


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


def write(
    proposal: Proposal, folder: Path, *, name: str, source_path: str, capture_lines: dict[str, Line] | None = None
) -> None:
    """Write both files into the folder, which is created if needed. Call `check_absent` before the first call.

    Args:
        capture_lines: lines of the section `[capture]` of the settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MAPPING).write_text(mapping_text(proposal, source_path), encoding="utf-8")
    (folder / SETTINGS).write_text(settings_text(folder, name, source_path, capture_lines or {}), encoding="utf-8")


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
    if "event_id" not in proposal.columns:
        lines += ["", *_wrapped(_NO_EVENT_ID)]
    if proposal.unused:
        names = ", ".join(proposal.unused)
        lines += ["", *_wrapped(f"columns {unused_note(proposal)}: {names}")]
    return "\n".join(lines) + "\n"


def settings_text(folder: Path, name: str, source_path: str, capture_lines: dict[str, Line]) -> str:
    """The settings of a warehouse with this source, and the shipped derived tables; `capture_lines` as for write."""

    def relative(path: str) -> str:
        return os.path.relpath(path, folder).replace(os.sep, "/")

    features = ", ".join(_toml(relative(f"conf/derive/{table}.toml")) for table in _FEATURES)
    capture = "\n".join(["[capture]", *_section(capture_lines), "", ""]) if capture_lines else ""
    return f"""\
# Settings of the source {name}, written by capture_init. Paths in [paths] and `path` are relative to the folder in
# which the jobs are started; other names are relative to the folder of this file. conf/local.toml lists every key.

[paths]
warehouse = {_toml(f"artifacts/{name}/warehouse")}
checkpoints = {_toml(f"artifacts/{name}/checkpoints")}

[spark]
properties = {_toml(relative("conf/spark-local.conf"))}

{capture}[capture.sources.{name}]
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


def unused_note(proposal: Proposal) -> str:
    """What happens to columns that no expression reads: extra contains only columns that are not listed."""
    has_names = proposal.sample.input.get("header", True)
    return "not used, and stored in extra" if has_names else "not used, and not stored"


def _section(lines: dict[str, Line]) -> list[str]:
    result = []
    for key, line in lines.items():
        if line.evidence:
            result += _wrapped(f"{line.confidence}: {line.evidence}")
        result.append(f"{key} = {_toml(line.value)}")
    return result


def _wrapped(text: str) -> list[str]:
    """The text as comment lines."""
    return _filled(text.split(), "# ")


def _sql_units(sql: str) -> list[str]:
    """Parts of SQL that remain on one line: a WHEN with its THEN, or one column of a list."""
    units: list[str] = []
    depth = 0
    starts_unit = True
    for token in _SQL_TOKEN.findall(sql):
        if starts_unit or (token in ("WHEN", "ELSE") and depth == 0):
            units.append(token)
        else:
            units[-1] += f" {token}"
        depth += token.count("<") + token.count("(") - token.count(">") - token.count(")")
        starts_unit = token.endswith(",") and depth == 0
    return units


def _filled(words: list[str], prefix: str) -> list[str]:
    """Lines of the words with the prefix, up to the width."""
    lines = [prefix + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > _WIDTH:
            lines.append(prefix + word)
        else:
            lines[-1] += f" {word}"
    return lines


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
        units = _sql_units(value)
        if " ".join(units) == value:
            return '"""\n' + "\n".join(_filled(units, "  ")) + '\n"""'
    if is_printable and ("\\" in value or '"' in value):
        if "'" not in value:
            return f"'{value}'"
        if "'''" not in value and not value.endswith("'"):
            return f"'''{value}'''"
    return json.dumps(value, ensure_ascii=False)
