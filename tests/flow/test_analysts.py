"""docs/for_analysts.md: every quick start runs, and all readers return the same result for every question."""

import datetime
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.derive import profiles, transitions
from profilestream.serve.plain_tables import users_table, write_plain_tables
from profilestream.steward import status
from pyspark.sql import SparkSession

TEXT = (Path(__file__).parent.parent.parent / "docs" / "for_analysts.md").read_text()
DOCUMENTED_WAREHOUSE = "demo/warehouse"


@dataclass(frozen=True)
class Question:
    """A heading of the cookbook and its SQL by engine; only questions of profiles have SQL for Polars."""

    title: str
    spark: str
    duckdb: str
    polars: str


def _questions() -> list[Question]:
    questions = []
    for section in TEXT.split("\n### ")[1:]:
        by_engine: dict[str, str] = dict(re.findall(r"^```sql ?(\w*)\n(.*?)^```$", section, re.S | re.M))
        shared = by_engine.get("", "")
        title = section.split("\n")[0]
        spark, duck_db, polars = (by_engine.get(engine, shared) for engine in ("spark", "duckdb", "polars"))
        questions.append(Question(title, spark, duck_db, polars if "user_profiles" in spark else ""))
    return questions


QUESTIONS = _questions()


def test_every_question_of_the_cookbook_has_sql_for_its_engines() -> None:
    assert len(QUESTIONS) >= 20 and all(question.spark and question.duckdb for question in QUESTIONS)
    assert sum(bool(question.polars) for question in QUESTIONS) >= 6


@pytest.fixture(scope="module")
def views(_session: SparkSession, rees46: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Views of the same tables in both engines. The views in the shared session are dropped afterwards."""
    db = duckdb.connect()
    exec(status.load_delta_code(), {"db": db})
    db.execute("SET TimeZone = 'UTC'")
    write_plain_tables.run(_session, rees46)
    shown_tables = (
        users_table.table(rees46),
        tables.ITEMS,
        tables.EVENTS,
        tables.CAPTURE_BATCHES,
        transitions.declaration(rees46, transitions.ALL).table,
        profiles.profile_table(rees46).table,
    )
    for table in shown_tables:
        table.read(_session, rees46.paths).createOrReplaceTempView(table.name)
        db.execute(f"CREATE VIEW {table.name} AS SELECT * FROM delta_scan('{table.path(rees46.paths)}')")
    yield db
    for table in shown_tables:
        _session.catalog.dropTempView(table.name)


@pytest.mark.parametrize("question", QUESTIONS, ids=[question.title for question in QUESTIONS])
def test_all_readers_return_the_same_result(
    spark: SparkSession, views: duckdb.DuckDBPyConnection, rees46: Settings, question: Question
) -> None:
    relation = views.sql(question.duckdb)
    frame = spark.sql(question.spark)
    assert frame.columns == relation.columns
    duckdb_rows, spark_rows = (
        [tuple(map(_comparable, row)) for row in rows] for rows in (relation.fetchall(), frame.collect())
    )
    assert spark_rows == duckdb_rows and spark_rows
    if question.polars:
        stored = pl.scan_delta(profiles.profile_table(rees46).table.path(rees46.paths))
        result = pl.SQLContext(user_profiles=stored).execute(question.polars, eager=True)
        assert result.columns == frame.columns
        assert [tuple(map(_comparable, row)) for row in result.rows()] == spark_rows


@pytest.mark.parametrize("quick_start", re.findall(r"^```python\n(.*?)^```$", TEXT, re.S | re.M))
def test_every_quick_start_runs(
    views: duckdb.DuckDBPyConnection, rees46: Settings, quick_start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(quick_start.replace(DOCUMENTED_WAREHOUSE, rees46.paths.warehouse), {})
    assert "view" in capsys.readouterr().out


def _comparable(value: Any) -> Any:
    """Numbers of any type as floats with 9 digits, times without their time zone."""
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    if value is None or isinstance(value, (str, datetime.date)):
        return value
    number = float(value)
    return number if number == 0 or not math.isfinite(number) else float(f"{number:.9g}")
