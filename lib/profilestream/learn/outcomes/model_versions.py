"""Versions of the models of outcomes, as rows of `outcome_models`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.outcomes.kernels import outcome_model
from profilestream.learn.outcomes.kernels.calibration import HALF_LIFE_DAYS, Calibration
from profilestream.learn.outcomes.kernels.newton_rule import Newton
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums
from profilestream.learn.outcomes.kernels.outcome_model import Linearization, OutcomeRule, OutcomeState
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes

_INFINITE = float("inf")
_TIMES = ("valid_from", "as_of")


@dataclass(frozen=True)
class ModelVersion:
    """A model that is valid from a time: the maturity time of the last rows that it has learned, microseconds."""

    valid_from: int
    state: OutcomeState


@dataclass(frozen=True)
class VersionedModel:
    """All versions of a model in order of time. Only the sums of the last state are stored.

    Args:
        calibration: of the scores of all versions; empty unless the outcome declares one.
    """

    identity: str
    last: OutcomeState
    versions: tuple[ModelVersion, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)

    def scoring_version(self, at: int) -> ModelVersion | None:
        """The last started version that is valid at a time; null: there is none."""
        earlier = [one for one in self.versions if one.valid_from <= at and one.state.is_started]
        return earlier[-1] if earlier else None

    def scoring_state(self, at: int) -> OutcomeState | None:
        """The state that a score of that time would have used; null: there was none."""
        version = self.scoring_version(at)
        return None if version is None else version.state

    def version_that_learned(self, matures_at: int) -> OutcomeState | None:
        """The version that has learned the rows of a maturity time; null if there is none."""
        return next((one.state for one in self.versions if one.valid_from >= matures_at), None)

    def learned(self, state: OutcomeState, matures_at: int, calibration: Calibration | None = None) -> "VersionedModel":
        """With the version after the rows of a maturity time; it replaces a version of the same time."""
        calibration = calibration or Calibration()
        state = replace(state, curve=calibration.curve, uses_curve=calibration.is_used)
        valid_from = max([matures_at, *(one.valid_from for one in self.versions)])
        earlier = tuple(one for one in self.versions if one.valid_from < valid_from)
        versions = (*earlier, ModelVersion(valid_from, state))
        return replace(self, last=state, versions=versions, calibration=calibration)

    def calibrated(self, calibration: Calibration) -> "VersionedModel":
        """With another calibration of the last version."""
        state = replace(self.last, curve=calibration.curve, uses_curve=calibration.is_used)
        return replace(self.with_last(state), calibration=calibration)

    def with_last(self, state: OutcomeState) -> "VersionedModel":
        """With another state in the last version, if there is one."""
        versions = tuple(replace(one, state=state) if one is self.versions[-1] else one for one in self.versions)
        return replace(self, last=state, versions=versions)

    def with_columns(self, rule: OutcomeRule, names: Sequence[str]) -> "VersionedModel":
        """With columns of x added, removed or in another order; coefficients of Newton are solved again."""
        states = [outcome_model.with_columns(one.state, names) for one in self.versions]
        versions = tuple(replace(one, state=state) for one, state in zip(self.versions, states, strict=True))
        if self.last.names == tuple(names):
            return replace(self, versions=versions).with_last(self.last)
        last = outcome_model.with_columns(self.last, names)
        last = rule.solved(last) if isinstance(rule, Newton) and last.is_started else last
        return replace(self, versions=versions).with_last(last)

    def rows(self, outcome: str, before: "VersionedModel") -> list[dict[str, Any]]:
        """The rows of `outcome_models` that differ from those before."""
        unchanged = {one.valid_from for one in before.versions[:-1]}
        return [
            _row(outcome, self.identity, one, self.calibration if one is self.versions[-1] else None)
            for one in self.versions
            if one.valid_from not in unchanged
        ]


def models_of(rows: pa.Table, declared: DeclaredOutcomes) -> dict[str, VersionedModel]:
    """The model of each declared outcome, with the declared columns, from rows of `outcome_models`."""
    for name in _TIMES:
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast("int64"))
    by_outcome: dict[str, list[dict[str, Any]]] = {name: [] for name in declared.outcomes}
    for row in rows.to_pylist():
        by_outcome.get(row["outcome"], []).append(row)
    columns, rules = declared.inputs.names, declared.rules
    return {
        name: model_of(by_outcome[name], rules[name], one.identity, columns).with_columns(rules[name], columns)
        for name, one in declared.outcomes.items()
    }


def model_of(rows: Sequence[dict[str, Any]], rule: OutcomeRule, identity: str, names: Sequence[str]) -> VersionedModel:
    """The model from its rows in `outcome_models`; an empty one if they have another identity."""
    rows = sorted((row for row in rows if row["identity"] == identity), key=lambda row: row["valid_from"])
    versions = tuple(ModelVersion(row["valid_from"], _state(row, rule)) for row in rows)
    if not versions:
        return VersionedModel(identity, OutcomeState.empty(rule, names))
    return VersionedModel(identity, versions[-1].state, versions, _calibration(rows[-1]))


def _row(outcome: str, identity: str, version: ModelVersion, calibration: Calibration | None) -> dict[str, Any]:
    """The row of a version, with its sums and those of the calibration if it is the last one."""
    state, sums = version.state, version.state.sums
    learned_at = state.learned_at or Linearization(np.zeros(0), np.zeros(0), np.zeros(0), 1.0, _INFINITE)
    row: dict[str, Any] = {
        "outcome": outcome, "valid_from": version.valid_from, "identity": identity, "names": list(state.names),
        "coefficients": state.coefficients, "means": state.means, "scales": state.scales, "applies": state.applies,
        "is_started": state.is_started, "label_unit": state.label_unit, "label_cap": _finite(state.label_cap),
        "learned_coefficients": learned_at.coefficients, "learned_means": learned_at.means,
        "learned_scales": learned_at.scales, "learned_unit": learned_at.label_unit,
        "learned_cap": _finite(learned_at.label_cap),
        "problem": state.problem, "as_of": sums.as_of, "uses_curve": state.uses_curve,
    }  # fmt: skip
    if state.curve is not None:
        row |= {"curve_logits": state.curve[0], "curve_probabilities": state.curve[1]}
    if calibration is not None and calibration.sums.rows:
        scores = calibration.sums.decayed_to(sums.as_of, HALF_LIFE_DAYS)
        row["calibration_sums"] = np.concatenate([scores.counts, scores.labels, scores.predictions])
        row["calibration_losses"] = calibration.losses.ravel()
    if calibration is not None:
        row |= {
            "rows": sums.rows, "label_total": sums.label_total, "label_counts": sums.label_counts,
            "inputs_total": sums.inputs_total, "inputs_squares": sums.inputs_squares, "rule_sums": _packed(sums.rule),
            "memory": state.memory.ravel(),
        }  # fmt: skip
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}


def _state(row: dict[str, Any], rule: OutcomeRule) -> OutcomeState:
    names = tuple(row["names"])
    empty = OutcomeState.empty(rule, names)
    sums = replace(empty.sums, as_of=row["as_of"])
    if row["rows"] is not None:
        values: dict[str, Any] = {
            name: np.array(row[name], float) for name in ("label_counts", "inputs_total", "inputs_squares")
        }
        sums = replace(
            sums,
            rows=row["rows"],
            label_total=row["label_total"],
            rule=_unpacked(row["rule_sums"], len(names)),
            **values,
        )
    coefficients, learned_means, learned_scales = (
        np.array(row[f"learned_{name}"], float) for name in ("coefficients", "means", "scales")
    )
    learned_cap = row["learned_cap"] or _INFINITE
    learned_at = Linearization(coefficients, learned_means, learned_scales, row["learned_unit"], learned_cap)
    return OutcomeState(
        names=names,
        coefficients=np.array(row["coefficients"], float),
        sums=sums,
        memory=empty.memory if row["memory"] is None else np.array(row["memory"], float).reshape(2, -1),
        means=np.array(row["means"], float),
        scales=np.array(row["scales"], float),
        applies=row["applies"],
        is_started=row["is_started"],
        label_unit=row["label_unit"],
        label_cap=row["label_cap"] or _INFINITE,
        learned_at=learned_at if len(learned_at.coefficients) else None,
        problem=row["problem"],
        curve=None if row["curve_logits"] is None else np.array([row["curve_logits"], row["curve_probabilities"]]),
        uses_curve=bool(row["uses_curve"]),
    )


def _calibration(row: dict[str, Any]) -> Calibration:
    if row["calibration_sums"] is None:
        return Calibration()
    sums = ScoreSums(*np.array(row["calibration_sums"], float).reshape(3, -1), as_of=row["as_of"])
    return Calibration(sums, np.array(row["calibration_losses"], float).reshape(-1, 3))


def _finite(cap: float) -> float | None:
    return None if cap == _INFINITE else cap


def _packed(rule: Floats) -> Floats:
    """The upper triangle of A, and b; empty if the rule stores no sums."""
    return np.concatenate([rule[:, :-1][np.triu_indices(len(rule))], rule[:, -1]])


def _unpacked(values: Sequence[float], columns: int) -> Floats:
    """[A | b] from `_packed`."""
    if not values:
        return np.zeros((0, columns + 1))
    rule, upper = np.zeros((columns, columns + 1)), np.triu_indices(columns)
    matrix, rule[:, -1] = rule[:, :-1], values[-columns:]
    matrix[upper] = matrix.T[upper] = values[:-columns]
    return rule
