"""What MLflow is told, and versions that are published: late, once, by the gate, whole or not at all."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from delta.tables import DeltaTable
from mlflow import MlflowClient
from profilestream.base import commits, tables
from profilestream.learn import gate, ranking, steps, tracking
from profilestream.learn.gate import Published
from profilestream.learn.tracking import METRICS, Store
from pyspark.sql import SparkSession

from jobs import learn_factors, learn_publish
from tests.make import Shop, event

MADE = """
[learn]
max_files_per_trigger = 1
[learn.factors]
enabled = true
k = 4
history = 6
refresh = 2
first_sweeps = 0
sweeps = 0
[learn.publish]
batches = 1
[learn.tracking]
timeout_seconds = 60
"""
DAY_MICROS = 86_400_000_000


def _write(shop: Shop, day: int) -> None:
    events = [
        event(n, kind=("view", "purchase")[n % 2], who=f"u{n % 7}", what=f"i{n * n % 11}", at=f"2026-01-{day:02}T10:00:00Z")
        for n in range(day * 20, day * 20 + 20)
    ]
    shop.write(f"{day}.jsonl", "\n".join(json.dumps(one) for one in events))


def _learn(shop: Shop, *overrides: str) -> int:
    sets = [word for override in overrides for word in ("--set", override)]
    return learn_factors.main(["--config", str(shop.config()), *sets])


def _publish(shop: Shop, *flags: str) -> int:
    return learn_publish.main(["--config", str(shop.config()), *flags])


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Three days, captured."""
    made = Shop(tmp_path_factory.mktemp("tracking"), extra_settings=MADE, is_tracked=True)
    for day in (1, 2, 3):
        _write(made, day)
    made.capture(_session)
    return made


def _client(shop: Shop) -> MlflowClient:
    uri = Store(shop.settings()).uri
    return MlflowClient(uri, uri)


def _told(shop: Shop) -> dict[tuple[str, int], list[float]]:
    """Every value that MLflow holds, by metric and step, over all runs."""
    client = _client(shop)
    found: dict[tuple[str, int], list[float]] = {}
    experiment = client.get_experiment_by_name("profilestream")
    for run in client.search_runs([experiment.experiment_id]) if experiment else []:
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                found.setdefault((name, metric.step), []).append(metric.value)
    return found


def _kept(spark: SparkSession, shop: Shop) -> dict[tuple[str, int], list[float]]:
    """The same of `model_quality`."""
    return {
        (f"{row['candidate']}/{name}", row["batch_id"]): [row[name]]
        for row in shop.read(spark, tables.MODEL_QUALITY).collect()
        for name in METRICS
        if row[name] is not None
    }


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    return [text for text in found if "MLflow" in text]


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Another process that writes to a SQLite file and does not end."""
    connection = sqlite3.connect(path)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.rollback()
    connection.close()


def test_what_mlflow_missed_is_told_later_and_once(
    spark: SparkSession, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    # 1. Nobody answers: the batches are learned, one line says so.
    assert _learn(shop, "learn.tracking.uri=http://127.0.0.1:9", "learn.tracking.timeout_seconds=30") == 0
    kept = _kept(spark, shop)
    assert {step for _, step in kept} == {1, 2}
    assert len(_warnings(caplog)) == 1
    assert "MLflow was not told of factors, and will be told later: MlflowException" in _warnings(caplog)[0]
    # 2. It answers: everything is told, though no batch came.
    assert _learn(shop) == 0
    assert _told(shop) == kept
    # 3. A crash after the metrics and before the tag that says so; then once more.
    client = _client(shop)
    (run,) = client.search_runs([client.get_experiment_by_name("profilestream").experiment_id])
    assert run.data.params["k"] == "4"
    client.set_tag(run.info.run_id, "profilestream.last_batch", "0")
    assert _learn(shop) == 0
    assert _told(shop) == kept
    # 4. The file is locked for longer than is waited for.
    caplog.clear()
    _write(shop, 4)
    shop.capture(spark)
    with _locked(f"{shop.home}/mlflow.db"):
        assert _learn(shop, "learn.tracking.timeout_seconds=1") == 0
    assert _warnings(caplog) == [
        "MLflow was not told of factors, and will be told later: no answer within 1 s",
    ]
    assert _learn(shop) == 0
    kept = _kept(spark, shop)
    assert {step for _, step in kept} == {1, 2, 3}
    assert _told(shop) == kept
