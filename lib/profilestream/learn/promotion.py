"""The gate: whether a version is good enough to take the champion's place, by what `model_metrics` says of both."""

from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.learn.model_registry import Version
from profilestream.learn.model_versions import VersionTags

LOWER_IS_BETTER = ("rmse", "cost")


@dataclass(frozen=True)
class Measure:
    """By what versions of a learner are judged.

    Args:
        learner: as `model_metrics` names it.
        metric: a column of `model_metrics`.
        ranker: whose metric it is.
        over: another ranker, by whose metric it is divided, so that learners that measure in scales of their own can
            be compared; empty: by none.
        made: over how many batches, and how much better is better.
    """

    learner: str
    metric: str
    ranker: str
    made: settings_module.Gate
    over: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.metric}/{self.over}" if self.over else self.metric


@dataclass(frozen=True)
class Quality:
    """A measure over some judged batches of an epoch.

    Args:
        value: mean by users; null when nothing was judged.
        since, until: event times, in microseconds, of the oldest and the newest state that was judged.
    """

    epoch: str
    value: float | None = None
    since: int = 0
    until: int = 0


def judge(
    spark: SparkSession, settings: Settings, measure: Measure, champion: Version, found: Quality
) -> tuple[bool, str]:
    """Whether what is learned now, of this quality, should take the champion's place, and why.

    A champion of the same epoch is an earlier state of the same learner: it is fresher, so it only has to be no worse
    than that one was, but for `tolerance`. One of another epoch was learned otherwise: it has to be better by `margin`,
    over the same stretch of the log where the other epoch was judged on it too.
    """
    made, notes = measure.made, VersionTags.of(champion)
    is_same = notes.epoch == found.epoch
    its = replace(measure, ranker=notes.ranker)
    old = quality(spark, settings, its, notes.epoch, up_to=notes.batch_id).value
    if not is_same and found.value is not None:
        there = _over(spark, settings, its, notes.epoch, found)
        old = old if there is None else there
    name = f"{measure.name} of {measure.ranker}"
    if found.value is None or old is None:
        whose = "this version" if found.value is None else f"version {champion.number}"
        return False, f"{name} is not known of {whose}"
    sign = -1.0 if measure.metric in LOWER_IS_BETTER else 1.0
    needed = old + sign * (-made.tolerance if is_same else made.margin) * abs(old)
    is_better = sign * (found.value - needed) >= 0 if is_same else sign * (found.value - needed) > 0
    more = f"at {'least' if sign > 0 else 'most'}" if is_same else f"{'more' if sign > 0 else 'less'} than"
    return is_better, f"{name} is {found.value:.4f}, needed {more} {needed:.4f} (version {champion.number}: {old:.4f})"


def quality(spark: SparkSession, settings: Settings, measure: Measure, epoch: str, *, up_to: int) -> Quality:
    """The measure over the newest judged batches of an epoch, up to one of them."""
    newest = _judged(spark, settings, measure, epoch).where(F.col("batch_id") <= up_to)
    newest = newest.orderBy(F.desc("batch_id")).limit(measure.made.batches)
    row = newest.agg(_mean(), F.min("at"), F.max("at")).first()
    return Quality(epoch) if row is None or row[0] is None else Quality(epoch, *row)


def _over(spark: SparkSession, settings: Settings, measure: Measure, epoch: str, stretch: Quality) -> float | None:
    """The measure of an epoch over a stretch; null unless the epoch has come to its end."""
    rows = _judged(spark, settings, measure, epoch).where(F.col("at") >= stretch.since)
    within = F.expr(f"at <= {stretch.until}")
    row = rows.agg(_mean(within), F.max("at")).first()
    return None if row is None or row[1] is None or row[1] < stretch.until else row[0]


def _judged(spark: SparkSession, settings: Settings, measure: Measure, epoch: str) -> DataFrame:
    """The judged batches of an epoch: `batch_id`, `at` (of the state, microseconds), `users`, `value` and `over`.

    `value` is the metric of the ranker, `over` what it is divided by.
    """
    ranker = measure.ranker

    def of(name: str, column: str) -> Column:
        return F.max(F.when(F.col("ranker") == name, F.col(column)))

    rows = tables.MODEL_METRICS.read(spark, settings.paths)
    its = (F.col("learner") == measure.learner) & (F.col("epoch") == epoch)
    batches = rows.where(its & F.col("ranker").isin(ranker, measure.over)).groupBy("batch_id")
    return batches.agg(
        F.unix_micros(of(ranker, "as_of")).alias("at"),
        of(ranker, "users").alias("users"),
        of(ranker, measure.metric).alias("value"),
        (of(measure.over, measure.metric) if measure.over else F.lit(1.0)).alias("over"),
    ).where("users > 0")


def _mean(within: Column | None = None) -> Column:
    """By users; a batch without a value does not count."""
    is_told = F.col("value").isNotNull() & F.col("over").isNotNull()
    counts = is_told if within is None else is_told & within
    value, over = (F.sum(F.when(counts, F.col(name) * F.col("users"))) for name in ("value", "over"))
    return F.try_divide(value, over)
