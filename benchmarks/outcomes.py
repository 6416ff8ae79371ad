"""Quality and cost of the outcomes of conf/outcomes.toml, with their default settings.

The log is captured by Spark, and `learn_outcome_examples` computes its examples. Everything else is in local memory: in
order of time, the examples of a week are scored by the models that were available then, and examples are learned when
they mature. Boosting is fitted again every week, from all examples that have matured. The first third of the weeks that
both can score is not reported. AUC is the mean over weeks, weighted by rows; other metrics are pooled.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from profilestream.base import settings as settings_module
from profilestream.base import streaming
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import tiles
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.outcomes import matured_examples
from profilestream.learn.outcomes.kernels import outcome_model, outcome_scores
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, OutcomeRule, OutcomeState, States
from profilestream.learn.outcomes.kernels.outcome_sums import OutcomeSums
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.steward import demo_files
from pyspark.sql import SparkSession
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
from sklearn.metrics import log_loss, roc_auc_score  # type: ignore[import-untyped]

from benchmarks.result import Result

ROOT = Path(__file__).parent.parent
SEED = 20_260_101
LOGS = {
    "online_retail": ("purchase_7d", "purchase_28d", "churn_60d", "churn_90d", "spend_28d"),
    "complete_journey": ("purchase_7d", "purchase_28d", "spend_28d"),
}
AGAINST = "boosting, fitted again every week (120 trees of 6 leaves, at least 300 rows each)"
_ECE_BINS = 20


@dataclass
class Scored:
    """Rows of an outcome in order of weeks: labels and predictions; and CPU seconds of learning and scoring."""

    weeks: list[int] = field(default_factory=list)
    labels: list[Floats] = field(default_factory=list)
    predictions: list[Floats] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def add(self, week: int, labels: Floats, predictions: Floats) -> None:
        self.weeks.append(week)
        self.labels.append(labels)
        self.predictions.append(predictions)

    def of_weeks(self, weeks: list[int]) -> "Scored":
        """The rows of some weeks."""
        kept = [number for number, week in enumerate(self.weeks) if week in weeks]
        return Scored(
            [self.weeks[n] for n in kept], [self.labels[n] for n in kept], [self.predictions[n] for n in kept]
        )

    @property
    def auc(self) -> float:
        """Mean over weeks, weighted by rows."""
        pairs = [pair for pair in zip(self.labels, self.predictions, strict=True) if 0 < pair[0].mean() < 1]
        aucs = [roc_auc_score(labels, predictions) for labels, predictions in pairs]
        return float(np.average(aucs, weights=[len(labels) for labels, _ in pairs]))

    @property
    def log_loss(self) -> float:
        return float(log_loss(np.concatenate(self.labels), np.concatenate(self.predictions)))

    @property
    def ece(self) -> float:
        """Mean |label - probability| of 20 groups of equal size."""
        labels, predictions = np.concatenate(self.labels), np.concatenate(self.predictions)
        groups = np.array_split(np.argsort(predictions, kind="stable"), _ECE_BINS)
        return float(sum(abs(labels[one].mean() - predictions[one].mean()) * len(one) for one in groups) / len(labels))

    @property
    def bias(self) -> float:
        """Sum of the predictions over that of the labels."""
        return float(np.concatenate(self.predictions).sum() / np.concatenate(self.labels).sum())

    @property
    def relative_mae(self) -> float:
        labels, predictions = np.concatenate(self.labels), np.concatenate(self.predictions)
        return float(np.abs(labels - predictions).mean() / labels.mean())


@dataclass(frozen=True)
class Measured:
    """Of one log: the reported weeks of each outcome, with ours, and with boosting where it was fitted."""

    ours: Mapping[str, Scored]
    boosting: Mapping[str, Scored]
    step_seconds: float


def outcomes_auc_vs_boosting(spark: SparkSession, work: Path) -> Result:
    """Lowest ratio of AUC over the logs and binary outcomes."""
    ratios, parts = [], []
    for log, name, ours, boosting in _pairs(spark):
        ratios.append(ours.auc / boosting.auc)
        parts.append(
            f"{log} {name}: AUC {ours.auc:.4f} and {boosting.auc:.4f}, log loss {ours.log_loss:.4f} and "
            f"{boosting.log_loss:.4f}, ECE {ours.ece:.4f} and {boosting.ece:.4f}"
        )
    return Result(
        "outcomes_auc_vs_boosting", min(ratios), "ratio of AUC, lowest", 0.995, "higher", AGAINST, "; ".join(parts)
    )


def outcomes_cpu_vs_boosting(spark: SparkSession, work: Path) -> Result:
    """CPU seconds of learning and scoring of all these outcomes."""
    pairs = list(_pairs(spark))
    ours, boosting = sum(one.cpu_seconds for *_, one, _ in pairs), sum(one.cpu_seconds for *_, one in pairs)
    steps = ", ".join(f"{log} {_measured(spark, log).step_seconds:.0f} s" for log in LOGS)
    detail = f"{ours:.2f} s and {boosting:.1f} s of CPU, features excluded; learn_outcome_examples took {steps}"
    return Result("outcomes_cpu_vs_boosting", ours / boosting, "ratio of CPU", 0.02, "lower", AGAINST, detail)


def outcomes_ece(spark: SparkSession, work: Path) -> Result:
    """Highest calibration error of the outcomes with horizons of at most 28 days."""
    eces = {f"{log} {name}": ours.ece for log, name, ours, _ in _pairs(spark) if "churn" not in name}
    detail = ", ".join(f"{name} {ece:.4f}" for name, ece in eces.items())
    return Result("outcomes_ece", max(eces.values()), "share", 0.025, "lower", "labels", detail)


def outcomes_split(spark: SparkSession, work: Path) -> Result:
    """Largest change of AUC when the rows of each week are learned in 50 batches instead of one."""
    changes = {}
    for log, name, ours, _ in _pairs(spark):
        cut = _learned_and_scored(_stored(spark, log), batches=50)[name].of_weeks(ours.weeks)
        changes[f"{log} {name}"] = abs(cut.auc - ours.auc)
    detail = ", ".join(f"{name} {change:.5f}" for name, change in changes.items()) + f"; seed {SEED}"
    return Result("outcomes_split", max(changes.values()), "AUC", 0.001, "lower", "one batch per week", detail)


def spend_bias(spark: SparkSession, work: Path) -> Result:
    """The larger one of bias and 1 / bias of the spend of 28 days of Complete Journey."""
    ours = {log: _measured(spark, log).ours["spend_28d"] for log in LOGS}
    bias = ours["complete_journey"].bias
    detail = ", ".join(
        f"{log}: bias {one.bias:.3f}, MAE / mean {one.relative_mae:.3f} (bound for Complete Journey .455)"
        for log, one in ours.items()
    )
    return Result("spend_bias", max(bias, 1 / bias), "ratio", 1.11, "lower", "the spent value", detail)


def _pairs(spark: SparkSession) -> Iterator[tuple[str, str, Scored, Scored]]:
    for log in LOGS:
        measured = _measured(spark, log)
        for name, boosting in measured.boosting.items():
            yield log, name, measured.ours[name], boosting


@dataclass(frozen=True)
class _Stored:
    spec: OutcomesSpec
    examples: pa.Table
    step_seconds: float


@cache
def _stored(spark: SparkSession, log: str) -> _Stored:
    """The examples of a log."""
    with TemporaryDirectory() as folder:
        settings = _settings(Path(folder), log)
        for queries in ([ingest.query(settings, log)], tiles.queries(settings)):
            streaming.run(spark, queries, settings, RunOptions())
        started = time.perf_counter()
        matured_examples.run(spark, settings)
        seconds = time.perf_counter() - started
        spec = OutcomesSpec(settings)
        rows = spec.select(matured_examples.TABLE.read(spark, settings.paths)).toArrow().cast(EXAMPLE)
        _ = spec.declared
        return _Stored(spec, rows, seconds)


def _settings(home: Path, log: str) -> Settings:
    conf, source = ROOT / "conf", home / "input"
    if log == "online_retail":
        demo_files.split_sample(ROOT / "data" / log / "online_retail_2010_2011.parquet", source, max_files=None)
    else:
        source = ROOT / "data" / log
    zone = {"online_retail": "Europe/London", "complete_journey": "America/New_York"}[log]
    (home / "settings.toml").write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.{log}]\npath = "{source}"\nmapping = "{conf}/sources/{log}.toml"\n'
        f'[derive]\nfeatures = ["{conf}/derive/customer_hours.toml"]\nshop_timezone = "{zone}"\n'
        f'[derive.windows]\nfile = "{conf}/derive/windows.toml"\n[learn.tracking]\nenabled = false\n'
        f'[learn.outcomes]\nenabled = true\nfile = "{conf}/outcomes.toml"\n'
    )
    return settings_module.load(str(home / "settings.toml"), [])


@cache
def _measured(spark: SparkSession, log: str) -> Measured:
    stored = _stored(spark, log)
    all_ours = _learned_and_scored(stored, batches=1)
    ours, boosting = {}, {}
    for name in LOGS[log]:
        one = all_ours[name]
        weeks = sorted(one.weeks)
        if not name.startswith("spend"):
            boosted = _boosted(stored, name)
            weeks = [week for week in weeks if week in boosted.weeks]
            weeks = weeks[len(weeks) // 3 :]
            boosting[name] = boosted.of_weeks(weeks)
            boosting[name].cpu_seconds = boosted.cpu_seconds
        else:
            weeks = weeks[len(weeks) // 3 :]
        ours[name] = one.of_weeks(weeks)
        ours[name].cpu_seconds = one.cpu_seconds
    return Measured(ours, boosting, stored.step_seconds)


def _learned_and_scored(stored: _Stored, batches: int) -> dict[str, Scored]:
    """Scores of all rows by the models of their times; the rows of a week are learned in a number of batches."""
    declared, random = stored.spec.declared, np.random.default_rng(SEED)
    all_scored = {}
    for name, outcome in declared.outcomes.items():
        rule, inputs = declared.rules[name], declared.inputs
        model = VersionedModel(outcome.identity, OutcomeState.empty(rule, inputs.names))
        scored = all_scored[name] = Scored()
        weeks = _weeks(_rows_of(stored.examples, name, outcome.horizon_days), name)
        begin = time.process_time()
        for week in weeks:
            order = np.arange(len(week.labels)) if batches == 1 else random.permutation(len(week.labels))
            for part in np.array_split(order, batches):
                rows = LabeledRows(inputs.matrix(week.features[part]), week.labels[part], week.times[part], part)
                state = outcome_model.learn({name: rule}, {name: model.last}, partial(_sums, name, rule, rows))[name]
                model = model.learned(state, week.matures_at)
        for week in weeks:
            if (valid := model.scoring_state(week.at)) is not None:
                etas = outcome_scores.etas(rule, valid, inputs.matrix(week.features))
                scored.add(week.at, week.labels, outcome_scores.predictions(rule, valid, etas))
        scored.cpu_seconds = time.process_time() - begin
    return all_scored


def _sums(name: str, rule: OutcomeRule, rows: LabeledRows, states: States) -> dict[str, OutcomeSums]:
    return {name: outcome_model.sum_rows(rule, states[name], rows)} if name in states else {}


@dataclass(frozen=True)
class _Week:
    """The rows of an outcome with one time: features (rows, features), of which NaN is null, labels and times."""

    at: int
    matures_at: int
    features: Floats
    labels: Floats
    times: Longs


def _weeks(rows: pa.Table, name: str) -> list[_Week]:
    features, labels, at = _features(rows), _labels(rows, name), rows["at"].to_numpy()
    matures_at = rows["matures_at"].to_numpy()
    return [
        _Week(week, int(matures_at[at == week][0]), features[at == week], labels[at == week], at[at == week])
        for week in np.unique(at).tolist()
    ]


def _boosted(stored: _Stored, name: str) -> Scored:
    """Scores by models that are fitted again every week."""
    rows = _rows_of(stored.examples, name, stored.spec.declared.outcomes[name].horizon_days)
    x, labels = _features(rows), _labels(rows, name)
    at, matures_at = rows["at"].to_numpy(), rows["matures_at"].to_numpy()
    scored = Scored()
    begin = time.process_time()
    for week in np.unique(at).tolist():
        is_known = matures_at <= week
        if len(np.unique(labels[is_known])) < 2:
            continue
        model = HistGradientBoostingClassifier(
            max_iter=120, max_leaf_nodes=6, min_samples_leaf=min(300, int(is_known.sum()) // 10), learning_rate=0.05,
            l2_regularization=10, early_stopping=False, random_state=SEED,
        ).fit(x[is_known], labels[is_known])  # fmt: skip
        is_now = at == week
        scored.add(week, labels[is_now], model.predict_proba(x[is_now])[:, 1])
    scored.cpu_seconds = time.process_time() - begin
    return scored


def _rows_of(examples: pa.Table, name: str, horizon: int) -> pa.Table:
    """The rows that have a label of an outcome."""
    rows = examples.filter(pc.field("horizon_days") == horizon)
    has_label = [name in dict(labels) for labels in _values(rows, "labels")]
    return rows.filter(pa.array(has_label, pa.bool_()))


def _labels(rows: pa.Table, name: str) -> Floats:
    return np.array([dict(labels)[name] for labels in _values(rows, "labels")])


def _features(rows: pa.Table) -> Floats:
    """(rows, features); NaN is null."""
    return np.array(_values(rows, "features"), float)


def _values(rows: pa.Table, name: str) -> list[Any]:
    values: list[Any] = rows[name].to_pylist()
    return values
