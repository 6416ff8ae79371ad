"""The MLflow store of a shop as that of MLflow's functions."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from profilestream.base.settings import Settings
from profilestream.learn.tracking import MlflowStore


@contextmanager
def mlflow_store(settings: Settings) -> Iterator[None]:
    """MLflow's functions use the store of these settings during the block."""
    uri, previous = MlflowStore(settings).uri, mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous)
        mlflow.set_registry_uri(previous)
