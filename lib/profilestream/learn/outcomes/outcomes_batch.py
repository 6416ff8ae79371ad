"""One batch of `learn_outcomes`: cells of matured rows in order of maturity. Rows are frames or Arrow tables."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from operator import add, and_, or_
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.sums import MICROS_PER_DAY, total
from profilestream.learn.learner_spec import Phase
from profilestream.learn.metrics import Evaluation
from profilestream.learn.outcomes.kernels import outcome_model
from profilestream.learn.outcomes.kernels.calibration import Calibration, ComparedScores
from profilestream.learn.outcomes.kernels.newton_rule import Newton
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums
from profilestream.learn.outcomes.kernels.outcome_model import OutcomeState, States
from profilestream.learn.outcomes.kernels.outcome_sums import OutcomeSums
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE, Cell, sum_examples
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes

SUM_EXAMPLES = Pass(sum_examples, inputs={"examples": EXAMPLE}, results=("scores", "sums"))
Models = Mapping[str, VersionedModel]
# Cells with fewer rows are learned in the process of the driver, which needs about 1 kB per row.
_MAX_DRIVER_ROWS = 100_000


@dataclass(frozen=True)
class CellScores:
    """Scores of the rows of a cell by outcome, and the newest event time that the models had used, microseconds."""

    cell: Cell
    scores: Mapping[str, ScoreSums] = field(default_factory=dict)
    state_as_of: int = 0


def learn(
    models: Models, examples: Rows, declared: DeclaredOutcomes, phase: Phase
) -> tuple[dict[str, VersionedModel], list[CellScores]]:
    """The models after a batch, and the scores of each cell by the versions that were valid at its time.

    Args:
        examples: rows with EXAMPLE.
    """
    learned, scores = dict(models), []
    with phase("cells"):
        groups = list(_groups_of_cells(examples))
    for cells in groups:
        with phase("read"):
            rows = rows_of_cells(examples, cells)
        for cell in cells:
            with phase("learn"):
                changed, cell_scores = _learn_cell(learned, rows, cell, declared)
            learned |= changed
            scores.append(cell_scores)
    return learned, scores


def _groups_of_cells(examples: Rows) -> Iterator[dict[Cell, int]]:
    """The cells in order of maturity, with their numbers of rows, in groups with few rows or with one cell."""
    group: dict[Cell, int] = {}
    for cell, count in sorted(count_cells(examples).items()):
        if group and sum(group.values()) + count > _MAX_DRIVER_ROWS:
            yield group
            group = {}
        group[cell] = count
    if group:
        yield group


def count_cells(examples: Rows) -> dict[Cell, int]:
    """The number of rows of each cell."""
    keys = list(Cell._fields)
    if isinstance(examples, DataFrame):
        rows = [row.asDict() for row in examples.groupBy(keys).agg(F.count("*").alias("count_all")).collect()]
    else:
        rows = examples.group_by(keys).aggregate([([], "count_all")]).to_pylist()
    return {Cell(*(row[name] for name in keys)): row["count_all"] for row in rows}


def rows_of_users(examples: Rows, share: float, seed: int = 0) -> Any:
    """The rows of about this share of the users, who are selected by a hash."""
    limit, salt = int(share * 2**32), f"{seed} "
    if isinstance(examples, DataFrame):
        return examples.where(F.crc32(F.concat(F.lit(salt), "user_id")) < limit)
    users = examples["user_id"].to_pylist()
    return examples.filter(pa.array([crc32(f"{salt}{user}".encode()) < limit for user in users], pa.bool_()))


def rows_of_cells(examples: Rows, cells: Mapping[Cell, int]) -> Any:
    """The rows of cells: a table in the driver if they are few, since each pass over a frame is a Spark job."""
    if not isinstance(examples, DataFrame):
        return examples
    is_in_cells = [reduce(and_, [F.col(name) == value for name, value in cell._asdict().items()]) for cell in cells]
    rows = examples.where(reduce(or_, is_in_cells))
    return rows.toArrow() if sum(cells.values()) <= _MAX_DRIVER_ROWS else rows


def _learn_cell(
    models: Models, examples: Rows, cell: Cell, declared: DeclaredOutcomes
) -> tuple[dict[str, VersionedModel], CellScores]:
    """The models that learn a cell, after it, and its scores. The first pass over the rows computes both."""
    states = {name: models[name].last for name in _outcomes_of(cell, declared)}
    scored = _scoring_states(models, cell, declared)
    compared: dict[str, ComparedScores] = {}
    rules, inputs = declared.rules, declared.inputs

    def sum_batch(active: States) -> dict[str, OutcomeSums]:
        to_score = {} if compared else scored
        arguments = {"cell": cell, "model_inputs": inputs, "rules": rules, "scored": to_score, "states": active}
        _, results = run_pass(SUM_EXAMPLES, {"examples": examples}, **arguments)
        compared.update(_totals(results["scores"]))
        by_name = {name: [part[name] for part in results["sums"]] for name in active}
        return {name: total(sums, rules[name].half_life_days) for name, sums in by_name.items()}

    after = outcome_model.learn(rules, states, sum_batch)
    changed = {}
    for name, state in after.items():
        if state is not states[name]:
            is_calibrated = declared.outcomes[name].calibration == "isotonic"
            calibration = models[name].calibration if is_calibrated else Calibration()
            if is_calibrated and name in compared:
                calibration = calibration.updated(compared[name])
            changed[name] = models[name].learned(state, cell.matures_at, calibration)
    scores = {name: one.served(scored[name].uses_curve) for name, one in compared.items()}
    newest = max((state.sums.as_of for state in scored.values()), default=0)
    return changed, CellScores(cell, scores, newest + cell.horizon_days * MICROS_PER_DAY - 1 if newest else 0)


def score(models: Models, examples: Rows, declared: DeclaredOutcomes) -> dict[str, ScoreSums]:
    """The scores of rows by the versions that were valid at their times, by outcome; rows without one are left out."""
    parts: dict[str, list[ScoreSums]] = defaultdict(list)
    for cells in _groups_of_cells(examples):
        rows = rows_of_cells(examples, cells)
        for cell in cells:
            scored = _scoring_states(models, cell, declared)
            for name, one in _compare(scored, rows, cell, declared).items():
                parts[name].append(one.served(scored[name].uses_curve))
    return {name: sum(one[1:], one[0]) for name, one in parts.items()}


def _compare(scored: States, examples: Rows, cell: Cell, declared: DeclaredOutcomes) -> dict[str, ComparedScores]:
    """The scores of the rows of a cell by these states."""
    arguments = {"cell": cell, "model_inputs": declared.inputs, "rules": declared.rules, "scored": scored, "states": {}}
    _, results = run_pass(SUM_EXAMPLES, {"examples": examples}, **arguments)
    return _totals(results["scores"])


def _totals(parts: Sequence[Mapping[str, ComparedScores]]) -> dict[str, ComparedScores]:
    """The sum of the parts by outcome; all parts have the same outcomes."""
    return {name: reduce(add, [part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _outcomes_of(cell: Cell, declared: DeclaredOutcomes) -> list[str]:
    return [name for name, one in declared.outcomes.items() if one.horizon_days == cell.horizon_days]


def _scoring_states(models: Models, cell: Cell, declared: DeclaredOutcomes) -> dict[str, OutcomeState]:
    """The states that are valid at the time of a cell; outcomes without one are left out."""
    states = {name: models[name].scoring_state(cell.at) for name in _outcomes_of(cell, declared)}
    return {name: state for name, state in states.items() if state is not None}


def remove(models: Models, examples: Rows, declared: DeclaredOutcomes) -> tuple[dict[str, VersionedModel], list[str]]:
    """The models without rows that they have learned, and the outcomes whose rule cannot remove rows.

    Sums of Newton are subtracted with the coefficients with which they were added. They are exact unless the rows of
    a cell were learned in several batches, or a batch was late; numbers of rows, means and variances are always exact.
    Sums of a calibration are subtracted with the scores of the versions of that time.
    """
    removed: dict[str, list[tuple[OutcomeSums, float]]] = defaultdict(list)
    removed_scores: dict[str, list[ScoreSums]] = defaultdict(list)
    rules, inputs = declared.rules, declared.inputs
    for cell in chain.from_iterable(_groups_of_cells(examples)):
        states = {
            name: _learning_state(version)
            for name, one in declared.outcomes.items()
            if one.horizon_days == cell.horizon_days
            and (version := models[name].version_that_learned(cell.matures_at)) is not None
        }
        scored = _scoring_states(models, cell, declared)
        scored = {name: state for name, state in scored.items() if models[name].calibration.sums.rows}
        arguments = {"cell": cell, "model_inputs": inputs, "rules": rules, "scored": scored, "states": states}
        _, results = run_pass(SUM_EXAMPLES, {"examples": examples}, **arguments)
        for name, scores in _totals(results["scores"]).items():
            removed_scores[name].append(scores.raw)
        for part in results["sums"]:
            for name, sums in part.items():
                removed[name].append((sums, states[name].label_unit))
    newton = {name: rule for name, rule in rules.items() if isinstance(rule, Newton) and name in removed}
    changed = {}
    for name, rule in newton.items():
        left = rule.remove(models[name].last, removed[name])
        changed[name] = models[name].with_last(left).calibrated(models[name].calibration.without(removed_scores[name]))
    return changed, sorted(removed.keys() - newton.keys())


def _learning_state(version: OutcomeState) -> OutcomeState:
    """The state with which the rows of a version were learned."""
    if version.learned_at is None:
        return replace(version, is_started=False)
    return replace(version, **version.learned_at._asdict())


def evaluation(cells: list[CellScores], declared: DeclaredOutcomes) -> Evaluation:
    """Metrics by outcome: means over cells, weighted by rows."""
    values: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    scored = [one for one in cells if any(sums.rows for sums in one.scores.values())]
    for one in scored:
        for name, sums in one.scores.items():
            is_amount = declared.outcomes[name].loss == "poisson"
            metrics = sums.amount_metrics() if is_amount else sums.binary_metrics()
            for metric, value in metrics.items():
                values[name][metric].append((value, sums.rows))
    if not scored:
        return Evaluation()
    times = EvaluationTimes.of(np.array([one.cell.at for one in scored]), 0)
    means = {name: {metric: _mean(parts) for metric, parts in metrics.items()} for name, metrics in values.items()}
    return Evaluation(means, times, min(scored, key=lambda one: one.cell.at).state_as_of)


def _mean(parts: list[tuple[float, float]]) -> tuple[float, float]:
    rows: Any = sum(rows for _, rows in parts)
    return sum(value * rows for value, rows in parts) / rows, rows
