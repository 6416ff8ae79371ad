"""Reading the champion: requests to MLflow, without Spark."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from profilestream.base.errors import ProfilestreamError
from profilestream.base.settings import Settings
from profilestream.learn import model_registry, publishing
from profilestream.learn.model_registry import RegisteredVersion
from profilestream.learn.publication import Publication
from profilestream.learn.tracking import MlflowStore

from tests.builders import Shop

NO_SPARK = cast(Any, None)
ROWS = SimpleNamespace(isEmpty=lambda: False)
PUBLICATION = cast(Publication, SimpleNamespace(model_name="outcomes", rows_of_version=lambda *_: ROWS))


def test_the_champion_is_read_with_one_request_of_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def versions() -> list[RegisteredVersion]:
        requests.append("versions")
        return [RegisteredVersion(2, ("challenger",), {}), RegisteredVersion(1, ("champion",), {})]

    @contextmanager
    def open_model(settings: Settings, name: str) -> Iterator[Any]:
        yield SimpleNamespace(versions=versions)

    monkeypatch.setattr(model_registry, "open_model", open_model)
    monkeypatch.setattr(MlflowStore, "exists", lambda _: True)
    champion = publishing.read_champion(NO_SPARK, cast(Settings, None), PUBLICATION)
    assert champion is not None and champion[0].number == 1 and requests == ["versions"]


def test_without_an_answer_of_mlflow_there_is_no_champion_but_an_error_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the same as "no champion", after which serve_outcomes would score by the newest models."""

    def refuse(_: MlflowStore) -> None:
        raise ConnectionRefusedError("connection refused")

    settings = Shop(tmp_path, overrides=["learn.tracking.uri=http://mlflow.example:5000"]).settings()
    monkeypatch.setattr(MlflowStore, "client", property(refuse))
    with pytest.raises(ProfilestreamError, match="a request to MLflow failed: connection refused") as error:
        publishing.read_champion(NO_SPARK, settings, PUBLICATION)
    assert error.value.exit_code == 1 and "mlflow.example" in error.value.where
