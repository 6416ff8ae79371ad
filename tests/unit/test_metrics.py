"""The declared metrics equal the choices of the settings, and only rows that are newer than the state are scored."""

from pathlib import Path
from typing import get_args

import numpy as np
from profilestream.base.settings import Publish
from profilestream.learn.factors.kernels.item_index import RANKERS
from profilestream.learn.kernels import evaluation_times
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.learners import LEARNERS, METRICS


def test_the_settings_offer_the_metrics_and_rankers_that_can_gate_a_version() -> None:
    metrics, rankers = (Publish.model_fields[name].annotation for name in ("metric", "ranker"))
    assert get_args(metrics) == tuple(metric.name for metric in METRICS.values() if metric.can_gate)
    assert set(get_args(rankers)) == set(RANKERS)


def test_every_metric_has_a_unit_and_a_definition_of_one_sentence() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name and metric.unit and metric.weighted_by
        assert metric.definition.endswith(".") and ". " not in metric.definition
    assert [name for name, metric in METRICS.items() if metric.is_lower_better] == [
        "rmse", "cost", "item_week_wape", "category_day_wape", "log_loss", "ece", "relative_mae", "late_rows",
    ]  # fmt: skip


def test_the_documentation_lists_every_metric() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "learners.md").read_text()
    for metric in METRICS.values():
        learners = [learner.name for learner in LEARNERS if metric in learner.metrics]
        cells = f"`{metric.name}` | {', '.join(learners) or 'all'} | {metric.weighted_by} | {metric.unit}"
        assert f"| {cells} | {metric.definition}" in text


def test_a_row_is_late_unless_it_is_newer_than_the_state() -> None:
    assert evaluation_times.is_late(np.array([4, 5, 6]), 5).tolist() == [True, True, False]


def test_evaluation_times_of_partitions_are_merged() -> None:
    parts = [
        EvaluationTimes(late_rows=2),
        EvaluationTimes.of(np.array([7, 6]), 1),
        EvaluationTimes.of(np.zeros(0, np.int64), 0),
        EvaluationTimes.of(np.array([9]), 0),
    ]
    assert sum(parts, EvaluationTimes()) == EvaluationTimes(6, 9, 3)
