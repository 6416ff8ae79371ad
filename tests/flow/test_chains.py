"""Transitions in sessions, counted from their change feed: equal to a recount, however late and however cut."""

from pathlib import Path
from typing import Any

import pytest
from profilestream.base import streaming
from profilestream.base.errors import BadSettings
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.derive import markov, transitions
from pyspark.sql import SparkSession

from jobs import derive_chains, derive_sessions
from tests import naive
from tests.builders import Shop
from tests.fault_injection import Crashes
from tests.flow.test_sessions import MINUTE, Written, _at
from tests.naive import Click
from tests.open_readers import assert_all_readers_agree

DAYS = 0.5
EXTRA = f"""
[derive]
max_files_per_trigger = 1
[derive.sessions]
enabled = true
[derive.chains]
enabled = true
half_life_days = {DAYS}
"""
TEA: dict[str, Any] = {"category": "tea.green"}
CUPS: dict[str, Any] = {"category": "cups", "event_type": "cart"}
FIRST = [
    _at(0, **TEA), _at(10, **CUPS), _at(20, event_type="purchase"),  # anna, in two sessions
    _at(60), _at(70, **CUPS), _at(70, 1, **TEA),
    _at(900, 0, user="ben"), _at(905, 0, user="ben", **CUPS), _at(8, user=None),
]  # fmt: skip
LATE = [_at(40, event_type="cart"), _at(45, 0, user="ben", **TEA), _at(50, 0, user="cleo")]
LATER = [_at(-25, **CUPS), _at(910, 0, user="ben", event_type="purchase"), _at(49, 0, user="cleo", **CUPS)]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, extra_settings=EXTRA)


def _assert_recounted(spark: SparkSession, settings: Settings, log: list[Click]) -> None:
    """Of each user and of all together: numbers are exact, weights within 1e-9."""
    sessions = naive.sessions(log, 30 * MINUTE, 24 * 60 * MINUTE)
    users = naive.transitions(sessions, max(click.at for click in log if click.user), DAYS)
    everyone: dict[tuple[str, ...], tuple[int, float]] = {}
    for (_, *move), (number, weight) in users.items():
        numbers, weights = everyone.get(tuple(move), (0, 0.0))
        everyone[tuple(move)] = numbers + number, weights + weight
    for name, expected in ((transitions.USERS, users), (transitions.ALL, everyone)):
        derived = transitions.declared(settings, name)
        said = markov.counts(derived.table.read(spark, settings.paths), derived).collect()
        found = {tuple(row[key] for key in derived.keys): (row["transitions"], row["weight"]) for row in said}
        assert len(found) == len(said), "a key stands twice"
        assert found == {key: (number, pytest.approx(weight, rel=1e-9)) for key, (number, weight) in expected.items()}


def test_late_events_crashes_and_any_batches_leave_what_a_recount_finds(
    spark: SparkSession, shop: Shop, crashes: Crashes, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, config = shop.settings(), ["--config", str(shop.config())]
    stage, queries = Written(spark, settings), transitions.queries(settings)
    spark.conf.set("spark.sql.shuffle.partitions", 3)  # so that the commit has several files
    stage.take(*FIRST)
    spark.conf.set("spark.sql.shuffle.partitions", 1)
    streaming.run(spark, queries, settings, RunOptions())
    _assert_recounted(spark, settings, FIRST)
    stage.take(*LATE)
    stage.take(*LATER)
    batches = shop.home / "checkpoints" / "derive_chains" / "commits"
    taken = len(list(batches.glob("[0-9]*")))
    assert taken > 1, "a commit came in one batch"
    assert crashes.run_through(queries, settings, batch_id=taken) == 3
    assert len(list(batches.glob("[0-9]*"))) == taken + 2
    _assert_recounted(spark, settings, [*FIRST, *LATE, *LATER])
    for name in (transitions.USERS, transitions.ALL):
        table = transitions.declared(settings, name).table
        assert_all_readers_agree(spark, table.path(settings.paths), "transitions")

    assert derive_sessions.main([*config, "--rebuild"]) == 3
    said = capsys.readouterr().err
    assert "['derive_chains'] follow what ['derive_sessions'] would make anew" in said
    assert said.splitlines()[-1] == "  what to do: rebuild them too: --cascade"
    stage.table.empty(spark, settings.paths)
    assert derive_chains.main(config) == 3
    assert capsys.readouterr().err.splitlines()[-1].endswith("jobs/derive_chains.py --rebuild")
    assert derive_sessions.main([*config, "--rebuild", "--cascade"]) == 0
    _assert_recounted(spark, settings, [*FIRST, *LATE, *LATER])


def test_a_user_is_drawn_towards_all_users_by_the_prior(spark: SparkSession) -> None:
    """Ann went on from a view to a cart three times of four, all users one time of two: (3 + 2/2) / (4 + 2) is 2/3."""
    move = "level string, from_state string, to_state string, transitions bigint, weight double"
    everyone = spark.createDataFrame(
        [("type", "view", "cart", 8, 8.0), ("type", "view", "(end)", 8, 8.0), ("type", "cart", "(end)", 8, 8.0)], move
    )
    users = spark.createDataFrame(
        [("ann", "type", "view", "cart", 3, 3.0), ("ann", "type", "view", "(end)", 1, 1.0)], f"user_id string, {move}"
    )
    likely = markov.smoothed(users, everyone, prior=2.0)
    found = {(row["from_state"], row["to_state"]): row["probability"] for row in likely.collect()}
    assert found == pytest.approx({("view", "cart"): 4 / 6, ("view", "(end)"): 2 / 6, ("cart", "(end)"): 1.0})
    chain = markov.chain(markov.probabilities(everyone))
    assert chain.odds.tolist() == [[0.0, 0.0, 1.0], [0.5, 0.0, 0.5]]
    with pytest.raises(ValueError, match="several chains"):
        markov.chain(likely.union(likely))


def test_chains_without_sessions_and_categories_that_are_not_understood_are_refused(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadSettings, match=r"chains\.enabled needs sessions\.enabled"):
        Shop(tmp_path, extra_settings="[derive.chains]\nenabled = true\n").settings()
    for sql, told in (("nobody", "is not understood"), ("price", "is a double")):
        extra = f'[derive.sessions]\nenabled = true\ncategory = "{sql}"\n'
        config = Shop(tmp_path, extra_settings=extra).config()
        assert derive_sessions.main(["--config", str(config), "--check"]) == 2
        assert told in capsys.readouterr().err
