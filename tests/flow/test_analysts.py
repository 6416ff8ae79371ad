"""docs/for_analysts.md: every start runs, and Spark and DuckDB answer every question of the cookbook alike."""

import datetime
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.derive import transitions
from profilestream.steward import status
from pyspark.sql import SparkSession

TEXT = (Path(__file__).parent.parent.parent / "docs" / "for_analysts.md").read_text()
SHOWN = "demo/warehouse"


@dataclass(frozen=True)
class Question:
    """A heading of the cookbook and the SQL below it, by engine."""

    title: str
    spark: str
    duckdb: str


def _questions() -> list[Question]:
    found = []
    for section in TEXT.split("\n### ")[1:]:
        by_engine: dict[str, str] = dict(re.findall(r"^```sql ?(\w*)\n(.*?)^```$", section, re.S | re.M))
        shared = by_engine.get("", "")
        found.append(Question(section.split("\n")[0], by_engine.get("spark", shared), by_engine.get("duckdb", shared)))
    return found


QUESTIONS = _questions()


def test_the_cookbook_has_its_questions() -> None:
    assert len(QUESTIONS) >= 15 and all(one.spark and one.duckdb for one in QUESTIONS)


@pytest.fixture(scope="module")
def opened(_session: SparkSession, rees46: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Views of both engines over the same tables; those of the shared session are gone afterwards."""
    db = duckdb.connect()
    exec(status.load_delta(), {"db": db})
    db.execute("SET TimeZone = 'UTC'")
    asked = (tables.EVENTS, tables.CAPTURE_BATCHES, transitions.declared(rees46, transitions.ALL).table)
    for table in asked:
        table.read(_session, rees46.paths).createOrReplaceTempView(table.name)
        db.execute(f"CREATE VIEW {table.name} AS SELECT * FROM delta_scan('{table.path(rees46.paths)}')")
    yield db
    for table in asked:
        _session.catalog.dropTempView(table.name)


@pytest.mark.parametrize("question", QUESTIONS, ids=[one.title for one in QUESTIONS])
def test_spark_and_duckdb_answer_alike(
    spark: SparkSession, opened: duckdb.DuckDBPyConnection, question: Question
) -> None:
    answer = opened.sql(question.duckdb)
    frame = spark.sql(question.spark)
    assert frame.columns == answer.columns
    expected, got = ([tuple(map(_plain, row)) for row in rows] for rows in (answer.fetchall(), frame.collect()))
    assert got == expected and got


@pytest.mark.parametrize("start", re.findall(r"^```python\n(.*?)^```$", TEXT, re.S | re.M))
def test_every_start_runs_as_it_stands(
    opened: duckdb.DuckDBPyConnection, rees46: Settings, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(start.replace(SHOWN, rees46.paths.warehouse), {})
    assert "view" in capsys.readouterr().out


def _plain(value: Any) -> Any:
    """Numbers of any type as rounded floats, times without their zone."""
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    if value is None or isinstance(value, (str, datetime.date)):
        return value
    number = float(value)
    return number if number == 0 or not math.isfinite(number) else float(f"{number:.9g}")
