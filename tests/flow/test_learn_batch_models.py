"""learn_batch_models over stored examples and models."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from profilestream.base import commits, tables
from profilestream.base import settings as settings_module
from profilestream.base.commits import Txn
from profilestream.learn.learner_spec import LearnerBatch
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes import batch_models, batch_versions, outcomes_batch
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from pyspark.sql import SparkSession

from jobs import learn_batch_models
from tests.batch_models_case import DECLARATION, EXAMPLES
from tests.open_readers import assert_all_readers_agree
from tests.outcomes_case import spec_of


def test_frames_give_the_versions_of_arrow_tables_in_one_commit(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(spec_of(tmp_path, DECLARATION).settings.config_file)]
    for change in ('kinds=["boosting"]', "min_rows=500", "retrain_days=84", "max_rows=1000"):
        config += ["--set", f"learn.batch_models.{change}"]
    settings = settings_module.load(config[1], config[3::2])
    assert learn_batch_models.main(config) == 2
    assert "run jobs/learn_outcome_examples.py" in capsys.readouterr().err

    spec, paths = OutcomesSpec(settings), settings.paths
    learned = spec.learn(LearnerBatch(EXAMPLES, len(EXAMPLES), MemoryTables()))
    models, examples = MemoryTables().with_learned(spec, learned), EXAMPLES
    for name in ("feature_names", "epoch"):
        examples = examples.append_column(name, pa.array(["visits,amount"] * len(examples)))
    examples = examples.append_column("batch_id", pa.array([0] * len(examples)))
    model_rows = commits.with_batch_columns(models.all_rows(spec.tables[0]), spec.tables[0], Txn("test", "one", 0))
    written: list[tuple[Any, pa.Table]] = [(tables.OUTCOME_EXAMPLES, examples), (spec.tables[0], model_rows)]
    for table, rows in written:
        table.prepare(spark, paths)
        commits.append_untracked(spark, rows, table, paths)
    cells = outcomes_batch.count_cells(EXAMPLES)
    in_memory = batch_models.retrain(
        [], spec.models(models), EXAMPLES, cells, spec.declared, settings.learn.batch_models
    )

    # Spark computes the comparisons, too.
    monkeypatch.setattr(outcomes_batch, "_MAX_DRIVER_ROWS", 0)
    version = commits.version(spark, batch_models.TABLE, paths)
    assert learn_batch_models.main(config) == 0
    assert "buy, boosting: loss " in capsys.readouterr().err
    assert commits.version(spark, batch_models.TABLE, paths) == version + 1
    stored = batch_versions.versions_of(batch_models.TABLE.read(spark, paths).toArrow(), spec.declared)
    by_key = {(one.outcome, one.valid_from): one for one in stored}
    assert len(by_key) == len(in_memory) > 6
    for one in in_memory:
        other = by_key[one.outcome, one.valid_from]
        assert (other.rows, other.model, other.problem) == (one.rows, one.model, one.problem)
        assert (other.evaluated_rows, other.is_better) == (one.evaluated_rows, one.is_better)
        assert other.improvement_low == pytest.approx(one.improvement_low)
    assert_all_readers_agree(spark, batch_models.TABLE.path(paths), "rows")

    assert batch_models.run(spark, settings) == []
    assert commits.version(spark, batch_models.TABLE, paths) == version + 1
