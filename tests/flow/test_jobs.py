"""Jobs end to end: exit codes with their last lines, --check, clean stop, status, open reading (law 9)."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from profilestream import flow
from profilestream.base import job, streaming, tables
from profilestream.base.errors import Refused
from pyspark.sql import SparkSession

from jobs import capture_events, capture_reprocess, run_demo, run_pipeline, steward_status
from tests.builders import SHOP, Shop, event, short_lived, wait
from tests.open_readers import assert_all_readers_agree

ROOT = Path(__file__).parent.parent.parent
# What the demo runs beside what a test of it looks at.
BESIDE = [
    f"{name}.enabled"
    for name in ("derive.windows", "derive.sessions", "derive.chains", "serve.tags", "serve.scores", "learn.segments",
                 "learn.factors")
]  # fmt: skip


@pytest.fixture
def shop(spark: SparkSession, tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.write("a.jsonl", "\n".join(json.dumps(r) for r in [event(1), event(2), event(1), event(3, who="null")]))
    return made


def _last_lines(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.split("\nfailed: ", 1)[-1].strip()


def test_check_says_nothing_and_writes_nothing(shop: Shop) -> None:
    for main in (capture_events.main, run_pipeline.main, capture_reprocess.main, steward_status.main):
        assert main(["--config", str(shop.config()), "--check"]) == 0
    assert {path.name for path in shop.home.iterdir()} == {"input", "shop.toml", "shop_settings.toml"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--set", "stream.odd=1"], "stream.odd: no such key (got 1)"),
        (["--source", "nobody"], "no source is called 'nobody'"),
        (["--set", "capture.sources.shop.path=/nowhere"], "there is no input at /nowhere"),
        (["continuous", "--every", "soon"], "--every 'soon' is not a time"),
        (["--try", "5", "/nowhere.jsonl"], "there is no file /nowhere.jsonl"),
    ],
)
def test_a_users_mistake_exits_2_with_the_mend_last(
    shop: Shop, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    assert capture_events.main(["--config", str(shop.config()), *flags]) == 2
    said = _last_lines(capsys)
    assert told in said
    assert said.splitlines()[-1].startswith("  what to do: ")
    assert "Traceback" not in said


def test_a_refusal_exits_3(spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(shop.config())
    assert capture_events.main(["--config", config]) == 0
    for table in (shop.home / "warehouse" / "events").glob("*.json"):
        table.unlink()
    (shop.home / "checkpoints" / "capture_events" / "shop" / "offsets" / "0").rename(shop.home / "offset")
    (shop.home / "checkpoints" / "capture_events" / "shop" / "commits" / "0").unlink()
    assert run_pipeline.main(["--config", config]) == 3
    said = _last_lines(capsys)
    assert said.startswith("stage capture_events: the checkpoint of capture_events/shop is older than table events")
    assert said.splitlines()[-1].startswith("  what to do: restore the newer checkpoint")


def test_a_mapping_that_fails_on_a_row_is_mended_and_begun_anew(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.write("a.jsonl", json.dumps(event(9, price="dear")))
    shop.mapping = SHOP.replace('"price"\nquantity', '"CAST(price AS DOUBLE)"\nquantity')
    assert run_pipeline.main(["--config", str(shop.config())]) == 2
    said = _last_lines(capsys)
    assert said.startswith("stage capture_events: an expression of the mapping fails on a row: [CAST_INVALID_INPUT]")
    assert said.splitlines()[-1].startswith("  what to do: write try_cast, try_divide")
    shop.mapping = SHOP
    assert run_pipeline.main(["--config", str(shop.config())]) == 3
    assert run_pipeline.main(["--config", str(shop.config()), "--replan"]) == 0
    assert [row["rule"] for row in shop.read(spark, tables.REJECTED_EVENTS).collect()] == ["price_unreadable"]


def test_a_failure_of_another_kind_exits_1_and_names_the_query(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.mapping = SHOP.replace('"price"\nquantity', '"raise_error(price)"\nquantity')
    assert run_pipeline.main(["--config", str(shop.config())]) == 1
    said = _last_lines(capsys)
    assert said.startswith("stage capture_events: capture_events/shop failed: ")
    assert "2.5" in said
    assert said.splitlines()[-1] == (
        "  what to do: the tables hold whole batches only, so mend the cause and run it again"
    )

    def breaks(*args: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(streaming, "run", breaks)
    assert capture_events.main(["--config", str(shop.config())]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("  what to do: report the lines above")


def test_try_shows_rows_and_rejects_and_writes_nothing(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--try", "20", str(shop.input / "a.jsonl")]
    assert capture_events.main(["--config", str(shop.config()), *flags]) == 0
    said = capsys.readouterr().out
    assert "4 rows = 2 clean + 1 rejected + 1 duplicate" in said
    assert "rejected 1 by user_id_junk: user id 'null' stands for no one" in said
    assert not (shop.home / "warehouse").exists()


def test_every_table_opens_in_every_reader_with_equal_counts_and_sums(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture_events.main(["--config", str(shop.config())]) == 0
    sums = {"events": "value", "rejected_events": "batch_id", "capture_batches": "rows_in", "stage_batches": "seconds"}
    for name, column in sums.items():
        assert_all_readers_agree(spark, f"{shop.settings().paths.warehouse}/{name}", column)


def test_status_tells_the_conservation_line_and_the_rejects(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(shop.config())
    assert steward_status.main(["--config", config]) == 2
    assert "nothing was captured yet" in _last_lines(capsys)
    assert capture_events.main(["--config", config]) == 0
    assert steward_status.main(["--config", config]) == 0
    said = capsys.readouterr().out
    assert "shop: 4 = 2 clean + 1 rejected + 1 duplicate, in 1 batch" in said
    assert "shop  user_id_junk: user id 'null' stands for no one" in said


def test_tables_are_registered_in_the_catalog_that_settings_name(spark: SparkSession, shop: Shop) -> None:
    shop.capture(spark)
    shop.overrides = ["paths.catalog=living"]
    shop.capture(spark)
    assert spark.table("living.events").count() == 2
    for table in spark.sql("SHOW TABLES IN living").collect():
        spark.sql(f"DROP TABLE living.{table['tableName']}")


def test_the_demo_says_what_it_does_with_old_output(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is cut short before its tables; what it leaves is removed by the second."""
    places = {
        "paths.warehouse": tmp_path / "warehouse", "paths.checkpoints": tmp_path / "checkpoints",
        "capture.sources.online_retail.path": tmp_path / "input",
        **dict.fromkeys(BESIDE, "false"),
    }  # fmt: skip
    flags = ["--days", "1", *[part for key, value in places.items() for part in ("--set", f"{key}={value}")]]
    monkeypatch.chdir(ROOT)

    def stops(*args: object) -> None:
        for folder in ("warehouse", "checkpoints"):
            (tmp_path / folder / "events").mkdir(parents=True)
        raise Refused("stopped", where="here", do="again")

    with monkeypatch.context() as patch:
        patch.setattr(flow, "run", stops)
        assert run_demo.main(flags) == 3
    assert "a first demo: nothing to remove" in capsys.readouterr().out
    assert run_demo.main(flags) == 0
    told = capsys.readouterr()
    assert f"removed the output of an earlier demo: {tmp_path}/warehouse, {tmp_path}/checkpoints" in told.out
    assert "online_retail: 3,108 = " in told.out
    assert "the customer who spent the most: uk_gifts:" in told.out
    assert "1/1 files · batch 1 · 3,108 rows" in told.err


def test_continuous_goes_on_from_a_lost_checksum_takes_new_files_and_stops_cleanly_on_sigterm(
    spark: SparkSession, shop: Shop, tmp_path: Path
) -> None:
    """A process of its own, since its threads are new: one that was killed after a commit leaves no checksum of it."""
    shop.write("a.jsonl", json.dumps(event(1)))
    shop.capture(spark)
    tables.EVENTS.log(spark, shop.settings().paths).checkpoint()
    max((tmp_path / "warehouse" / "events" / "_delta_log").glob("*.crc")).unlink()
    shop.write("b.jsonl", json.dumps(event(2)))
    config = shop.config()
    properties = f'[spark]\nproperties = "{ROOT}/conf/spark-local.conf"\n'
    config.write_text(properties + config.read_text())
    command = [sys.executable, "jobs/capture_events.py", "--config", str(config), "continuous", "--every", "1s"]
    running = subprocess.Popen(command, cwd=ROOT, env=short_lived(), stderr=subprocess.PIPE, text=True)
    commits = tmp_path / "checkpoints" / "capture_events" / "shop" / "commits"

    def committed(batch_id: int) -> bool:
        return (commits / str(batch_id)).exists() or running.poll() is not None

    try:
        wait(lambda: committed(1), "batch 1", seconds=90)
        shop.write("c.jsonl", json.dumps(event(3)))
        wait(lambda: committed(2), "batch 2", seconds=90)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, said
    batches = pl.scan_delta(str(tmp_path / "warehouse" / "capture_batches")).select(pl.col("rows_clean").sum())
    assert batches.collect().item() == 3
    assert {path.name for path in commits.glob("[0-9]*")} == {"0", "1", "2"}


def test_a_time_between_batches_is_read_in_seconds_and_minutes() -> None:
    args = job.stream_parser("").parse_args(["--config", "x", "continuous", "--every", "2m"])
    assert job.options(args).continuous == 120.0
