"""Declarations of labels and settings of training examples: errors name file and key."""

from collections.abc import Callable
from pathlib import Path

import pytest
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.learn.examples import labels, training_examples

ROOT = Path(__file__).parent.parent.parent
LOCAL = ROOT / "conf" / "local.toml"
SHIPPED = (ROOT / "conf" / "derive" / "labels.toml").read_text()


def load_settings(*overrides: str) -> Settings:
    return settings_module.load(str(LOCAL), list(overrides))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"7d", "30d"', '"7 days"',
         "labels.purchase.horizons: horizons must be distinct and like 24h or 30d: ['7 days']"),
        ('"7d", "30d"', '"lifetime"', "labels.purchase.horizons: horizons must be distinct"),
        ('"7d", "30d"', '"24h"', "labels.purchase.horizons: horizons must be distinct"),
        ('"count"', '"counts"', "labels.purchase.statistic: Input tag 'counts'"),
        ("unit =", "units =", "labels.purchase.unit: Field required"),
        ("${value} > 0", "true", "labels.purchase: output must contain ${value}"),
        ("labels.purchase", "labels.Purchase", "names may contain lowercase letters, digits and _ only: ['Purchase']"),
        ('kind = "sum"', 'kind = "sum"\nhalf_life_days = 3',
         "labels.spend: a label weights all events of its horizon equally: remove half_life_days"),
    ],
)  # fmt: skip
def test_an_invalid_label_is_an_error_with_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SHIPPED
    file = tmp_path / "labels.toml"
    file.write_text(SHIPPED.replace(old, new, 1))
    with pytest.raises(BadSettings) as raised:
        labels.load(str(file), {})
    assert message in raised.value.what and raised.value.where == str(file)


@pytest.mark.parametrize(
    ("overrides", "where", "message"),
    [
        (["file="], "learn.examples.file", "no labels are declared"),
        (['labels=["purchase_8d"]'], "learn.examples.labels", "unknown labels ['purchase_8d']; declared labels: ["),
        (['features=["events_8d"]'], "windows.toml", "user has no features ['events_8d']"),
        (["interval=0h"], "local.toml", "learn.examples.interval"),
        (["active_within=month"], "local.toml", "learn.examples.active_within"),
        (["sample_fraction=0"], "local.toml", "learn.examples.sample_fraction"),
        (["set_name=a'b"], "local.toml", "learn.examples.set_name"),
        (["since=2025-01-02", "until=2025-01-02"], "local.toml", "since must be before until"),
    ],
)  # fmt: skip
def test_an_invalid_setting_is_an_error_before_spark_starts(overrides: list[str], where: str, message: str) -> None:
    with pytest.raises(BadSettings) as raised:
        training_examples.table(load_settings(*[f"learn.examples.{one}" for one in overrides]))
    assert message in raised.value.what and where in raised.value.where


def test_a_label_with_the_name_of_a_feature_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "labels.toml"
    file.write_text(SHIPPED.replace("labels.purchase", "labels.purchases"))
    message = r"labels with the name of a feature .*: \['purchases_30d', 'purchases_7d'\]"
    with pytest.raises(BadSettings, match=message):
        training_examples.table(load_settings(f"learn.examples.file={file}"))


def test_every_shipped_label_is_documented() -> None:
    shipped = labels.load(str(ROOT / "conf" / "derive" / "labels.toml"), {})
    document = (ROOT / "docs" / "learners.md").read_text()
    assert [name for name in shipped.columns if f"`{name}`" not in document] == []
    assert all(one.question.endswith("?") for one in shipped.labels.values())


@pytest.mark.parametrize(
    ("change", "is_different"),
    [
        (lambda text: text.replace("${value} > 0", "${value} > 1"), True),
        (lambda text: text.replace("THEN -1", "THEN -2"), True),
        (lambda text: text.replace("Does the user buy?", "Is there a sale?"), False),
    ],
)
def test_the_declaration_changes_with_the_sql_of_a_label_and_not_with_its_question(
    tmp_path: Path, change: Callable[[str], str], is_different: bool
) -> None:
    file = tmp_path / "labels.toml"
    file.write_text(change(SHIPPED))
    declaration = training_examples.table(load_settings(f"learn.examples.file={file}")).declaration
    assert (declaration != training_examples.table(load_settings()).declaration) == is_different
