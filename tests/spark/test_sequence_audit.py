"""The audit of sequence numbers: ranges by batch, and the numbers that no batch contains."""

import json
from pathlib import Path

import pytest
from profilestream.base import tables
from profilestream.capture import sequence_audit
from pyspark.sql import SparkSession

from jobs import steward_status
from tests.builders import SHOP, Shop, event
from tests.fault_injection import append_fails

AUDIT = SHOP.replace("quantity string", "quantity string, app string, n string") + (
    '[audit]\nproducer = "app"\nsequence = "CAST(n AS BIGINT)"\n'
)


def write(shop: Shop, name: str, numbers: dict[str, list[int]]) -> None:
    rows = [event(n, id=f"{app}{n}", app=app, n=str(n)) for app, of_app in numbers.items() for n in of_app]
    shop.write(f"{name}.jsonl", "\n".join(map(json.dumps, rows)))


def gaps(spark: SparkSession, shop: Shop) -> list[tuple[str, int, int]]:
    rows = sequence_audit.upstream_gaps(shop.read(spark, tables.CAPTURE_SEQUENCES)).collect()
    return sorted((row["producer"], row["first_missing"], row["last_missing"]) for row in rows)


@pytest.mark.parametrize("more", ["", "[stream]\nlocal_max_rows = 0\n"], ids=["driver", "Spark"])
def test_numbers_that_no_batch_contains_are_upstream_gaps_until_they_are_late(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    shop = Shop(tmp_path, mapping=AUDIT, extra_settings=more)
    write(shop, "a", {"web": [1, 2, 3, 6], "app": [5, 6]})
    with append_fails(monkeypatch, tables.CAPTURE_BATCHES):
        shop.capture(spark)
    write(shop, "b", {"web": [7, 10], "app": [7]})
    shop.capture(spark)
    assert gaps(spark, shop) == [("web", 4, 5), ("web", 8, 9)]
    ranges = shop.read(spark, tables.CAPTURE_SEQUENCES).where("producer = 'web' AND batch_id = 0").collect()
    assert sorted((row["first_sequence"], row["last_sequence"]) for row in ranges) == [(1, 3), (6, 6)]
    write(shop, "c", {"web": [5]})
    shop.capture(spark)
    assert gaps(spark, shop) == [("web", 4, 4), ("web", 8, 9)]
    assert steward_status.main(["--config", str(shop.config())]) == 0
    printed = capsys.readouterr().out
    assert "upstream gaps: 2, with 3 records that did not reach their source" in printed
    assert "  shop producer web: 8 to 9" in printed


@pytest.mark.parametrize("more", ["", "[stream]\nlocal_max_rows = 0\n"], ids=["driver", "Spark"])
def test_rejected_and_repeated_records_reached_the_source(spark: SparkSession, tmp_path: Path, more: str) -> None:
    shop = Shop(tmp_path, mapping=AUDIT, extra_settings=more)
    rows = [
        event(1, app="web", n="1"),
        event(2, app="web", n="2", kind="peek"),
        event(1, app="web", n="3"),
        event(4, app="web", n="none"),
        event(5, app=None, n="5"),
        event(6, app="web", n="6"),
    ]
    shop.write("a.jsonl", "\n".join(map(json.dumps, rows)))
    shop.capture(spark)
    assert shop.counts(spark) == (6, 4, 1, 1)
    assert gaps(spark, shop) == [("web", 4, 5)]
