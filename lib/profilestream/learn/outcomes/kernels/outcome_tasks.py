"""A pass over matured rows of outcomes: the scores and sums of the rows of one time."""

from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.lists import flatten, groups
from profilestream.learn.outcomes.kernels import outcome_model, outcome_scores
from profilestream.learn.outcomes.kernels.calibration import ComparedScores
from profilestream.learn.outcomes.kernels.first_order_rules import FirstOrder
from profilestream.learn.outcomes.kernels.model_inputs import ModelInputs
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, Rules, States

# Rows of `outcome_examples`; times in microseconds. `features` are in the order of the declaration, and can be fewer.
_LABELS: Any = pa.map_(pa.string(), pa.float64())
EXAMPLE = pa.schema([
    ("horizon_days", pa.int32()), ("user_id", pa.string()), ("at", pa.int64()), ("matures_at", pa.int64()),
    ("features", pa.list_(pa.float64())), ("labels", _LABELS),
])  # fmt: skip


class Cell(NamedTuple):
    """Rows that mature at the same time, since they have the same time and horizon; in order of maturity."""

    matures_at: int
    horizon_days: int
    at: int


def sum_examples(
    examples: pa.Table, *, cell: Cell, model_inputs: ModelInputs, rules: Rules, scored: States, states: States
) -> dict[str, Any]:
    """Sums over the rows of a cell by outcome.

    Args:
        scored: the models that score the rows, by outcome.
        states: the models that learn the rows, by outcome.

    Returns:
        `scores`: ComparedScores; `sums`: OutcomeSums.
    """
    examples = rows_of_cell(examples, cell)
    rows = LabeledRows(
        x=model_inputs.matrix(feature_matrix(examples, len(model_inputs.features))),
        labels=np.zeros(0),
        times=np.full(len(examples), cell.at),
        shards=_shards(examples, rules),
    )
    labels = {name: labels_of(examples, name) for name in {*scored, *states}}
    scores = {}
    for name, state in scored.items():
        eta = outcome_scores.etas(rules[name], state, rows.x)
        raw = ScoreSums.of(eta, labels[name], outcome_scores.raw(rules[name], state, eta), cell.at)
        calibrated = None
        if state.curve is not None:
            calibrated = ScoreSums.of(eta, labels[name], outcome_scores.on_curve(state.curve, eta), cell.at)
        scores[name] = ComparedScores(raw, calibrated)
    sums = {
        name: outcome_model.sum_rows(rules[name], state, rows._replace(labels=labels[name]))
        for name, state in states.items()
    }
    return {"scores": scores, "sums": sums}


def rows_of_cell(examples: pa.Table, cell: Cell) -> pa.Table:
    """The rows of a cell."""
    is_in_cell = [pc.equal(examples[name], pa.scalar(value)) for name, value in cell._asdict().items()]
    return examples.filter(pc.and_(is_in_cell[0], pc.and_(is_in_cell[1], is_in_cell[2])))


def feature_values(examples: pa.Table, count: int) -> Floats:
    """(m, count); values that are null, missing or not finite are NaN."""
    values = feature_matrix(examples, count)
    values[~np.isfinite(values)] = np.nan
    return values


def feature_matrix(examples: pa.Table, count: int) -> Floats:
    """(m, count); null and missing values are NaN."""
    row, values = flatten(examples, "features")
    position, features = np.arange(len(row)) - groups(row)[0], np.full((len(examples), count), np.nan)
    is_declared = position < count
    features[row[is_declared], position[is_declared]] = values.to_numpy(zero_copy_only=False)[is_declared]
    return features


def _shards(examples: pa.Table, rules: Rules) -> Longs:
    """(m,); a hash of the user, which only first-order rules need."""
    if not any(isinstance(rule, FirstOrder) for rule in rules.values()):
        return np.zeros(len(examples), np.int64)
    return user_hashes(examples)


def user_hashes(examples: pa.Table) -> Longs:
    """CRC-32 of the user of each row, (m,)."""
    return np.array([crc32(str(user).encode()) for user in examples["user_id"].to_pylist()], np.int64)


def labels_of(examples: pa.Table, outcome: str) -> Floats:
    """Labels, (m,); NaN if the row is not in the population of the outcome."""
    column: Any = examples["labels"].combine_chunks()
    return np.asarray(pc.map_lookup(column, pa.scalar(outcome), "first").to_numpy(zero_copy_only=False), np.float64)
