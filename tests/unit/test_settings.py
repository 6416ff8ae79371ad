"""Settings: defaults, overrides, and one error message with every invalid key and its file."""

from dataclasses import asdict
from pathlib import Path

import pytest
from profilestream.base import settings
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Derive, Paths
from profilestream.learn.factors.kernels.als import AlsParams
from pydantic import ValidationError

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


def test_file_names_in_the_config_are_relative_to_its_folder(config: Path, tmp_path: Path) -> None:
    read = settings.load(str(config), [])
    assert read.capture.sources["shop"].mapping == f"{tmp_path}/sources/shop.toml"
    assert read.spark.properties == f"{tmp_path}/spark.conf"
    # Paths of data are relative to the working directory of the job.
    assert (read.paths.warehouse, read.capture.sources["shop"].path, read.paths.lock_folder) == ("w", "in", "c")


def test_an_absolute_or_empty_file_name_is_unchanged(config: Path) -> None:
    read = settings.load(str(config), ["capture.sources.shop.mapping=/m.toml", "spark.properties="])
    assert (read.capture.sources["shop"].mapping, read.spark.properties) == ("/m.toml", "")


def test_one_message_lists_all_invalid_keys_with_the_file(config: Path) -> None:
    config.write_text(
        GOOD.replace('path = "in"\n', 'pth = "in"\n')
        + "[stream]\nmax_files_per_trigger = 0\n[capture]\nmin_event_date = 'long ago'\n[odd]\nx = 1\n"
    )
    error = refused(config)
    assert error.what == "\n".join(
        [
            f"{config} has 5 invalid setting(s)",
            "  stream.max_files_per_trigger: Input should be greater than or equal to 1 (got 0)",
            "  capture.min_event_date: Input should be a valid date or datetime, input is too short (got 'long ago')",
            "  capture.sources.shop.path: path or kafka is required (got '')",
            "  capture.sources.shop.pth: no such key (got 'in')",
            "  odd: no such key (got {'x': 1})",
        ]
    )
    assert (error.where, error.do) == (str(config), "correct the keys listed above")
    assert str(error).splitlines()[-1] == "  what to do: correct the keys listed above"


def test_a_source_name_that_is_not_a_valid_folder_name_is_refused(config: Path) -> None:
    config.write_text(GOOD.replace("sources.shop", 'sources."my shop/2"'))
    assert "source names may contain letters, digits and _ only: ['my shop/2']" in refused(config).what


def test_an_override_is_parsed_as_toml_or_else_as_text(config: Path) -> None:
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
    assert (error.where, error.do) == ("--set", "write it as --set paths.warehouse=/data/w")


def test_an_override_below_a_value_is_refused(config: Path) -> None:
    error = refused(config, "paths.warehouse.deep=1")
    assert error.what == "--set paths.warehouse.deep: warehouse is not a table"


def test_an_override_of_an_unknown_key_is_refused(config: Path) -> None:
    assert "  paths.warehose: no such key (got 'x')" in refused(config, "paths.warehose=x").what


def test_two_learners_cannot_share_a_registered_model(config: Path) -> None:
    assert (
        "publish.name and publish_segments.name are the same: segments"
        in refused(config, "learn.publish.name=segments").what
    )


@pytest.mark.parametrize("more", [[], ["learn.publish.ranker=factors"], ["learn.factors.mode=explicit"]])
def test_a_published_ranker_has_the_metric_of_its_gate(config: Path, more: list[str]) -> None:
    error = refused(config, "learn.publish.metric=rmse", *more)
    assert 'publish.metric = "rmse" needs publish.ranker = "factors" and factors.mode = "explicit"' in error.what
    both = ["learn.publish.ranker=factors", "learn.factors.mode=explicit"]
    assert settings.load(str(config), ["learn.publish.metric=rmse", *both]).learn.publish.metric == "rmse"


def test_a_config_that_is_missing_or_not_toml_is_reported(tmp_path: Path) -> None:
    error = refused(tmp_path / "none.toml")
    assert error.what == f"cannot read {tmp_path}/none.toml: No such file or directory"
    assert (error.where, error.do) == (f"{tmp_path}/none.toml", "name an existing file")
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"[paths\n")
    assert refused(broken).what.startswith(f"{broken} is not TOML: ")
    broken.write_bytes(b"a = '\xff'")
    assert refused(broken).what.startswith(f"{broken} is not TOML: ")


def test_settings_are_immutable(config: Path) -> None:
    read = settings.load(str(config), [])
    with pytest.raises(ValueError, match="frozen"):
        read.paths.warehouse = "elsewhere"


def test_event_weights_extend_the_defaults_and_become_sql() -> None:
    derive = Derive.model_validate({"event_weights": {"rate": 2, "cart": 4}})
    assert derive.event_weights["purchase"] == 5.0 and derive.event_weights["cart"] == 4.0
    sql = derive.names["event_weight"]
    assert sql.startswith("CASE event_type WHEN 'cart' THEN 4.0D ") and "WHEN 'rate' THEN 2.0D" in sql
    assert sql.endswith(" ELSE 1D END")
    with pytest.raises(ValueError, match="event types may contain letters"):
        Derive.model_validate({"event_weights": {"it's": 1}})


def test_the_factorization_has_the_same_defaults_in_settings_and_in_the_local_learner() -> None:
    values, defaults = settings.Factors().parameters, asdict(AlsParams())
    assert {name: values[name] for name in defaults} == defaults


@pytest.mark.parametrize("warehouse", ["/data/a`b/warehouse", "/data/a\\b", "warehouse`"])
def test_a_warehouse_that_spark_cannot_use_is_an_error(warehouse: str) -> None:
    with pytest.raises(ValidationError, match="Spark cannot use a path with"):
        Paths(warehouse=warehouse, checkpoints="c")


@pytest.mark.parametrize(
    ("warehouse", "codes"),
    [("/a%20b", "%20"), ("/%e4/%41", "%41, %e4"), ("/100%", ""), ("/a%zz", ""), ("s3a://bucket/a%20b", "")],
)
def test_a_path_with_codes_that_readers_decode_is_a_warning(warehouse: str, codes: str) -> None:
    warnings = Paths(warehouse=warehouse, checkpoints="c").reader_warnings
    assert [f"contains {codes}:" in warning for warning in warnings] == ([True] if codes else [])
