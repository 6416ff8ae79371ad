"""Comparison of models of outcomes on the same matured rows. Rows are frames or Arrow tables."""

from collections.abc import Mapping
from typing import Any

from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.outcomes import outcomes_batch
from profilestream.learn.outcomes.kernels.batch_model import BatchModel
from profilestream.learn.outcomes.kernels.model_comparison import (
    Comparison,
    ModelKey,
    ModelPair,
    compare_examples,
)
from profilestream.learn.outcomes.kernels.outcome_scores import LinearModel
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE, Cell
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.promotion_gate import GroupLosses, PairedLosses

COMPARE = Pass(compare_examples, inputs={"examples": EXAMPLE}, results=("comparisons",))
# Rows that the promotion gate compares two versions on: of at most these days of maturity times, and about this many.
_GATE_DAYS, _GATE_ROWS = 28, 50_000


def compare(
    examples: Rows, cells: Mapping[Cell, int], pairs: Mapping[Cell, Mapping[ModelKey, ModelPair]],
    declared: DeclaredOutcomes,
) -> dict[ModelKey, Comparison]:  # fmt: skip
    """The sums over the rows of cells by outcome and kind.

    Args:
        examples: rows with EXAMPLE.
        cells: numbers of rows.
        pairs: what scores each cell; may be empty.
    """
    scored = {cell: cells[cell] for cell, by_key in pairs.items() if by_key}
    total: dict[ModelKey, Comparison] = {}
    rows: Any = outcomes_batch.rows_of_cells(examples, scored) if scored else None
    for cell in scored:
        _, results = run_pass(
            COMPARE, {"examples": rows}, cell=cell, model_inputs=declared.inputs, pairs=pairs[cell]
        )  # fmt: skip
        for part in results["comparisons"]:
            for key, one in part.items():
                total[key] = total[key] + one if key in total else one
    return total


def paired_losses(
    examples: Rows, champion: VersionedModel, previous: VersionedModel, declared: DeclaredOutcomes, outcome: str,
    since: int, batch: tuple[BatchModel | None, BatchModel | None] = (None, None),
) -> PairedLosses | None:  # fmt: skip
    """The losses of two published models of an outcome on rows that neither of them has learned.

    These are the rows that matured after a time, of at most the last 28 days of maturity times. If they are more than
    50,000, the rows of a sample of users.

    Args:
        examples: rows with EXAMPLE.
        champion, previous: with one version each.
        since: microseconds; both models have learned rows up to this maturity time only.
        batch: the batch models that score instead of them.

    Returns:
        Null: there are no such rows, or a model has not started or is of another declaration.
    """
    if not (champion.last.is_started and previous.last.is_started):
        return None
    key, horizon, rule = (outcome, "linear"), declared.outcomes[outcome].horizon_days, declared.rules[outcome]
    matured = {
        cell: count
        for cell, count in outcomes_batch.count_cells(examples).items()
        if cell.horizon_days == horizon and cell.matures_at > since
    }
    first = max((cell.matures_at for cell in matured), default=0) - _GATE_DAYS * MICROS_PER_DAY
    cells = {cell: count for cell, count in matured.items() if cell.matures_at > first}
    share = min(1.0, _GATE_ROWS / max(sum(cells.values()), 1))
    sampled = {cell: round(share * count) for cell, count in cells.items()}
    pair = (batch[0] or LinearModel(rule, champion.last), batch[1] or LinearModel(rule, previous.last))
    pairs = {cell: {key: pair} for cell in cells}
    sums = compare(outcomes_batch.rows_of_users(examples, share), sampled, pairs, declared).get(key)
    if sums is None:
        return None
    has_rows = sums.rows > 0
    name = f"{'Poisson deviance' if rule.loss == 'poisson' else 'log loss'} of {outcome}"
    return PairedLosses(
        name, *[GroupLosses(one.losses[has_rows], sums.rows[has_rows]) for one in (sums.model, sums.other)]
    )
