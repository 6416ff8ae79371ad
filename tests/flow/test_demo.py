"""The demo with every stage enabled: its output, and its tables against the table registry."""

from pathlib import Path

import pytest
from profilestream import flow, table_registry
from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import Refused
from profilestream.base.settings import Settings
from profilestream.learn.learners import BY_NAME
from profilestream.steward import table_docs
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from jobs import learn_publish, run_demo
from tests.open_readers import assert_all_readers_agree

ROOT = Path(__file__).parent.parent.parent
# Online Retail has neither categories nor brands; two days give no labels, models of outcomes or forecasts.
# A file has no offsets, and the log no sequence numbers.
OF_OTHER_SOURCES = (tables.CAPTURE_GAPS, tables.CAPTURE_SEQUENCES)
WITHOUT_ROWS = ("category_hours", "brand_hours", "user_category_hours", "training_examples", "outcome_examples",
                "outcome_models", "batch_models", "demand_forecasts", "unusual_activity")  # fmt: skip
# Outcomes have no model to publish, and the demo exports no audience.
NOT_WRITTEN = ("published_outcome_models", "audience_users")


def _overrides(home: Path) -> list[str]:
    """The demo in a temporary folder, with training examples, and with a limit that raises alarms."""
    return [
        f"paths.warehouse={home}/warehouse",
        f"paths.checkpoints={home}/checkpoints",
        f"capture.sources.online_retail.path={home}/input",
        "capture.sources.online_retail.max_files_per_trigger=1",
        "capture.alarms.max_deviations=0.001",
        "capture.alarms.min_batches=1",
        "learn.examples.enabled=true",
        "learn.examples.interval=1d",
        "learn.demand.enabled=true",
        "learn.batch_models.enabled=true",
        "serve.anomalies.enabled=true",
        *table_docs.ALL_TABLES_OVERRIDES,
    ]


def _assert_equal_to_declaration(spark: SparkSession, table: Table, settings: Settings) -> None:
    stored = table.read(spark, settings.paths).schema
    assert _columns(stored) == _columns(table.schema), table.name


def _columns(struct: StructType, prefix: str = "") -> list[tuple[str, str, str | None]]:
    """Path, type and comment of every column, also inside structs."""
    columns = []
    for field in struct:
        path = prefix + field.name
        columns.append((path, field.dataType.simpleString(), field.metadata.get("comment")))
        if isinstance(field.dataType, StructType):
            columns += _columns(field.dataType, f"{path}.")
    return columns


def test_the_demo_removes_old_output_and_writes_every_registered_table(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run stops before its tables exist; the second run removes what it left."""
    monkeypatch.chdir(ROOT)
    overrides = _overrides(tmp_path)
    flags = [part for override in overrides for part in ("--set", override)]

    def stop(*args: object) -> None:
        for folder in ("warehouse", "checkpoints"):
            (tmp_path / folder / "events").mkdir(parents=True)
        raise Refused("stopped", where="here", do="run it again")

    with monkeypatch.context() as patch:
        patch.setattr(flow, "run", stop)
        assert run_demo.main(["--days", "2", *flags]) == 3
    assert "removed" not in capsys.readouterr().out
    assert run_demo.main(["--days", "2", *flags]) == 0
    printed = capsys.readouterr()
    assert f"removed the output of an earlier demo: {tmp_path}/warehouse, {tmp_path}/checkpoints" in printed.out
    assert "online_retail: 5,217 = " in printed.out
    assert "the newest user: uk_gifts:" in printed.out
    assert "2/2 files · batch 2 · 5,217 rows" in printed.err

    for learner in BY_NAME:
        code = learn_publish.main(["--config", "conf/demo.toml", *flags, "--learner", learner])
        # Outcomes have no model yet, and demand is not published.
        assert code == (2 if learner in ("outcomes", "demand") else 0)
    settings = settings_module.load("conf/demo.toml", overrides)
    all_tables = [table for table in table_registry.registry(settings) if table.name not in NOT_WRITTEN]
    registry = [table for table in all_tables if table not in OF_OTHER_SOURCES]
    stored = {path.name for path in (tmp_path / "warehouse").iterdir() if (path / "_delta_log").exists()}
    assert stored == {table.name for table in registry}
    for table in registry:
        _assert_equal_to_declaration(spark, table, settings)
        numbers = [c.name for c in table.columns if c.sql_type in ("BIGINT", "INT", "DOUBLE") and not c.is_nullable]
        column = numbers[0] if numbers else ""
        assert_all_readers_agree(spark, table.path(settings.paths), column, is_empty=table.name in WITHOUT_ROWS)
