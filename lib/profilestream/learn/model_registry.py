"""The MLflow model registry: numbered versions of a registered model, with tags and aliases."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from profilestream.base.settings import Settings
from profilestream.learn import tracking
from profilestream.learn.predictor import Predictor
from profilestream.learn.tracking import MlflowStore

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.types import ColSpec

Config = Mapping[str, Any]
_MLFLOW_TYPES = {"string": "string", "double": "double", "int64": "long"}


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model: its number, the aliases that point to it, and its tags."""

    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


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

    def log_model(
        self, run: "Run", folder: str, predictor: type[Predictor], example: Mapping[str, list[Any]], config: Config
    ) -> None:
        """Write the model files to the artifacts of the run: code, configuration, signature and input example.

        Args:
            example: values by column of the input.
            config: `table`, `model_version`, `params` and `options`, which published_model.py reads. `params` is JSON,
                because MLflow sorts the keys of mappings, and the order of features has a meaning.
        """
        from mlflow import pyfunc

        inputs = pa.table(dict(example))
        packages = [f"{name}=={metadata.version(name)}" for name in ("profilestream", "numpy", "pyarrow", "deltalake")]
        with TemporaryDirectory() as work:
            pyfunc.save_model(
                f"{work}/model",
                python_model=os.path.join(os.path.dirname(__file__), "published_model.py"),
                model_config={"predictor": f"{predictor.__module__}.{predictor.__name__}", **config},
                signature=_signature(inputs.schema, predictor.outputs, config["options"]),
                input_example=inputs.to_pandas(),
                pip_requirements=packages,
            )
            self.store.client.log_artifacts(run.info.run_id, f"{work}/model", folder)

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version; other tags are unchanged."""
        for key, value in tags.items():
            self.store.client.set_model_version_tag(self.name, str(version), key, value)

    def set_description(self, version: int, text: str) -> None:
        """Set the description of a version, as Markdown."""
        self.store.client.update_model_version(self.name, str(version), text)

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


def _signature(inputs: pa.Schema, outputs: pa.Schema, options: Mapping[str, Any]) -> Any:
    """Columns of the input and of the output; options with integer values are parameters of `predict`."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        Schema([_column(field) for field in inputs]),
        Schema([_column(field) for field in outputs]),
        ParamSchema([ParamSpec(name, DataType.long, n) for name, n in options.items() if isinstance(n, int)]),
    )


def _column(field: "pa.Field[Any]") -> "ColSpec":
    from mlflow.types import ColSpec
    from mlflow.types.schema import Array

    is_list = pa.types.is_list(field.type)
    name = _MLFLOW_TYPES[str(field.type.value_type if is_list else field.type)]
    return ColSpec(Array(name) if is_list else name, field.name)
