"""The MLflow model registry: numbered versions of a registered model, with tags and aliases."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from profilestream.base.settings import Settings
from profilestream.learn import tracking
from profilestream.learn.tracking import MlflowStore

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.types import ColSpec


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model: its number, the aliases that point to it, and its tags."""

    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class PyfuncModel:
    """The model that `mlflow.pyfunc.load_model` loads for a version; the numbers are in the published table.

    Args:
        code: file in this folder that MLflow runs ("models from code").
        inputs, outputs: MLflow type by column name; `array<double>` for a list.
        example: an example input: values by column.
        config: MLflow's `model_config`, which the code reads.
        params: integer parameters of `predict`, with their defaults.
    """

    code: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    example: Mapping[str, list[Any]]
    config: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model; MLflow creates it with its first version."""

    store: MlflowStore
    name: str

    @property
    def where(self) -> str:
        """Name and tracking URI, for error messages."""
        return f"model {self.name}, learn.tracking.uri = {self.store.uri}"

    def versions(self) -> list[RegisteredVersion]:
        """All versions, newest first."""
        client = self.store.client
        models = client.search_registered_models(f"name = '{self.name}'")
        aliases = models[0].aliases if models else {}
        versions: list[ModelVersion] = []
        token = None
        while True:
            page = client.search_model_versions(f"name = '{self.name}'", page_token=token)
            versions += page
            token = page.token
            if not token:
                break
        tags_of = {int(version.version): dict(version.tags) for version in versions}
        return [
            RegisteredVersion(number, tuple(sorted(alias for alias, n in aliases.items() if int(n) == number)), tags)
            for number, tags in sorted(tags_of.items(), reverse=True)
        ]

    def create_version(self, run: "Run", folder: str, tags: Mapping[str, str]) -> int:
        """The number of a new version. Its files are written later, by `log_model`.

        Args:
            folder: folder of the model files in the artifacts of the run.
        """
        client = self.store.client
        if not client.search_registered_models(f"name = '{self.name}'"):
            client.create_registered_model(self.name)
        source = f"{run.info.artifact_uri}/{folder}"
        return int(client.create_model_version(self.name, source, run.info.run_id, tags=dict(tags)).version)

    def log_model(self, run: "Run", folder: str, model: PyfuncModel, config: Mapping[str, Any]) -> None:
        """Write the model files to the artifacts of the run: code, configuration, signature and input example.

        Args:
            config: configuration of this version, in addition to `model.config`.
        """
        import pandas as pd
        from mlflow import pyfunc

        packages = [f"{name}=={metadata.version(name)}" for name in ("profilestream", "numpy", "pyarrow", "deltalake")]
        with TemporaryDirectory() as work:
            pyfunc.save_model(
                f"{work}/model",
                python_model=os.path.join(os.path.dirname(__file__), model.code),
                model_config={**model.config, **config},
                signature=_signature(model),
                input_example=pd.DataFrame(dict(model.example)),
                pip_requirements=packages,
            )
            self.store.client.log_artifacts(run.info.run_id, f"{work}/model", folder)

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version; other tags are unchanged."""
        for key, value in tags.items():
            self.store.client.set_model_version_tag(self.name, str(version), key, value)

    def set_alias(self, alias: str, version: int | None) -> None:
        """Point an alias to a version; null removes the alias."""
        if version is None:
            self.store.client.delete_registered_model_alias(self.name, alias)
        else:
            self.store.client.set_registered_model_alias(self.name, alias, str(version))


@contextmanager
def open_model(settings: Settings, name: str) -> Iterator[RegisteredModel]:
    """A registered model, for a job that cannot continue without MLflow.

    Raises:
        ProfilestreamError: a request to MLflow failed inside the block.
    """
    with tracking.open_store(settings) as store:
        yield RegisteredModel(store, name)


def _signature(model: PyfuncModel) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        Schema([_column(name, type_name) for name, type_name in model.inputs.items()]),
        Schema([_column(name, type_name) for name, type_name in model.outputs.items()]),
        ParamSchema([ParamSpec(name, DataType.long, value) for name, value in model.params.items()]),
    )


def _column(name: str, type_name: str) -> "ColSpec":
    from mlflow.types import ColSpec
    from mlflow.types.schema import Array

    element = type_name.removeprefix("array<").removesuffix(">")
    return ColSpec(type_name if element == type_name else Array(element), name)
