"""Settings and mappings as they are read: every misfit is told with its file and key, all together."""

from dataclasses import asdict
from pathlib import Path

import pytest
from profilestream.base import settings
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Derive
from profilestream.learn.als import Params

GOOD = """
[paths]
warehouse = "w"
checkpoints = "c"
[spark]
properties = "spark.conf"
[capture.sources.shop]
path = "in"
mapping = "sources/shop.toml"
"""


def refused(config: Path, *overrides: str) -> BadSettings:
    with pytest.raises(BadSettings) as raised:
        settings.load(str(config), list(overrides))
    assert raised.value.exit_code == 2
    return raised.value


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(GOOD)
    return path


def test_names_inside_the_config_are_taken_from_its_own_folder(config: Path, tmp_path: Path) -> None:
    read = settings.load(str(config), [])
    assert read.capture.sources["shop"].mapping == f"{tmp_path}/sources/shop.toml"
    assert read.spark.properties == f"{tmp_path}/spark.conf"
    # Data lies where the job is started.
    assert (read.paths.warehouse, read.capture.sources["shop"].path, read.paths.lock_folder) == ("w", "in", "c")


def test_an_absolute_or_empty_name_is_left_alone(config: Path) -> None:
    read = settings.load(str(config), ["capture.sources.shop.mapping=/m.toml", "spark.properties="])
    assert (read.capture.sources["shop"].mapping, read.spark.properties) == ("/m.toml", "")


def test_all_misfits_are_told_in_one_message_with_file_and_key(config: Path) -> None:
    config.write_text(
        GOOD.replace('path = "in"\n', 'pth = "in"\n')
        + "[stream]\nmax_files_per_trigger = 0\n[capture]\nmin_event_date = 'long ago'\n[odd]\nx = 1\n"
    )
    error = refused(config)
    assert error.what == "\n".join(
        [
            f"{config} has 5 setting(s) that do not fit",
            "  stream.max_files_per_trigger: Input should be greater than or equal to 1 (got 0)",
            "  capture.min_event_date: Input should be a valid date or datetime, input is too short (got 'long ago')",
            "  capture.sources.shop.path: Field required (got {'pth': 'in', 'mapping': 'sources/shop.toml'})",
            "  capture.sources.shop.pth: no such key (got 'in')",
            "  odd: no such key (got {'x': 1})",
        ]
    )
    assert (error.where, error.do) == (str(config), "mend the keys named above")
    assert str(error).splitlines()[-1] == "  what to do: mend the keys named above"


def test_a_source_name_that_cannot_name_a_folder_is_refused(config: Path) -> None:
    config.write_text(GOOD.replace("sources.shop", 'sources."my shop/2"'))
    assert "source names may hold letters, digits and _ only: ['my shop/2']" in refused(config).what


def test_an_override_is_read_as_toml_or_else_as_text(config: Path) -> None:
    read = settings.load(
        str(config),
        [
            "paths.warehouse=/data/a=b", 'paths.catalog="main"', "stream.max_files_per_trigger=7",
            "capture.max_clock_skew_minutes=2.5", "capture.min_event_date=2001-02-03",
            "capture.sources.other={path = 'p', mapping = '/m'}", "capture.sources.shop.max_files_per_trigger=3",
        ],
    )  # fmt: skip
    assert (read.paths.warehouse, read.paths.catalog) == ("/data/a=b", "main")
    assert (read.stream.max_files_per_trigger, read.capture.max_clock_skew_minutes) == (7, 2.5)
    assert str(read.capture.min_event_date) == "2001-02-03"
    assert (read.capture.sources["other"].path, read.capture.sources["shop"].max_files_per_trigger) == ("p", 3)


@pytest.mark.parametrize("override", ["paths.warehouse", "=x", ""])
def test_an_override_that_is_not_key_value_is_refused(config: Path, override: str) -> None:
    error = refused(config, override)
    assert error.what == f"--set {override!r} is not key=value"
    assert (error.where, error.do) == ("--set", "write --set paths.warehouse=/data/w")


def test_an_override_below_something_that_is_no_table_is_refused(config: Path) -> None:
    error = refused(config, "paths.warehouse.deep=1")
    assert error.what == "--set paths.warehouse.deep: warehouse is not a table"


def test_an_override_of_an_unknown_key_is_refused(config: Path) -> None:
    assert "  paths.warehose: no such key (got 'x')" in refused(config, "paths.warehose=x").what


def test_two_learners_cannot_be_one_registered_model(config: Path) -> None:
    assert (
        "publish.name and publish_segments.name are the same: segments"
        in refused(config, "learn.publish.name=segments").what
    )


def test_a_config_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "none.toml")
    assert error.what == f"cannot read {tmp_path}/none.toml: No such file or directory"
    assert (error.where, error.do) == (f"{tmp_path}/none.toml", "name a file that exists")
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"[paths\n")
    assert refused(broken).what.startswith(f"{broken} is not TOML: ")
    broken.write_bytes(b"a = '\xff'")
    assert refused(broken).what.startswith(f"{broken} is not TOML: ")


def test_settings_cannot_be_changed_after_reading(config: Path) -> None:
    read = settings.load(str(config), [])
    with pytest.raises(ValueError, match="frozen"):
        read.paths.warehouse = "elsewhere"


def test_event_weights_join_the_defaults_and_become_sql() -> None:
    derive = Derive.model_validate({"event_weights": {"rate": 2, "cart": 4}})
    assert derive.event_weights["purchase"] == 5.0 and derive.event_weights["cart"] == 4.0
    sql = derive.names["event_weight"]
    assert sql.startswith("CASE event_type WHEN 'cart' THEN 4.0D ") and "WHEN 'rate' THEN 2.0D" in sql
    assert sql.endswith(" ELSE 1D END")
    with pytest.raises(ValueError, match="event types may hold letters"):
        Derive.model_validate({"event_weights": {"it's": 1}})


def test_the_factorization_has_the_same_defaults_in_settings_and_in_memory() -> None:
    said, made = settings.Factors().known, asdict(Params())
    assert {name: said[name] for name in made} == made
