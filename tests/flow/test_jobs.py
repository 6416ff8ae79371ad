"""Jobs end to end: exit codes and last lines, --check, clean stop, status, open readers (law 9)."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from profilestream.base import commits, job, session, streaming, tables
from profilestream.base.settings import Paths
from profilestream.steward import status
from pyspark.sql import SparkSession

from jobs import capture_events, capture_reprocess, run_pipeline, steward_status
from tests.builders import SHOP, Shop, event, short_lived_env, wait_until
from tests.open_readers import assert_all_readers_agree

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def shop(spark: SparkSession, tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.write("a.jsonl", "\n".join(json.dumps(r) for r in [event(1), event(2), event(1), event(3, who="null")]))
    return shop


def _error_text(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.split("\nfailed: ", 1)[-1].strip()


def test_check_of_valid_settings_prints_and_writes_nothing(shop: Shop) -> None:
    for main in (capture_events.main, run_pipeline.main, capture_reprocess.main, steward_status.main):
        assert main(["--config", str(shop.config()), "--check"]) == 0
    assert {path.name for path in shop.home.iterdir()} == {"input", "shop.toml", "shop_settings.toml"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "stream.odd=1"], "stream.odd: no such key (got 1)"),
        (["--source", "other"], "there is no source 'other'"),
        (["--set", "capture.sources.shop.path=/nowhere"], "there is no input at /nowhere"),
        (["continuous", "--every", "soon"], "--every 'soon' is not an interval"),
        (["--preview", "5", "/nowhere.jsonl"], "there is no file /nowhere.jsonl"),
    ],
)
def test_an_invalid_option_exits_2_with_what_to_do_last(
    shop: Shop, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert capture_events.main(["--config", str(shop.config()), *flags]) == 2
    error = _error_text(capsys)
    assert message in error
    assert error.splitlines()[-1].startswith("  what to do: ")
    assert "Traceback" not in error


def test_a_checkpoint_older_than_the_tables_exits_3(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(shop.config())
    assert capture_events.main(["--config", config]) == 0
    for table in (shop.home / "warehouse" / "events").glob("*.json"):
        table.unlink()
    (shop.home / "checkpoints" / "capture_events" / "shop" / "offsets" / "0").rename(shop.home / "offset")
    (shop.home / "checkpoints" / "capture_events" / "shop" / "commits" / "0").unlink()
    assert run_pipeline.main(["--config", config]) == 3
    error = _error_text(capsys)
    assert error.startswith("stage capture_events: the checkpoint of capture_events/shop is older than table events")
    assert error.splitlines()[-1].startswith("  what to do: restore the newer checkpoint")


def test_a_mapping_that_fails_on_every_row_exits_2_and_a_corrected_mapping_continues(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps(event(number, id=f"x{number}", price="expensive")) for number in range(100)]
    shop.write("a.jsonl", "\n".join(lines))
    shop.mapping = SHOP.replace('"price"\nquantity', '"CAST(price AS DOUBLE)"\nquantity')
    assert run_pipeline.main(["--config", str(shop.config())]) == 2
    error = _error_text(capsys)
    assert error.startswith("stage capture_events: an expression of the mapping fails on every row: columns.price")
    assert error.splitlines()[-1].startswith("  what to do: correct the expression")
    shop.mapping = SHOP
    assert run_pipeline.main(["--config", str(shop.config())]) == 0
    rejected = shop.read(spark, tables.REJECTED_EVENTS).groupBy("rule").count().collect()
    assert [tuple(row) for row in rejected] == [("price_unreadable", 100)]


def test_an_unexpected_failure_exits_1_and_names_the_query(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_in_spark(*args: object) -> None:
        spark.sql("SELECT raise_error('2.5')").collect()

    with monkeypatch.context() as patch:
        patch.setattr(commits, "append", fail_in_spark)
        assert run_pipeline.main(["--config", str(shop.config())]) == 1
    error = _error_text(capsys)
    assert error.startswith("stage capture_events: capture_events/shop failed: ")
    assert "2.5" in error
    assert error.splitlines()[-1] == (
        "  what to do: fix the cause and run it again; the tables contain complete batches only"
    )

    def fail(*args: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(streaming, "run", fail)
    assert capture_events.main(["--config", str(shop.config())]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("  what to do: report the lines above")


def test_preview_prints_rows_and_rejects_and_writes_nothing(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preview", "20", str(shop.input / "a.jsonl")]
    assert capture_events.main(["--config", str(shop.config()), *flags]) == 0
    output = capsys.readouterr().out
    assert "4 rows = 2 clean + 1 rejected + 1 duplicate" in output
    assert "rejected 1 by user_id_placeholder: user id 'null' is a placeholder, not a user" in output
    assert not (shop.home / "warehouse").exists()


def test_every_table_opens_in_every_reader_with_equal_counts_and_sums(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture_events.main(["--config", str(shop.config())]) == 0
    sums = {"events": "value", "rejected_events": "batch_id", "capture_batches": "rows_in", "stage_batches": "seconds"}
    for name, column in sums.items():
        assert_all_readers_agree(spark, f"{shop.settings().paths.warehouse}/{name}", column)


def test_status_prints_row_accounting_and_rejects(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(shop.config())
    assert steward_status.main(["--config", config]) == 2
    assert "nothing was captured yet" in _error_text(capsys)
    assert capture_events.main(["--config", config]) == 0
    assert steward_status.main(["--config", config]) == 0
    output = capsys.readouterr().out
    assert "shop: 4 = 2 clean + 1 rejected + 1 duplicate, in 1 batch" in output
    assert "shop  user_id_placeholder: user id 'null' is a placeholder, not a user" in output


@pytest.mark.parametrize("folder", ["a b/ä#c", "it's 50%", 'a"b$HOME/k=v', "q?{x}[y]*&;"])
def test_the_query_commands_of_status_work_in_any_folder(
    spark: SparkSession,
    tmp_path: Path,
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop = Shop(tmp_path)
    shop.append_events(spark, [event(1, kind="purchase")])
    shutil.copytree(tmp_path / "warehouse", tmp_path / folder / "warehouse")
    paths = Paths(warehouse=f"{tmp_path}/{folder}/warehouse", checkpoints="unused")
    assert paths.reader_warnings == []
    commands = status.commands(paths)
    for engine in ("DuckDB", "Polars"):
        run = subprocess.run(commands[engine], shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "shop:i1" in run.stdout, run.stderr
    monkeypatch.setattr(session, "open_session", lambda *_: spark)
    print_code = f"printf %s {commands['Spark SQL'].split(' -c ', 1)[1]}"
    exec(subprocess.run(print_code, shell=True, capture_output=True, text=True, check=True).stdout, {})
    assert "shop:i1" in capsys.readouterr().out


def test_a_path_that_other_readers_cannot_open_is_a_warning_at_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path / "a%20b%C3")
    assert capture_events.main(["--config", str(shop.config()), "--check"]) == 0
    assert "warning: the path of the warehouse contains %20, %C3: DuckDB, Polars" in capsys.readouterr().err


def test_tables_are_registered_in_the_catalog_of_the_settings(spark: SparkSession, shop: Shop) -> None:
    shop.capture(spark)
    shop.overrides = ["paths.catalog=living"]
    shop.capture(spark)
    assert spark.table("living.events").count() == 2
    for table in spark.sql("SHOW TABLES IN living").collect():
        spark.sql(f"DROP TABLE living.{table['tableName']}")


def test_continuous_mode_survives_a_lost_checksum_reads_new_files_and_stops_on_sigterm(
    spark: SparkSession, shop: Shop, tmp_path: Path
) -> None:
    """A separate process has new threads; a process that was killed after a commit leaves no checksum file."""
    shop.write("a.jsonl", json.dumps(event(1)))
    shop.capture(spark)
    tables.EVENTS.log(spark, shop.settings().paths).checkpoint()
    max((tmp_path / "warehouse" / "events" / "_delta_log").glob("*.crc")).unlink()
    shop.write("b.jsonl", json.dumps(event(2)))
    config = shop.config()
    properties = f'[spark]\nproperties = "{ROOT}/conf/spark-local.conf"\n'
    config.write_text(properties + config.read_text())
    command = [sys.executable, "jobs/capture_events.py", "--config", str(config), "continuous", "--every", "1s"]
    process = subprocess.Popen(command, cwd=ROOT, env=short_lived_env(), stderr=subprocess.PIPE, text=True)
    commits = tmp_path / "checkpoints" / "capture_events" / "shop" / "commits"

    def is_committed(batch_id: int) -> bool:
        return (commits / str(batch_id)).exists() or process.poll() is not None

    try:
        wait_until(lambda: is_committed(1), "batch 1", seconds=90)
        shop.write("c.jsonl", json.dumps(event(3)))
        wait_until(lambda: is_committed(2), "batch 2", seconds=90)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    batches = pl.scan_delta(str(tmp_path / "warehouse" / "capture_batches")).select(pl.col("rows_clean").sum())
    assert batches.collect().item() == 3
    assert {path.name for path in commits.glob("[0-9]*")} == {"0", "1", "2"}


def test_the_interval_between_batches_may_be_in_seconds_or_minutes() -> None:
    args = job.stream_parser("").parse_args(["--config", "x", "continuous", "--every", "2m"])
    assert job.options(args).continuous == 120.0
