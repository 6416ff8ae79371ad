"""Tables that an earlier version of the code wrote get the columns of this one, and older code refuses newer tables."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from profilestream.base import locks, tables
from profilestream.base.errors import Refused
from pyspark.sql import SparkSession

from jobs import steward_migrate
from tests.builders import Shop

STORED = Path(__file__).parent.parent / "fixtures" / "warehouse_of_version_1"
TABLE = tables.STAGE_BATCHES


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with `stage_batches` as version 1 of its columns was written."""
    shutil.copytree(STORED, tmp_path / "warehouse")
    return Shop(tmp_path)


def _migrate(shop: Shop, *flags: str) -> int:
    return steward_migrate.main(["--config", str(shop.config()), *flags])


def test_a_stored_table_gets_the_new_columns_and_keeps_its_rows(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shop.read(spark, TABLE)
    stored, rows = before.columns, before.orderBy("batch_id").collect()
    new = [name for name in TABLE.names if name not in stored]
    assert len(rows) == 3 and new
    line = f"stage_batches: schema version 1 -> {TABLE.schema_version}, new columns: {', '.join(new)}\n"
    assert _migrate(shop, "--dry-run") == 0
    assert capsys.readouterr().out == f"{line}tables that would change or be refused: 1\n"
    assert shop.read(spark, TABLE).columns == stored
    assert _migrate(shop) == 0
    assert capsys.readouterr().out == f"{line}changed tables: 1\n"
    after = shop.read(spark, TABLE).orderBy("batch_id")
    assert after.select(*stored).collect() == rows
    assert {value for row in after.select(*new).collect() for value in row} == {None}
    assert _migrate(shop) == 0
    assert capsys.readouterr().out == "changed tables: 0\n"
    older = replace(TABLE, schema_version=1, columns=tuple(c for c in TABLE.columns if c.name in stored))
    with pytest.raises(Refused, match="run the newer profilestream"):
        older.check_stored(spark, shop.settings().paths)


def test_nothing_is_changed_while_a_job_runs_or_if_one_table_is_refused(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = shop.read(spark, TABLE).columns
    with locks.hold_lock(shop.settings().paths.lock_folder, "capture/shop"):
        assert _migrate(shop) == 3
    assert "capture/shop is already running" in capsys.readouterr().err
    newer = replace(tables.CAPTURE_BATCHES, schema_version=99)
    newer.create(spark, shop.settings().paths)
    assert _migrate(shop, "--dry-run") == 0
    assert "capture_batches: table capture_batches has schema version 99" in capsys.readouterr().out
    assert _migrate(shop) == 3
    assert "no table was changed" in capsys.readouterr().err
    assert shop.read(spark, TABLE).columns == columns
