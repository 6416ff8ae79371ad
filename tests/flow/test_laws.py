"""Laws 1 to 4 and 6 for the shipped tables: any split, order, lateness and kill gives the same tables.

`make laws` checks them with 200 batches and on complete logs, `make chaos` with 20 kills.
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
from profilestream.base.runner import rows_of
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage
from profilestream.derive.fold import Fold
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import run_pipeline
from tests import table_snapshots
from tests.flow import chaos, laws

ROOT = Path(__file__).parent.parent.parent
PARTS = 3
# Vectors depend on the batches, so learn in one batch.
LEARNERS = [
    "learn.factors.enabled=true", "learn.factors.first_full_passes=1", "learn.factors.k=8",
    "learn.max_files_per_trigger=1000000",
]  # fmt: skip


def test_shipped_tables_are_equal_for_rees46_at_once_and_in_shuffled_parts(
    spark: SparkSession, rees46: Settings
) -> None:
    events = tables.EVENTS.read(spark, rees46.paths).where("user_id IS NULL OR pmod(xxhash64(user_id), 10) = 0").cache()
    part = F.pmod(F.xxhash64("event_id"), F.lit(PARTS))
    for derived in fold_stage.declared_tables(rees46).values():
        fold = Fold(derived)
        at_once = table_snapshots.values_by_key(fold, fold.partials(events))
        assert len(at_once) > 100, derived.name
        parts = [events.where(part == n) for n in range(PARTS)]
        ways = {
            "merged together": fold.merge_rows(reduce(DataFrame.unionByName, map(fold.partials, parts))),
            "updated one by one": reduce(partial(_update, fold), parts[-2::-1], fold.partials(parts[-1])),
        }
        for way, rows in ways.items():
            differences = table_snapshots.differences({way: at_once}, {way: table_snapshots.values_by_key(fold, rows)})
            assert not differences, f"{derived.name}: {len(differences)} differences, such as {differences[:3]}"


@dataclass(frozen=True)
class Runs:
    """Two runs over a log that was delivered late, shuffled and doubled in two files.

    Args:
        undisturbed: settings of the first run.
        law_result, chaos_result: content of its tables.
        killed: settings of the second run, whose process was killed.
    """

    undisturbed: Path
    law_result: laws.LawResult
    chaos_result: chaos.ChaosResult
    killed: Path


@pytest.fixture(scope="module")
def runs(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    work = tmp_path_factory.mktemp("laws")
    log = laws.seeded_log(work, 600, seed=3)
    undisturbed = laws.capture_log(_session, work / "undisturbed", log, 2, seed=3)
    settings = settings_module.load(str(undisturbed), LEARNERS)
    shutil.copytree(work / "undisturbed" / "input", work / "killed" / "input")
    killed = laws.write_config(log, work / "killed", derive_files=settings.derive.max_files_per_trigger)
    flags = [
        "--config",
        str(killed),
        *chaos.to_flags(LEARNERS),
        "--set",
        f"spark.properties={ROOT}/conf/spark-local.conf",
    ]
    with ThreadPoolExecutor(1) as threads:
        kill = threads.submit(chaos.kill_repeatedly, flags, work / "killed", kills=1, max_steps=12, seed=7)
        flow.run(_session, settings, RunOptions())
        kill.result()
    result = laws.read_result(_session, undisturbed)
    return Runs(undisturbed, result, chaos.read_result(_session, settings, result.derived), killed)


def test_late_shuffled_and_doubled_lines_give_the_same_tables_in_two_batches_and_after_a_rebuild(
    spark: SparkSession, runs: Runs
) -> None:
    rows = runs.law_result.rows()
    assert rows["events"] == 600 and rows["user_profiles"] == 15 and rows["population_stats"] == 1
    assert 15 < rows["sessions"] < 550 and rows["user_features"] == 15
    assert 16 < rows["event_transitions"] < rows["user_transitions"]
    laws.assert_same(runs.law_result, laws.rebuild_all(spark, runs.undisturbed), "two batches and a rebuild")


def test_a_killed_run_has_the_result_of_an_undisturbed_run(spark: SparkSession, runs: Runs) -> None:
    """kill -9 of a process; `make chaos` kills 20 times over the complete demo log."""
    assert run_pipeline.main(["--config", str(runs.killed), *chaos.to_flags(LEARNERS)]) == 0
    settings = settings_module.load(str(runs.killed), LEARNERS)
    chaos.assert_same(runs.chaos_result, chaos.read_result(spark, settings, table_snapshots.snapshot(spark, settings)))


def _update(fold: Fold, table: DataFrame, events: DataFrame) -> DataFrame:
    new = fold.selection.rows(events)
    updated = fold.update(rows_of(new, table, list(fold.derived.keys)), new).localCheckpoint()
    return table.join(updated, list(fold.derived.keys), "left_anti").unionByName(updated)
