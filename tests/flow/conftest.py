"""Fixtures of several modules: a real log, captured once; the MLflow store of a shop; crashes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from profilestream.base import settings as settings_module
from profilestream.base import streaming
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import profiles, sessions, transitions
from pyspark.sql import SparkSession

from tests.builders import Shop
from tests.fault_injection import Crashes
from tests.mlflow_store import mlflow_store

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def rees46(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a warehouse of the shipped REES46 sample with profiles, sessions, transitions; read-only."""
    home = tmp_path_factory.mktemp("rees46")
    overrides = {
        "paths.warehouse": home / "warehouse",
        "paths.checkpoints": home / "checkpoints",
        "capture.sources.rees46.path": ROOT / "data" / "rees46",
        "capture.sources.rees46.mapping": ROOT / "conf" / "sources" / "rees46.toml",
    }
    settings = settings_module.load(
        str(ROOT / "conf" / "demo.toml"), [f"{key}={value}" for key, value in overrides.items()]
    )
    derived = [*profiles.queries(settings), *sessions.queries(settings), *transitions.queries(settings)]
    streaming.run(_session, [ingest.query(settings, "rees46"), *derived], settings, RunOptions())
    return settings


@pytest.fixture
def registry(shop: Shop) -> Iterator[None]:
    """MLflow's functions use the store of the shop."""
    with mlflow_store(shop.settings()):
        yield


@pytest.fixture
def crashes(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, at_length: bool) -> Crashes:
    """Runs stages through crashes."""
    return Crashes(spark, monkeypatch, at_length)
