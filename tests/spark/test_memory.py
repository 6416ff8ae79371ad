"""What a run leaves behind in the driver: nothing."""

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


def test_a_query_that_has_ended_is_forgotten_by_python_and_java(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[weakref.ref[QueryRunner]] = []

    class Watched(QueryRunner):
        def start(self, spark: SparkSession) -> None:
            super().start(spark)
            started.append(weakref.ref(self))

    monkeypatch.setattr(streaming, "QueryRunner", Watched)
    shop = Shop(tmp_path)
    shop.write("a.jsonl", json.dumps(event(1)))
    shop.capture(spark)
    (running,) = started
    deadline = time.monotonic() + 20
    while running() is not None and time.monotonic() < deadline:
        gc.collect()
        # Java tells Python what it no longer needs when its own collector finds it.
        java_class(spark, "java.lang.System").gc()
        time.sleep(0.2)
    assert running() is None
