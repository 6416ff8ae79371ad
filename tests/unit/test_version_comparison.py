"""Losses of two published models of outcomes on the same rows, from Arrow tables."""

from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest
from profilestream.base.settings import Gate
from profilestream.learn import promotion_gate
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.metrics import Metric
from profilestream.learn.model_registry import RegisteredVersion
from profilestream.learn.outcomes import version_comparison
from profilestream.learn.outcomes.kernels import outcome_scores
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.learn.promotion_gate import GateMetric, PairedLosses

from tests.metric_rows import metric_rows
from tests.naive_outcomes import DAY
from tests.outcomes_case import HORIZON, spec_of
from tests.published_outcomes_case import DECLARATION, USERS, examples, learned, scaled

MATURITY = HORIZON + 1
METRIC = GateMetric("outcomes", Metric("log_loss", "", "", "", is_lower_better=True), "buy", Gate())


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> OutcomesSpec:
    return spec_of(tmp_path_factory.mktemp("pairs"), DECLARATION)


@pytest.fixture(scope="module")
def models(spec: OutcomesSpec) -> dict[str, VersionedModel]:
    return spec.models(learned(spec))


def compare(
    spec: OutcomesSpec, rows: pa.Table, champion: VersionedModel, previous: VersionedModel, outcome: str = "buy",
    since: int = MATURITY * DAY,
) -> PairedLosses:  # fmt: skip
    paired = version_comparison.paired_losses(rows, champion, previous, spec.declared, outcome, since)
    assert paired is not None
    return paired


def deterioration(paired: PairedLosses) -> str:
    """Of version 2, after version 1."""
    champion, previous = (RegisteredVersion(number, (), {"profilestream.epoch": "e"}) for number in (2, 1))
    rows = metric_rows("e", "buy", np.full(20, 0.5), metric="log_loss")
    return promotion_gate.find_deterioration(METRIC, rows, champion, previous, paired)


@pytest.mark.parametrize("outcome", ["buy", "spend"])
def test_losses_are_of_the_rows_that_matured_after_the_time_in_at_most_28_days(
    spec: OutcomesSpec, models: dict[str, VersionedModel], outcome: str
) -> None:
    """Rows of day 0 were learned, and those of day 7 matured 28 days before the newest ones."""
    rows, good, bad = examples(0, 7, 14, 21, 35), models[outcome], scaled(models[outcome], -0.5)
    paired = compare(spec, rows, bad, good, outcome)
    expected = {name: np.zeros(200) for name in ("champion", "previous", "rows")}
    for row in rows.to_pylist():
        if row["at"] >= 14 * DAY:
            label, group = dict(row["labels"])[outcome], crc32(row["user_id"].encode()) % 200
            x = spec.declared.inputs.matrix(np.array([row["features"]]))
            for name, model in (("champion", bad), ("previous", good)):
                rule = spec.declared.rules[outcome]
                eta = outcome_scores.etas(rule, model.last, x)
                (predicted,) = outcome_scores.predictions(rule, model.last, eta)
                if outcome == "buy":
                    loss = -np.log(predicted if label else 1 - predicted)
                else:
                    loss = 2 * (predicted - label + (label * np.log(label / predicted) if label else 0.0))
                expected[name][group] += loss
            expected["rows"][group] += 1
    has_rows = expected["rows"] > 0
    for name, side in (("champion", paired.champion), ("previous", paired.previous)):
        np.testing.assert_allclose(side.losses, expected[name][has_rows], rtol=1e-9)
        np.testing.assert_array_equal(side.weights, expected["rows"][has_rows])
    assert paired.champion.weights.sum() == 3 * USERS
    assert paired.name == {"buy": "log loss of buy", "spend": "Poisson deviance of spend"}[outcome]


def test_more_rows_than_the_limit_are_those_of_a_sample_of_users(
    spec: OutcomesSpec, models: dict[str, VersionedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_comparison, "_GATE_ROWS", USERS)
    paired = compare(spec, examples(7, 14, 21, 28), models["buy"], models["buy"])
    # A user has four rows, and a quarter of the users is compared.
    assert 0.6 * USERS < paired.champion.weights.sum() < 1.4 * USERS
    assert set(paired.champion.weights % 4) == {0.0}


def test_a_bad_update_is_found_and_rows_that_are_hard_for_both_versions_are_not(
    spec: OutcomesSpec, models: dict[str, VersionedModel]
) -> None:
    good, similar, bad = models["buy"], scaled(models["buy"], 0.95), scaled(models["buy"], -1.0)
    normal, hard = examples(7, 14), examples(7, 14, effect=-2.0)
    text = deterioration(compare(spec, normal, bad, good))
    assert text.startswith("log loss of buy in 400 rows after version 2 is 1.") and "(version 1: 0." in text
    assert deterioration(compare(spec, normal, similar, good)) == ""
    on_hard_rows = compare(spec, hard, similar, good)
    assert on_hard_rows.champion.ratio.value > 2 * compare(spec, normal, similar, good).champion.ratio.value
    assert deterioration(on_hard_rows) == ""


def test_with_a_few_rows_the_champion_stays(spec: OutcomesSpec, models: dict[str, VersionedModel]) -> None:
    good, bad = models["buy"], scaled(models["buy"], -1.0)
    assert deterioration(compare(spec, examples(0, 7).slice(0, USERS + 50), bad, good)) == ""


def test_without_new_rows_or_without_coefficients_there_is_no_comparison(
    spec: OutcomesSpec, models: dict[str, VersionedModel]
) -> None:
    arguments: Any = (spec.declared, "buy", MATURITY * DAY)
    good, empty = models["buy"], spec.models(MemoryTables())["buy"]
    for rows, pair in ((examples(7), (good, empty)), (examples(7), (empty, good)), (examples(0), (good, good))):
        assert version_comparison.paired_losses(rows, *pair, *arguments) is None
