"""Aliases of the published versions (promote, roll back), and the tags of a version.

`champion` is the version that is served, `challenger` the newest version that did not pass the promotion gate,
`previous` the champion before.
"""

from dataclasses import asdict, dataclass

from profilestream.base.errors import BadSettings
from profilestream.base.observe.operation_metrics import export_champion
from profilestream.base.settings import Settings
from profilestream.learn import model_registry
from profilestream.learn.model_registry import RegisteredModel, RegisteredVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROWS_STORED, ROWS_REMOVED = "stored", "removed"
_PREFIX = "profilestream."


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
        rows: ROWS_STORED or ROWS_REMOVED; empty until the rows are copied.
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
    rows: str = ""

    def as_dict(self) -> dict[str, str]:
        """Key and value of each MLflow tag that is not empty."""
        return {f"{_PREFIX}{name}": str(value) for name, value in asdict(self).items() if value != ""}

    @classmethod
    def of(cls, version: RegisteredVersion) -> "VersionTags":
        """The tags of a registered version."""
        texts = {name: version.tags.get(f"{_PREFIX}{name}", "") for name in cls.__dataclass_fields__}
        numbers = {name: int(texts.pop(name) or -1) for name in ("batch_id", "table_version", "row_count")}
        return cls(**texts, **numbers)  # type: ignore[arg-type]


def tag_rows(model: RegisteredModel, number: int, rows: str) -> None:
    """Set the tag `rows` of a version to ROWS_STORED or ROWS_REMOVED."""
    model.set_tags(number, {f"{_PREFIX}rows": rows})


def version_of_alias(versions: list[RegisteredVersion], alias: str) -> RegisteredVersion | None:
    """The version that an alias points to; null when there is none."""
    return next((version for version in versions if alias in version.aliases), None)


def promote(settings: Settings, name: str, number: int) -> str:
    """Make a version the champion, whatever its metric; returns the message for the user.

    Raises:
        BadSettings: there is no such version, or its rows were removed.
    """
    with model_registry.open_model(settings, name) as model:
        stored = [v.number for v in model.versions() if VersionTags.of(v).rows == ROWS_STORED]
        if number not in stored:
            raise BadSettings(
                f"there is no version {number} with rows",
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


def roll_back(settings: Settings, name: str) -> str:
    """Make the previous champion the champion again, and the champion the challenger; returns the message.

    The champion may be missing: its version or alias was deleted in MLflow.

    Raises:
        BadSettings: there is no previous champion with rows.
    """
    with model_registry.open_model(settings, name) as model:
        versions = model.versions()
        champion, previous = version_of_alias(versions, CHAMPION), version_of_alias(versions, PREVIOUS)
        has_rows = previous is not None and VersionTags.of(previous).rows == ROWS_STORED
        if previous is None or previous == champion or not has_rows:
            raise BadSettings("there is no previous champion", where=model.where, do="list the versions with --list")
        if champion is not None:
            model.set_alias(CHALLENGER, champion.number)
        model.set_alias(CHAMPION, previous.number)
        model.set_alias(PREVIOUS, None)
    export_champion(settings, name, previous.number, is_rollback=True)
    challenger = "" if champion is None else f"; version {champion.number} is the challenger"
    return f"version {previous.number} is the champion again{challenger}"


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
