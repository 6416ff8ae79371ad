"""Versions of batch models of outcomes: rows of `batch_models`, when they are due, and which of them are served."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from profilestream.base import tables
from profilestream.base.columns import Column
from profilestream.base.settings import BatchModels, fingerprint
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.batch_intervals import Interval, mean_interval
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.outcomes.kernels import batch_model
from profilestream.learn.outcomes.kernels.batch_model import BatchModel
from profilestream.learn.outcomes.kernels.model_comparison import USER_GROUPS, Comparison
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums
from profilestream.learn.outcomes.kernels.outcome_tasks import Cell
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes

_EVALUATION_DAYS = 182
_TIMES = ("valid_from", "as_of")
_PREFIX = "batch_"
# In the published rows of the linear models: the batch model that scores instead of one.
PUBLISHED_COLUMNS = tuple(
    Column(f"{_PREFIX}{name}", sql_type, f"{meaning} of the batch model that scores instead; null: there is none.")
    for name, sql_type, meaning in (
        ("kind", "STRING", "Kind"),
        ("identity", "STRING", "Fingerprint of outcome and features"),
        ("valid_from", "TIMESTAMP", "Maturity time of the newest learned rows"),
        ("model", "BINARY", "Trees or weights"),
    )
)
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class BatchVersion:
    """A row of `batch_models`; times in microseconds.

    Args:
        losses, linear_losses: by group of users, (USER_GROUPS,), of the rows that matured since the version before.
        evaluated_rows: number of these rows.
        improvement, improvement_low, improvement_high: over all evaluations of the last 182 days; null: no rows.
    """

    outcome: str
    kind: str
    identity: str
    valid_from: int
    rows: int
    as_of: int
    library: str
    problem: str = ""
    model: bytes | None = None
    evaluated_rows: int = 0
    losses: Floats = field(default_factory=lambda: np.zeros(USER_GROUPS))
    linear_losses: Floats = field(default_factory=lambda: np.zeros(USER_GROUPS))
    metrics: Metrics = field(default_factory=dict)
    linear_metrics: Metrics = field(default_factory=dict)
    improvement: float | None = None
    improvement_low: float | None = None
    improvement_high: float | None = None
    is_better: bool = False

    @cached_property
    def loaded(self) -> BatchModel | None:
        """The model; null: the version has a problem."""
        return None if self.model is None else batch_model.model_of(self.kind, self.model)

    def summary(self) -> str:
        """One line for the console."""
        if self.problem:
            return f"{self.outcome}, {self.kind}: {self.problem}"
        if self.improvement is None or self.improvement_low is None or self.improvement_high is None:
            return f"{self.outcome}, {self.kind}: not evaluated yet"
        change, low, high = -self.improvement, -self.improvement_high, -self.improvement_low
        interval, use = f"{change:+.1%} ({low:+.1%} to {high:+.1%})", "serves" if self.is_better else "does not serve"
        return f"{self.outcome}, {self.kind}: loss {interval} from that of the linear model; {use}"


def identity_of(declared: DeclaredOutcomes, outcome: str) -> str:
    """Fingerprint of the outcome and of the columns of its inputs: models of another one are not used."""
    inputs = declared.inputs
    columns = tuple((one.name, one.buckets) for one in inputs.features)
    return fingerprint(repr((declared.outcomes[outcome].identity, columns, inputs.names)))


def due_times(cells: Mapping[Cell, int], retrain_days: int, min_rows: int) -> list[int]:
    """The maturity times at which a version is due, ascending.

    The first maturity time in each period of `retrain_days` since 1970 by which `min_rows` rows have matured.

    Args:
        cells: of one horizon, with their numbers of rows.
    """
    firsts: dict[int, int] = {}
    rows = 0
    for cell, count in sorted(cells.items()):
        rows += count
        if rows >= min_rows:
            firsts.setdefault(cell.matures_at // (retrain_days * MICROS_PER_DAY), cell.matures_at)
    return list(firsts.values())


def scoring_model(versions: Iterable[BatchVersion], at: int) -> BatchModel | None:
    """The model of the last version that has one and is valid at a time."""
    valid = [one for one in versions if one.valid_from <= at and one.model is not None]
    return max(valid, key=lambda one: one.valid_from).loaded if valid else None


def serving_versions(versions: Iterable[BatchVersion], at: int) -> dict[str, BatchVersion]:
    """By outcome, the version that scores at a time instead of the linear model: the best of those that are better."""
    in_order = sorted(versions, key=lambda one: one.valid_from)
    last = {(one.outcome, one.kind): one for one in in_order if one.valid_from <= at}
    better = [one for one in last.values() if one.is_better]
    return {one.outcome: one for one in sorted(better, key=lambda one: one.improvement or 0.0)}


def improvement(versions: Iterable[BatchVersion], new: Comparison | None, at: int) -> tuple[int, Interval | None]:
    """The number of evaluated rows of a kind in the last 182 days, and the share by which its losses are lower.

    Args:
        versions: of one outcome and kind.
        new: of the rows that matured since the last one.
    """
    since = at - _EVALUATION_DAYS * MICROS_PER_DAY
    recent = [one for one in versions if one.valid_from > since]
    parts = [(one.evaluated_rows, one.losses, one.linear_losses) for one in recent]
    if new is not None:
        parts.append((int(new.rows.sum()), new.model.losses, new.other.losses))
    rows = sum(rows for rows, _, _ in parts)
    if not rows:
        return 0, None
    losses, linear = sum(loss for _, loss, _ in parts), sum(loss for _, _, loss in parts)
    shares = 1 - np.divide(losses, linear, out=np.ones(USER_GROUPS), where=linear > 0)
    return rows, mean_interval(shares, np.asarray(linear))


def evaluated(
    version: BatchVersion, earlier: Iterable[BatchVersion], new: Comparison | None, config: BatchModels, *,
    is_amount: bool,
) -> BatchVersion:  # fmt: skip
    """The version with the evaluation of those before it, and whether its kind is better than the linear model."""
    rows, interval = improvement(earlier, new, version.valid_from)
    if new is not None:
        version = replace(
            version,
            evaluated_rows=int(new.rows.sum()),
            losses=new.model.losses,
            linear_losses=new.other.losses,
            metrics=_metrics(new.model.scores, is_amount),
            linear_metrics=_metrics(new.other.scores, is_amount),
        )
    if interval is None:
        return version
    return replace(
        version,
        improvement=interval.mean,
        improvement_low=interval.low,
        improvement_high=interval.high,
        is_better=not version.problem and rows >= config.min_rows and interval.low > config.margin,
    )


def _metrics(scores: ScoreSums, is_amount: bool) -> Metrics:
    return scores.amount_metrics() if is_amount else scores.binary_metrics()


def rows_of(versions: Sequence[BatchVersion]) -> pa.Table:
    """Rows of `batch_models`."""
    rows = []
    for one in versions:
        row = asdict(one) | {name: list(getattr(one, name).items()) for name in ("metrics", "linear_metrics")}
        rows.append({name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()})
    return tables.BATCH_MODELS.arrow_rows(rows)


def versions_of(rows: pa.Table, declared: DeclaredOutcomes) -> list[BatchVersion]:
    """The versions in rows of `batch_models` of the declared outcomes and features, in any order."""
    for name in _TIMES:
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast("int64"))
    versions = []
    for row in rows.to_pylist():
        arrays = {name: np.array(row[name], float) for name in ("losses", "linear_losses")}
        versions.append(BatchVersion(**{**row, **arrays, **{n: dict(row[n]) for n in ("metrics", "linear_metrics")}}))
    return _of_declaration(versions, declared)


def _of_declaration(versions: Iterable[BatchVersion], declared: DeclaredOutcomes) -> list[BatchVersion]:
    identities = {name: identity_of(declared, name) for name in declared.outcomes}
    return [one for one in versions if one.identity == identities.get(one.outcome)]


def published_rows(versions: Mapping[str, BatchVersion]) -> pa.Table:
    """`outcome` and PUBLISHED_COLUMNS of the versions that serve; see `serving_versions`."""
    rows = rows_of(list(versions.values()))
    names = [one.name.removeprefix(_PREFIX) for one in PUBLISHED_COLUMNS]
    return rows.select(["outcome", *names]).rename_columns(["outcome", *(f"{_PREFIX}{name}" for name in names)])


def published_versions(rows: pa.Table, declared: DeclaredOutcomes) -> list[BatchVersion]:
    """The batch models in published rows, of the declared outcomes and features. Rows of older code have none."""
    names = [one.name for one in PUBLISHED_COLUMNS]
    if not set(names) <= set(rows.column_names):
        return []
    rows = rows.select(["outcome", *names]).rename_columns(["outcome", *(one.removeprefix(_PREFIX) for one in names)])
    rows = rows.set_column(3, "valid_from", rows["valid_from"].cast("int64"))
    versions = [
        BatchVersion(**row, rows=0, as_of=0, library="", is_better=True)
        for row in rows.to_pylist()
        if row["model"] is not None
    ]
    return _of_declaration(versions, declared)
