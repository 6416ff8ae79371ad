"""All settings of a config file, and how it is read: all errors are reported together."""

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from profilestream.base.errors import BadSettings
from profilestream.base.settings.capture_settings import Capture
from profilestream.base.settings.derive_settings import Derive
from profilestream.base.settings.frozen_model import Frozen
from profilestream.base.settings.operation_settings import Maintain, Observe, Paths, ScheduleSettings, Spark, Stream
from profilestream.base.settings.publish_settings import Learn
from profilestream.base.settings.serve_settings import Serve

Model = TypeVar("Model", bound=BaseModel)


class Settings(Frozen):
    """All settings of a config file."""

    paths: Paths
    spark: Spark = Spark()
    stream: Stream = Stream()
    capture: Capture
    derive: Derive = Derive()
    learn: Learn = Learn()
    serve: Serve = Serve()
    schedule: ScheduleSettings = ScheduleSettings()
    observe: Observe = Observe()
    maintain: Maintain = Maintain()
    config_file: str

    def require_people(self, part: str) -> None:
        """Nothing if user ids are people.

        Args:
            part: what compares earlier and later behavior of the same person, in the plural.

        Raises:
            BadSettings: user ids are sessions.
        """
        if self.serve.user_ids == "sessions":
            what = f"{part} need later events of the same user, but the user ids are sessions, which have none"
            do = 'leave them off, as docs/logs.md describes, or set serve.user_ids = "people"'
            raise BadSettings(what, where=f"{self.config_file}, serve.user_ids", do=do)


def load(config: str, overrides: list[str]) -> Settings:
    """Settings from a TOML file, overridden by `key=value` texts such as `paths.warehouse=/tmp/w`.

    Relative names of mapping, declaration and properties files are relative to the folder of the config file.

    Raises:
        BadSettings: the file does not exist or is not TOML, or keys or values are invalid; all in one message.
    """
    document = read_toml(config)
    for override in overrides:
        _override(document, override)
    settings = validated(Settings, {**document, "config_file": config}, config)
    return _with_resolved_names(settings, Path(config).parent)


def fingerprint(text: str) -> str:
    """The first 16 hex digits of the SHA-256 hash of the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_toml(path: str) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise BadSettings(f"cannot read {path}: {error.strerror}", where=path, do="name an existing file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not TOML: {error}", where=path, do="correct the line in the message") from None


def validated(model: type[Model], document: dict[str, Any], path: str) -> Model:
    """The document as a value of `model`; one error lists every invalid key with the file."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        invalid = [
            f"  {'.'.join(map(str, e['loc'])) or '(file)'}: {_plain_text(e['msg'])}{_shown_input(e['loc'], e['input'])}"
            for e in error.errors()
        ]
        raise BadSettings(
            "\n".join([f"{path} has {len(invalid)} invalid setting(s)", *invalid]),
            where=path,
            do="correct the keys listed above",
        ) from None


def _shown_input(place: tuple[int | str, ...], value: Any) -> str:
    """The invalid value for an error message; nothing of the options of Kafka, among which a secret may be."""
    text = repr(value)
    return "" if "kafka" in place or "'kafka'" in text else f" (got {text:.80})"


def _plain_text(message: str) -> str:
    return "no such key" if message == "Extra inputs are not permitted" else message.removeprefix("Value error, ")


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadSettings(
            f"--set {override!r} is not key=value", where="--set", do="write it as --set paths.warehouse=/data/w"
        )
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.split(".")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise BadSettings(f"--set {key}: {table} is not a table", where="--set", do="use a key of the config file")
    document[name] = value


def _with_resolved_names(settings: Settings, folder: Path) -> Settings:
    def resolved(name: str) -> str:
        return name if not name or os.path.isabs(name) or "://" in name else str(folder / name)

    sources = {
        name: source.model_copy(update={"mapping": resolved(source.mapping)})
        for name, source in settings.capture.sources.items()
    }
    return settings.model_copy(
        update={
            "spark": settings.spark.model_copy(update={"properties": resolved(settings.spark.properties)}),
            "capture": settings.capture.model_copy(update={"sources": sources}),
            "derive": settings.derive.model_copy(
                update={
                    "features": tuple(map(resolved, settings.derive.features)),
                    "profiles": tuple(map(resolved, settings.derive.profiles)),
                    "windows": settings.derive.windows.model_copy(
                        update={"file": resolved(settings.derive.windows.file)}
                    ),
                }
            ),
            "observe": settings.observe.model_copy(update={"alerts": resolved(settings.observe.alerts)}),
            "serve": settings.serve.model_copy(
                update={
                    "tags": settings.serve.tags.model_copy(update={"file": resolved(settings.serve.tags.file)}),
                    "audience": settings.serve.audience.model_copy(
                        update={"suppression": tuple(map(resolved, settings.serve.audience.suppression))}
                    ),
                }
            ),
            "learn": settings.learn.model_copy(
                update={
                    "examples": settings.learn.examples.model_copy(
                        update={"file": resolved(settings.learn.examples.file)}
                    ),
                    "outcomes": settings.learn.outcomes.model_copy(
                        update={"file": resolved(settings.learn.outcomes.file)}
                    ),
                }
            ),
        }
    )
