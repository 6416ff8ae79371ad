"""Batch models of outcomes: fitted on a grid of time, compared with linear models on the same rows, used if better."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from profilestream.base.settings import BatchModels
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes import batch_models, batch_training, batch_versions, outcomes_batch
from profilestream.learn.outcomes.batch_training import Unfit
from profilestream.learn.outcomes.batch_versions import BatchVersion
from profilestream.learn.outcomes.kernels import batch_model, model_comparison, outcome_scores
from profilestream.learn.outcomes.kernels.batch_model import BatchModel
from profilestream.learn.outcomes.outcome_predictor import OutcomePredictor
from profilestream.learn.outcomes.outcomes_batch import Models
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.serve.scores import score_rows, user_scores
from profilestream.serve.scores.score_rows import FeatureWords

from tests.batch_models_case import CONFIG, DECLARATION, EXAMPLES, USERS, WEEKS
from tests.naive_outcomes import DAY
from tests.outcomes_case import spec_of


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> OutcomesSpec:
    return spec_of(tmp_path_factory.mktemp("batch"), DECLARATION)


@pytest.fixture(scope="module")
def linear(spec: OutcomesSpec) -> Models:
    learned = spec.learn(LearnerBatch(EXAMPLES, len(EXAMPLES), MemoryTables()))
    return spec.models(MemoryTables().with_learned(spec, learned))


def retrain(
    spec: OutcomesSpec, linear: Models, stored: Sequence[BatchVersion] = (), *, weeks: int = WEEKS,
    config: BatchModels = CONFIG,
) -> list[BatchVersion]:  # fmt: skip
    """The new versions after the rows of some weeks."""
    rows = EXAMPLES.filter(pc.field("at") < pa.scalar(7 * weeks * DAY))
    cells = outcomes_batch.count_cells(rows)
    return batch_models.retrain(stored, linear, rows, cells, spec.declared, config)


@pytest.fixture(scope="module")
def versions(spec: OutcomesSpec, linear: Models) -> list[BatchVersion]:
    return retrain(spec, linear)


def of(versions: Sequence[BatchVersion], outcome: str, kind: str = "boosting") -> list[BatchVersion]:
    return [one for one in versions if (one.outcome, one.kind) == (outcome, kind)]


def interacting_rows(rows: int = 1500) -> tuple[Floats, Floats, Floats]:
    """Features with nulls and a feature that is always null, columns, and amounts."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(rows, 4))
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 3] = np.nan
    x = np.column_stack([np.ones(rows), np.nan_to_num(values)])
    return values, x, rng.exponential(20, rows) * (x[:, 1] + x[:, 2] > rng.normal(size=rows))


def test_the_arrays_of_boosting_have_the_predictions_of_scikit_learn() -> None:
    values, x, amounts = interacting_rows()
    model = batch_training.fit("boosting", "logistic", values, x, (amounts > 0).astype(float), min_rows=100, seed=0)
    filled = np.where(np.isfinite(values).any(axis=0), values, 0.0)
    estimator = batch_training.boosting_estimator("logistic", len(x), 0).fit(filled, amounts > 0)
    expected = estimator.predict_proba(filled)[:, 1]
    np.testing.assert_allclose(model.predictions(model.etas(values, x)), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["boosting", "mlp"])
@pytest.mark.parametrize("loss", ["logistic", "poisson"])
def test_a_stored_model_has_the_same_scores_and_amounts_in_their_own_unit(kind: str, loss: Any) -> None:
    values, x, amounts = interacting_rows()
    labels = amounts if loss == "poisson" else (amounts > 0).astype(float)
    model = batch_training.fit(kind, loss, values, x, labels, min_rows=100, seed=0)
    again = batch_model.model_of(kind, model.to_bytes())
    np.testing.assert_array_equal(again.etas(values, x), model.etas(values, x))
    assert again.predictions(again.etas(values, x)).mean() == pytest.approx(labels.mean(), rel=0.15)


def test_a_stored_model_with_objects_is_refused() -> None:
    file = io.BytesIO()
    np.savez(file, loss=np.array([{"code": "1"}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        batch_model.model_of("mlp", file.getvalue())


def flipped_fit(
    kind: str, loss: Any, values: Floats, x: Floats, labels: Floats, *, min_rows: int, seed: int
) -> BatchModel:
    """A model of the opposite labels, without the check of its predictions."""
    targets = 1 - labels if loss == "logistic" else labels.max() - labels
    model, _ = batch_training._boosting(loss, 1.0, values, x, targets, seed)
    return model


def test_a_model_of_the_opposite_labels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values, x, amounts = interacting_rows()
    fit_kind: Any = batch_training._boosting
    monkeypatch.setattr(batch_training, "_boosting", lambda *a: fit_kind(*a[:4], 1.0 - a[4], a[5]))
    with pytest.raises(Unfit, match="not better than the mean label"):
        batch_training.fit("boosting", "logistic", values, x, (amounts > 0).astype(float), min_rows=100, seed=0)


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda values, labels: (values[:50], labels[:50]), "50 rows; 100 are needed"),
        (lambda values, labels: (values, 0 * labels), "fewer than 10 labels above 0"),
        (lambda values, labels: (np.full_like(values, np.nan), labels), "all features are null"),
    ],
)
def test_rows_that_cannot_be_learned_are_a_problem(change: Callable[..., Any], problem: str) -> None:
    values, _, amounts = interacting_rows()
    values, labels = change(values, amounts)
    x = np.column_stack([np.ones(len(values)), np.nan_to_num(values)])
    for kind in ("boosting", "mlp"):
        with pytest.raises(Unfit, match=problem):
            batch_training.fit(kind, "poisson", values, x, labels, min_rows=100, seed=0)


def test_a_version_is_due_at_the_first_maturity_time_of_each_period_with_enough_rows(spec: OutcomesSpec) -> None:
    cells = outcomes_batch.count_cells(EXAMPLES)
    times = batch_versions.due_times(cells, 28, min_rows=3 * USERS)
    # Maturity times are days 8, 15, 22, 29, ...; three of them are before day 28, and the third has enough rows.
    assert [time // DAY for time in times[:3]] == [22, 29, 57]
    assert batch_versions.due_times(cells, 28, min_rows=10**6) == []


def test_one_run_gives_the_versions_of_several_runs(
    spec: OutcomesSpec, linear: Models, versions: list[BatchVersion]
) -> None:
    stored: list[BatchVersion] = []
    for weeks in (6, 17, WEEKS):
        stored += retrain(spec, linear, stored, weeks=weeks)
    assert batch_versions.rows_of(stored) == batch_versions.rows_of(versions)
    assert retrain(spec, linear, versions) == []


def test_a_comparison_contains_only_rows_whose_time_is_not_before_the_version(
    spec: OutcomesSpec, linear: Models, versions: list[BatchVersion]
) -> None:
    buys, rows = of(versions, "buy"), EXAMPLES.to_pylist()
    values = np.array([row["features"] for row in rows], float)
    x = spec.declared.inputs.matrix(values)
    by_version = {one.valid_from: one.loaded.raw_scores(values, x) for one in buys if one.loaded}
    for before, one in zip(buys, buys[1:], strict=False):
        losses, linear_losses, count = np.zeros(200), np.zeros(200), 0
        for n, row in enumerate(rows):
            valid = [time for time in by_version if time <= row["at"]]
            if not valid or not before.valid_from < row["matures_at"] <= one.valid_from:
                continue
            label, group = dict(row["labels"])["buy"], crc32(row["user_id"].encode()) % 200
            state = linear["buy"].scoring_state(row["at"])
            assert state is not None
            etas = by_version[max(valid)][n], outcome_scores.etas(spec.declared.rules["buy"], state, x[n : n + 1])[0]
            for sums, eta in zip((losses, linear_losses), etas, strict=True):
                sums[group] += np.log1p(np.exp(-eta if label else eta))
            count += 1
        assert one.evaluated_rows == count
        np.testing.assert_allclose(one.losses, losses, atol=1e-9)
        np.testing.assert_allclose(one.linear_losses, linear_losses, atol=1e-9)
        if count:
            assert one.metrics["log_loss"] == pytest.approx(losses.sum() / count)
            assert one.linear_metrics["log_loss"] == pytest.approx(linear_losses.sum() / count)
    assert buys[-1].improvement is not None and buys[-1].evaluated_rows == 8 * USERS


def test_the_deviance_of_an_amount_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import mean_poisson_deviance  # type: ignore[import-untyped]

    labels, predictions = np.array([0.0, 3.0, 10.0]), np.array([1.0, 2.0, 20.0])
    losses = model_comparison.row_losses("poisson", labels, predictions)
    assert losses.mean() == pytest.approx(mean_poisson_deviance(labels, predictions))
    assert losses.min() >= 0


def test_a_better_kind_scores_with_the_reasons_of_the_linear_model(
    spec: OutcomesSpec, linear: Models, versions: list[BatchVersion]
) -> None:
    now, last = 7 * WEEKS * DAY, {name: of(versions, name)[-1] for name in ("buy", "spend")}
    assert last["buy"].is_better and last["spend"].is_better
    assert 0.005 < (last["buy"].improvement_low or 0) < (last["buy"].improvement or 0)
    columns: dict[str, Any] = {
        "user_id": ["a", "b"],
        "features": [[2.0, 2.0], [2.0, -2.0]],
        "populations": [[True] * 4] * 2,
    }
    users = pa.table(columns, schema=score_rows.USER)
    words = [FeatureWords("Visits?"), FeatureWords("Amount?")]
    rows = {}
    for name, batch in (("linear", []), ("batch", versions)):
        models = user_scores.scoring_models(linear, spec.declared, now, batch)
        scores = user_scores.score(users, models, spec.declared, words).to_pylist()
        rows[name] = {(row["outcome"], row["user_id"]): row for row in scores}
    kinds = {outcome: row["kind"] for (outcome, _), row in rows["batch"].items()}
    assert kinds == {"buy": "boosting", "spend": "boosting", "always": "linear", "margin": "linear"}
    assert {row["kind"] for row in rows["linear"].values()} == {"linear"}
    assert rows["batch"]["buy", "a"]["probability"] > 0.6 > 0.4 > rows["batch"]["buy", "b"]["probability"]
    assert rows["batch"]["spend", "a"]["score"] > 15 > rows["batch"]["spend", "b"]["score"]
    assert rows["batch"]["buy", "a"]["valid_from"] == last["buy"].valid_from
    for key, row in rows["batch"].items():
        assert row["reasons"] == rows["linear"][key]["reasons"]


def test_a_published_version_predicts_with_its_batch_models(
    spec: OutcomesSpec, linear: Models, versions: list[BatchVersion]
) -> None:
    now, features = 7 * WEEKS * DAY, [[2.0, 2.0], [2.0, -2.0]]
    stored = spec.tables[0].arrow_rows(
        [row for name, one in linear.items() for row in one.rows(name, replace(one, versions=()))]
    )
    added = batch_versions.published_rows(batch_versions.serving_versions(versions, now))
    by_outcome = {row["outcome"]: row for row in added.to_pylist()}
    for field in list(added.schema)[1:]:
        values = [by_outcome.get(name, {}).get(field.name) for name in stored["outcome"].to_pylist()]
        stored = stored.append_column(field, pa.array(values, field.type))
    rows: Any = SimpleNamespace(read=lambda: stored.append_column("model_version", pa.array([1] * len(stored))))
    assert spec.publication is not None
    predicted = OutcomePredictor(rows, spec.publication.params, {}).predict(pa.table({"features": features}), {})
    columns: dict[str, Any] = {"user_id": ["a", "b"], "features": features, "populations": [[True] * 4] * 2}
    users, words = pa.table(columns, schema=score_rows.USER), [FeatureWords("Visits?"), FeatureWords("Amount?")]
    champion = batch_versions.published_versions(stored, spec.declared)
    scores = {}
    for name, batch in (("all", versions), ("champion", champion), ("linear", [])):
        models = user_scores.scoring_models(linear, spec.declared, now, batch)
        scores[name] = user_scores.score(users, models, spec.declared, words)
    assert scores["champion"] == scores["all"] != scores["linear"]
    expected = [
        row["score"] if row["outcome"] == "spend" else row["probability"] for row in scores["all"].to_pylist()
        if row["outcome"] != "margin"
    ]  # fmt: skip
    names, predictions = zip(*[row.values() for row in predicted.to_pylist()], strict=True)
    assert set(map(tuple, names)) == {("buy", "spend", "always", "margin")}
    actual = [predictions[user][outcome] for outcome in range(3) for user in range(2)]
    assert actual == pytest.approx(expected)
    assert batch_versions.published_versions(stored.drop_columns(["batch_model"]), spec.declared) == []


def test_an_outcome_with_a_problem_is_linear_and_other_outcomes_continue(versions: list[BatchVersion]) -> None:
    assert {one.problem for one in of(versions, "always")} == {"fewer than 10 labels of a class"}
    assert not any(one.is_better or one.model for one in of(versions, "always"))
    assert len(of(versions, "buy")) == len(of(versions, "always")) > 3
    assert not of(versions, "margin")
    assert "fewer than 10" in of(versions, "always")[-1].summary()
    assert "; serves" in of(versions, "buy")[-1].summary()


def test_a_forced_bad_model_never_serves(spec: OutcomesSpec, linear: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_training, "fit", flipped_fit)
    bad = of(retrain(spec, linear), "buy")
    assert all(one.model for one in bad) and (bad[-1].improvement or 0) < 0
    assert not any(one.is_better for one in bad)
    for week in range(WEEKS):
        assert batch_versions.serving_versions(bad, 7 * week * DAY) == {}


def test_a_problem_of_the_last_version_stops_an_earlier_better_one(
    spec: OutcomesSpec, linear: Models, versions: list[BatchVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    *earlier, last = of(versions, "buy")
    assert "buy" in batch_versions.serving_versions(earlier, last.valid_from)

    def unfit(*_: object, **__: object) -> BatchModel:
        raise Unfit("no model")

    monkeypatch.setattr(batch_training, "fit", unfit)
    (new,) = [one for one in retrain(spec, linear, earlier) if one.outcome == "buy"]
    assert new.problem == "no model" and new.improvement == last.improvement and not new.is_better
    assert batch_versions.serving_versions([*earlier, new], new.valid_from) == {}


def test_another_declaration_begins_again(tmp_path: Path, versions: list[BatchVersion]) -> None:
    other = spec_of(tmp_path, DECLARATION.replace("is_log = true", "is_log = false"))
    rows = batch_versions.rows_of(versions)
    assert {one.outcome for one in batch_versions.versions_of(rows, other.declared)} == set()


def test_a_sample_has_all_rows_of_a_user_or_none(
    spec: OutcomesSpec, linear: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = []

    def recorded(kind: str, loss: Any, values: Floats, *_: object, **__: object) -> BatchModel:
        samples.append(len(values))
        raise Unfit("")

    monkeypatch.setattr(batch_training, "fit", recorded)
    config = BatchModels(kinds=("boosting",), min_rows=500, max_rows=600, history_days=70)
    new = of(retrain(spec, linear, config=config), "buy")
    # Ten weeks are 1000 rows, so 60 % of the users.
    assert new[-1].rows % 10 == 0 and 400 <= new[-1].rows <= 800
    assert new[-1].rows in samples


def test_stored_rows_are_the_versions(spec: OutcomesSpec, versions: list[BatchVersion]) -> None:
    rows = batch_versions.rows_of(versions)
    assert batch_versions.rows_of(batch_versions.versions_of(rows, spec.declared)) == rows
