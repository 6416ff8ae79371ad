"""One Spark session per process, created when a test first needs it; all folders are pytest's temporary folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from profilestream.base.jvm import java_class
from pyspark.sql import SparkSession

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
# The time of a test depends on what else runs on the machine.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="run the long forms of tests, and tests marked long: `make long`"
    )
    parser.addoption("--update-docs", action="store_true", help="write the results that docs/for_analysts.md shows")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        deselected = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in deselected]
        config.hook.pytest_deselected(items=deselected)


@pytest.fixture
def at_length(pytestconfig: pytest.Config) -> bool:
    """Whether tests run in their long form, for example with a crash around every write instead of two."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def _session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    from profilestream.base.session import open_session

    home = tmp_path_factory.mktemp("spark")
    properties = home / "spark-test.conf"
    # The settings of a laptop with fewer tasks: frames in tests have a few rows.
    local = (ROOT / "conf" / "spark-local.conf").read_text()
    properties.write_text(
        f"{local}\nspark.master local[2]\nspark.sql.shuffle.partitions 1\n"
        f"spark.databricks.delta.snapshotPartitions 1\nspark.sql.warehouse.dir {home}/warehouse\n"
        f"spark.local.dir {home}/local\n"
        # Each test plans other expressions: to compile them takes longer than to interpret them for a few rows. Jobs in
        # processes of their own compile them, as in production.
        "spark.sql.codegen.wholeStage false\n"
        # Java's second compiler takes a third of the CPU time of the tests, and the other process needs the cores.
        "spark.driver.extraJavaOptions -XX:+UseParallelGC -XX:ReservedCodeCacheSize=1g -XX:TieredStopAtLevel=1\n"
    )
    (home / "log4j2.properties").write_text((ROOT / "conf" / "log4j2.properties").read_text())
    session = open_session("tests", str(properties))
    yield session
    session.stop()


@pytest.fixture
def spark(_session: SparkSession) -> Iterator[SparkSession]:
    """The shared session; queries and caches of the test are removed afterwards.

    Delta stores the plans of each table's snapshot for an hour. With the tables of all tests, Java's memory is full.
    """
    yield _session
    for query in _session.streams.active:
        query.stop()
    _session.catalog.clearCache()
    java_class(_session, "org.apache.spark.sql.delta.DeltaLog").clearCache()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), "")
    if not chromium:
        pytest.skip("chromium is not on PATH")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
