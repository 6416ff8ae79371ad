"""Scores of outcomes for the report: quality on the newest matured examples, and the users with the highest."""

from datetime import timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.learn.outcomes import outcomes_batch
from profilestream.learn.outcomes.kernels.outcome_metrics import ScoreSums
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.serve.reason_texts import translate_reason
from profilestream.serve.report.view_outcomes import OutcomesView, ScoredOutcome, ScoredUser, ScoreGroup
from profilestream.serve.users.all_users import read_or_empty

_WEEKS, _MAX_USERS = 4, 5
# More examples are sampled by user.
_MAX_EXAMPLES = 200_000
_SHARES = tuple(n / 20 for n in range(21))


def outcomes(spark: SparkSession, settings: Settings) -> OutcomesView | None:
    """The outcomes that have scores; null without any."""
    spec = OutcomesSpec(settings)
    if not spec.has_input:
        return None
    models = spec.models_of(read_or_empty(spark, tables.OUTCOME_MODELS, settings))
    if not any(model.versions for model in models.values()):
        return None
    examples = spec.select(_newest_examples(read_or_empty(spark, tables.OUTCOME_EXAMPLES, settings)))
    sums = outcomes_batch.score(models, examples, spec.declared)
    scored = [_outcome(spec.declared, name, one) for name, one in sums.items() if one.rows and one.labels.sum()]
    scores = read_or_empty(spark, tables.USER_SCORES, settings)
    as_of = scores.agg(F.max("as_of")).collect()[0][0]
    return OutcomesView(tuple(scored), _highest(scores), _WEEKS, as_of) if scored or as_of else None


def _newest_examples(examples: DataFrame) -> DataFrame:
    """The examples of the newest weeks of each horizon, all or of a sample of users."""
    newest = examples.groupBy("horizon_days").agg((F.max("at") - F.lit(timedelta(weeks=_WEEKS))).alias("_after"))
    recent = examples.join(F.broadcast(newest), "horizon_days").where(F.col("at") > F.col("_after"))
    parts = -(-recent.count() // _MAX_EXAMPLES) or 1
    return recent.where(F.pmod(F.xxhash64("user_id"), F.lit(parts)) == 0)


def _outcome(declared: DeclaredOutcomes, name: str, sums: ScoreSums) -> ScoredOutcome:
    outcome = declared.outcomes[name]
    counts, labels, predictions, _ = sums.groups()
    is_amount = outcome.loss == "poisson"
    return ScoredOutcome(
        name=name,
        question=declared.labels[outcome.label].question,
        horizon_days=outcome.horizon_days,
        is_amount=is_amount,
        rows=round(sums.rows),
        mean=float(sums.labels.sum()) / sums.rows,
        metrics=sums.amount_metrics() if is_amount else sums.binary_metrics(),
        groups=tuple(
            ScoreGroup(predicted / count, observed / count)
            for count, observed, predicted in zip(counts, labels, predictions, strict=True)
        ),
        gains=tuple((share, sums.top_share(share)) for share in _SHARES),
    )


def _highest(scores: DataFrame) -> tuple[ScoredUser, ...]:
    """The users with the highest scores of each outcome."""
    rank = F.row_number().over(Window.partitionBy("outcome").orderBy(F.desc("score"), "user_id"))
    rows = scores.withColumn("_rank", rank).where(F.col("_rank") <= _MAX_USERS).orderBy("outcome", "_rank").collect()
    return tuple(map(scored_user, rows))


def risk_by_user(scores: DataFrame, outcome: str | None) -> DataFrame:
    """`user_id` and `is_at_risk`: whether the probability is above one half; no rows if there is no such outcome.

    Args:
        scores: rows of `user_scores`.
        outcome: its name in `scores`.
    """
    of_outcome = scores.where(F.col("outcome") == F.lit(outcome))
    return of_outcome.select("user_id", (F.col("probability") > 0.5).alias("is_at_risk"))


def scored_user(row: Any) -> ScoredUser:
    """A user from a row of `user_scores`."""
    has_probability = row["probability"] is not None
    score = row["probability"] if has_probability else row["score"]
    reasons = tuple(translate_reason(reason["text"]) for reason in row["reasons"])
    return ScoredUser(row["outcome"], row["user_id"], score, has_probability, reasons)
