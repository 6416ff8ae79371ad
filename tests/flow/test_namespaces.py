"""A warehouse has one user namespace and one item namespace: another one is refused before anything is written."""

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import capture_events, capture_reprocess, run_pipeline
from tests.builders import SHOP, Shop, event

# A log of exposures without users: its user namespace has no meaning.
WITHOUT_USERS = SHOP.replace('user_namespace = "shop"\n', "").replace('user_id = "who"\n', "")


@pytest.fixture
def web(spark: SparkSession, tmp_path: Path) -> Shop:
    """A shop with a second source `till`, whose mapping a test writes."""
    shop = Shop(tmp_path, name="web")
    shop.write("a.jsonl", json.dumps(event(1)))
    (tmp_path / "till").mkdir()
    shop.extra_settings = f'[capture.sources.till]\npath = "{tmp_path}/till"\nmapping = "{tmp_path}/till.toml"\n'
    return shop


def _add_till(shop: Shop, mapping: str) -> list[str]:
    (shop.home / "till.toml").write_text(mapping)
    return ["--config", str(shop.config())]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('user_namespace = "shop"', 'user_namespace = "other"', "user_namespace"),
        ('item_namespace = "shop"', 'item_namespace = "other"', "item_namespace"),
        ('item_namespace = "shop"', "", "item_namespace"),
        ('user_namespace = "shop"', 'user_namespace = "Shop"', "user_namespace"),
    ],
)
def test_sources_of_two_shops_exit_2_and_the_message_names_a_second_warehouse(
    web: Shop, capsys: pytest.CaptureFixture[str], old: str, new: str, key: str
) -> None:
    config = _add_till(web, SHOP.replace(old, new))
    for main, flags in (
        (capture_events.main, ["--check"]), (capture_events.main, ["--source", "web"]), (run_pipeline.main, []),
        (capture_reprocess.main, ["--check"]),
    ):  # fmt: skip
        assert main([*config, *flags]) == 2
        error = capsys.readouterr().err
        assert f"the sources of a warehouse need one {key}" in error
        assert "source 'web' has 'shop', source 'till' has" in error
        assert "second warehouse" in error.splitlines()[-1]
    assert not (web.home / "warehouse").exists()


@pytest.mark.parametrize("mapping", [SHOP, WITHOUT_USERS, "not a mapping"])
def test_sources_of_one_shop_are_accepted(web: Shop, mapping: str) -> None:
    assert capture_events.main([*_add_till(web, mapping), "--source", "web", "--check"]) == 0


def test_the_namespace_of_captured_events_cannot_change_although_their_source_is_gone_or_renamed(
    web: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    web.extra_settings = ""
    assert capture_events.main(["--config", str(web.config())]) == 0
    other = SHOP.replace('"shop"', '"other"')
    for name in ("south", "web"):
        shop = Shop(web.home, name=name, mapping=other)
        assert capture_events.main(["--config", str(shop.config())]) == 2
        error = capsys.readouterr().err
        assert f"captured source 'web' has 'shop', source '{name}' has 'other'" in error
