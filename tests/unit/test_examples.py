"""What a declaration of labels and the settings of training rows may say; every misfit is told with file and key."""

from collections.abc import Callable
from pathlib import Path

import pytest
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.learn import labels, training_examples

ROOT = Path(__file__).parent.parent.parent
LOCAL = ROOT / "conf" / "local.toml"
SHIPPED = (ROOT / "conf" / "derive" / "labels.toml").read_text()


def _settings(*sets: str) -> Settings:
    return settings_module.load(str(LOCAL), list(sets))


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ('"7d", "30d"', '"7 days"', "labels.purchase.horizons: not different horizons such as 24h or 30d: ['7 days']"),
        ('"7d", "30d"', '"lifetime"', "labels.purchase.horizons: not different horizons"),
        ('"7d", "30d"', '"24h"', "labels.purchase.horizons: not different horizons"),
        ('"count"', '"counts"', "labels.purchase.statistic: Input tag 'counts'"),
        ("unit =", "units =", "labels.purchase.unit: Field required"),
        ("${value} > 0", "true", "labels.purchase: a reading names ${value}"),
        ("labels.purchase", "labels.Purchase", "names may hold small letters, digits and _ only: ['Purchase']"),
        ('kind = "sum"', 'kind = "sum"\nhalf_life_days = 3', "labels.spend: a label counts all of its horizon alike"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_file_and_key(tmp_path: Path, was: str, becomes: str, words: str) -> None:
    assert was in SHIPPED
    file = tmp_path / "labels.toml"
    file.write_text(SHIPPED.replace(was, becomes, 1))
    with pytest.raises(BadSettings) as raised:
        labels.load(str(file), {})
    assert words in raised.value.what and raised.value.where == str(file)


@pytest.mark.parametrize(
    ("sets", "where", "words"),
    [
        (["file="], "learn.examples.file", "no labels are declared"),
        (['labels=["purchase_8d"]'], "learn.examples.labels", "there are no labels ['purchase_8d'], but "),
        (['features=["events_8d"]'], "windows.toml", "user has no features ['events_8d']"),
        (["every=0h"], "local.toml", "learn.examples.every"),
        (["active_within=month"], "local.toml", "learn.examples.active_within"),
        (["share=0"], "local.toml", "learn.examples.share"),
        (["set_name=a'b"], "local.toml", "learn.examples.set_name"),
        (["since=2025-01-02", "until=2025-01-02"], "local.toml", "no day lies from since to until"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_at_the_start(sets: list[str], where: str, words: str) -> None:
    with pytest.raises(BadSettings) as raised:
        training_examples.table(_settings(*[f"learn.examples.{one}" for one in sets]))
    assert words in raised.value.what and where in raised.value.where


def test_a_label_cannot_have_the_name_of_a_feature(tmp_path: Path) -> None:
    file = tmp_path / "labels.toml"
    file.write_text(SHIPPED.replace("labels.purchase", "labels.purchases"))
    with pytest.raises(
        BadSettings, match=r"labels that have the name of a feature .*: \['purchases_30d', 'purchases_7d'\]"
    ):
        training_examples.table(_settings(f"learn.examples.file={file}"))


def test_the_shipped_labels_are_those_that_learners_md_lists() -> None:
    shipped = labels.load(str(ROOT / "conf" / "derive" / "labels.toml"), {})
    told = (ROOT / "docs" / "learners.md").read_text()
    assert [name for name in shipped.columns if f"`{name}`" not in told] == []
    assert all(one.question.endswith("?") for one in shipped.labels.values())


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        (lambda text: text.replace("${value} > 0", "${value} > 1"), True),
        (lambda text: text.replace("THEN -1", "THEN -2"), True),
        (lambda text: text.replace("Does the user buy?", "Does it sell?"), False),
    ],
)
def test_rows_of_another_declaration_are_not_mixed(
    tmp_path: Path, change: Callable[[str], str], is_another: bool
) -> None:
    file = tmp_path / "labels.toml"
    file.write_text(change(SHIPPED))
    changed = training_examples.table(_settings(f"learn.examples.file={file}")).declaration
    assert (changed != training_examples.table(_settings()).declaration) == is_another
