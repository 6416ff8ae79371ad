"""Laws 1 to 4 and 6 for the shipped tables: any split, order, lateness and kill gives the same.

`make laws` does it with 200 batches and on whole logs, `make chaos` with 20 kills.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

import pytest
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage
from profilestream.derive.fold import Fold
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import run_pipeline
from tests import table_snapshots
from tests.flow import chaos, laws

ROOT = Path(__file__).parent.parent.parent
PIECES = 3
# Vectors hang on the cut into batches, and the files of one commit have no order in which to cut them: one batch.
MORE = [
    "learn.factors.enabled=true", "learn.factors.first_full_passes=1", "learn.factors.k=8",
    "learn.max_files_per_trigger=1000000",
]  # fmt: skip


def test_shipped_tables_say_the_same_of_rees46_at_once_and_in_shuffled_pieces(
    spark: SparkSession, rees46: Settings
) -> None:
    events = tables.EVENTS.read(spark, rees46.paths).where("user_id IS NULL OR pmod(xxhash64(user_id), 10) = 0").cache()
    piece = F.pmod(F.xxhash64("event_id"), F.lit(PIECES))
    for derived in fold_stage.declared_tables(rees46).values():
        fold = Fold.of(derived)
        at_once = table_snapshots.by_key(fold, fold.partials(events))
        assert len(at_once) > 100, derived.name
        parts = [fold.partials(events.where(piece == n)).localCheckpoint() for n in range(PIECES)]
        ways = {
            "gathered": fold.merge_rows(reduce(DataFrame.unionByName, parts)),
            "in turn": reduce(partial(_merged_onto, fold), parts[::-1]),
        }
        for way, rows in ways.items():
            apart = table_snapshots.differences({way: at_once}, {way: table_snapshots.by_key(fold, rows)})
            assert not apart, f"{derived.name}: {len(apart)} differences, such as {apart[:3]}"


@dataclass(frozen=True)
class Runs:
    """A log that was delivered late, shuffled and doubled in two files, and went through the whole flow undisturbed.

    Args:
        calm: settings of that run.
        said, left: what it left, as the laws and as the chaos see it.
        killed: settings of a second run over the same files, whose process was killed on the way.
    """

    calm: Path
    said: laws.Outcome
    left: chaos.Outcome
    killed: Path


@pytest.fixture(scope="module")
def runs(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    work = tmp_path_factory.mktemp("laws")
    log = laws.seeded(work, 600, seed=3)
    calm = laws.captured(_session, work / "calm", log, 2, seed=3)
    settings = settings_module.load(str(calm), MORE)
    shutil.copytree(work / "calm" / "input", work / "killed" / "input")
    killed = laws.config_of(log, work / "killed", derive_files=settings.derive.max_files_per_trigger)
    flags = ["--config", str(killed), *chaos.flags_of(MORE), "--set", f"spark.properties={ROOT}/conf/spark-local.conf"]
    with ThreadPoolExecutor(1) as beside:
        hit = beside.submit(chaos.kill_often, flags, work / "killed", kills=1, most_steps=12, seed=7)
        flow.run(_session, settings, RunOptions())
        hit.result()
    said = laws.outcome(_session, calm)
    return Runs(calm, said, chaos.outcome(_session, settings, said.said), killed)


def test_a_log_delivered_late_shuffled_and_doubled_says_the_same_in_two_batches_and_derived_again_in_one(
    spark: SparkSession, runs: Runs
) -> None:
    rows = runs.said.rows()
    assert rows["events"] == 600 and rows["user_profiles"] == 15 and rows["population_stats"] == 1
    assert 15 < rows["sessions"] < 550 and rows["user_features"] == 15
    assert 16 < rows["event_transitions"] < rows["user_transitions"]
    laws.assert_same(runs.said, laws.rebuilt(spark, runs.calm), "two batches and derived again")


def test_a_kill_on_the_way_changes_nothing(spark: SparkSession, runs: Runs) -> None:
    """kill -9 for real; `make chaos` does 20 of them over the whole demo log."""
    assert run_pipeline.main(["--config", str(runs.killed), *chaos.flags_of(MORE)]) == 0
    settings = settings_module.load(str(runs.killed), MORE)
    chaos.assert_same(runs.left, chaos.outcome(spark, settings, table_snapshots.said(spark, settings)))


def _merged_onto(fold: Fold, table: DataFrame, part: DataFrame) -> DataFrame:
    untouched = table.join(part, list(fold.derived.keys), "left_anti")
    return untouched.unionByName(fold.merge_into(table, part)).localCheckpoint()
