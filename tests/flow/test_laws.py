"""Laws 1, 3, 4 and 6 for the shipped tables: any split, order and lateness of the events gives the same.

`make laws` does it with 200 batches and on whole logs.
"""

from functools import partial, reduce
from pathlib import Path

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.derive import stage
from profilestream.derive.fold import Fold
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests import saying
from tests.flow import laws

PIECES = 3


def test_shipped_tables_say_the_same_of_rees46_at_once_and_in_shuffled_pieces(
    spark: SparkSession, rees46: Settings
) -> None:
    events = tables.EVENTS.read(spark, rees46.paths).where("user_id IS NULL OR pmod(xxhash64(user_id), 10) = 0").cache()
    piece = F.pmod(F.xxhash64("event_id"), F.lit(PIECES))
    for derived in stage.declared(rees46).values():
        fold = Fold.of(derived)
        at_once = saying.by_key(fold, fold.partials(events))
        assert len(at_once) > 100, derived.name
        parts = [fold.partials(events.where(piece == n)).localCheckpoint() for n in range(PIECES)]
        ways = {
            "gathered": fold.merged(reduce(DataFrame.unionByName, parts)),
            "in turn": reduce(partial(_merged_onto, fold), parts[::-1]),
        }
        for way, rows in ways.items():
            apart = saying.differences({way: at_once}, {way: saying.by_key(fold, rows)})
            assert not apart, f"{derived.name}: {len(apart)} differences, such as {apart[:3]}"


def test_a_log_delivered_late_shuffled_and_doubled_says_the_same_in_two_batches_and_derived_again_in_one(
    spark: SparkSession, tmp_path: Path
) -> None:
    log = laws.seeded(tmp_path, 600, seed=3)
    rows = laws.hold(spark, tmp_path, log, [2], seed=3, tell=lambda line: None)
    assert rows["events"] == 600 and rows["user_profiles"] == 15 and rows["population_stats"] == 1
    assert 15 < rows["sessions"] < 550 and rows["user_features"] == 15
    assert 16 < rows["event_transitions"] < rows["user_transitions"]


def _merged_onto(fold: Fold, table: DataFrame, part: DataFrame) -> DataFrame:
    untouched = table.join(part, list(fold.derived.keys), "left_anti")
    return untouched.unionByName(fold.onto(table, part)).localCheckpoint()
