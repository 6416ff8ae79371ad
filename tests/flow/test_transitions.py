"""Transition counts from the change feed of `sessions` equal a recount, for late events, any batches and crashes."""

from pathlib import Path
from typing import Any

import pytest
from profilestream.base import streaming
from profilestream.base.errors import BadSettings
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.derive import markov, transitions
from pyspark.sql import SparkSession

from jobs import derive_sessions, derive_transitions
from tests import naive
from tests.builders import Shop
from tests.fault_injection import Crashes
from tests.flow.test_sessions import MINUTE, SessionWarehouse, _at
from tests.naive import Click
from tests.open_readers import assert_all_readers_agree

HALF_LIFE_DAYS = 0.5
SETTINGS = f"""
[derive]
max_files_per_trigger = 1
[derive.sessions]
enabled = true
[derive.transitions]
enabled = true
half_life_days = {HALF_LIFE_DAYS}
"""
TEA: dict[str, Any] = {"category": "tea.green"}
CUPS: dict[str, Any] = {"category": "cups", "event_type": "cart"}
BATCH_1 = [
    _at(0, **TEA), _at(10, **CUPS), _at(20, event_type="purchase"),  # anna, in two sessions
    _at(60), _at(70, **CUPS), _at(70, 1, **TEA),
    _at(900, 0, user="ben"), _at(905, 0, user="ben", **CUPS), _at(8, user=None),
]  # fmt: skip
BATCH_2 = [_at(40, event_type="cart"), _at(45, 0, user="ben", **TEA), _at(50, 0, user="cleo")]
BATCH_3 = [_at(-25, **CUPS), _at(910, 0, user="ben", event_type="purchase"), _at(49, 0, user="cleo", **CUPS)]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, extra_settings=SETTINGS)


def _assert_recounted(spark: SparkSession, settings: Settings, log: list[Click]) -> None:
    """Both tables equal a recount of the log: counts exactly, weights within 1e-9."""
    sessions = naive.sessions(log, 30 * MINUTE, 24 * 60 * MINUTE)
    by_user = naive.transitions(sessions, max(click.at for click in log if click.user), HALF_LIFE_DAYS)
    totals: dict[tuple[str, ...], tuple[int, float]] = {}
    for (_, *transition), (count, weight) in by_user.items():
        total_count, total_weight = totals.get(tuple(transition), (0, 0.0))
        totals[tuple(transition)] = total_count + count, total_weight + weight
    for name, expected in ((transitions.USERS, by_user), (transitions.ALL, totals)):
        derived = transitions.declaration(settings, name)
        rows = markov.transition_counts(derived.table.read(spark, settings.paths), derived).collect()
        counts = {tuple(row[key] for key in derived.keys): (row["transitions"], row["weight"]) for row in rows}
        assert len(counts) == len(rows), "several rows have the same key"
        assert counts == {key: (count, pytest.approx(weight, rel=1e-9)) for key, (count, weight) in expected.items()}


def test_late_events_crashes_and_any_batches_equal_a_recount(
    spark: SparkSession, shop: Shop, crashes: Crashes, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, config = shop.settings(), ["--config", str(shop.config())]
    warehouse, queries = SessionWarehouse(spark, settings), transitions.queries(settings)
    spark.conf.set("spark.sql.shuffle.partitions", 3)  # so that the commit has several files
    warehouse.write_batch(*BATCH_1)
    spark.conf.set("spark.sql.shuffle.partitions", 1)
    streaming.run(spark, queries, settings, RunOptions())
    _assert_recounted(spark, settings, BATCH_1)
    warehouse.write_batch(*BATCH_2)
    warehouse.write_batch(*BATCH_3)
    commits = shop.home / "checkpoints" / "derive_transitions" / "commits"
    batches = len(list(commits.glob("[0-9]*")))
    assert batches > 1, "all files of the commit were in one batch"
    assert crashes.run_through(queries, settings, batch_id=batches) == 3
    assert len(list(commits.glob("[0-9]*"))) == batches + 2
    _assert_recounted(spark, settings, [*BATCH_1, *BATCH_2, *BATCH_3])
    for name in (transitions.USERS, transitions.ALL):
        table = transitions.declaration(settings, name).table
        assert_all_readers_agree(spark, table.path(settings.paths), "transitions")

    assert derive_sessions.main([*config, "--rebuild"]) == 3
    error = capsys.readouterr().err
    assert "['derive_transitions'] read tables that ['derive_sessions'] would rebuild" in error
    assert error.splitlines()[-1] == "  what to do: rebuild them too: --cascade"
    warehouse.table.recreate(spark, settings.paths)
    assert derive_transitions.main(config) == 3
    assert capsys.readouterr().err.splitlines()[-1].endswith("jobs/derive_transitions.py --rebuild")
    assert derive_sessions.main([*config, "--rebuild", "--cascade"]) == 0
    _assert_recounted(spark, settings, [*BATCH_1, *BATCH_2, *BATCH_3])


def test_smoothed_probabilities_are_between_those_of_the_user_and_of_all_users(spark: SparkSession) -> None:
    """After a view, Ann goes to the cart in 3 of 4 cases and all users in 1 of 2: (3 + 2/2) / (4 + 2) is 2/3."""
    columns = "level string, from_state string, to_state string, transitions bigint, weight double"
    all_users = spark.createDataFrame(
        [("type", "view", "cart", 8, 8.0), ("type", "view", "(end)", 8, 8.0), ("type", "cart", "(end)", 8, 8.0)],
        columns,
    )
    users = spark.createDataFrame(
        [("ann", "type", "view", "cart", 3, 3.0), ("ann", "type", "view", "(end)", 1, 1.0)],
        f"user_id string, {columns}",
    )
    smoothed = markov.smoothed_probabilities(users, all_users, prior=2.0)
    probabilities = {(row["from_state"], row["to_state"]): row["probability"] for row in smoothed.collect()}
    assert probabilities == pytest.approx({("view", "cart"): 4 / 6, ("view", "(end)"): 2 / 6, ("cart", "(end)"): 1.0})
    chain = markov.load_chain(markov.probabilities(all_users))
    assert chain.matrix.tolist() == [[0.0, 0.0, 1.0], [0.5, 0.0, 0.5]]
    with pytest.raises(ValueError, match="several chains"):
        markov.load_chain(smoothed.union(smoothed))


def test_transitions_without_sessions_and_invalid_category_sql_are_rejected(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadSettings, match=r"transitions\.enabled needs sessions\.enabled"):
        Shop(tmp_path, extra_settings="[derive.transitions]\nenabled = true\n").settings()
    for sql, message in (("no_column", "is not valid"), ("price", "is a double")):
        extra = f'[derive.sessions]\nenabled = true\ncategory = "{sql}"\n'
        config = Shop(tmp_path, extra_settings=extra).config()
        assert derive_sessions.main(["--config", str(config), "--check"]) == 2
        assert message in capsys.readouterr().err
