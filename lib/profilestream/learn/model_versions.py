"""Versions of a registered model as this package notes them, and which of them the aliases name.

`champion` is what is served, `challenger` the newest that was not good enough, `previous` the champion before.
"""

from dataclasses import asdict, dataclass

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.learn import model_registry
from profilestream.learn.model_registry import Registry, Version

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
KEPT, REMOVED = "kept", "removed"


@dataclass(frozen=True)
class VersionTags:
    """What is noted of a version in the registry, beside its rows.

    Args:
        epoch, batch_id: the newest batch that it has learned from.
        table_version: of the learner's Delta table.
        ranker, metric, value: how good it was when it was published.
        params: JSON of what it was learned by.
        rows: `kept` while the published table has its rows; empty while they are still to come.
    """

    epoch: str
    batch_id: int
    table_version: int
    ranker: str
    metric: str
    value: str
    params: str
    rows: str = ""

    def tags(self) -> dict[str, str]:
        """As MLflow keeps them."""
        return {f"profilestream.{name}": str(value) for name, value in asdict(self).items() if value != ""}

    @classmethod
    def of(cls, version: Version) -> "VersionTags":
        """Those of a registered version."""
        said = {name: version.notes.get(f"profilestream.{name}", "") for name in cls.__dataclass_fields__}
        numbers = {name: int(said.pop(name) or -1) for name in ("batch_id", "table_version")}
        return cls(**said, **numbers)  # type: ignore[arg-type]


def note_rows(versions: Registry, number: int, rows: str) -> None:
    """Note that the rows of a version are `kept` or `removed`."""
    versions.note(number, {"profilestream.rows": rows})


def by_alias(versions: list[Version], alias: str) -> Version | None:
    """The version that an alias names."""
    return next((version for version in versions if alias in version.aliases), None)


def promote(settings: Settings, name: str, number: int) -> str:
    """Let `champion` name a version of a model, whatever its quality, and say so."""
    with model_registry.opened(settings, name) as model:
        known = {version.number: VersionTags.of(version) for version in model.versions()}
        if number not in known or known[number].rows != KEPT:
            kept = [one for one, notes in known.items() if notes.rows == KEPT]
            raise BadSettings(
                f"there is no version {number} with its rows",
                where=model.where,
                do=f"name one of {kept}" if kept else "publish one first",
            )
        make_champion(model, number)
    return f"version {number} is the champion"


def make_champion(model: Registry, number: int) -> None:
    """Let `champion` name a version, and `previous` the one that it named."""
    versions = model.versions()
    champion, challenger = by_alias(versions, CHAMPION), by_alias(versions, CHALLENGER)
    if champion is not None and champion.number != number:
        model.name_version(PREVIOUS, champion.number)
    model.name_version(CHAMPION, number)
    if challenger is not None and challenger.number == number:
        model.name_version(CHALLENGER, None)


def roll_back(settings: Settings, name: str) -> str:
    """Let `champion` name the version before, and `challenger` the one that it named; say so."""
    with model_registry.opened(settings, name) as model:
        versions = model.versions()
        champion, previous = by_alias(versions, CHAMPION), by_alias(versions, PREVIOUS)
        if champion is None or previous is None or previous.number == champion.number:
            raise BadSettings("there is no champion before this one", where=model.where, do="see what there is: --list")
        model.name_version(CHALLENGER, champion.number)
        model.name_version(CHAMPION, previous.number)
        model.name_version(PREVIOUS, None)
    return f"version {previous.number} is the champion again, in place of version {champion.number}"


def listed(settings: Settings, name: str) -> list[str]:
    """A line a version of a model, newest first."""
    with model_registry.opened(settings, name) as model:
        versions = model.versions()
    return [_line(version) for version in versions] or ["no version was published yet"]


def _line(version: Version) -> str:
    notes = VersionTags.of(version)
    named = ", ".join(version.aliases) or "-"
    value = f"{float(notes.value):.4f}" if notes.value else "unknown"
    return (
        f"version {version.number}  {named}  {notes.ranker} {notes.metric} {value}  "
        f"batch {notes.batch_id} of epoch {notes.epoch}  rows {notes.rows or 'unfinished'}"
    )
