"""serve_outcomes: scores of all users by the champion of the outcomes, with reasons.

Features are as of the newest event. Without a champion, the newest models score.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.base.session import materialize
from profilestream.base.settings import Settings
from profilestream.base.tables import EVENTS, USER_SCORES
from profilestream.derive import tiles
from profilestream.derive.entity_features import EntityFeatures
from profilestream.derive.feature_declaration import DAY, LIFETIME, window_micros
from profilestream.derive.point_in_time import features_as_of
from profilestream.learn import publishing
from profilestream.learn.examples import labels
from profilestream.learn.outcomes import batch_versions, outcome_features
from profilestream.learn.outcomes.batch_versions import BatchVersion
from profilestream.learn.outcomes.kernels.outcome_model import OutcomeState
from profilestream.learn.outcomes.model_versions import VersionedModel
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.learn.version_aliases import VersionTags
from profilestream.serve.scores import score_rows
from profilestream.serve.scores.score_rows import FeatureWords, ScoringModel
from profilestream.serve.users import all_users

STEP = "serve_outcomes"
SCORE_USERS = Pass(score_rows.score_users, inputs={"users": score_rows.USER}, outputs={"scores": score_rows.SCORE})
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PinnedScoreInputs:
    """What one run reads.

    Args:
        features: the declared features, with the versions of their tables.
        models: all declared outcomes.
        models_version: version of `outcome_models` that contains `models`.
        model_version: number of the champion that contains `models`; null: there is none, and `models` are the newest.
        batch_versions: batch models of the declared outcomes: those of the champion; null champion: all.
        as_of: time of the newest event of a user, microseconds, without events that are far from all others; null:
            there are no users.
    """

    declared: DeclaredOutcomes
    features: EntityFeatures
    models: Mapping[str, VersionedModel]
    models_version: int
    model_version: int | None
    batch_versions: Sequence[BatchVersion]
    as_of: int | None


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declared outcomes and their features; writes nothing.

    Raises:
        BadSettings: user ids are sessions, or a declaration is invalid.
    """
    settings.require_people("outcomes")
    outcome_features.select_features(settings, OutcomesSpec(settings).declared)


def run(spark: SparkSession, settings: Settings) -> int:
    """Replace all scores in one commit; no commit when the latest ones are from the same inputs.

    Returns:
        The number of users with a score.

    Raises:
        BadSettings: no outcomes are declared, or a declaration is invalid.
        SourceMissing: the tables of models, tiles or events do not exist, or the rows of the champion were removed.
        ProfilestreamError: a request to MLflow failed.
    """
    paths, pinned = settings.paths, pin_inputs(spark, settings)
    USER_SCORES.prepare(spark, paths)
    config, features = settings.serve.outcomes, pinned.features
    batch = [(one.outcome, one.kind, one.valid_from) for one in pinned.batch_versions if one.is_better]
    versions = features.versions, pinned.models_version, pinned.model_version, batch
    inputs = repr((config, pinned.declared, features.settings, versions))
    txn = commits.next_txn(spark, USER_SCORES, paths, STEP, inputs)
    if txn is not None:
        scores = materialize(scores_as_of(spark, settings, pinned))
        commits.replace(scores, USER_SCORES, paths, txn, where="true")
    return USER_SCORES.read(spark, paths).select("user_id").distinct().count()


def pin_inputs(spark: SparkSession, settings: Settings) -> PinnedScoreInputs:
    """The models and the versions of the tables of features.

    Raises:
        BadSettings, SourceMissing, ProfilestreamError: as for `run`.
    """
    spec, paths = OutcomesSpec(settings), settings.paths
    declared, (table,) = spec.declared, spec.tables
    features = outcome_features.select_features(settings, declared)
    table.require(spark, paths, do=f"run jobs/{spec.stage_name()}.py first")
    tile_table = features.tiles.table
    for source in (EVENTS, tile_table):
        source.require(spark, paths, do=f"run jobs/capture_events.py and jobs/{tiles.STAGE}.py first")
    features = replace(features, versions=commits.versions(spark, (EVENTS, tile_table), paths))
    publication, model_version = spec.publication, None
    assert publication is not None
    champion = publishing.read_champion(spark, settings, publication)
    if champion is None:
        version = commits.version(spark, table, paths)
        rows = table.read(spark, paths, version=version)
        batch = spec.stored_batch_models(spark)
    else:
        registered, rows = champion
        version, model_version = VersionTags.of(registered).table_version, registered.number
        batch = spec.published_batch_models(rows)
    models = spec.models_of(rows)
    newest = features.read(spark, tile_table).agg(F.max(F.unix_micros("as_of"))).collect()[0][0]
    as_of = None if newest is None else all_users.span_and_end(features.read(spark, EVENTS), newest)[1]
    return PinnedScoreInputs(declared, features, models, version, model_version, batch, as_of)


def scores_as_of(spark: SparkSession, settings: Settings, pinned: PinnedScoreInputs) -> DataFrame:
    """Rows of `user_scores`. Outcomes whose model has not started have none, except customer values."""
    models = scoring_models(pinned.models, pinned.declared, pinned.as_of or 0, pinned.batch_versions)
    waiting = pinned.declared.outcomes.keys() - models.keys()
    values = {name for name in waiting if pinned.declared.outcomes[name].value_days is not None}
    if waiting - values:
        version = "newest version" if pinned.model_version is None else f"champion, version {pinned.model_version}"
        log.warning("there are no scores of %s: the %s has no coefficients of them", sorted(waiting - values), version)
    if pinned.as_of is None or not (models or values):
        return spark.createDataFrame([], USER_SCORES.schema)
    models |= {name: constant_model(pinned.declared, name, _mean_label(spark, pinned, name)) for name in sorted(values)}
    users = user_features(spark, pinned, pinned.as_of, settings.serve.outcomes.active_within)
    reasons = settings.serve.outcomes.max_reasons
    scores = score(users, models, pinned.declared, feature_words(pinned.features), reasons)
    constants = {
        "model_valid_from": F.timestamp_micros("valid_from"),
        "models_version": F.lit(pinned.models_version).cast("bigint"),
        "model_version": F.lit(pinned.model_version).cast("bigint"),
        "events_version": F.lit(pinned.features.versions[EVENTS.name]).cast("bigint"),
        "as_of": F.timestamp_micros(F.lit(pinned.as_of)),
        "model_kind": F.col("kind"),
    }
    return scores.withColumns(constants).select(*USER_SCORES.names)


def score(
    users: Rows, models: Mapping[str, ScoringModel], declared: DeclaredOutcomes, words: list[FeatureWords],
    max_reasons: int = 3,
) -> Rows:  # fmt: skip
    """Rows with score_rows.SCORE of rows with score_rows.USER, frames or Arrow tables."""
    outputs, _ = run_pass(
        SCORE_USERS, {"users": users}, model_inputs=declared.inputs, outcomes=list(declared.outcomes), models=models,
        words=words, max_reasons=max_reasons,
    )  # fmt: skip
    return outputs["scores"]


def scoring_models(
    models: Mapping[str, VersionedModel], declared: DeclaredOutcomes, as_of: int, batch: Iterable[BatchVersion] = ()
) -> dict[str, ScoringModel]:
    """The last started version of each model that is valid at a time, microseconds, and better batch models."""
    versions = {name: model.scoring_version(as_of) for name, model in models.items()}
    linear = {
        name: ScoringModel(declared.rules[name], one.state, one.valid_from, declared.outcomes[name].extrapolation)
        for name, one in versions.items()
        if one is not None
    }
    better = batch_versions.serving_versions(batch, as_of)
    return {
        name: replace(model, valid_from=one.valid_from, kind=one.kind, batch=one.loaded)
        if (one := better.get(name))
        else model
        for name, model in linear.items()
    }


def constant_model(declared: DeclaredOutcomes, name: str, amount: float) -> ScoringModel:
    """A model of a customer value without coefficients, which predicts the same amount for all users."""
    rule, inputs = declared.rules[name], declared.inputs
    state = replace(OutcomeState.empty(rule, inputs.names), label_unit=max(amount, np.finfo(float).tiny))
    return ScoringModel(rule, state, 0, declared.outcomes[name].extrapolation)


def _mean_label(spark: SparkSession, pinned: PinnedScoreInputs, name: str) -> float:
    """The mean label of an outcome over all users, in the horizon that ends with the newest event."""
    assert pinned.as_of is not None
    outcome, end = pinned.declared.outcomes[name], pinned.as_of + 1
    at = F.timestamp_micros(F.lit(end - outcome.horizon_days * DAY))
    users = pinned.features.read(spark, pinned.features.tiles.table).where(F.unix_micros("as_of") < end)
    times = users.select("user_id").distinct().withColumn("at", at)
    selected = {name: (pinned.declared.labels[outcome.label], f"{outcome.horizon_days}d")}
    values = labels.label_values(spark, times, selected, pinned.features, end)
    mean = values.agg(F.avg(F.col(name).cast("double"))).collect()[0][0]
    return float(mean or 0.0)


def user_features(spark: SparkSession, pinned: PinnedScoreInputs, as_of: int, active_within: str) -> DataFrame:
    """Rows with score_rows.USER of the users with an event in this window before `as_of`, which is inclusive."""
    length = window_micros(active_within)
    since = 0 if length is None else as_of + 1 - length
    tile_rows = pinned.features.read(spark, pinned.features.tiles.table)
    active = tile_rows.where(F.unix_micros("as_of").between(since, as_of))
    times = active.select("user_id").distinct().withColumn("at", F.timestamp_micros(F.lit(as_of + 1)))
    rows = features_as_of(spark, times, pinned.features)
    features = outcome_features.feature_values(pinned.declared).alias("features")
    return rows.select("user_id", features, outcome_features.populations(pinned.declared).alias("populations"))


def feature_words(features: EntityFeatures) -> list[FeatureWords]:
    """What each column of the features means, in their order."""
    columns, words = features.declared.columns(features.entity), []
    for name in features.columns:
        definition = features.window_features.get(name) or features.derived[name]
        window = columns[name][1] if name in columns else ""
        period = {"": "", LIFETIME: "complete log"}.get(window, f"last {window}")
        words.append(FeatureWords(definition.question, period, definition.unit))
    return words
