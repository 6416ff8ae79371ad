"""Memory of the driver after a run: an ended query is collected by the garbage collectors of Python and Java."""

import gc
import json
import time
import weakref
from pathlib import Path

import pytest
from profilestream.base import streaming
from profilestream.base.jvm import java_class
from profilestream.base.query_runner import QueryRunner
from pyspark.sql import SparkSession

from tests.builders import Shop, event


def test_an_ended_query_is_garbage_collected_in_python_and_java(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runners: list[weakref.ref[QueryRunner]] = []

    class TrackedRunner(QueryRunner):
        def start(self, spark: SparkSession) -> None:
            super().start(spark)
            runners.append(weakref.ref(self))

    monkeypatch.setattr(streaming, "QueryRunner", TrackedRunner)
    shop = Shop(tmp_path)
    shop.write("a.jsonl", json.dumps(event(1)))
    shop.capture(spark)
    (runner,) = runners
    deadline = time.monotonic() + 20
    while runner() is not None and time.monotonic() < deadline:
        gc.collect()
        # Java releases its references to Python objects only after its own garbage collection.
        java_class(spark, "java.lang.System").gc()
        time.sleep(0.2)
    assert runner() is None
