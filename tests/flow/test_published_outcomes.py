"""learn_publish --learner outcomes: the champion and the version before are compared on the same matured rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.base import commits, files, tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.query_runner import checkpoint_path
from profilestream.learn.model_registry import RegisteredModel
from profilestream.learn.outcomes import batch_versions
from profilestream.learn.outcomes.batch_versions import BatchVersion
from profilestream.learn.outcomes.kernels.batch_model import BoostedTrees
from profilestream.learn.outcomes.outcome_predictor import OutcomePredictor
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.learn.predictor import PublishedRows
from profilestream.learn.tracking import MlflowStore
from profilestream.learn.version_aliases import VersionTags
from pyspark.sql import SparkSession

from jobs import learn_publish
from tests.naive_outcomes import DAY
from tests.outcomes_case import HORIZON, spec_of
from tests.published_outcomes_case import DECLARATION, examples, learned

BATCHES = 5


def test_a_bad_update_does_not_stay_champion_and_a_hard_period_rolls_nothing_back(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(tmp_path, DECLARATION)
    settings, table, good = spec.settings, spec.tables[0], learned(spec).all_rows(spec.tables[0])
    checkpoint = checkpoint_path(settings.paths, OutcomesSpec.stage_name())
    epoch = Checkpoint(spark, checkpoint).epoch()
    files.write_text(spark, f"{checkpoint}/offsets/0", "v1\n{}\n")
    for one in (table, tables.MODEL_METRICS, tables.OUTCOME_EXAMPLES):
        one.prepare(spark, settings.paths)
    flags = ["--config", str(settings.config_file), "--learner", "outcomes"]
    flags += ["--set", f"learn.publish_outcomes.eval_batches={BATCHES}"]
    published = 0

    def publish(day: int, log_loss: float, factor: float = 1.0) -> str:
        """Evaluate batches, store models valid from a day on with coefficients times a factor, and publish."""
        nonlocal published
        first, published = published * BATCHES, published + 1
        at = (day - 1) * DAY
        metrics = [
            {"learner": "outcomes", "epoch": epoch, "batch_id": n, "model": "buy", "metric": "log_loss",
             "value": log_loss, "weight": 200.0, "state_as_of": at, "rows_from": at, "rows_to": at}
            for n in range(first, first + BATCHES)
        ]  # fmt: skip
        commits.append_untracked(spark, tables.MODEL_METRICS.arrow_rows(metrics), tables.MODEL_METRICS, settings.paths)
        columns: dict[str, Any] = {
            "coefficients": [[factor * value for value in row] for row in good["coefficients"].to_pylist() if row],
            "valid_from": [day * DAY] * len(good),
        }
        rows = commits.with_batch_columns(good, table, Txn("test", epoch, first + BATCHES - 1))
        for name, values in columns.items():
            column = pa.array(values, rows.schema.field(name).type)
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
        commits.append_untracked(spark, rows, table, settings.paths)
        assert learn_publish.main(flags) == 0
        return capsys.readouterr().out

    def mature(*days: int, effect: float) -> None:
        rows = examples(*days, effect=effect).to_pylist()
        for row in rows:
            row |= {"feature_names": "visits,amount", "epoch": "one", "batch_id": 0}
        commits.append_untracked(
            spark, tables.OUTCOME_EXAMPLES.arrow_rows(rows), tables.OUTCOME_EXAMPLES, settings.paths
        )

    def aliases() -> dict[str, int]:
        versions = RegisteredModel(MlflowStore(settings), "outcomes").versions()
        return {alias: version.number for version in versions for alias in version.aliases}

    def fit(day: int, *, is_better: bool) -> None:
        trees = BoostedTrees("logistic", 1.0, 8.0, *map(np.array, ([1], [0], [0.0], [True], [0], [0], [0.0])))
        identity = batch_versions.identity_of(spec.declared, "buy")
        one = BatchVersion(
            "buy", "boosting", identity, day * DAY, 1, 0, "test", model=trees.to_bytes(), is_better=is_better
        )
        tables.BATCH_MODELS.prepare(spark, settings.paths)
        commits.append_untracked(spark, batch_versions.rows_of([one]), tables.BATCH_MODELS, settings.paths)

    def predictions(number: int) -> dict[str, float]:
        assert spec.publication is not None
        rows = PublishedRows(spec.publication.published_table.path(settings.paths), number)
        predictor = OutcomePredictor(rows, spec.publication.params, {})
        (row,) = predictor.predict(pa.table({"features": [[-1.0, 1.0]]}), {}).to_pylist()
        return dict(zip(*row.values(), strict=True))

    publish(30, log_loss=0.5)
    assert "version 2 is the champion" in publish(31, log_loss=0.5)
    # Labels are the opposite of what both versions have learned, and the metric is three times as large.
    mature(3, 4, effect=-2.0)
    assert publish(34, log_loss=1.5).startswith("version 3 is the challenger")
    assert aliases() == {"champion": 2, "previous": 1, "challenger": 3}

    # The metric of the batches evaluates earlier, good models, so the gate lets a bad update pass.
    assert "version 4 is the champion" in publish(35, log_loss=0.5, factor=-1.0)
    mature(7, 14, effect=2.0)
    fit(14 + HORIZON + 1, is_better=True)
    problem, message, decision = publish(14 + HORIZON + 1, log_loss=0.5).splitlines()[:3]
    assert problem.startswith("problem of the champion, version 4: log loss of buy in 400 rows after version 4 is 1.")
    assert "(version 2: 0." in problem and message.startswith("version 2 is the champion again")
    assert decision.startswith("version 5 is the champion")
    assert aliases() == {"champion": 5, "previous": 2, "challenger": 4}
    bad = RegisteredModel(MlflowStore(settings), "outcomes").versions()[1]
    assert VersionTags.of(bad).problem == problem

    # The batch model of version 5, which predicts that everyone buys, is a part of it, and is rolled back with it.
    assert predictions(5) == predictions(2) | {"buy": pytest.approx(1 / (1 + np.exp(-8)))}
    fit(45, is_better=False)
    mature(21, effect=2.0)
    problem, message, decision = publish(21 + HORIZON + 1, log_loss=0.5).splitlines()[:3]
    assert problem.startswith("problem of the champion, version 5: log loss of buy in 200 rows after version 5 is")
    assert message.startswith("version 2 is the champion again") and decision.startswith("version 6 is the champion")
    assert predictions(6) == predictions(2)
