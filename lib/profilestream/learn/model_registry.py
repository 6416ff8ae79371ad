"""The registry of MLflow: numbered versions of a model, what was noted of them, and the aliases that name them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from profilestream.base.settings import Settings
from profilestream.learn import tracking
from profilestream.learn.tracking import Store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.types import ColSpec


@dataclass(frozen=True)
class Version:
    """A registered version: its number, the aliases that name it, and what was noted of it."""

    number: int
    aliases: tuple[str, ...]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Model:
    """What MLflow loads, beside the rows of a version.

    Args:
        code: the file in this folder that MLflow runs.
        inputs, outputs: types of the columns by name, as MLflow calls them; `array<double>` for a list.
        example: of an input, values by column.
        config: what the code is told.
        params: whole numbers that may be asked for with an input, and what they are otherwise.
    """

    code: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    example: Mapping[str, list[Any]]
    config: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Registry:
    """The versions of the model of one name."""

    store: Store
    name: str

    @property
    def where(self) -> str:
        """For errors."""
        return f"model {self.name}, learn.tracking.uri = {self.store.uri}"

    def versions(self) -> list[Version]:
        """All registered versions, newest first."""
        client = self.store.client
        models = client.search_registered_models(f"name = '{self.name}'")
        aliases = models[0].aliases if models else {}
        found: list[ModelVersion] = []
        token = None
        while True:
            page = client.search_model_versions(f"name = '{self.name}'", page_token=token)
            found += page
            token = page.token
            if not token:
                break
        numbers = {int(one.version): dict(one.tags) for one in found}
        return [
            Version(number, tuple(sorted(a for a, v in aliases.items() if int(v) == number)), notes)
            for number, notes in sorted(numbers.items(), reverse=True)
        ]

    def register(self, run: "Run", folder: str, notes: Mapping[str, str]) -> int:
        """A new version, with the number that MLflow gives it; its files are still to come (`put_files`)."""
        client = self.store.client
        if not client.search_registered_models(f"name = '{self.name}'"):
            client.create_registered_model(self.name)
        source = f"{run.info.artifact_uri}/{folder}"
        return int(client.create_model_version(self.name, source, run.info.run_id, tags=dict(notes)).version)

    def put_files(self, run: "Run", folder: str, model: Model, config: Mapping[str, Any]) -> None:
        """The model that MLflow loads: its code with configuration, signature and an example.

        Args:
            config: more of it than the model's own.
        """
        import pandas as pd
        from mlflow import pyfunc

        needed = [f"{name}=={metadata.version(name)}" for name in ("profilestream", "numpy", "pyarrow", "deltalake")]
        with TemporaryDirectory() as aside:
            pyfunc.save_model(
                f"{aside}/model",
                python_model=os.path.join(os.path.dirname(__file__), model.code),
                model_config={**model.config, **config},
                signature=_signature(model),
                input_example=pd.DataFrame(dict(model.example)),
                pip_requirements=needed,
            )
            self.store.client.log_artifacts(run.info.run_id, f"{aside}/model", folder)

    def note(self, version: int, notes: Mapping[str, str]) -> None:
        """Note something more of a version."""
        for key, value in notes.items():
            self.store.client.set_model_version_tag(self.name, str(version), key, value)

    def name_version(self, alias: str, version: int | None) -> None:
        """Let an alias name a version, or none."""
        if version is None:
            self.store.client.delete_registered_model_alias(self.name, alias)
        else:
            self.store.client.set_registered_model_alias(self.name, alias, str(version))


@contextmanager
def opened(settings: Settings, name: str) -> Iterator[Registry]:
    """The versions of a model, for a job that cannot do without MLflow; raises as tracking.store."""
    with tracking.store(settings) as store:
        yield Registry(store, name)


def _signature(model: Model) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        Schema([_column(name, kind) for name, kind in model.inputs.items()]),
        Schema([_column(name, kind) for name, kind in model.outputs.items()]),
        ParamSchema([ParamSpec(name, DataType.long, value) for name, value in model.params.items()]),
    )


def _column(name: str, kind: str) -> "ColSpec":
    from mlflow.types import ColSpec
    from mlflow.types.schema import Array

    inner = kind.removeprefix("array<").removesuffix(">")
    return ColSpec(kind if inner == kind else Array(inner), name)
