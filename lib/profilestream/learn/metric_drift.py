"""Drift of the gate metric and of the mean label, per model, in the last evaluated batches of an epoch."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.base.language import translate
from profilestream.learn.evaluated_batches import EvaluatedBatches
from profilestream.learn.kernels.drift import adwin, page_hinkley
from profilestream.learn.promotion_gate import GateMetric

# The detectors read this many of the last batches of an epoch: 30 ms of CPU per model.
_MAX_BATCHES = 500


def find_drift(gate_metric: GateMetric, rows: pa.Table, epoch: str, up_to: int) -> list[str]:
    """One sentence per metric and model whose mean changed, as detected in the last `eval_batches` batches.

    Args:
        rows: from `evaluated_batches.collect`.
        up_to: the last batch.
    """
    sentences = []
    for metric in gate_metric.metrics:
        models = rows.filter((pc.field("metric") == metric) & (pc.field("epoch") == epoch))["model"]
        for model in sorted(map(str, models.unique().to_pylist())):
            baseline = gate_metric.baseline if metric == gate_metric.metric.name else ""
            if model != baseline:
                batches = EvaluatedBatches.of(rows, metric, model, epoch, baseline).until(up_to)
                name = f"{metric}/{baseline}" if baseline else metric
                of_model = translate("{metric} of {model}", metric=name, model=model)
                sentences += _sentences(of_model, batches, gate_metric.gate.eval_batches)
    return sentences


def _sentences(name: str, batches: EvaluatedBatches, recent: int) -> list[str]:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = batches.values / batches.baselines
    is_finite = np.isfinite(ratios)
    ids, values = batches.batch_ids[is_finite][-_MAX_BATCHES:], ratios[is_finite][-_MAX_BATCHES:]
    return [
        translate(
            "drift: {detector} detected a change of {metric} at batch {batch}",
            detector=detector,
            metric=name,
            batch=ids[detected[-1]],
        )
        for detector, detected in (("ADWIN", adwin(values)), ("Page-Hinkley", page_hinkley(values)))
        if detected and detected[-1] >= len(values) - recent
    ]
