"""The jobs of the derive and learn stages share one driver: --check, --rebuild, --cascade, and what they print."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from profilestream import flow
from profilestream.base import settings as settings_module
from pyspark.sql import SparkSession

from jobs import (
    derive_features,
    derive_profiles,
    derive_sessions,
    derive_transitions,
    derive_windows,
    learn_factors,
    learn_outcomes,
    learn_rankers,
    learn_segments,
)
from tests.builders import Shop, event

ROOT = Path(__file__).parent.parent.parent
Main = Callable[[list[str]], int]
JOBS: dict[str, Main] = {
    "derive_features": derive_features.main,
    "derive_profiles": derive_profiles.main,
    "derive_sessions": derive_sessions.main,
    "derive_transitions": derive_transitions.main,
    "derive_windows": derive_windows.main,
    "learn_factors": learn_factors.main,
    "learn_segments": learn_segments.main,
    "learn_rankers": learn_rankers.main,
    "learn_outcomes": learn_outcomes.main,
}
# The stages that read a table that the stage writes.
FOLLOWERS = {
    "derive_features": "derive_windows",
    "derive_profiles": "learn_segments",
    "derive_sessions": "derive_transitions",
}
# A setting that changes the rows of the stage's table.
CHANGED = {
    "derive_sessions": "derive.sessions.gap_minutes=5",
    "derive_transitions": "derive.transitions.half_life_days=3",
    "learn_factors": "learn.factors.k=3",
    "learn_segments": "learn.segments.k=5",
    "learn_rankers": "learn.rankers.half_life_days=3",
}


@pytest.fixture(scope="module")
def shop(_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A warehouse with the events of one file and with every stage enabled; no stage has run yet."""
    shop = Shop(tmp_path_factory.mktemp("stage_jobs"))
    conf = ROOT / "conf" / "derive"
    shop.extra_settings = (
        f'[derive]\nfeatures = ["{conf}/user_hours.toml"]\nprofiles = ["{conf}/user_profiles.toml"]\n'
        "[derive.sessions]\nenabled = true\n[derive.transitions]\nenabled = true\n"
        f'[derive.windows]\nfile = "{shop.home}/windows.toml"\nenabled = true\n'
        "[learn.factors]\nenabled = true\nk = 2\n[learn.segments]\nenabled = true\nk = 2\n"
        "[learn.rankers]\nenabled = true\n"
        f'[learn.outcomes]\nenabled = true\nfile = "{shop.home}/outcomes.toml"\n'
    )
    shop.home.mkdir(parents=True, exist_ok=True)
    (shop.home / "windows.toml").write_text(
        '[entities]\nuser = "user_hours"\n[features.user.events]\nquestion = "How many events?"\nunit = "events"\n'
        'kind = "count"\nwindows = ["1d"]\n'
    )
    (shop.home / "outcomes.toml").write_text(
        'entity = "user"\n[labels.active]\nquestion = "Is the user active?"\nunit = "events"\nkind = "count"\n'
        '[features]\nevents_1d = {}\n[outcomes.active]\nlabel = "active"\nhorizon_days = 7\n'
    )
    shop.write("a.jsonl", "\n".join(json.dumps(event(n)) for n in range(40)))
    shop.capture(_session)
    return shop


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_every_derive_and_learn_stage_has_a_job() -> None:
    assert set(JOBS) == set(flow.derived_stages())


@pytest.mark.parametrize("name", JOBS)
def test_check_writes_nothing(shop: Shop, name: str) -> None:
    tables = _names(shop.home / "warehouse")
    assert JOBS[name](["--config", str(shop.config()), "--check"]) == 0
    assert _names(shop.home / "warehouse") == tables
    assert name not in _names(shop.home / "checkpoints")


@pytest.mark.parametrize("name", JOBS)
def test_check_refuses_a_declared_table_with_the_name_of_another_table(
    shop: Shop, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shop.home / "own.toml"
    file.write_text(
        'name = "factors"\nwrite = "merge"\n[keys.user_id]\nof = "user_id"\n[statistics]\nn = { kind = "count" }\n'
    )
    profiles = f'derive.profiles=["{ROOT}/conf/derive/user_profiles.toml", "{file}"]'
    assert JOBS[name](["--config", str(shop.config()), "--check", "--set", profiles]) == 2
    assert "'factors' is the name of a table of profilestream itself" in capsys.readouterr().err


@pytest.mark.parametrize("name", FOLLOWERS)
def test_rebuild_without_cascade_is_refused_when_other_stages_follow(
    shop: Shop, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert JOBS[name](["--config", str(shop.config()), "--rebuild"]) == 3
    error = capsys.readouterr().err
    assert f"['{FOLLOWERS[name]}'] read tables that ['{name}'] would rebuild" in error
    assert error.splitlines()[-1] == "  what to do: rebuild them too: --cascade"


def test_stages_run_check_their_stored_tables_and_are_rebuilt_in_a_cascade(
    spark: SparkSession, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(shop.config())]
    settings = settings_module.load(str(shop.config()), [])
    for name, main in JOBS.items():
        assert main(config) == 0
        lines = capsys.readouterr().err.splitlines()
        (query,) = next(stage for stage in flow.STAGES if stage.name == name).queries(settings)
        assert any(f" {name}: " in line and " rows in 1 batch, " in line for line in lines)
        paths = [table.path(settings.paths) for table in query.tables if table not in query.shared]
        assert [line.rpartition(" ")[2] for line in lines if " table: " in line] == paths
        assert lines[-1].endswith(f" next: python jobs/steward_status.py --config {settings.config_file}")
    for name, change in CHANGED.items():
        assert JOBS[name]([*config, "--check", "--set", change]) == 3, name
        assert "was derived by another declaration" in capsys.readouterr().err
        assert JOBS[name]([*config, "--check", "--set", change, "--rebuild", "--cascade"]) == 0
    assert derive_sessions.main([*config, "--rebuild", "--cascade", "--set", "derive.sessions.gap_minutes=5"]) == 0
    lines = capsys.readouterr().err.splitlines()
    run = [line.split()[2] for line in lines if " rows in 1 batch, " in line]
    assert run == ["derive_sessions:", "derive_transitions:"]


def test_a_stage_that_is_not_enabled_is_reported(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn_factors.main(["--config", str(shop.config()), "--set", "learn.factors.enabled=false"]) == 0
    assert "learn_factors is not enabled in" in capsys.readouterr().err
