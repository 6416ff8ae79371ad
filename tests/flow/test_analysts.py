"""docs/for_analysts.md: every quick start runs, and all readers return the same and the shown result."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from profilestream import flow, table_registry
from profilestream.base import settings as settings_module
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.steward import status
from pyspark.sql import SparkSession

from tests import cookbook
from tests.cookbook import Code, Question

ROOT = Path(__file__).parent.parent.parent
TEXT = cookbook.PAGE.read_text()
QUESTIONS = cookbook.questions(TEXT)
DOCUMENTED_WAREHOUSE = "demo/warehouse"
# Its questions need views and carts, which Online Retail does not have.
SECTION_OF_REES46 = "Views and carts"
Rows = list[tuple[object, ...]]


@pytest.fixture(scope="module")
def retail(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a warehouse of every twentieth customer of Online Retail, after all stages and steps."""
    home = tmp_path_factory.mktemp("retail")
    log = pl.read_parquet(ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet")
    customer = pl.col("CustomerID").cast(pl.Float64, strict=False)
    (home / "input").mkdir()
    log.filter(customer % 20 == 0).write_csv(home / "input" / "log.csv")
    overrides = {
        "paths.warehouse": home / "warehouse",
        "paths.checkpoints": home / "checkpoints",
        "capture.sources.online_retail.path": home / "input",
        # Months, and all batches in the process of the driver: a few seconds less per stage.
        "capture.partition_by": "month",
        "stream.local_max_rows": 100_000,
        "derive.features": '["derive/user_hours.toml", "derive/customer_hours.toml"]',
        # No question needs them.
        "derive.sessions.enabled": "false",
        "derive.transitions.enabled": "false",
        "learn.tracking.enabled": "false",
        "serve.anomalies.enabled": "false",
        "serve.report.enabled": "false",
    }
    config, changes = ROOT / "conf" / "demo.toml", [f"{key}={value}" for key, value in overrides.items()]
    settings = settings_module.load(str(config), changes)
    flow.run(_session, settings, RunOptions())
    return settings


@dataclass(frozen=True)
class Readers:
    """The tables of a warehouse, by name, in all engines."""

    spark: SparkSession
    db: duckdb.DuckDBPyConnection
    frames: dict[str, pl.LazyFrame]

    def by_spark(self, code: Code) -> tuple[list[str], Rows]:
        frame = self.spark.sql(code.text)
        return frame.columns, [tuple(row) for row in frame.collect()]

    def by_duckdb(self, code: Code) -> tuple[list[str], Rows]:
        relation = self.db.sql(code.text)
        return relation.columns, relation.fetchall()

    def by_polars(self, code: Code) -> tuple[list[str], Rows]:
        if code.is_sql:
            result = pl.SQLContext(self.frames).execute(code.text)
        else:
            variables: dict[str, Any] = {"pl": pl, **self.frames}
            exec(code.text, variables)
            result = variables["result"]
        rows = result.collect()
        return rows.columns, rows.rows()


@pytest.fixture(scope="module")
def readers(_session: SparkSession, retail: Settings, rees46: Settings) -> dict[bool, Readers]:
    """The readers of both logs; the key is whether the log is REES46."""
    return {settings is rees46: _readers(_session, settings) for settings in (retail, rees46)}


def _readers(spark: SparkSession, settings: Settings) -> Readers:
    """Its session has temporary views of its own."""
    readers = Readers(spark.newSession(), duckdb.connect(), {})
    exec(status.load_delta_code(), {"db": readers.db})
    readers.db.execute("SET TimeZone = 'UTC'")
    for table in table_registry.registry(settings):
        if table.exists(spark, settings.paths):
            path, name = table.path(settings.paths), table.name
            table.read(readers.spark, settings.paths).createOrReplaceTempView(name)
            readers.db.execute(f"CREATE VIEW {name} AS SELECT * FROM delta_scan('{path}')")
            readers.frames[name] = pl.scan_delta(path)
    return readers


def test_every_question_has_code_for_all_engines() -> None:
    assert len(QUESTIONS) >= 40
    assert [one.title for one in QUESTIONS if one.code.keys() != {*cookbook.ENGINES}] == []
    # A reader learns one dialect: more than three quarters of the questions have a text for all.
    assert sum(len({*one.code.values()}) == 1 for one in QUESTIONS) > 0.75 * len(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=[question.title for question in QUESTIONS])
def test_all_readers_return_the_shown_result(
    readers: dict[bool, Readers], question: Question, pytestconfig: pytest.Config
) -> None:
    own = readers[question.section == SECTION_OF_REES46]
    columns, rows = own.by_duckdb(question.code["duckdb"])
    for engine, read in (("spark", own.by_spark), ("polars", own.by_polars)):
        other_columns, other_rows = read(question.code[engine])
        assert other_columns == columns, engine
        assert other_rows and cookbook.are_equal(other_rows, rows), f"{engine}: {other_rows}\nDuckDB: {rows}"
    result = cookbook.as_text(columns, rows)
    if pytestconfig.getoption("--update-docs"):
        cookbook.PAGE.write_text(cookbook.with_result(cookbook.PAGE.read_text(), question.title, result))
    else:
        assert question.shown == result, f"if this result is right, run {cookbook.UPDATE}"


def test_every_cell_of_the_notebook_runs_and_shows_a_chart(retail: Settings) -> None:
    notebook = (ROOT / "docs" / "notebook.py").read_text().replace(DOCUMENTED_WAREHOUSE, retail.paths.warehouse)
    variables: dict[str, Any] = {}
    shown = []
    for cell in notebook.split("# %%\n")[1:]:
        *statements, last = ast.parse(cell).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(statements, []), "docs/notebook.py", "exec"), variables)
        shown.append(eval(compile(ast.Expression(last.value), "docs/notebook.py", "eval"), variables))
    head, *charts = shown
    assert head.height == 3
    frames = [variables[name] for name in ("weeks", "spend", "risks", "trends", "orders")]
    assert [sum(len(trace.x) for trace in chart.data) for chart in charts] == [frame.height for frame in frames]
    assert all(frame.height > 20 for frame in frames)


@pytest.mark.parametrize("quick_start", re.findall(r"^```python\n(.*?)^```$", TEXT, re.S | re.M))
def test_every_quick_start_runs(retail: Settings, quick_start: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(quick_start.replace(DOCUMENTED_WAREHOUSE, retail.paths.warehouse), {})
    assert "purchase" in capsys.readouterr().out
