"""Settings of published models and training examples, and of the complete section `[learn]`."""

from datetime import date
from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from profilestream.base.settings.frozen_model import Frozen
from profilestream.base.settings.learner_settings import BatchModels, Demand, Factors, Outcomes, Rankers, Segments


class Tracking(Frozen):
    """MLflow tracking of the rows of `model_metrics` (docs/learners.md). A failure of MLflow never stops a stage.

    Args:
        enabled: whether the learning stages send metrics; publishing uses MLflow in any case.
        uri: URI of the tracking server or database, which is also the model registry; empty: the SQLite file
            `mlflow.db` in the parent folder of the warehouse.
        artifact_location: folder of the model files; empty: `mlflow_artifacts` next to the SQLite file, or the default
            of the server. Used when the experiment is created.
        experiment: name of the MLflow experiment.
        interval_seconds: interval between two transfers while a stage runs; one more follows at its end.
        timeout_seconds: maximum time that a stage waits at its end for the last transfer.
    """

    enabled: bool = True
    uri: str = ""
    artifact_location: str = ""
    experiment: str = "profilestream"
    interval_seconds: float = Field(default=60.0, gt=0)
    timeout_seconds: float = Field(default=30.0, gt=0)


ModelName = Annotated[str, Field(pattern=r"^[\w -]+$")]


class Gate(Frozen):
    """The promotion gate: when a published version becomes the champion (docs/learners.md).

    Args:
        eval_batches: number of latest evaluated batches; the gate compares the weighted mean of the metric over them.
        min_weight: sum of the weights of the compared batches, at least: users, ratings, vectors or rows, as in
            `model_metrics`.
        margin: relative difference by which the version must be better than a champion of another epoch.
        tolerance: relative difference by which the version may be worse than a champion of the same epoch, and the
            champion since its publication worse than the version before at its time.
        drought_days: no version replaces the champion if the newest evaluated rows are older than this plus the delay
            of the label.
    """

    eval_batches: int = Field(default=20, ge=1)
    min_weight: float = Field(default=100.0, ge=0)
    margin: float = Field(default=0.01, ge=0)
    tolerance: float = Field(default=0.05, ge=0, lt=1)
    drought_days: float = Field(default=28.0, gt=0)


class Publish(Gate):
    """Publishing of the factors as a registered model.

    Args:
        name: name of the registered model.
        ranker: ranker of the registered model; the gate compares its metric.
        metric: metric that the gate compares; learn/metrics.py declares it.
        top_k: items per user that the registered model returns by default.
    """

    name: ModelName = "factors"
    ranker: Literal["blend", "factors", "neighbors", "popularity", "category"] = "blend"
    metric: Literal["recall_10", "recall_20", "ndcg_10", "mrr_20", "rmse"] = "recall_20"
    top_k: int = Field(default=20, ge=1)


class PublishSegments(Gate):
    """Publishing of the segments as a registered model.

    The gate compares their cost, divided by the cost of one center for all users.

    Args:
        name: name of the registered model.
    """

    name: ModelName = "segments"


class PublishRankers(Gate):
    """Publishing of the rankers as a registered model.

    Args:
        name: name of the registered model.
        ranker: default ranker of the registered model; the gate compares its metric basket_recall_10.
        top_k: items per user that the registered model returns by default.
    """

    name: ModelName = "rankers"
    ranker: Literal["own_counts", "due_counts", "transitions", "sequence_rules", "popularity"] = "own_counts"
    top_k: int = Field(default=20, ge=1)


class PublishOutcomes(Gate):
    """Publishing of the models of outcomes as one registered model.

    Args:
        name: name of the registered model.
        outcome: the gate compares the log loss (an amount: relative_mae) of this outcome; empty: of the first one.
    """

    name: ModelName = "outcomes"
    outcome: str = ""


class Examples(Frozen):
    """Training examples (docs/learners.md): point-in-time features of users, and labels from later events.

    Args:
        enabled: whether `run_pipeline` writes them after its stages.
        file: the file that declares the labels; empty: none.
        set_name: name of the set of rows that a run replaces; rows of other sets are unchanged.
        features, labels: columns of the rows; empty: all declared ones.
        interval, offset: the times are `offset` after multiples of `interval` since 1970-01-01 00:00 UTC, a Thursday.
        since: first day of the times (UTC); null: no bound.
        until: first day after the times (UTC); null: no bound.
        active_within: a user has a row at a time t if the user has an event in this interval before t; `lifetime`: any
            event before t.
        sample_fraction: fraction of the pairs of user and time to keep, selected by a hash.
        max_times_per_user: maximum number of times per user, selected by the same hash; null: no limit.
        seed: seed of the hash.
        label_delay: a label is null until the newest event is this much later than the end of its horizon.
    """

    enabled: bool = False
    file: str = ""
    set_name: str = Field(default="all", pattern=r"^[a-z][a-z0-9_]*$")
    features: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    interval: str = Field(default="7d", pattern=r"^[1-9]\d{0,4}[hd]$")
    offset: str = Field(default="0h", pattern=r"^\d{1,5}[hd]$")
    since: date | None = None
    until: date | None = None
    active_within: str = Field(default="30d", pattern=r"^([1-9]\d{0,4}[hd]|lifetime)$")
    sample_fraction: float = Field(default=1.0, gt=0, le=1)
    max_times_per_user: int | None = Field(default=None, ge=1)
    seed: int = 0
    label_delay: str = Field(default="0h", pattern=r"^\d{1,5}[hd]$")

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(f"since must be before until: {self.since}, {self.until}")
        return self


class Learn(Frozen):
    """Settings of the learners and of training examples.

    Args:
        max_files_per_trigger: maximum number of files of `events` per micro-batch.
        min_interval_seconds: between the starts of two batches of a learner in a continuous run, at least.
        max_busy_share: share of the time of a continuous run in which batches of a learner run, at most: after a batch
            of 3 s and with 0.25, the learner waits 9 s. A lower share leaves more processor time to the other stages;
            the models lag more.
    """

    max_files_per_trigger: int = Field(default=1000, ge=1)
    min_interval_seconds: float = Field(default=10.0, ge=0)
    max_busy_share: float = Field(default=1.0, gt=0, le=1)
    factors: Factors = Factors()
    segments: Segments = Segments()
    rankers: Rankers = Rankers()
    demand: Demand = Demand()
    outcomes: Outcomes = Outcomes()
    batch_models: BatchModels = BatchModels()
    tracking: Tracking = Tracking()
    publish: Publish = Publish()
    publish_segments: PublishSegments = PublishSegments()
    publish_rankers: PublishRankers = PublishRankers()
    publish_outcomes: PublishOutcomes = PublishOutcomes()
    examples: Examples = Examples()

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> Self:
        names = ("publish", "publish_segments", "publish_rankers", "publish_outcomes")
        models = {name: getattr(self, name).name for name in names}
        for (one, model), (other, other_model) in combinations(models.items(), 2):
            if model == other_model:
                raise ValueError(f"{one}.name and {other}.name are the same: {model}")
        return self

    @model_validator(mode="after")
    def _published_ranker_has_the_metric(self) -> Self:
        """`rmse` exists for predicted ratings only, so the gate would never have a value."""
        if self.publish.metric == "rmse" and (self.publish.ranker, self.factors.mode) != ("factors", "explicit"):
            raise ValueError('publish.metric = "rmse" needs publish.ranker = "factors" and factors.mode = "explicit"')
        return self
