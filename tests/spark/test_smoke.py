import json
from pathlib import Path

from profilestream.base import tables
from pyspark.sql import SparkSession

from tests.make import Shop, event


def test_a_small_log_is_captured(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.write("a.jsonl", "\n".join(json.dumps(event(n)) for n in range(5)))
    shop.write("b.jsonl", json.dumps(event(1)) + "\n" + json.dumps(event(2, price="-1")) + "\nxx\n")
    shop.capture(spark)
    assert shop.counts(spark) == (8, 5, 2, 1)
    assert [r.rule for r in shop.read(spark, tables.REJECTED_EVENTS).orderBy("position").collect()] == [
        "price_negative",
        "unparseable",
    ]
