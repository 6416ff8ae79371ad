"""Quality and cost of the outcomes of conf/outcomes.toml, with their default settings.

The log is captured by Spark, and `learn_outcome_examples` computes its examples. Everything else is in local memory: in
order of time, the examples of a week are scored by the models that were available then, and examples are learned when
they mature. Boosting is fitted again every week, from all examples that have matured. The first third of the weeks that
both can score is not reported. AUC is the mean over weeks, weighted by rows; other metrics are pooled.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
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
from profilestream.learn.outcomes import batch_training, matured_examples
from profilestream.learn.outcomes.kernels import outcome_model, outcome_scores
from profilestream.learn.outcomes.kernels.model_inputs import ModelInputs
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, OutcomeRule, OutcomeState, States
from profilestream.learn.outcomes.kernels.outcome_sums import OutcomeSums
from profilestream.learn.outcomes.kernels.outcome_tasks import EXAMPLE, feature_matrix
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.serve.scores import user_scores
from profilestream.serve.scores.score_rows import FeatureWords, ScoringModel
from profilestream.steward import demo_files
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import log_loss, roc_auc_score  # type: ignore[import-untyped]

from benchmarks.result import Result
from benchmarks.timing import measure_alternately, measure_seconds

ROOT = Path(__file__).parent.parent
SEED = 20_260_101
LOGS = {
    "online_retail": ("purchase_7d", "purchase_28d", "churn_60d", "churn_90d", "spend_28d"),
    "complete_journey": ("purchase_7d", "purchase_28d", "spend_28d"),
}
AGAINST = "boosting, fitted again every week (120 trees of 6 leaves, at least 300 rows each)"
_ECE_BINS = 20


@dataclass(frozen=True)
class ScoredWeek:
    """The rows of an outcome with one time, scored: users, labels and predictions."""

    at: int
    users: Longs
    labels: Floats
    predictions: Floats

    @property
    def has_two_classes(self) -> bool:
        return bool(0 < self.labels.mean() < 1)


@dataclass(frozen=True)
class Scored:
    """Scored weeks of an outcome in order of time, and the CPU seconds of learning and scoring."""

    weeks: tuple[ScoredWeek, ...] = ()
    cpu_seconds: float = 0.0

    @property
    def times(self) -> list[int]:
        return [week.at for week in self.weeks]

    def of_times(self, times: list[int]) -> "Scored":
        """The weeks with these times."""
        return Scored(tuple(week for week in self.weeks if week.at in times), self.cpu_seconds)

    @cached_property
    def labels(self) -> Floats:
        return np.concatenate([week.labels for week in self.weeks])

    @cached_property
    def predictions(self) -> Floats:
        return np.concatenate([week.predictions for week in self.weeks])

    def auc(self, weights: Floats | None = None) -> float:
        """Mean over weeks, weighted by rows; `weights` by number of the user."""
        weeks = [week for week in self.weeks if week.has_two_classes]
        aucs = [
            roc_auc_score(week.labels, week.predictions, sample_weight=None if weights is None else weights[week.users])
            for week in weeks
        ]
        return float(np.average(aucs, weights=[len(week.labels) for week in weeks]))

    @property
    def log_loss(self) -> float:
        return float(log_loss(self.labels, self.predictions))

    @property
    def ece(self) -> float:
        """Mean |label - probability| of 20 groups of equal size."""
        groups = np.array_split(np.argsort(self.predictions, kind="stable"), _ECE_BINS)
        gaps = [abs(self.labels[one].mean() - self.predictions[one].mean()) * len(one) for one in groups]
        return float(sum(gaps) / len(self.labels))

    @property
    def lift(self) -> float:
        """Mean label of the tenth of rows with the highest predictions, over the mean of all; mean over weeks."""
        weeks = [week for week in self.weeks if week.has_two_classes]
        lifts = []
        for week in weeks:
            best = np.argsort(-week.predictions, kind="stable")[: max(len(week.labels) // 10, 1)]
            lifts.append(week.labels[best].mean() / week.labels.mean())
        return float(np.average(lifts, weights=[len(week.labels) for week in weeks]))

    @property
    def bias(self) -> float:
        """Sum of the predictions over that of the labels."""
        return float(self.predictions.sum() / self.labels.sum())

    @property
    def relative_mae(self) -> float:
        return float(np.abs(self.labels - self.predictions).mean() / self.labels.mean())


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
        ratios.append(ours.auc() / boosting.auc())
        parts.append(
            f"{log} {name}: AUC {ours.auc():.4f} and {boosting.auc():.4f}, log loss {ours.log_loss:.4f} and "
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
        cut = learned_and_scored(stored(spark, log), name, batches=50).of_times(ours.times)
        changes[f"{log} {name}"] = abs(cut.auc() - ours.auc())
    detail = ", ".join(f"{name} {change:.5f}" for name, change in changes.items()) + f"; seed {SEED}"
    return Result("outcomes_split", max(changes.values()), "AUC", 0.001, "lower", "one batch per week", detail)


def scores_rate(spark: SparkSession, work: Path, users: int = 1_000_000) -> Result:
    """Users scored per second without reasons, over those of MLlib: one logistic outcome, 48 features in memory."""
    labels = {"buy": {"question": "Does the user buy?", "unit": "true or false", "kind": "count"}}
    names = [f"f{n}" for n in range(48)]
    declared = DeclaredOutcomes.model_validate({
        "labels": labels, "features": {name: {} for name in names},
        "outcomes": {"buy": {"label": "buy", "horizon_days": 28}},
    })  # fmt: skip
    rule, random = declared.rules["buy"], np.random.default_rng(SEED)
    state = OutcomeState.empty(rule, declared.inputs.names)
    coefficients = random.normal(size=len(state.names)) / 10
    state = replace(state, coefficients=coefficients, scales=np.ones(len(state.names)), is_started=True)
    models, words = {"buy": ScoringModel(rule, state, 0)}, [FeatureWords(name) for name in names]
    frame = spark.range(users).select(
        F.col("id").cast("string").alias("user_id"),
        F.array(*[F.randn(SEED + n) for n in range(len(names))]).alias("features"),
        F.array(F.lit(True)).alias("populations"),
    )
    vectors = frame.select(
        "user_id",
        array_to_vector(F.col("features")).alias("features"),
        (F.col("features")[0] > 0).cast("int").alias("label"),
    )
    classifier = LogisticRegression(maxIter=5).fit(vectors.limit(10_000))
    with _cached(frame), _cached(vectors):

        def ours(max_reasons: int) -> float:
            return measure_seconds(lambda: _consume(user_scores.score(frame, models, declared, words, max_reasons)))

        def mllib() -> float:
            return measure_seconds(lambda: _consume(classifier.transform(vectors).select("user_id", "probability")))

        mllib_seconds, seconds = measure_alternately(3, mllib, lambda: ours(0))
        with_reasons = ours(3)
    ratio = float(np.median(np.array(mllib_seconds) / np.array(seconds)))
    detail = (
        f"{users:,} users, 48 features; {users / np.median(seconds):,.0f} users/s, MLlib "
        f"{users / np.median(mllib_seconds):,.0f}, with 3 reasons {users / with_reasons:,.0f}; medians of 3 runs; "
        f"seed {SEED}"
    )
    return Result("scores_rate", ratio, "ratio of users/s", 1.0, "higher", "MLlib LogisticRegressionModel", detail)


def _consume(rows: Any) -> None:
    rows.write.format("noop").mode("overwrite").save()


@contextmanager
def _cached(frame: DataFrame) -> Iterator[None]:
    """All rows of a frame are in memory during the block."""
    frame.cache().count()
    try:
        yield
    finally:
        frame.unpersist()


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


@dataclass(frozen=True, eq=False)
class StoredExamples:
    """The examples of a log, and how long learn_outcome_examples took."""

    spec: OutcomesSpec
    rows: pa.Table
    step_seconds: float


@cache
def stored(spark: SparkSession, log: str) -> StoredExamples:
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
        return StoredExamples(spec, rows, seconds)


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
    examples = stored(spark, log)
    ours = {name: learned_and_scored(examples, name) for name in LOGS[log]}
    boosting = {name: boosted(examples, name) for name in LOGS[log] if not name.startswith("spend")}
    times = {name: reported_times([ours[name], boosting.get(name, ours[name])]) for name in ours}
    return Measured(
        {name: one.of_times(times[name]) for name, one in ours.items()},
        {name: one.of_times(times[name]) for name, one in boosting.items()},
        examples.step_seconds,
    )


def reported_times(models: Sequence[Scored]) -> list[int]:
    """The last two thirds of the times that all models have scored."""
    times = sorted(set.intersection(*(set(one.times) for one in models)))
    return times[len(times) // 3 :]


@dataclass(frozen=True)
class Week:
    """The rows of an outcome with one time: users, features (rows, features) of which NaN is null, labels, times."""

    at: int
    matures_at: int
    users: Longs
    features: Floats
    labels: Floats
    times: Longs

    def scored(self, predictions: Floats) -> ScoredWeek:
        return ScoredWeek(self.at, self.users, self.labels, predictions)


@cache
def weeks_of(examples: StoredExamples, name: str) -> list[Week]:
    """The rows of an outcome in order of time."""
    declared = examples.spec.declared
    rows = examples.rows.filter(pc.field("horizon_days") == declared.outcomes[name].horizon_days)
    labels = np.array([dict(each).get(name, np.nan) for each in _values(rows, "labels")], float)
    rows, labels = rows.filter(pa.array(np.isfinite(labels))), labels[np.isfinite(labels)]
    users = np.unique(_values(rows, "user_id"), return_inverse=True)[1]
    features = feature_matrix(rows, len(declared.features))
    at, matures_at = rows["at"].to_numpy(), rows["matures_at"].to_numpy()
    weeks = []
    for time_ in np.unique(at).tolist():
        now = np.flatnonzero(at == time_)
        weeks.append(Week(time_, int(matures_at[now[0]]), users[now], features[now], labels[now], at[now]))
    return weeks


def learned_and_scored(
    examples: StoredExamples, name: str, *, batches: int = 1, rule: OutcomeRule | None = None,
    inputs: ModelInputs | None = None,
) -> Scored:  # fmt: skip
    """Scores of all rows by the models of their times; the rows of a week are learned in a number of batches.

    Args:
        rule, inputs: by default the declared ones; inputs may use other features.
    """
    declared = examples.spec.declared
    inputs = inputs or declared.inputs
    rule = rule or declared.outcomes[name].rule_of(inputs)
    columns = [list(declared.features).index(one.name) for one in inputs.features]
    random, weeks = np.random.default_rng(SEED), weeks_of(examples, name)
    model = VersionedModel(name, OutcomeState.empty(rule, inputs.names))
    scored = []
    begin = time.process_time()
    for week in weeks:
        order = np.arange(len(week.labels)) if batches == 1 else random.permutation(len(week.labels))
        for part in np.array_split(order, batches):
            x = inputs.matrix(week.features[part][:, columns])
            rows = LabeledRows(x, week.labels[part], week.times[part], week.users[part])
            state = outcome_model.learn({name: rule}, {name: model.last}, partial(_sums, name, rule, rows))[name]
            model = model.learned(state, week.matures_at)
    for week in weeks:
        if (valid := model.scoring_state(week.at)) is not None:
            etas = outcome_scores.etas(rule, valid, inputs.matrix(week.features[:, columns]))
            scored.append(week.scored(outcome_scores.predictions(rule, valid, etas)))
    return Scored(tuple(scored), time.process_time() - begin)


def _sums(name: str, rule: OutcomeRule, rows: LabeledRows, states: States) -> dict[str, OutcomeSums]:
    return {name: outcome_model.sum_rows(rule, states[name], rows)} if name in states else {}


def boosted(examples: StoredExamples, name: str) -> Scored:
    """Scores by models that are fitted again every week, from all rows that have matured."""
    weeks, scored = weeks_of(examples, name), []
    begin = time.process_time()
    for week in weeks:
        known = [one for one in weeks if one.matures_at <= week.at]
        labels = np.concatenate([one.labels for one in known]) if known else np.zeros(0)
        if len(np.unique(labels)) < 2:
            continue
        model = batch_training.boosting_estimator("logistic", len(labels), SEED)
        model.fit(np.concatenate([one.features for one in known]), labels)
        scored.append(week.scored(model.predict_proba(week.features)[:, 1]))
    return Scored(tuple(scored), time.process_time() - begin)


def _values(rows: pa.Table, name: str) -> list[Any]:
    values: list[Any] = rows[name].to_pylist()
    return values
