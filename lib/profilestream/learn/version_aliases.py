"""Aliases of the published versions (promote, roll back), and the tags of a version.

`champion` is the version that is served, `challenger` the newest version that did not pass the promotion gate,
`previous` the champion before.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from profilestream.base.errors import BadSettings
from profilestream.base.observe.operation_metrics import export_champion
from profilestream.base.settings import Settings
from profilestream.learn import model_registry
from profilestream.learn.model_registry import RegisteredModel, RegisteredVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROWS_STORED, ROWS_REMOVED = "stored", "removed"
_PREFIX = "profilestream."
_NUMBERS = ("batch_id", "table_version", "row_count", "valid_from")


@dataclass(frozen=True)
class VersionTags:
    """Tags of a version in the registry.

    Args:
        epoch, batch_id: the last batch that the version has learned.
        table_version: of the learner's Delta table.
        model: the ranker or model that was evaluated (`model` in `model_metrics`).
        metric, value: the gate metric and its value at the time of publishing; the value is empty when unknown.
        params: parameters that are needed to read the rows, as JSON.
        data_from, data_to: oldest and newest event time of the rows that were learned, in ISO 8601; empty: unknown.
        row_count: number of these rows.
        valid_from: the version can score rows of users from this event time on, microseconds since 1970; -1: unknown.
        norms: largest norm of a row by column, as JSON; empty: unknown.
        rows: ROWS_STORED or ROWS_REMOVED; empty until the rows are copied.
        problem: why the version was rolled back; else empty.
    """

    epoch: str
    batch_id: int
    table_version: int
    model: str
    metric: str
    value: str
    params: str
    data_from: str = ""
    data_to: str = ""
    row_count: int = -1
    valid_from: int = -1
    norms: str = ""
    rows: str = ""
    problem: str = ""

    def as_dict(self) -> dict[str, str]:
        """Key and value of each MLflow tag that is not empty."""
        return {f"{_PREFIX}{name}": str(value) for name, value in asdict(self).items() if value != ""}

    @classmethod
    def of(cls, version: RegisteredVersion) -> "VersionTags":
        """The tags of a registered version."""
        texts = {name: version.tags.get(f"{_PREFIX}{name}", "") for name in cls.__dataclass_fields__}
        numbers = {name: int(texts.pop(name) or -1) for name in _NUMBERS}
        return cls(**texts, **numbers)  # type: ignore[arg-type]

    @property
    def largest_norms(self) -> Mapping[str, float]:
        """The tag `norms`; empty if unknown."""
        norms: dict[str, float] = json.loads(self.norms or "{}")
        return norms

    @property
    def can_serve(self) -> bool:
        """Whether its rows are stored and finite, as far as known."""
        return self.rows == ROWS_STORED and all(map(math.isfinite, self.largest_norms.values()))


def set_tag(model: RegisteredModel, number: int, name: str, value: str) -> None:
    """Set one of VersionTags."""
    model.set_tags(number, {f"{_PREFIX}{name}": value})


def version_of_alias(versions: list[RegisteredVersion], alias: str) -> RegisteredVersion | None:
    """The version that an alias points to; null when there is none."""
    return next((version for version in versions if alias in version.aliases), None)


def promote(settings: Settings, name: str, number: int) -> str:
    """Make a version the champion, whatever its metric; returns the message for the user.

    Raises:
        BadSettings: there is no such version, or its rows were removed or contain a NaN.
    """
    with model_registry.open_model(settings, name) as model:
        stored = [v.number for v in model.versions() if VersionTags.of(v).can_serve]
        if number not in stored:
            raise BadSettings(
                f"there is no version {number} with finite rows",
                where=model.where,
                do=f"name one of {stored}" if stored else "publish a version first",
            )
        set_champion(model, number)
    export_champion(settings, name, number)
    return f"version {number} is the champion"


def set_champion(model: RegisteredModel, number: int) -> None:
    """Point `champion` to a version and `previous` to the champion before."""
    versions = model.versions()
    champion, challenger = version_of_alias(versions, CHAMPION), version_of_alias(versions, CHALLENGER)
    if champion is not None and champion.number != number:
        model.set_alias(PREVIOUS, champion.number)
    model.set_alias(CHAMPION, number)
    if challenger is not None and challenger.number == number:
        model.set_alias(CHALLENGER, None)


def previous_champion(versions: list[RegisteredVersion]) -> RegisteredVersion | None:
    """The version to which the champion can be rolled back; null: there is none with rows."""
    champion, previous = version_of_alias(versions, CHAMPION), version_of_alias(versions, PREVIOUS)
    return None if previous is None or previous == champion or not VersionTags.of(previous).can_serve else previous


def restore(model: RegisteredModel, previous: RegisteredVersion) -> str:
    """Point `champion` to the version before, and `challenger` to the champion; returns the message for the user."""
    champion = version_of_alias(model.versions(), CHAMPION)
    if champion is not None:
        model.set_alias(CHALLENGER, champion.number)
    model.set_alias(CHAMPION, previous.number)
    model.set_alias(PREVIOUS, None)
    challenger = "" if champion is None else f"; version {champion.number} is the challenger"
    return f"version {previous.number} is the champion again{challenger}"


def roll_back(settings: Settings, name: str) -> str:
    """Make the previous champion the champion again, and the champion the challenger; returns the message.

    The champion may be missing: its version or alias was deleted in MLflow.

    Raises:
        BadSettings: there is no previous champion with rows.
    """
    with model_registry.open_model(settings, name) as model:
        previous = previous_champion(model.versions())
        if previous is None:
            raise BadSettings("there is no previous champion", where=model.where, do="list the versions with --list")
        message = restore(model, previous)
    export_champion(settings, name, previous.number, is_rollback=True)
    return message


def version_lines(settings: Settings, name: str) -> list[str]:
    """One line of text per version of a model, newest first."""
    with model_registry.open_model(settings, name) as model:
        versions = model.versions()
    return [_line(version) for version in versions] or ["no version is published yet"]


def _line(version: RegisteredVersion) -> str:
    tags = VersionTags.of(version)
    aliases = ", ".join(version.aliases) or "-"
    value = f"{float(tags.value):.4f}" if tags.value else "unknown"
    return (
        f"version {version.number}  {aliases}  {tags.model} {tags.metric} {value}  "
        f"batch {tags.batch_id} of epoch {tags.epoch}  rows {tags.rows or 'incomplete'}"
    )
